"""COCO's average precision of detections whose overlaps with the objects are known already, as arrays.

`evaluation/coco.py` measures what was found once. Here the same detections are measured thousands of times in other
selections: overlaps are computed once for every candidate (`truth.py`), and a selection is matched and counted with
numpy, for all images together. Images can be weighted, which resamples a data set without matching again. Equal to
`evaluate_coco` (tests/evaluation/test_average_precision.py).

Shape legend
    D  detections    G  objects of all images    P  objects that one detection overlaps, padded
    T  thresholds of overlap    K  foreground classes    I  images
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = {"all": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
"""COCO's sizes, areas in pixels of the original image; an object on a border counts on both sides."""


@dataclass(frozen=True)
class Objects:
    """What is there, G objects in the order of their images."""

    image: np.ndarray  # int64 [G], 0..I-1
    label: np.ndarray  # int64 [G], 1..K
    area: np.ndarray  # float64 [G]
    is_crowd: np.ndarray  # bool [G]
    forgiven: np.ndarray  # bool [G]: neither to be found nor wrong, crowds among them
    num_images: int
    num_classes: int


@dataclass(frozen=True)
class Found:
    """Detections, those of an image in the order of their result rows."""

    image: np.ndarray  # int64 [D]
    label: np.ndarray  # int64 [D], 1..K
    score: np.ndarray  # float64 [D]
    area: np.ndarray  # float64 [D]
    objects: (
        np.ndarray
    )  # int64 [D, P]: those of image and label overlapped by 0.5 or more, the last one first; -1 pads
    overlaps: np.ndarray  # float64 [D, P], 0 where padded

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, rows: np.ndarray) -> Found:
        """The detections that an index or a mask selects."""
        return Found(
            self.image[rows], self.label[rows], self.score[rows], self.area[rows], self.objects[rows],
            self.overlaps[rows],
        )  # fmt: skip


@dataclass(frozen=True)
class Matched:
    """Detections by class and falling score, and what each is at every threshold."""

    image: np.ndarray  # int64 [D]
    label: np.ndarray  # int64 [D], rising
    score: np.ndarray  # float64 [D], falling within a class
    right: np.ndarray  # bool [T, D]
    wrong: np.ndarray  # bool [T, D]; neither: forgiven
    wanted: np.ndarray  # int64 [I, K]: objects to be found in each image

    @property
    def num_images(self) -> int:
        return len(self.wanted)


def match(
    found: Found,
    objects: Objects,
    *,
    area: str = "all",
    limit: int = 100,
    thresholds: np.ndarray = THRESHOLDS,
) -> Matched:
    """COCO's matching: by falling score each detection takes the free object of its class that it overlaps most.

    Only the first `limit` detections of a class in an image count; `area` is one of AREAS.
    """
    low, high = AREAS[area]
    ignored = objects.forgiven | (objects.area < low) | (objects.area > high)
    group = found.image * objects.num_classes + found.label - 1
    order = np.lexsort((-found.score, group))
    order = order[counted(group[order]) < limit]
    found, group = found[order], group[order]
    right = np.zeros((len(thresholds), len(found)), dtype=bool)
    forgiven = np.zeros_like(right)
    least = np.minimum(thresholds, 1 - 1e-10)[:, None, None]
    taken = np.zeros((len(thresholds), len(objects.label)), dtype=bool)
    near = np.flatnonzero((found.objects >= 0).any(1)) if found.objects.size else np.zeros(0, dtype=np.int64)
    turn = counted(group[near])
    for number in range(int(turn.max()) + 1 if len(turn) else 0):
        rows = near[
            turn == number
        ]  # at most one of each image and class, so they do not get in each other's way
        object_, overlap = found.objects[rows], found.overlaps[rows]
        free = ~taken[:, object_] | objects.is_crowd[object_]
        usable = free & (overlap >= least) & (object_ >= 0)  # [T, rows, P]
        real = np.where(usable & ~ignored[object_], overlap, -1.0)
        best, hit = real.argmax(2), real.max(2) > 0
        if ignored[object_].any():
            other = np.where(usable & ignored[object_], overlap, -1.0)
            best, hit = np.where(hit, best, other.argmax(2)), hit | (other.max(2) > 0)
        chosen = np.take_along_axis(object_[None], best[..., None], axis=2)[..., 0]  # [T, rows]
        t, _ = np.nonzero(hit)
        taken[t, chosen[hit]] = True
        right[:, rows] = hit & ~ignored[chosen]
        forgiven[:, rows] = hit & ignored[chosen]
    outside = (found.area < low) | (found.area > high)
    forgiven |= ~right & outside
    wanted = np.zeros((objects.num_images, objects.num_classes), dtype=np.int64)
    np.add.at(wanted, (objects.image[~ignored], objects.label[~ignored] - 1), 1)
    by_class = np.lexsort((-found.score, found.label))
    right, forgiven = right[:, by_class], forgiven[:, by_class]
    found = found[by_class]
    return Matched(found.image, found.label, found.score, right, ~right & ~forgiven, wanted)


