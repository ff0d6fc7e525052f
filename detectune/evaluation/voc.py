"""Pascal VOC's average precision (Everingham et al. 2010, section 4.2) and its result files.

Detections of a class, best first over all images, take the object of their image that overlaps most. At an IoU above
the threshold the first one is right and later ones are wrong; difficult objects count neither way. Before 2010 AP was
the mean of the best precision at or beyond recall 0, 0.1 .. 1; from 2010 on it is the area under that curve. Boxes are
continuous, original frame: VOC's own inclusive pixels give the same overlaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectune.evaluation.coco import CocoResult, mean_known, precision_curves
from detectune.evaluation.matches import iou
from detectune.structures import ClassInfo

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
CURVE_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class VocObjects:
    """The objects of one image."""

    boxes: np.ndarray  # float64 [N, 4]
    labels: np.ndarray  # int64 [N], 1..K
    difficult: np.ndarray  # bool [N]


def evaluate_voc(
    truth: Mapping[int, VocObjects],
    rows: Sequence[Mapping[str, Any]],
    *,
    class_info: ClassInfo,
    eleven_points: bool,
) -> CocoResult:
    """AP at IoU 0.5 (VOC's own number, bbox/AP50), at 0.75, and their mean over 0.50:0.95 (bbox/AP), per class too.

    `rows` are COCO's result rows of boxes; `truth` has an entry for each image.
    """
    per_class: dict[str, dict[str, float | int | None]] = {}
    table = np.full((len(THRESHOLDS), len(class_info)), -1.0)
    curves = np.full((len(THRESHOLDS), len(CURVE_RECALLS), len(class_info)), -1.0)
    for k, (name, number) in enumerate(zip(class_info.names, class_info.category_ids, strict=True)):
        own = [row for row in rows if row["category_id"] == number]
        objects = {
            image_id: (
                own_truth.boxes[own_truth.labels == k + 1],
                own_truth.difficult[own_truth.labels == k + 1],
            )
            for image_id, own_truth in truth.items()
        }
        num_objects = sum(int((~difficult).sum()) for _, difficult in objects.values())
        for t, thresh in enumerate(THRESHOLDS if num_objects else ()):
            recall, precision = precision_recall(objects, own, iou_thresh=thresh)
            table[t, k] = average_precision(recall, precision, eleven_points=eleven_points)
            curves[t, :, k] = best_precision(recall, precision, CURVE_RECALLS)
        per_class[name] = {"num_objects": num_objects, "num_detections": len(own)}
        per_class[name] |= {"bbox/AP": mean_known(table[:, k]), "bbox/AP50": mean_known(table[:1, k])}
    metrics = {
        "bbox/AP": mean_known(table),
        "bbox/AP50": mean_known(table[0]),
        "bbox/AP75": mean_known(table[THRESHOLDS.index(0.75)]),
    }
    return CocoResult(metrics, per_class, {"bbox": precision_curves(curves, class_info)})


def precision_recall(
    objects: Mapping[int, tuple[np.ndarray, np.ndarray]],
    rows: Sequence[Mapping[str, Any]],
    *,
    iou_thresh: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision [D] after each detection of one class, best first.

    `objects`: image id -> boxes [N, 4] and whether they are difficult [N].
    """
    order = np.argsort([-row["score"] for row in rows], kind="stable")
    taken = {image_id: np.zeros(len(boxes), dtype=bool) for image_id, (boxes, _) in objects.items()}
    right, wrong = np.zeros(len(rows)), np.zeros(len(rows))
    for place, index in enumerate(order):
        row = rows[int(index)]
        boxes, difficult = objects[row["image_id"]]
        x, y, width, height = row["bbox"]
        overlaps = iou(np.array([[x, y, x + width, y + height]]), boxes)[0]
        best = int(overlaps.argmax()) if len(overlaps) else -1
        if best < 0 or overlaps[best] <= iou_thresh:
            wrong[place] = 1
        elif not difficult[best]:
            right[place], wrong[place] = not taken[row["image_id"]][best], taken[row["image_id"]][best]
            taken[row["image_id"]][best] = True
    num_objects = sum(int((~difficult).sum()) for _, difficult in objects.values())
    found, missed = np.cumsum(right), np.cumsum(wrong)
    return found / max(1, num_objects), found / np.maximum(found + missed, np.finfo(np.float64).eps)


def average_precision(recall: np.ndarray, precision: np.ndarray, *, eleven_points: bool) -> float:
    """One number for a curve whose recall [D] rises."""
    if (
        eleven_points
    ):  # the kit's multiples of 0.1, of which 0.3, 0.6 and 0.7 are a little larger than their names
        return float(best_precision(recall, precision, np.arange(11) * 0.1).mean())
    rising = np.concatenate([[0.0], recall])
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(rising) * falling).sum())


def best_precision(recall: np.ndarray, precision: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The best precision at each recall of `at` [R] or beyond; 0 where that recall is never reached."""
    falling = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return np.asarray(falling[np.searchsorted(recall, at, side="left")])


def result_lines(rows: Sequence[Mapping[str, Any]], names: Mapping[int, str], category_id: int) -> str:
    """The kit's file of one class: image name, score, box in pixels counted from 1; `names` are those of the images."""
    lines = []
    for row in rows:
        if row["category_id"] == category_id:
            x, y, width, height = row["bbox"]
            corners = (x + 1, y + 1, x + width, y + height)  # inclusive, from 1
            lines.append(
                " ".join([names[row["image_id"]], f"{row['score']:.6f}", *(f"{v:.1f}" for v in corners)])
            )
    return "".join(f"{line}\n" for line in lines)
