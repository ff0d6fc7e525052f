"""How well anchors cover the objects of a data set, and which would cover them better.

What a network learns starts from the anchor that overlaps an object most. That overlap is computed exactly: on a grid
of a stride the nearest anchor of a shape is the one whose centre is nearest, in each direction by itself.

Shape legend
    N  objects    A  anchors of the cells of all levels
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from detectune.data.images import ResizeStyle, target_size
from detectune.ops.anchors import Rounding, cell_anchors
from detectune.structures import Record

Kind = Literal["pyramid", "one level", "retinanet"]
MOST_OBJECTS = 4000  # a sample of more says the same
STEPS = (0.7, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 1.4)  # by which a size or ratio is tried larger and smaller
ROUNDS = 6
LEAST_GAIN = 0.005  # ours: of the mean overlap up to ENOUGH; below it the current anchors are as good
ENOUGH = 0.7  # an anchor of this overlap is an object by itself (Ren 2015, 3.1.2); more of it gains nothing
FOUND, LESS_FOUND = 0.5, 0.005  # ours: so much of the recall at FOUND may be given up


@dataclass(frozen=True)
class Objects:
    """Boxes as the network sees them, float64 [N, 4] continuous, and their images' sides (height, width) [N, 2]."""

    boxes: np.ndarray
    frames: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Layout:
    """Anchors: a size per level that doubles with the stride (pyramid), several on one level, or both (retinanet).

    Attributes:
        strides: pixels between neighbouring cells, finest level first.
        sizes: of the finest level, in pixels: square roots of areas.
        ratios: height over width.
    """

    kind: Kind
    strides: tuple[int, ...]
    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    rounding: Rounding = "none"
    offset: float = 0.0  # 1 where boxes are inclusive

    def cells(self) -> Iterable[tuple[int, np.ndarray]]:
        """(stride, boxes float64 [a, 4] of the cell at the origin) of each level."""
        for stride in self.strides:
            times = stride / self.strides[0]
            cell = cell_anchors(
                stride=stride,
                sizes=[size * times for size in self.sizes],
                aspect_ratios=self.ratios,
                rounding=self.rounding,
            )
            boxes = cell.double().numpy()
            boxes[:, 2:] += self.offset
            yield stride, boxes


def network_objects(
    records: Sequence[Record], *, scales: Sequence[int], max_size: int, style: ResizeStyle, seed: int = 0
) -> Objects:
    """The objects of a data set after the resize of training, each at every one of `scales`; crowds are left out."""
    boxes, frames = [], []
    for record in records:
        own = record.boxes[~record.is_crowd].astype(np.float64)
        for scale in scales:
            height, width, _ = target_size(
                record.height, record.width, short_side=scale, max_size=max_size, style=style
            )
            factor = np.array([width / record.width, height / record.height] * 2)
            boxes.append(own * factor)
            frames.append(np.tile([height, width], (len(own), 1)))
    found = (
        Objects(np.concatenate(boxes), np.concatenate(frames))
        if boxes
        else Objects(np.zeros((0, 4)), np.zeros((0, 2)))
    )
    wide = (found.boxes[:, 2:] - found.boxes[:, :2] > 0).all(1)
    rows = np.flatnonzero(wide)
    if len(rows) > MOST_OBJECTS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_OBJECTS, replace=False))
    return Objects(found.boxes[rows], found.frames[rows])


def best_overlaps(objects: Objects, layout: Layout) -> np.ndarray:
    """The overlap of each object with the anchor that overlaps it most, float64 [N]."""
    best = np.zeros(len(objects))
    low, high = objects.boxes[:, None, :2], objects.boxes[:, None, 2:]
    area = (high - low).prod(2)
    for stride, cell in layout.cells():
        middle = (cell[:, :2] + cell[:, 2:]) / 2
        counts = np.ceil(objects.frames[:, ::-1] / stride)[:, None]  # cells across, cells down
        place = np.clip(np.round(((low + high) / 2 - middle) / stride), 0, counts - 1) * stride
        inter = np.minimum(high, cell[:, 2:] + place) - np.maximum(low, cell[:, :2] + place)
        inter = np.clip(inter, 0, None).prod(2)
        union = area + (cell[:, 2:] - cell[:, :2]).prod(1) - inter
        best = np.maximum(best, (inter / union).max(1))
    return best


