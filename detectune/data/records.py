"""Named data sets -> the records that a loader serves: joined, checked, filtered for training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from detectune.data.datasets import resolve_dataset
from detectune.data.formats import read_places
from detectune.data.problems import Problems
from detectune.data.proposals import Treatment, attach_proposals
from detectune.data.shapes import DatasetPaths
from detectune.errors import DataError
from detectune.structures import ClassInfo, Record

OUTLINES = ("no_segmentation", "invalid_segmentation", "rle_size")
KEYPOINTS = ("invalid_keypoints", "other_keypoints")


@dataclass(frozen=True)
class DataSettings:
    """What the model asks of the annotations."""

    masks: bool
    keypoints: bool
    skip_broken: bool


def load_datasets(
    names: Sequence[str],
    datasets: Mapping[str, Any],
    settings: DataSettings,
    *,
    download_cache: str = "",
    proposal_files: Sequence[Path] = (),
    proposal_limit: int | None = None,
    proposal_treatment: Treatment = "detectron",
) -> tuple[list[Record], ClassInfo, list[str]]:
    """The joined records, their classes, and one sentence for each problem that was mended.

    `proposal_files` has one file for each name, or none; records then have at most `proposal_limit` proposals, as
    `proposal_treatment` chooses them.

    `DataError` for what cannot be mended, or if the model needs outlines or keypoints and there are none.
    """
    places = [resolve_dataset(name, datasets, download_cache=download_cache) for name in names]
    found, class_info, problems = _read(tuple(places), tuple(_stamp(place.annotations) for place in places))
    if proposal_files:
        found = tuple(
            tuple(attach_proposals(own, path, limit=proposal_limit, treatment=proposal_treatment))
            for own, path in zip(found, proposal_files, strict=True)
        )
    records = [record for own in found for record in own]
    source = ", ".join(names)
    relevant = _relevant(problems, settings)
    if settings.skip_broken and "missing_image" in relevant.counts:
        records = [record for record in records if os.path.exists(record.file_name)]
        lines = [f"{relevant.counts['missing_image']} missing images are left out."]
        relevant.counts.pop("missing_image")
    else:
        lines = []
    relevant.raise_if_fatal(source)
    _demand(records, class_info, settings, source)
    return records, class_info, [f"{source}: {line}" for line in (*lines, *relevant.lines())]


def training_records(
    records: Sequence[Record], *, gt_min_area: float, min_side: float, need_keypoints: bool, source: str
) -> list[Record]:
    """What Detectron trains on: objects of `gt_min_area` or more, and wider and higher than `min_side` pixels.

    Unlike there, images without objects stay: they are examples of background. With `need_keypoints` only images
    with a labelled keypoint stay, since the others cannot train that head.
    """
    kept: list[Record] = []
    num_objects = 0
    for record in records:
        sides = record.boxes[:, 2:] - record.boxes[:, :2]
        usable = (record.areas >= gt_min_area) & (sides > min_side).all(axis=1)
        record = record if usable.all() else select_objects(record, usable)
        if need_keypoints and not _has_keypoints(record):
            continue
        num_objects += int((~record.is_crowd).sum())
        kept.append(record)
    if num_objects == 0:
        raise DataError(
            f"{source}: no object is left to train on of {sum(len(r) for r in records)}; lower TRAIN.GT_MIN_AREA "
            f"({gt_min_area:g}) or look at the annotations with `detectune data check`."
        )
    return kept


def select_objects(record: Record, rows: np.ndarray) -> Record:
    """The record with the objects that bool [N] `rows` selects."""
    index = np.flatnonzero(rows)
    return replace(
        record,
        boxes=record.boxes[index],
        labels=record.labels[index],
        is_crowd=record.is_crowd[index],
        areas=record.areas[index],
        segmentations=[record.segmentations[i] for i in index],
        keypoints=None if record.keypoints is None else record.keypoints[index],
        annotation_ids=record.annotation_ids[index],
    )


def _has_keypoints(record: Record) -> bool:
    if record.keypoints is None:
        return False
    return bool((record.keypoints[~record.is_crowd][..., 2] > 0).any())


@lru_cache(maxsize=4)
def _read(
    places: tuple[DatasetPaths, ...], stamps: tuple[tuple[int, int], ...]
) -> tuple[tuple[tuple[Record, ...], ...], ClassInfo, Problems]:
    """`read_places`, once for files that have not changed (`stamps`): a run builds a loader at each evaluation."""
    records, class_info, problems = read_places(places)
    return tuple(tuple(own) for own in records), class_info, problems


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)  # reading it will say what is wrong
    return status.st_mtime_ns, status.st_size


def _relevant(problems: Problems, settings: DataSettings) -> Problems:
    """Without those about outlines or keypoints that the model does not use. A copy."""
    unused = (*(() if settings.masks else OUTLINES), *(() if settings.keypoints else KEYPOINTS))
    counts = {kind: count for kind, count in problems.counts.items() if kind not in unused}
    return Problems(counts, dict(problems.examples))


def _demand(records: Sequence[Record], class_info: ClassInfo, settings: DataSettings, source: str) -> None:
    has_objects = any(len(record) for record in records)
    if settings.keypoints and not class_info.keypoint_names:
        raise DataError(
            f"{source}: no category lists keypoints, but MODEL.KEYPOINTS_ON is True; set it to False or use "
            "annotations with keypoints."
        )
    outlines = any(outline is not None for record in records for outline in record.segmentations)
    if settings.masks and has_objects and not outlines:
        raise DataError(
            f"{source}: no object has an outline, but MODEL.MASK_ON is True; set MODEL.MASK_ON to False or use "
            "annotations with segmentations."
        )
