"""Average recall of class-agnostic proposals (Hosang et al. 2015, arXiv:1502.05082), as Detectron computes it.

The best `limit` boxes of an image and its objects (crowds left out) are paired greedily by overlap, the closest pair
first, each box and each object once. Recall at a threshold is the share of all objects whose pair overlaps at least
that much; AR is its mean over IoU 0.50, 0.55 .. 0.95. Objects are small up to an area of 32^2, large from 96^2 on.
Boxes are continuous, original frame. What is undefined (no objects of that size) is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detectune.evaluation.matches import iou
from detectune.structures import ClassInfo, Record

LIMITS = (10, 100, 1000)
SIZES = {"": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class ProposalResult:
    """`metrics`: proposal/AR10, proposal/ARs100, .. ; with classes also proposal/class_AR1000, their mean."""

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | int | None]]


def evaluate_proposals(
    records: Sequence[Record],
    proposals: Mapping[int, np.ndarray],
    *,
    class_info: ClassInfo,
    class_specific: bool = False,
) -> ProposalResult:
    """Recall of `proposals`: image id -> float [P, 4], best first. Images that it lacks have none.

    `class_specific` also asks it of each class alone, which frequent classes cannot hide, and of their mean.
    """
    metrics: dict[str, float | None] = {}
    for limit in LIMITS:
        for suffix, (low, high) in SIZES.items():
            chosen = [
                record.boxes[~record.is_crowd & (record.areas >= low) & (record.areas <= high)]
                for record in records
            ]
            metrics[f"proposal/AR{suffix}{limit}"] = _recall_of(records, chosen, proposals, limit)
    per_class: dict[str, dict[str, float | int | None]] = {}
    for label, name in enumerate(class_info.names, start=1):
        chosen = [record.boxes[~record.is_crowd & (record.labels == label)] for record in records]
        per_class[name] = {"num_objects": sum(map(len, chosen))}
        if class_specific:
            for limit in LIMITS:
                per_class[name][f"proposal/AR{limit}"] = _recall_of(records, chosen, proposals, limit)
    if class_specific:
        for limit in LIMITS:
            known = [v for row in per_class.values() if (v := row[f"proposal/AR{limit}"]) is not None]
            metrics[f"proposal/class_AR{limit}"] = float(np.mean(known)) if known else None
    return ProposalResult(metrics, per_class)


def average_recall(overlaps: Iterable[np.ndarray]) -> float | None:
    """Mean over THRESHOLDS of the share of objects with an overlap of at least that; `overlaps` [G] of each image."""
    parts = list(overlaps)
    every = np.concatenate(parts) if parts else np.zeros(0)
    if not len(every):
        return None
    # A tolerance, as 0.6 and other thresholds are no exact binary numbers.
    return float((every[None] >= THRESHOLDS[:, None] - 1e-9).mean())


def paired_overlaps(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """float64 [G]: the IoU of each pair of boxes [P, 4] and objects [G, 4], falling; 0 for objects without a box."""
    found = np.zeros(len(objects))
    overlaps = iou(
        objects, boxes
    )  # [G, P]: of equal overlaps the first object's, then the first box's counts
    for pair in range(min(overlaps.shape)):
        g, p = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
        found[pair] = overlaps[g, p]
        if found[pair] == 0:
            break
        overlaps[g, :] = -1
        overlaps[:, p] = -1
    return found


def _recall_of(
    records: Sequence[Record], objects: Sequence[np.ndarray], proposals: Mapping[int, np.ndarray], limit: int
) -> float | None:
    nothing = np.zeros((0, 4))
    return average_recall(
        paired_overlaps(proposals.get(record.image_id, nothing)[:limit], own)
        for record, own in zip(records, objects, strict=True)
        if len(own)
    )
