"""Where AP is lost: TIDE's six kinds of error and what mending each alone would gain (Bolya et al. 2020, ECCV).

AP is that at an overlap of 0.5 (`FOUND`). A wrong detection is, in this order,

    localisation     of the right class, overlapping an object by 0.1 to 0.5
    classification   of the wrong class, overlapping an object by 0.5 or more
    duplicate        of the right class and place, after a better one took the object
    background       overlapping nothing by more than 0.1
    both             what remains: the wrong class and a poor place

and an object is missed if nothing found it and no error of the first two kinds points at it. Mending: the best error
that points at an object which was not found becomes right, others of these kinds and the other kinds go away; missed
objects are no longer asked for. The gains do not add up, as errors hide each other.

Shape legend
    D  detections that count    K  foreground classes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectune.evaluation.average_precision import Matched, counted, precision_and_recall
from detectune.evaluation.truth import Truth
from detectune.structures import ClassInfo, Record

FOUND, NEAR = 0.5, 0.1
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
RIGHT, FORGIVEN = "right", "forgiven"

KNOBS: dict[str, tuple[str, ...]] = {
    "classification": (
        "SOLVER.MAX_ITER", "SOLVER.BASE_LR", "SOLVER.WEIGHT_DECAY", "TRAIN.BATCH_SIZE_PER_IM", "FAST_RCNN.MLP_HEAD_DIM",
    ),
    "localisation": (
        "TEST.BBOX_VOTE.ENABLED", "MODEL.CASCADE_ON", "MODEL.BBOX_REG_WEIGHTS", "TRAIN.FG_THRESH",
        "FAST_RCNN.ROI_XFORM_RESOLUTION", "TEST.SCALE",
    ),
    "both": ("SOLVER.MAX_ITER", "SOLVER.BASE_LR", "TEST.SCORE_THRESH", "TRAIN.FG_THRESH"),
    "duplicate": ("TEST.NMS", "TEST.SOFT_NMS.ENABLED", "TEST.SOFT_NMS.SIGMA"),
    "background": (
        "TEST.SCORE_THRESH", "TRAIN.BATCH_SIZE_PER_IM", "TRAIN.FG_FRACTION", "TRAIN.BG_THRESH_LO", "SOLVER.MAX_ITER",
    ),
    "missed": (
        "TEST.SCORE_THRESH", "FPN.RPN_ANCHOR_START_SIZE", "RPN.SIZES", "RPN.ASPECT_RATIOS", "TEST.RPN_POST_NMS_TOP_N",
        "TEST.SCALE", "TRAIN.SCALES", "TEST.DETECTIONS_PER_IM",
    ),
}  # fmt: skip
"""Kind -> the keys that act on it, those that need no training first."""


@dataclass(frozen=True)
class Verdicts:
    """What became of each detection, and which objects were found.

    Attributes:
        kind: [D], one of KINDS without missed, RIGHT or FORGIVEN (inside a crowd).
        target: int64 [D], the object that it took or points at, -1 for none.
        found: bool [G].
        missed: bool [G].
    """

    image: np.ndarray  # int64 [D]
    label: np.ndarray  # int64 [D]
    score: np.ndarray  # float64 [D]
    kind: np.ndarray
    target: np.ndarray
    found: np.ndarray
    missed: np.ndarray


def classify_errors(truth: Truth, rows: Sequence[Mapping[str, Any]], class_info: ClassInfo) -> Verdicts:
    """The kind of every detection among result rows, and the objects that are missed."""
    objects = truth.objects
    number = {category: label for label, category in enumerate(class_info.category_ids, start=1)}
    by_image: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in truth.image_ids}
    for row in rows:
        by_image[row["image_id"]].append(row)
    found = np.zeros(len(objects.label), dtype=bool)
    parts = []
    for image_id, own in by_image.items():
        labels = np.array([number[row["category_id"]] for row in own], dtype=np.int64)
        scores = np.array([row["score"] for row in own], dtype=np.float64)
        order = np.lexsort((-scores, labels))
        order = order[counted(labels[order]) < truth.limit]
        order = order[np.argsort(-scores[order], kind="stable")]
        mine = truth.of_image(image_id)
        overlap = _overlaps(truth, [own[i] for i in order], mine)
        kinds, targets = _of_image(overlap, labels[order], objects.label[mine], objects.is_crowd[mine])
        taken = [t for kind, t in zip(kinds, targets, strict=True) if kind == RIGHT]
        found[mine[taken]] = True
        parts.append(
            (np.full(len(order), truth.number[image_id]), labels[order], scores[order], np.array(kinds, dtype=object),
             np.array([mine[t] if t >= 0 else -1 for t in targets], dtype=np.int64))
        )  # fmt: skip
    image, label, score, kind, target = (np.concatenate(column) for column in zip(*parts, strict=True))
    pointed = np.zeros(len(found), dtype=bool)
    pointed[target[np.isin(kind, ("classification", "localisation"))]] = True
    missed = ~found & ~pointed & ~objects.forgiven
    return Verdicts(image, label, score, kind, target, found, missed)


def _overlaps(truth: Truth, rows: Sequence[Mapping[str, Any]], mine: np.ndarray) -> np.ndarray:
    """Overlaps float64 [n, m] of result rows with the objects `mine` [m] of their image."""
    if not len(rows) or not len(mine):
        return np.zeros((len(rows), len(mine)))
    if truth.task == "segm":
        return truth.iou([row["segmentation"] for row in rows], mine)
    return truth.iou(np.array([row["bbox"] for row in rows], dtype=np.float64), mine)


def _of_image(
    overlap: np.ndarray, labels: np.ndarray, truth: np.ndarray, crowd: np.ndarray
) -> tuple[list[str], list[int]]:
    """Kinds and targets of the detections of one image, best first; `overlap` [n, m] with the objects `truth` [m]."""
    taken = np.zeros(len(truth), dtype=bool)
    kinds = [""] * len(labels)
    targets = [-1] * len(labels)
    for i, label in enumerate(
        labels.tolist()
    ):  # right ones first: a duplicate is one of an object that was taken
        free = np.where((truth == label) & ~crowd & ~taken, overlap[i], -1.0)
        if len(free) and free.max() >= FOUND:
            targets[i] = len(free) - 1 - int(free[::-1].argmax())  # of equal overlaps the last, as COCO
            taken[targets[i]] = True
            kinds[i] = RIGHT
        elif ((truth == label) & crowd & (overlap[i] >= FOUND)).any():
            kinds[i] = FORGIVEN
    for i, label in enumerate(labels.tolist()):
        if not kinds[i]:
            same = np.where((truth == label) & ~crowd, overlap[i], 0.0)
            other = np.where((truth != label) & ~crowd, overlap[i], 0.0)
            kinds[i], targets[i] = _kind(same, other, taken)
    return kinds, targets


def _kind(same: np.ndarray, other: np.ndarray, taken: np.ndarray) -> tuple[str, int]:
    """The kind of a wrong detection and the object it points at, from its overlaps with the objects of an image."""
    if not len(same):
        return "background", -1
    if NEAR <= same.max() < FOUND:
        return "localisation", int(same.argmax())
    if other.max() >= FOUND:
        return "classification", int(other.argmax())
    if (same[taken] >= FOUND).any():
        return "duplicate", int(np.where(taken, same, 0.0).argmax())
    if max(same.max(), other.max()) <= NEAR:
        return "background", -1
    return "both", -1


def gains(verdicts: Verdicts, truth: Truth) -> dict[str, float]:
    """`AP50`, then kind -> what mending it alone would add; also `false positives` and `false negatives` as a whole."""
    base = _ap(verdicts, truth)
    out = {"AP50": base}
    for kind in KINDS:
        out[kind] = _mended(verdicts, truth, kind) - base
    right = np.isin(verdicts.kind, (RIGHT, FORGIVEN))
    out["false positives"] = _ap(verdicts, truth, keep=right) - base
    out["false negatives"] = _ap(verdicts, truth, dropped=~verdicts.found & ~truth.objects.forgiven) - base
    return out


def _mended(verdicts: Verdicts, truth: Truth, kind: str) -> float:
    if kind == "missed":
        return _ap(verdicts, truth, dropped=verdicts.missed)
    wrong = verdicts.kind == kind
    if kind not in ("classification", "localisation"):
        return _ap(verdicts, truth, keep=~wrong)
    chosen = np.zeros(len(wrong), dtype=bool)
    rows = np.flatnonzero(wrong & ~verdicts.found[verdicts.target])
    rows = rows[np.argsort(-verdicts.score[rows], kind="stable")]
    _, first = np.unique(verdicts.target[rows], return_index=True)  # the best of each object
    chosen[rows[first]] = True
    return _ap(verdicts, truth, keep=~wrong | chosen, right=chosen)


def _ap(
    verdicts: Verdicts,
    truth: Truth,
    *,
    keep: np.ndarray | None = None,
    right: np.ndarray | None = None,
    dropped: np.ndarray | None = None,
) -> float:
    """AP50 of the detections `keep`, those in `right` being right for their target, without the objects `dropped`."""
    objects = truth.objects
    hit = verdicts.kind == RIGHT
    label = verdicts.label.copy()
    if right is not None:
        hit |= right
        label[right] = objects.label[verdicts.target[right]]
    wrong = ~hit & (verdicts.kind != FORGIVEN)
    asked = ~objects.forgiven if dropped is None else ~objects.forgiven & ~dropped
    wanted = np.zeros((objects.num_images, objects.num_classes), dtype=np.int64)
    np.add.at(wanted, (objects.image[asked], objects.label[asked] - 1), 1)
    rows = np.arange(len(label)) if keep is None else np.flatnonzero(keep)
    rows = rows[np.lexsort((-verdicts.score[rows], label[rows]))]
    matched = Matched(
        verdicts.image[rows], label[rows], verdicts.score[rows], hit[None, rows], wrong[None, rows], wanted
    )
    precision = precision_and_recall(matched)[0]
    known = precision[~np.isnan(precision)]
    return float(known.mean()) if known.size else 0.0


def confusion(
    truth: Truth, rows: Sequence[Mapping[str, Any]], class_info: ClassInfo, *, score_thresh: float
) -> np.ndarray:
    """Objects (rows, 0: none there) against what was seen (columns, 0: nothing), int64 [K + 1, K + 1].

    Detections of at least `score_thresh`, best first, take the free object of any class that they overlap most, by at
    least FOUND; what lies in a crowd does not count.
    """
    objects, number = truth.objects, {c: k for k, c in enumerate(class_info.category_ids, start=1)}
    table = np.zeros((len(class_info) + 1, len(class_info) + 1), dtype=np.int64)
    by_image: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in truth.image_ids}
    for row in rows:
        if row["score"] >= score_thresh:
            by_image[row["image_id"]].append(row)
    for image_id, own in by_image.items():
        own = sorted(own, key=lambda row: -row["score"])
        mine = truth.of_image(image_id)
        label, crowd = objects.label[mine], objects.is_crowd[mine]
        overlap = _overlaps(truth, own, mine)
        taken = crowd.copy()
        for i, row in enumerate(own):
            free = np.where(taken, -1.0, overlap[i])
            seen = number[row["category_id"]]
            if len(free) and free.max() >= FOUND:
                taken[free.argmax()] = True
                table[label[free.argmax()], seen] += 1
            elif not (crowd & (overlap[i] >= FOUND)).any():
                table[0, seen] += 1
        np.add.at(table, (label[~taken], 0), 1)
    return table


def error_report(
    records: Sequence[Record],
    rows: Sequence[Mapping[str, Any]],
    class_info: ClassInfo,
    *,
    task: str = "bbox",
    score_thresh: float = 0.5,
) -> dict[str, Any]:
    """Gains, counts, the largest kind with its knobs, and the confusion of classes, as plain values."""
    truth = Truth(records, class_info, task)
    verdicts = classify_errors(truth, rows, class_info)
    gained = gains(verdicts, truth)
    counts = {kind: int((verdicts.kind == kind).sum()) for kind in (RIGHT, FORGIVEN, *KINDS[:-1])}
    counts["missed"] = int(verdicts.missed.sum())
    largest = max(KINDS, key=lambda kind: gained[kind])
    table = confusion(truth, rows, class_info, score_thresh=score_thresh)
    return {
        "task": task,
        "images": len(truth.image_ids),
        "objects": int((~truth.objects.forgiven).sum()),
        "AP50": gained.pop("AP50"),
        "gains": gained,
        "counts": counts,
        "largest": largest if gained[largest] > 0 else None,
        "knobs": list(KNOBS[largest]) if gained[largest] > 0 else [],
        "classes": ["nothing", *class_info.names],
        "confusion": table.tolist(),
        "score_thresh": score_thresh,
    }
