"""COCO's average precision and recall of boxes, masks and keypoints, overall and per class, with its curves.

The arithmetic is hotcoco's, which equals pycocotools in every number (tests/evaluation). Ground truth comes from the
records of the loader, so that several joined annotation files are one data set. Fractions 0..1; what is undefined
(a class without objects, no small objects) is None.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval

from detectune.ops.keypoints import keypoint_sigmas
from detectune.structures import ClassInfo, Record

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KEYPOINT_NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


@dataclass(frozen=True)
class CocoResult:
    """What COCO's evaluation says.

    `curves`: for each task `recall` [101] and the precision at each, at IoU 0.5, 0.75 and averaged over 0.50:0.95, and
    for each class at IoU 0.5; None where a class has no objects.
    """

    metrics: dict[str, float | None]  # bbox/AP, bbox/AP50, ... segm/ARl
    per_class: dict[str, dict[str, float | int | None]]
    curves: dict[str, dict[str, Any]]


def evaluate_coco(
    records: Sequence[Record],
    rows: Sequence[Mapping[str, Any]],
    *,
    class_info: ClassInfo,
    iou_types: Sequence[str] = ("bbox", "segm"),
    sigmas: Sequence[float] = (),
    class_recall: bool = False,
) -> CocoResult:
    """Compare result rows (image_id, category_id, bbox [x, y, w, h], score, segmentation, keypoints) with the records.

    Keypoints are ranked by `keypoint_score` where a row has one. `sigmas` is how much each keypoint may be off, as in
    `ops.keypoints.keypoint_sigmas`. With `class_recall`, `per_class` also has the average recall of each class
    (<task>/AR, all detections that count).
    """
    truth = coco_truth(records, class_info)
    metrics: dict[str, float | None] = {}
    curves: dict[str, dict[str, Any]] = {}
    per_class = _counts(records, rows, class_info)
    with quiet():
        ground = COCO(truth)
    for task in iou_types:
        names = KEYPOINT_NAMES if task == "keypoints" else NAMES
        own = _rows_of(task, rows)
        with quiet():
            found = ground.loadRes(own) if own else None
        if found is None:  # nothing was found at all: every defined number is zero
            metrics |= {f"{task}/{name}": 0.0 if len(truth["annotations"]) else None for name in names}
            for name in class_info.names:
                zero = 0.0 if per_class[name]["num_objects"] else None
                per_class[name] |= {f"{task}/AP": zero, f"{task}/AP50": zero}
                if class_recall:
                    per_class[name][f"{task}/AR"] = zero
            continue
        with quiet():
            evaluation = COCOeval(ground, found, task)
            if task == "keypoints":
                evaluation.params.kpt_oks_sigmas = list(
                    keypoint_sigmas(len(class_info.keypoint_names), sigmas)
                )
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        metrics |= {
            f"{task}/{name}": _defined(value) for name, value in zip(names, evaluation.stats, strict=True)
        }
        order = [list(evaluation.params.catIds).index(number) for number in class_info.category_ids]
        arrays: Any = evaluation.eval
        precision = np.asarray(arrays["precision"])[:, :, order]  # [T, R, K, areas, limits]
        recall = np.asarray(arrays["recall"])[:, order]  # [T, K, areas, limits]
        for k, name in enumerate(class_info.names):
            if class_recall:
                per_class[name][f"{task}/AR"] = mean_known(recall[:, k, 0, -1])
            per_class[name][f"{task}/AP"] = mean_known(precision[:, :, k, 0, -1])
            per_class[name][f"{task}/AP50"] = mean_known(precision[0, :, k, 0, -1])
        curves[task] = precision_curves(precision[:, :, :, 0, -1], class_info)
    return CocoResult(metrics, per_class, curves)


def coco_truth(records: Sequence[Record], class_info: ClassInfo) -> dict[str, Any]:
    """The records as one COCO document; categories in the order of the labels."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record in records:
        images.append({"id": record.image_id, "height": record.height, "width": record.width})
        for i in range(len(record)):
            annotations.append(_annotation(record, i, len(annotations) + 1, class_info))
    categories = [
        {"id": number, "name": name}
        for number, name in zip(class_info.category_ids, class_info.names, strict=True)
    ]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def _annotation(record: Record, i: int, number: int, class_info: ClassInfo) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(v) for v in record.boxes[i])
    entry: dict[str, Any] = {
        "id": number,
        "image_id": record.image_id,
        "category_id": class_info.category_ids[int(record.labels[i]) - 1],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": float(record.areas[i]),
        "iscrowd": int(record.is_crowd[i]),
    }
    segmentation = record.segmentations[i]
    if isinstance(segmentation, dict):
        entry["segmentation"] = segmentation
    elif segmentation is not None:
        entry["segmentation"] = [ring.tolist() for ring in segmentation]
    else:  # evaluated as its box
        entry["segmentation"] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    if record.keypoints is not None:
        points = record.keypoints[i]
        entry["keypoints"] = points.reshape(-1).tolist()
        entry["num_keypoints"] = int((points[:, 2] > 0).sum())
    return entry


def _rows_of(task: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What one task looks at.

    Masks and keypoints come without the box, by which a detection's size would be measured otherwise: COCO's small and
    large are areas of masks, and of what keypoints span.
    """
    if task == "bbox":
        return [dict(row) for row in rows]
    part = "segmentation" if task == "segm" else "keypoints"
    own = [{name: value for name, value in row.items() if name != "bbox"} for row in rows if part in row]
    if task == "keypoints":
        for row in own:
            row.pop("segmentation", None)
            row["score"] = row.get("keypoint_score", row["score"])
    return own


def _counts(
    records: Sequence[Record], rows: Sequence[Mapping[str, Any]], class_info: ClassInfo
) -> dict[str, dict[str, float | int | None]]:
    """Objects (without crowds) and detections of each class."""
    objects = np.zeros(len(class_info) + 1, dtype=np.int64)
    for record in records:
        np.add.at(objects, record.labels[~record.is_crowd], 1)
    found = dict.fromkeys(class_info.category_ids, 0)
    for row in rows:
        found[row["category_id"]] += 1
    return {
        name: {"num_objects": int(objects[k + 1]), "num_detections": found[number]}
        for k, (name, number) in enumerate(zip(class_info.names, class_info.category_ids, strict=True))
    }


def precision_curves(precision: np.ndarray, class_info: ClassInfo) -> dict[str, Any]:
    """Curves from precision [T, 101, K]; -1 marks classes without objects."""
    present = [k for k in range(precision.shape[2]) if (precision[0, :, k] > -1).any()]
    known = precision[:, :, present]

    def mean(values: np.ndarray) -> list[float] | None:
        return [round(float(v), 5) for v in values.mean(axis=-1)] if present else None

    return {
        "recall": [round(float(r), 2) for r in np.linspace(0, 1, precision.shape[1])],
        "precision_50": mean(known[0]),
        "precision_75": mean(known[5]),
        "precision_mean": mean(known.mean(axis=0)),
        "per_class_50": {
            name: [round(float(v), 5) for v in precision[0, :, k]] if k in present else None
            for k, name in enumerate(class_info.names)
        },
    }


def _defined(value: float) -> float | None:
    return float(value) if value > -1 else None


def mean_known(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The library prints its progress and its table; ours is elsewhere. That other sigmas are not COCO's is known."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*kpt_oks_sigmas differ")
        yield
