"""Arithmetic on boxes: areas, overlaps, the regression code, clipping, conversions.

Shape legend
    ...  any leading dimensions    N, M  numbers of boxes    C  classes that each have their own box

Boxes are x1, y1, x2, y2. `offset` is 0 where x2 is continuous (width = x2 - x1) and 1 where x2 is the last pixel
inside (width = x2 - x1 + 1, the convention of Detectron). Every function takes it as a number and knows nothing of
dialects. No function changes its arguments, waits for a device, or has a shape that depends on values, but for the
two filters at the end, which say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

DELTA_CLIP = math.log(1000.0 / 16.0)
"""Largest log scale that `decode_boxes` lets through: a box grows at most 62.5 fold."""

_TINY_SIDE = 1e-6  # keeps the code of a padding box finite; no object is that small


def box_area(boxes: Tensor, *, offset: float = 0.0) -> Tensor:
    """Areas [...] of boxes [..., 4]; negative where a box is inverted in one direction."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1 + offset) * (y2 - y1 + offset)


def box_iou(a: Tensor, b: Tensor, *, offset: float = 0.0) -> Tensor:
    """Intersection over union of every pair: a [..., N, 4] and b [..., M, 4] give [..., N, M].

    Pairs that do not intersect have 0, degenerate boxes included. Needs a dozen bytes of scratch per pair and byte of
    dtype; `ops.matching` has a leaner route for hundreds of thousands of anchors.
    """
    ax1, ay1, ax2, ay2 = a[..., :, None, :].unbind(-1)
    bx1, by1, bx2, by2 = b[..., None, :, :].unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1) + offset).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1) + offset).clamp(min=0)
    inter = width * height  # [..., N, M]
    union = box_area(a, offset=offset)[..., :, None] + box_area(b, offset=offset)[..., None, :] - inter
    return torch.where(inter > 0, inter / union, torch.zeros_like(inter))


def encode_boxes(
    references: Tensor, targets: Tensor, *, weights: Sequence[float], offset: float = 0.0
) -> Tensor:
    """The deltas [..., 4] that move `references` onto `targets` (both [..., 4]); R-CNN (Girshick 2014), eq. 6-9.

    dx and dy are in units of the reference's sides, dw and dh logarithms of the ratio of sides; each is multiplied by
    its weight. Degenerate boxes (padding) give finite numbers without meaning.
    """
    wx, wy, ww, wh = weights
    width, height, x, y = _sides_and_centres(references, offset)
    target_width, target_height, target_x, target_y = _sides_and_centres(targets, offset)
    width, height = width.clamp(min=_TINY_SIDE), height.clamp(min=_TINY_SIDE)
    dx = wx * (target_x - x) / width
    dy = wy * (target_y - y) / height
    dw = ww * torch.log(target_width.clamp(min=_TINY_SIDE) / width)
    dh = wh * torch.log(target_height.clamp(min=_TINY_SIDE) / height)
    return torch.stack((dx, dy, dw, dh), dim=-1)


