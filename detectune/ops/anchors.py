"""Anchors: the boxes of fixed shapes that are laid over every cell of a feature map (Faster R-CNN, Ren 2015, 3.1.1).

Shape legend
    A  anchors of one cell (sizes x ratios)      H, W  cells of the feature map

Three systems, three ways to round and to order; all are centred on (or near) the cell's corner:

    none         exact corners, size by size and within a size ratio by ratio (detectron2)
    detectron    sides rounded to whole pixels on a reference window of one stride, ratio by ratio and within a ratio
                 size by size; corners are inclusive, so a box is x2 - x1 + 1 wide
    torchvision  corners rounded to whole pixels, ratio by ratio and within a ratio size by size
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["none", "detectron", "torchvision"]


def cell_anchors(
    *, stride: float, sizes: Sequence[float], aspect_ratios: Sequence[float], rounding: Rounding
) -> Tensor:
    """Anchors of the cell at the origin, float32 [A, 4] with A = len(sizes) * len(aspect_ratios).

    Args:
        stride: pixels between neighbouring cells; only `detectron` rounding depends on it.
        sizes: square roots of the anchors' areas, in pixels.
        aspect_ratios: height over width.
        rounding: see the module's docstring.
    """
    if rounding == "none":
        return _exact_anchors(sizes, aspect_ratios)
    if rounding == "torchvision":
        return _corner_rounded_anchors(sizes, aspect_ratios)
    return _side_rounded_anchors(stride, sizes, aspect_ratios)


def grid_anchors(
    cell: Tensor,
    height: int,
    width: int,
    stride: float | tuple[float, float],
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """Cell anchors [A, 4] repeated over a height x width grid: [H * W * A, 4] in the order row, column, anchor.

    `stride` is one number or (vertical, horizontal).
    """
    cell = cell.to(device) if device is not None else cell
    stride_y, stride_x = stride if isinstance(stride, tuple) else (stride, stride)
    y = torch.arange(height, device=cell.device, dtype=cell.dtype) * stride_y
    x = torch.arange(width, device=cell.device, dtype=cell.dtype) * stride_x
    y, x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack((x, y, x, y), dim=-1)  # [H, W, 4]
    return (shifts[:, :, None] + cell).reshape(-1, 4)


def _exact_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    size = torch.tensor(list(sizes), dtype=torch.float64)[:, None]
    ratio = torch.tensor(list(aspect_ratios), dtype=torch.float64)[None, :]
    width = torch.sqrt(size**2 / ratio)  # [sizes, ratios]
    height = ratio * width
    return torch.stack((-width / 2, -height / 2, width / 2, height / 2), dim=-1).reshape(-1, 4).float()


def _corner_rounded_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    size = torch.tensor(list(sizes), dtype=torch.float32)[None, :]
    height_ratio = torch.sqrt(torch.tensor(list(aspect_ratios), dtype=torch.float32))[:, None]
    width, height = (1 / height_ratio) * size, height_ratio * size  # [ratios, sizes]
    return torch.stack((-width, -height, width, height), dim=-1).reshape(-1, 4).div(2).round()


def _side_rounded_anchors(stride: float, sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Round the sides of a stride x stride window at each ratio, then scale the window to each size."""
    scale = torch.tensor(list(sizes), dtype=torch.float64)[None, :] / stride
    ratio = torch.tensor(list(aspect_ratios), dtype=torch.float64)[:, None]
    window_width = torch.round(
        torch.sqrt(torch.full_like(ratio, stride * stride) / ratio)
    )  # half to even, as numpy
    window_height = torch.round(window_width * ratio)
    width, height = window_width * scale, window_height * scale  # [ratios, sizes]
    centre = 0.5 * (stride - 1)
    half_width, half_height = 0.5 * (width - 1), 0.5 * (height - 1)
    corners = (centre - half_width, centre - half_height, centre + half_width, centre + half_height)
    return torch.stack(corners, dim=-1).reshape(-1, 4).float()
