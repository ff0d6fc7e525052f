"""Result rows against a data set by the rules that belong to its format; files that other tools want beside them.

COCO's rules are for everything; Pascal VOC, LVIS and Cityscapes have their own, unless TEST.FORCE_JSON_DATASET_EVAL.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectune.data.lvis import read_lvis
from detectune.data.shapes import DatasetPaths
from detectune.data.voc import read_voc_images
from detectune.engine.run_directory import output_errors, write_text
from detectune.evaluation.coco import CocoResult, evaluate_coco
from detectune.evaluation.lvis import evaluate_lvis
from detectune.evaluation.voc import VocObjects, evaluate_voc, result_lines
from detectune.structures import ClassInfo, Record

SERVER_KEYS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")


def evaluate_dataset(
    place: DatasetPaths,
    records: Sequence[Record],
    rows: Sequence[Mapping[str, Any]],
    *,
    name: str,
    class_info: ClassInfo,
    tasks: Sequence[str],
    folder: Path,
    coco_rules: bool,
    plain_names: bool,
) -> CocoResult:
    """Metrics, and the files of results under `folder` that the format's own tools or servers read.

    `coco_rules` is TEST.FORCE_JSON_DATASET_EVAL, `plain_names` TEST.COMPETITION_MODE: without it the files' names get
    a random part, so that tests beside each other keep theirs.
    """
    salt = "" if plain_names else f"_{uuid.uuid4().hex[:8]}"
    if place.format == "voc" and not coco_rules:
        return _evaluate_voc(place, rows, name, class_info, folder / "voc", salt)
    if place.format == "unlabelled":
        _write_for_server(rows, name, tasks, folder, salt)
    if place.format == "lvis" and not coco_rules:
        document = read_lvis(place.annotations, place.images)
        boxes_and_masks = [task for task in tasks if task in ("bbox", "segm")]
        return evaluate_lvis(document, rows, class_info=class_info, iou_types=boxes_and_masks)
    return evaluate_coco(records, rows, class_info=class_info, iou_types=tasks)


def _evaluate_voc(
    place: DatasetPaths,
    rows: Sequence[Mapping[str, Any]],
    name: str,
    class_info: ClassInfo,
    folder: Path,
    salt: str,
) -> CocoResult:
    images = read_voc_images(place.annotations, place.images)
    label = {class_name: i for i, class_name in enumerate(class_info.names, start=1)}
    truth = {
        image.image_id: VocObjects(
            image.boxes, np.array([label[c] for c in image.classes], dtype=np.int64), image.difficult
        )
        for image in images
    }
    names = {image.image_id: image.name for image in images}
    split = place.annotations.stem if place.annotations.is_file() else "all"
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for class_name, number in zip(class_info.names, class_info.category_ids, strict=True):
        write_text(folder / f"comp4{salt}_det_{split}_{class_name}.txt", result_lines(rows, names, number))
    return evaluate_voc(truth, rows, class_info=class_info, eleven_points=uses_eleven_points(name, place))


def uses_eleven_points(name: str, place: DatasetPaths) -> bool:
    """Whether the data set is of a year before 2010: the year in its name, else in the folders of its files."""
    years = _YEAR.findall(name) or _YEAR.findall(str(place.annotations))
    return bool(years) and int(years[-1]) < 2010


def _write_for_server(
    rows: Sequence[Mapping[str, Any]], name: str, tasks: Sequence[str], folder: Path, salt: str
) -> None:
    """COCO's evaluation server knows what is in test images: one file for each task, with its keys alone."""
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        content = [
            {key: row[key] for key in ("image_id", "category_id", SERVER_KEYS[task], "score")} for row in rows
        ]
        write_text(folder / f"{task}_{name}_results{salt}.json", json.dumps(content, allow_nan=False) + "\n")
