"""Result rows against a data set by the rules that belong to its format; files that other tools want beside them.

COCO's rules are for everything; Pascal VOC, LVIS and Cityscapes have their own, unless TEST.FORCE_JSON_DATASET_EVAL.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectune.data.cityscapes import CLASSES, IMAGE, INSTANCES
from detectune.data.lvis import read_lvis
from detectune.data.shapes import DatasetPaths
from detectune.data.voc import read_voc_images
from detectune.engine.run_directory import output_errors, write_text
from detectune.evaluation.cityscapes import evaluate_cityscapes, library_is_installed, write_results
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
    sigmas: Sequence[float] = (),
    folder: Path,
    coco_rules: bool,
    plain_names: bool,
    class_recall: bool = False,
    log: Callable[[str], None] = print,
) -> CocoResult:
    """Metrics, and the files of results under `folder` that the format's own tools or servers read.

    `coco_rules` is TEST.FORCE_JSON_DATASET_EVAL, `plain_names` TEST.COMPETITION_MODE: without it the files' names get
    a random part, so that tests beside each other keep theirs. `class_recall` is TEST.CLASS_SPECIFIC_AR, for COCO's
    rules.
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
    result = evaluate_coco(
        records, rows, class_info=class_info, iou_types=tasks, sigmas=sigmas, class_recall=class_recall
    )
    if place.format == "cityscapes" and "segm" in tasks and not coco_rules:
        result.metrics.update(
            _cityscapes_metrics(place, records, rows, class_info, folder / "cityscapes", log)
        )
    return result


def _cityscapes_metrics(
    place: DatasetPaths,
    records: Sequence[Record],
    rows: Sequence[Mapping[str, Any]],
    class_info: ClassInfo,
    folder: Path,
    log: Callable[[str], None],
) -> dict[str, float | None]:
    """Cityscapes' own AP beside COCO's, where the library and the pictures of instances are there."""
    unknown = sorted(set(class_info.names) - set(CLASSES))
    if unknown:
        log(f"Cityscapes' own AP is left out: {', '.join(unknown)} are no classes of Cityscapes.")
        return {}
    frames = {record.image_id: Path(record.file_name).name.removesuffix(IMAGE) for record in records}
    pictures = find_pictures(place, list(frames.values()))
    if isinstance(pictures, str):
        log(f"Cityscapes' own AP is left out: {pictures}")
        return {}
    labels = {
        number: CLASSES[name] for name, number in zip(class_info.names, class_info.category_ids, strict=True)
    }
    with output_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)  # the library would read what an earlier test left
        write_results(folder, rows, frames=frames, labels=labels)
    if not library_is_installed():
        log(
            f"Cityscapes' own AP is left out: its library is not installed (pip install cityscapesscripts). The result "
            f"files that it reads are in {folder}."
        )
        return {}
    return evaluate_cityscapes(folder, pictures)


def find_pictures(place: DatasetPaths, frames: Sequence[str]) -> list[Path] | str:
    """The picture of instances of each frame below gtFine, or why there is none."""
    base = place.annotations.resolve().parent.parent
    truth = next((f for f in (base / "gtFine", base / "raw/gtFine") if f.is_dir()), None)
    if truth is None:
        return f"there is neither {base / 'gtFine'} nor {base / 'raw/gtFine'} with its pictures of instances."
    found = {path.name.removesuffix(INSTANCES): path for path in truth.glob(f"*/*/*{INSTANCES}")}
    missing = [frame for frame in frames if frame not in found]
    if missing:
        return f"{len(missing)} frames, such as {missing[0]}, have no picture of instances below {truth}."
    return [found[frame] for frame in frames]


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
