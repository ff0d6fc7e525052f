"""Keypoints: to the cells of a heat map and back, mirrored, compared (Mask R-CNN, He 2017, 5).

Shape legend
    R  regions    N  detections    K  keypoints    M  side of a predicted heat map    ...  any leading dimensions

A region's heat map spans x1..x2 and y1..y2 without the extra pixel of inclusive boxes, in every dialect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from detectune.ops.boxes import box_area

Normalization = Literal["resized", "predicted"]

COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
"""How far annotators disagree about each of COCO's 17 keypoints, as a fraction of the object's scale."""

OTHER_SIGMA = 0.05
"""The same for keypoints that nobody measured: near the median of COCO's."""


def keypoint_sigmas(num_keypoints: int, given: Sequence[float] = ()) -> tuple[float, ...]:
    """`given`, else COCO's for its 17 keypoints, else `OTHER_SIGMA` for each."""
    if given:
        return tuple(given)
    return COCO_SIGMAS if num_keypoints == len(COCO_SIGMAS) else (OTHER_SIGMA,) * num_keypoints


def keypoints_to_cells(keypoints: Tensor, boxes: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
    """The heat map cell of each keypoint: (cell, valid), int64 and bool [R, K], from keypoints [R, K, 3] (x, y,
    visibility) and boxes [R, 4].

    Cells count row by row, 0..size * size - 1. Valid are labelled keypoints inside their box; one exactly on the right
    or lower edge belongs to the last cell. Invalid ones have cell 0.
    """
    boxes = boxes[:, None]  # [R, 1, 4]
    x, y, visibility = keypoints.to(boxes.dtype).unbind(-1)
    side_x, side_y = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    # not size / side, which torch turns into size * (1 / side), rounding twice
    scale_x, scale_y = torch.full_like(side_x, size) / side_x, torch.full_like(side_y, size) / side_y
    column = torch.floor((x - boxes[..., 0]) * scale_x)
    row = torch.floor((y - boxes[..., 1]) * scale_y)
    column = torch.where(x == boxes[..., 2], size - 1, column)
    row = torch.where(y == boxes[..., 3], size - 1, row)
    valid = (column >= 0) & (row >= 0) & (column < size) & (row < size) & (visibility > 0)
    return torch.where(valid, row * size + column, 0).to(torch.int64), valid


def heatmaps_to_keypoints(
    maps: Tensor, boxes: Tensor, *, min_size: int = 0, normalization: Normalization = "resized"
) -> Tensor:
    """The best place of each heat map: x, y, logit, probability, float32 [R, K, 4].

    Each map of logits [R, K, M, M] is resized bicubically to one pixel per cell of its box [R, 4] (at least `min_size`
    pixels a side), and the centre of its highest pixel is taken.

    Args:
        maps, boxes: see above; the boxes in the frame the keypoints are wanted in.
        min_size: Detectron's KRCNN.INFERENCE_MIN_SIZE.
        normalization: what the probability sums to one over: the `resized` map (Detectron), or the map as `predicted`,
            so that objects of different sizes compare (detectron2; then a value may exceed 1).
    """
    side = maps.shape[-1]
    found = []
    for heat, (x1, y1, x2, y2) in zip(maps.float(), boxes.tolist(), strict=True):
        width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
        columns, rows = max(math.ceil(width), min_size), max(math.ceil(height), min_size)
        across, down = _cubic_weights(side, columns, heat.device), _cubic_weights(side, rows, heat.device)
        resized = (down @ heat @ across.T).flatten(1)  # [K, rows * columns]
        logit, place = resized.max(dim=1)
        over = resized if normalization == "resized" else heat.flatten(1)
        probability = 1 / torch.exp(over - logit[:, None]).sum(dim=1)
        x = (place % columns + 0.5) * (width / columns) + x1
        y = (torch.div(place, columns, rounding_mode="floor") + 0.5) * (height / rows) + y1
        found.append(torch.stack((x, y, logit, probability), dim=-1))
    return torch.stack(found) if found else maps.new_zeros((0, maps.shape[1], 4), dtype=torch.float32)


def heatmap_probabilities(maps: Tensor) -> Tensor:
    """Softmax over the places of each map [..., H, W]."""
    return torch.softmax(maps.flatten(-2), dim=-1).view_as(maps)


def flip_keypoints(keypoints: Tensor, width: float, flip: Sequence[int], *, offset: float = 0.0) -> Tensor:
    """Mirror keypoints [..., K, 3] (x, y, visibility) in an image of `width`; keypoint i becomes flip[i].

    `offset` is 1 where coordinates are pixel indices. Unlabelled keypoints get x = 0, as COCO has them.
    """
    x, y, visibility = keypoints[..., list(flip), :].unbind(-1)
    labelled = visibility != 0
    return torch.stack((torch.where(labelled, width - x - offset, 0), y, visibility), dim=-1)


def flip_heatmaps(maps: Tensor, flip: Sequence[int]) -> Tensor:
    """Mirror heat maps [..., K, H, W], left and right keypoints exchanged."""
    return maps[..., list(flip), :, :].flip(-1)


def keypoint_similarity(
    source: Tensor, source_area: Tensor, others: Tensor, *, sigmas: Sequence[float] = COCO_SIGMAS
) -> Tensor:
    """Object keypoint similarity [N] of points [K, 2] of an object with some area to points [N, K, 2] of others."""
    spread = 2 * torch.tensor(sigmas, dtype=torch.float64, device=source.device)
    distance = (others.double() - source.double()).square().sum(dim=-1)  # [N, K]
    return torch.exp(-distance / spread.square() / (source_area.double() + _SPACING) / 2).mean(dim=-1)


def nms_oks(
    keypoints: Tensor,
    boxes: Tensor,
    thresh: float,
    *,
    offset: float = 0.0,
    sigmas: Sequence[float] = COCO_SIGMAS,
) -> Tensor:
    """Suppress poses that resemble a better one: rows of keypoints [N, K, 4] kept, int64, by falling mean logit.

    A pose goes when its similarity to a kept one, on the scale of that one's box [N, 4], is above `thresh`.
    """
    order = torch.argsort(keypoints[..., 2].mean(dim=1), descending=True, stable=True)
    areas = box_area(boxes, offset=offset)
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        similarity = keypoint_similarity(
            keypoints[best, :, :2], areas[best], keypoints[order, :, :2], sigmas=sigmas
        )
        order = order[similarity <= thresh]
    return torch.stack(kept) if kept else order


_SPACING = 2.0**-52
CUBIC = -0.75  # the free parameter of cubic convolution, as OpenCV and torch have it


def _cubic_weights(side: int, size: int, device: torch.device) -> Tensor:
    """Weights [size, side] of cubic convolution from `side` cells to `size`; beyond the border cells repeat."""
    position = (torch.arange(size, dtype=torch.float64, device=device) + 0.5) * (side / size) - 0.5
    cell = torch.floor(position)
    weights = torch.zeros((size, side), dtype=torch.float64, device=device)
    for tap in (-1, 0, 1, 2):
        distance = (position - cell - tap).abs()
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
        far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
        index = (cell + tap).clamp(0, side - 1).long()[:, None]
        weights.scatter_add_(1, index, torch.where(distance <= 1, near, far)[:, None])
    return weights.float()