def precision_and_recall(
    matched: Matched, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """AP and recall of each class at each threshold, float64 [T, K] both; NaN for classes without objects.

    `weights` [I], whole numbers, count images as if they were there so often.
    """
    num_classes = matched.wanted.shape[1]
    weight = np.ones(matched.num_images) if weights is None else np.asarray(weights, dtype=np.float64)
    wanted = weight @ matched.wanted
    present = np.flatnonzero(wanted > 0)
    precision = np.full((len(matched.right), num_classes), np.nan)
    recall = np.full_like(precision, np.nan)
    precision[:, present] = recall[:, present] = 0.0
    if not len(matched.label) or not len(present):
        return precision, recall
    each = weight[matched.image]
    edges = np.searchsorted(matched.label, np.arange(1, num_classes + 2))
    start, stop = edges[present], edges[present + 1]
    # Counts are whole numbers, so sums over all classes are exact and so are their differences.
    right = np.cumsum(matched.right * each, axis=1)
    wrong = np.cumsum(matched.wrong * each, axis=1)
    ahead = np.concatenate((np.zeros((len(right), 1)), right), axis=1)[:, start]  # [T, present]
    before = np.concatenate((np.zeros((len(wrong), 1)), wrong), axis=1)[:, start]
    envelope = np.zeros((len(right), right.shape[1] + 1))  # the last column is what no detection reaches
    for i, k in enumerate(present):
        rows = slice(start[i], stop[i])
        hits = right[:, rows] - ahead[:, i : i + 1]
        exact = hits / (hits + (wrong[:, rows] - before[:, i : i + 1]) + np.spacing(1))
        envelope[:, rows] = np.maximum.accumulate(exact[:, ::-1], axis=1)[:, ::-1]
        if stop[i] > start[i]:
            recall[:, k] = hits[:, -1] / wanted[k]
    needed = _counts_for_recalls(wanted[present])  # [present, R]
    for t in range(len(right)):
        place = np.searchsorted(right[t], ahead[t][:, None] + needed, side="left")
        place = np.maximum(place, start[:, None])
        place = np.where(place < stop[:, None], place, right.shape[1])
        precision[t, present] = envelope[t, place].mean(1)
    return precision, recall


def _counts_for_recalls(wanted: np.ndarray) -> np.ndarray:
    """The smallest whole number of each of `wanted` [K] whose quotient is at least each of RECALLS, float64 [K, R]."""
    of = wanted[:, None]
    count = np.ceil(RECALLS * of)
    count = np.where(
        (count - 1) / of >= RECALLS, count - 1, count
    )  # as the quotients round, not the products
    return np.asarray(np.where(count / of < RECALLS, count + 1, count))


def mean_precision(matched: Matched, weights: np.ndarray | None = None, *, at: slice = slice(None)) -> float:
    """AP over the thresholds `at` and all classes that have objects; NaN if none has."""
    known = precision_and_recall(matched, weights)[0][at]
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else float("nan")


def counted(group: np.ndarray) -> np.ndarray:
    """How many of its group came before each of int64 [D], whose groups lie together."""
    first = np.flatnonzero(np.diff(group, prepend=group[:1] - 1)) if len(group) else np.zeros(0, np.int64)
    starts = np.zeros(len(group), dtype=np.int64)
    starts[first] = first
    return np.arange(len(group)) - np.maximum.accumulate(starts)