def fit(objects: Objects, current: Layout, *, num_ratios: int | None = None) -> Layout:
    """Anchors of the same kind and number that overlap the objects more, on average and up to ENOUGH, without losing
    recall at FOUND; `current` if there are none.

    Ratios start as the middles of clusters of the objects' own ratios, sizes as their quantiles (a pyramid's and
    RetinaNet's first size on a grid); then each is moved while that helps.
    """
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    count = num_ratios or len(current.ratios)
    ratios = cluster_ratios(sides[:, 1] / sides[:, 0], count)
    starts: list[tuple[float, ...]]
    root = np.sqrt(sides.prod(1))
    if current.kind == "one level":
        starts = [tuple(np.quantile(root, (np.arange(len(current.sizes)) + 0.5) / len(current.sizes)))]
    else:
        steps = np.array(current.sizes) / current.sizes[0]
        firsts = np.unique(
            np.round(np.geomspace(max(4, np.quantile(root, 0.01) / 2), np.quantile(root, 0.6) + 4, 16))
        )
        starts = [tuple(first * steps) for first in firsts]
    overlaps = best_overlaps(objects, current)
    floor = float((overlaps >= FOUND).mean()) - LESS_FOUND if num_ratios is None else 0.0
    best, score = current, mean_overlap(overlaps)
    kept = score if num_ratios is None else -1.0  # of another number of ratios the best is wanted in any case
    if num_ratios is not None:
        score = -1.0
    for sizes in starts:
        tried = _rounded(replace(current, sizes=sizes, ratios=ratios))
        value = _value(objects, tried, floor)
        if value > score:
            best, score = tried, value
    best, score = _climb(objects, best, score, floor)
    return best if score >= kept + LEAST_GAIN else current


def mean_overlap(overlaps: np.ndarray) -> float:
    """What is made as large as it goes: the mean of overlaps [N], each up to ENOUGH."""
    return float(np.minimum(overlaps, ENOUGH).mean())


def _value(objects: Objects, layout: Layout, floor: float) -> float:
    """`mean_overlap`, or -1 where the recall at FOUND is below `floor`."""
    overlaps = best_overlaps(objects, layout)
    return mean_overlap(overlaps) if (overlaps >= FOUND).mean() >= floor else -1.0


def cluster_ratios(ratios: np.ndarray, count: int) -> tuple[float, ...]:
    """The middles of `count` clusters of ratios: k-means by overlap of boxes of equal area, which orders as |log| does.

    Under that distance a cluster's middle is its median.
    """
    logs = np.sort(np.log(ratios))
    middles = np.quantile(logs, (np.arange(count) + 0.5) / count)
    for _ in range(50):
        nearest = np.abs(logs[:, None] - middles).argmin(1)
        new = np.array(
            [np.median(logs[nearest == k]) if (nearest == k).any() else middles[k] for k in range(count)]
        )
        if np.allclose(new, middles):
            break
        middles = new
    return tuple(float(value) for value in np.exp(np.sort(middles)))


def _climb(objects: Objects, layout: Layout, score: float, floor: float) -> tuple[Layout, float]:
    """Move one number at a time while that helps."""
    for _ in range(ROUNDS):
        before = score
        for changed in _neighbours(layout):
            value = _value(objects, changed, floor)
            if value > score + 1e-6:
                layout, score = changed, value
        if score == before:
            break
    return layout, score


def _neighbours(layout: Layout) -> Iterable[Layout]:
    for step in STEPS:
        for i in range(len(layout.ratios)):
            ratios = [*layout.ratios]
            ratios[i] *= step
            yield _rounded(replace(layout, ratios=tuple(ratios)))
        if layout.kind == "one level":
            for i in range(len(layout.sizes)):
                sizes = [*layout.sizes]
                sizes[i] *= step
                yield _rounded(replace(layout, sizes=tuple(sizes)))
        else:
            yield _rounded(replace(layout, sizes=tuple(size * step for size in layout.sizes)))


def _rounded(layout: Layout) -> Layout:
    """Numbers as the configuration takes them: whole sizes (RetinaNet: whole multiples of the stride), short ratios."""
    ratios = tuple(sorted(float(f"{ratio:.2g}") for ratio in layout.ratios))
    if layout.kind == "one level":
        return replace(
            layout, sizes=tuple(sorted(float(max(1, round(s))) for s in layout.sizes)), ratios=ratios
        )
    unit = layout.strides[0] if layout.kind == "retinanet" else 1
    first = max(1, round(layout.sizes[0] / unit)) * unit
    return replace(
        layout, sizes=tuple(first * size / layout.sizes[0] for size in layout.sizes), ratios=ratios
    )
