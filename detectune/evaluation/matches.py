"""Which objects of one image were found: a count that a person can check by eye, for ranking images.

Simpler than AP on purpose: detections above a score, each the best-scored first, take the object of their class that
overlaps most, at an IoU of at least `iou_thresh`; crowds forgive what lies in them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from detectune.structures import Record


def match_image(
    record: Record,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    score_thresh: float = 0.5,
    iou_thresh: float = 0.5,
) -> dict[str, Any]:
    """Counts for one image: true_positives, false_positives, missed, f1 (1 where nothing is there and nothing found).

    Boxes are continuous xyxy [N, 4] in the original frame, as in the record.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= score_thresh]
    overlaps = iou(boxes[order], record.boxes)
    inside = coverage(boxes[order], record.boxes)
    taken = record.is_crowd.copy()
    true_positives = false_positives = 0
    for row, k in enumerate(order):
        same = record.labels == labels[k]
        candidates = np.where(same & ~taken, overlaps[row], 0.0)
        best = int(candidates.argmax()) if candidates.size else -1
        if best >= 0 and candidates[best] >= iou_thresh:
            taken[best] = True
            true_positives += 1
        elif not (same & record.is_crowd & (inside[row] >= iou_thresh)).any():
            false_positives += 1
    num_objects = int((~record.is_crowd).sum())
    missed = num_objects - true_positives
    total = 2 * true_positives + false_positives + missed
    return {
        "num_objects": num_objects,
        "num_detections": len(order),
        "true_positives": true_positives,
        "false_positives": false_positives,
        "missed": missed,
        "f1": 2 * true_positives / total if total else 1.0,
    }


def worst_first(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Images by rising f1, then by how many mistakes they have; those without a mistake are left out."""
    wrong = [row for row in images if row["missed"] + row["false_positives"] > 0]
    return sorted(wrong, key=lambda row: (row["f1"], -(row["missed"] + row["false_positives"])))


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [N, 4] and [M, 4]: [N, M]."""
    inter = _intersection(a, b)
    union = _area(a)[:, None] + _area(b)[None] - inter
    return np.asarray(np.divide(inter, union, out=np.zeros_like(inter), where=union > 0))


def coverage(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The fraction of each box of `a` [N, 4] that lies in each box of `b` [M, 4]: [N, M]."""
    inter, area = _intersection(a, b), np.broadcast_to(_area(a)[:, None], (len(a), len(b)))
    return np.asarray(np.divide(inter, area, out=np.zeros_like(inter), where=area > 0))


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = np.asarray(a, dtype=np.float64).reshape(-1, 4), np.asarray(b, dtype=np.float64).reshape(-1, 4)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    size = np.clip(high - low, 0, None)
    return np.asarray(size[..., 0] * size[..., 1])


def _area(boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
