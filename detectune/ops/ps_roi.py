"""Position-sensitive pooling of regions (R-FCN, Dai 2016, eq. 1): each part of a region has maps of its own.

Shape legend
    B  images    R  regions of all images    C  output channels    k  side of the grid    H, W  cells of the maps

Averages over rectangles are differences of sums over all that lies above and to the left, so any region costs four
look-ups, whatever its size, and shapes do not depend on values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_SMALLEST_SIDE = 0.1  # cells


def ps_roi_pool(
    maps: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    *,
    spatial_scale: float,
    grid: int,
    offset: float,
) -> Tensor:
    """Average of each part of each region in the maps of that part: [R, C, k, k], in the precision of the maps.

    The part in row i and column j covers the cells from floor to ceil of its borders, within the map; one that covers
    none is zero. Borders come from whole pixels of the image, as in Detectron.

    Args:
        maps: [B, C * k * k, H, W], channel (c * k + i) * k + j.
        boxes: [R, 4], image pixels.
        image_index: int64 [R].
        spatial_scale: cells per image pixel.
        grid: k.
        offset: 1 if boxes are inclusive.
    """
    batch, channels, height, width = maps.shape
    sums = _sums_above_left(maps).view(batch, channels // grid**2, grid, grid, height + 1, width + 1)
    sums = sums.permute(0, 2, 3, 4, 5, 1)  # [B, k, k, H + 1, W + 1, C]
    x1, y1 = (_whole(boxes[:, :2]) * spatial_scale).unbind(1)
    x2, y2 = (_whole(boxes[:, 2:] + offset) * spatial_scale).unbind(1)
    left, right = _borders(x1, x2, grid, width)  # [R, k]
    top, bottom = _borders(y1, y2, grid, height)
    part = torch.arange(grid, device=maps.device)
    image, row, column = image_index[:, None, None], part[None, :, None], part[None, None, :]

    def upto(y: Tensor, x: Tensor) -> Tensor:
        return sums[image, row, column, y[:, :, None], x[:, None, :]]  # [R, k, k, C]

    total = upto(bottom, right) - upto(top, right) - upto(bottom, left) + upto(top, left)
    cells = (bottom - top)[:, :, None] * (right - left)[:, None, :]
    out = total / cells.clamp(min=1)[..., None]
    return out.permute(0, 3, 1, 2).to(maps.dtype)


def _sums_above_left(maps: Tensor) -> Tensor:
    """[B, C, H + 1, W + 1]: at (y, x) the sum of rows before y and columns before x; differences need the precision."""
    precise = torch.float32 if maps.device.type == "mps" else torch.float64
    return F.pad(maps.to(precise).cumsum(2).cumsum(3), (1, 0, 1, 0))


def _whole(pixels: Tensor) -> Tensor:
    return torch.floor(pixels.float() + 0.5)


def _borders(start: Tensor, end: Tensor, grid: int, length: int) -> tuple[Tensor, Tensor]:
    """First cells and ends int64 [R, k] of parts along an axis of `length` cells; equal where a part is empty."""
    side = (end - start).clamp(min=_SMALLEST_SIDE) / grid
    part = torch.arange(grid, device=start.device)
    first = torch.floor(start[:, None] + part * side[:, None]).clamp(0, length)
    last = torch.ceil(start[:, None] + (part + 1) * side[:, None]).clamp(0, length)
    return first.to(torch.int64), torch.maximum(first, last).to(torch.int64)