def decode_boxes(
    deltas: Tensor,
    references: Tensor,
    *,
    weights: Sequence[float],
    offset: float = 0.0,
    clip: float = DELTA_CLIP,
) -> Tensor:
    """Apply deltas [..., 4 * C] to references [..., 4]: boxes [..., 4 * C], class by class.

    Inverse of `encode_boxes`, except that dw and dh are clipped to `clip` from above. Computed in the precision of the
    references, so that bf16 deltas do not round coordinates.
    """
    wx, wy, ww, wh = weights
    deltas = deltas.to(torch.promote_types(deltas.dtype, references.dtype))
    dx, dy, dw, dh = deltas.reshape(*deltas.shape[:-1], deltas.shape[-1] // 4, 4).unbind(-1)  # each [..., C]
    width, height, x, y = (v[..., None] for v in _sides_and_centres(references, offset))
    centre_x = dx / wx * width + x
    centre_y = dy / wy * height + y
    new_width = torch.exp((dw / ww).clamp(max=clip)) * width
    new_height = torch.exp((dh / wh).clamp(max=clip)) * height
    boxes = torch.stack(
        (
            centre_x - 0.5 * new_width,
            centre_y - 0.5 * new_height,
            centre_x + 0.5 * new_width - offset,
            centre_y + 0.5 * new_height - offset,
        ),
        dim=-1,
    )
    return boxes.flatten(-2)


def clip_boxes(boxes: Tensor, sizes: Tensor, *, offset: float = 0.0) -> Tensor:
    """Boxes [..., 4] moved inside images of `sizes` [..., 2] (height, width).

    The leading dimensions broadcast: for boxes [B, N, 4] pass sizes[:, None] of shape [B, 1, 2].
    """
    limits = (sizes.to(boxes.dtype) - offset).flip(-1)  # [..., 2]: x, y
    return torch.minimum(boxes.clamp(min=0), torch.cat((limits, limits), dim=-1))


def flip_boxes(boxes: Tensor, width: Tensor | float, *, offset: float = 0.0) -> Tensor:
    """Mirror boxes [..., 4] left to right in images of `width` (a number, or [...] that broadcasts)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((width - x2 - offset, y1, width - x1 - offset, y2), dim=-1)


def xywh_to_xyxy(boxes: Tensor, *, offset: float = 0.0) -> Tensor:
    """From x, y, width, height to corners. Sides below `offset` give a box of side `offset`, as in Detectron."""
    x, y, width, height = boxes.unbind(-1)
    return torch.stack((x, y, x + (width - offset).clamp(min=0), y + (height - offset).clamp(min=0)), dim=-1)


def xyxy_to_xywh(boxes: Tensor, *, offset: float = 0.0) -> Tensor:
    """From corners to x, y, width, height."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1, y1, x2 - x1 + offset, y2 - y1 + offset), dim=-1)


def expand_boxes(boxes: Tensor, scale: float) -> Tensor:
    """Boxes [..., 4] grown about their centres by `scale`. Scales x2 - x1 in every dialect (no offset)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    half_width, half_height = (x2 - x1) * 0.5 * scale, (y2 - y1) * 0.5 * scale
    x, y = (x2 + x1) * 0.5, (y2 + y1) * 0.5
    return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), dim=-1)


def scale_aspect_ratio(boxes: Tensor, ratio: float) -> Tensor:
    """Boxes [..., 4] as they lie after the image's width has been multiplied by `ratio`."""
    return boxes * boxes.new_tensor((ratio, 1.0, ratio, 1.0))


def large_enough(boxes: Tensor, min_size: Tensor | float, *, offset: float = 0.0) -> Tensor:
    """Bool [...]: both sides of boxes [..., 4] are at least `min_size` (a number, or [...] that broadcasts)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1 + offset >= min_size) & (y2 - y1 + offset >= min_size)


def centre_inside(boxes: Tensor, sizes: Tensor, *, offset: float = 0.0) -> Tensor:
    """Bool [...]: the centre of boxes [..., 4] lies before the right and lower border of `sizes` [..., 2] (h, w)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    x, y = x1 + (x2 - x1 + offset) / 2, y1 + (y2 - y1 + offset) / 2
    return (x < sizes[..., 1]) & (y < sizes[..., 0])


def unique_boxes(boxes: Tensor, *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Boxes that are equal after round(box * scale): (first [U], inverse [N]) for boxes [N, 4].

    `first` has the rows where each distinct box occurs first, ascending; `boxes[first][inverse]` is one representative
    per input row. The number of rows depends on the values.
    """
    rounded = torch.round(boxes * scale)
    _, group = torch.unique(rounded, dim=0, return_inverse=True)  # [N]
    rows = torch.arange(len(boxes), device=boxes.device)
    num_groups = int(group.max()) + 1 if len(boxes) else 0
    first = torch.full((num_groups,), len(boxes), device=boxes.device).scatter_reduce(0, group, rows, "amin")
    first, order = first.sort()
    return first, torch.argsort(order)[group]


def _sides_and_centres(boxes: Tensor, offset: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Widths, heights, centre x and centre y, each [...]."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1 + offset, y2 - y1 + offset
    return width, height, x1 + 0.5 * width, y1 + 0.5 * height
