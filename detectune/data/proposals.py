"""Ready-made proposals of records, treated as Detectron or detectron2 does where a model has no RPN.

As Detectron: clipped to the image; of those that are equal after rounding to whole pixels the first stays; sides must
be longer than MIN_SIDE; then the first `limit` are taken, in the order of the file and not by score. All that is done
on inclusive boxes (x2 is the last pixel); the records get continuous ones. As detectron2: best first, clipped, and of
those that are not empty the first `limit`. For training, proposals that lie in crowd regions are left out, since they
are neither examples nor background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from detectune.data.coco import original_image_id
from detectune.data.proposal_files import read_proposals
from detectune.errors import DataError
from detectune.ops.boxes import clip_boxes, unique_boxes
from detectune.structures import Record

TO_CONTINUOUS = np.array([0, 0, 1, 1], dtype=np.float32)
Treatment = Literal["detectron", "detectron2"]
MIN_SIDE = 2.0  # pixels; Detectron's min_proposal_size


def attach_proposals(
    records: Sequence[Record], path: Path, *, limit: int | None, treatment: Treatment = "detectron"
) -> list[Record]:
    """The records of one data set with the proposals that `path` has for their image ids.

    Raises:
        DataError: if the file cannot be used or lacks an image.
    """
    status = path.stat() if path.is_file() else None
    stamp = (0, 0) if status is None else (status.st_mtime_ns, status.st_size)
    found = _by_image(path, stamp)
    missing = [record for record in records if original_image_id(record.image_id) not in found]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(records)} images have no proposals, such as image id "
            f"{original_image_id(missing[0].image_id)} ({missing[0].file_name}); PROPOSAL_FILES names one file for "
            "each data set, in the same order."
        )
    attached = []
    for record in records:
        boxes, scores = found[original_image_id(record.image_id)]
        if treatment == "detectron":
            rows = usable_rows(boxes, record.height, record.width, limit=limit)
            inside = _clipped(boxes[rows], record.height, record.width) + TO_CONTINUOUS
        else:
            rows = best_rows(boxes, scores, record.height, record.width, limit=limit)
            inside = _clipped(boxes[rows] + TO_CONTINUOUS, record.height, record.width, offset=0.0)
        attached.append(
            replace(
                record,
                proposals=inside,
                proposal_scores=None if scores is None else scores[rows],
            )
        )
    return attached


def usable_rows(boxes: np.ndarray, height: int, width: int, *, limit: int | None) -> np.ndarray:
    """int64 [K]: which of the inclusive boxes [P, 4] are used, in the order given."""
    clipped = _clipped(boxes, height, width)
    first, _ = unique_boxes(torch.from_numpy(clipped))
    rows = first.numpy()
    sides = clipped[rows, 2:] - clipped[rows, :2] + 1
    return np.asarray(rows[(sides > MIN_SIDE).all(axis=1)][:limit])


def best_rows(
    boxes: np.ndarray, scores: np.ndarray | None, height: int, width: int, *, limit: int | None
) -> np.ndarray:
    """int64 [K]: which of the inclusive boxes [P, 4] detectron2 uses, best first if there are scores [P]."""
    order = np.arange(len(boxes)) if scores is None else np.argsort(-scores, kind="stable")
    clipped = _clipped(boxes[order] + TO_CONTINUOUS, height, width, offset=0.0)
    sides = clipped[:, 2:] - clipped[:, :2]
    return np.asarray(order[(sides > 0).all(axis=1)][:limit])


def without_crowds(record: Record, *, thresh: float) -> Record:
    """The record without proposals of which more than `thresh` of the area lies in one crowd region; 0 keeps all."""
    crowds = record.boxes[record.is_crowd]
    if record.proposals is None or thresh <= 0 or not len(crowds) or not len(record.proposals):
        return record
    inside = covered_part(record.proposals, crowds).max(axis=1)
    kept = inside <= thresh
    scores = record.proposal_scores
    return replace(
        record,
        proposals=record.proposals[kept],
        proposal_scores=None if scores is None else scores[kept],
    )


def covered_part(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """float64 [P, R]: the part of each continuous box's area that lies in each region."""
    boxes, regions = boxes.astype(np.float64), regions.astype(np.float64)
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    common = (high - low).clip(min=0).prod(axis=2)
    return np.asarray(common / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None])


def _clipped(boxes: np.ndarray, height: int, width: int, *, offset: float = 1.0) -> np.ndarray:
    sizes = torch.tensor([height, width])
    return np.asarray(clip_boxes(torch.from_numpy(boxes), sizes, offset=offset).numpy())


@lru_cache(maxsize=2)
def _by_image(path: Path, stamp: tuple[int, int]) -> dict[int, tuple[np.ndarray, np.ndarray | None]]:
    """{image id: boxes and scores} of a file unchanged since `stamp`: a run builds a loader at each evaluation."""
    found = read_proposals(path)
    return {
        image_id: (found.boxes[i], None if found.scores is None else found.scores[i])
        for i, image_id in enumerate(found.image_ids)
    }
