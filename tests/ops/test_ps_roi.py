"""Position-sensitive and max pooling against loops that follow the papers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detectune.ops.ps_roi import ps_roi_pool
from detectune.ops.roi import multilevel_crop, roi_max_pool

BOXES = torch.tensor(
    [
        [0.0, 0, 63, 47],
        [10.4, 3.6, 30.5, 40.2],
        [5, 5, 5, 5],
        [50, 40, 90, 80],
        [-20, -20, -9, -9],
        [31.5, 8.5, 32, 40],
    ]
)
IMAGES = torch.tensor([0, 1, 1, 0, 1, 0])


def slow_ps_roi_pool(maps: Tensor, box: list[float], scale: float, grid: int, offset: float) -> Tensor:
    """One region of one image: maps [C * k * k, H, W]."""
    height, width = maps.shape[1:]
    x1, y1 = (math.floor(v + 0.5) * scale for v in box[:2])
    x2, y2 = (math.floor(v + offset + 0.5) * scale for v in box[2:])
    bin_h, bin_w = max(y2 - y1, 0.1) / grid, max(x2 - x1, 0.1) / grid
    out = torch.zeros(maps.shape[0] // grid**2, grid, grid)
    for c in range(len(out)):
        for i in range(grid):
            for j in range(grid):
                top, bottom = math.floor(y1 + i * bin_h), math.ceil(y1 + (i + 1) * bin_h)
                left, right = math.floor(x1 + j * bin_w), math.ceil(x1 + (j + 1) * bin_w)
                part = maps[
                    (c * grid + i) * grid + j,
                    min(max(top, 0), height) : min(max(bottom, 0), height),
                    min(max(left, 0), width) : min(max(right, 0), width),
                ]
                if part.numel():
                    out[c, i, j] = part.mean()
    return out


@pytest.mark.parametrize(("grid", "offset"), [(3, 1.0), (3, 0.0), (7, 1.0), (1, 0.0)])
def test_parts_are_averages_of_their_own_maps(grid: int, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 2 * grid**2, 6, 8, generator=generator, requires_grad=True)
    have = ps_roi_pool(maps, BOXES, IMAGES, spatial_scale=1 / 8, grid=grid, offset=offset)
    want = torch.stack(
        [
            slow_ps_roi_pool(maps[image], box, 1 / 8, grid, offset)
            for box, image in zip(BOXES.tolist(), IMAGES.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(have, want)
    assert float(have[4].abs().sum().detach()) == 0.0  # off the map
    weights = torch.randn(have.shape, generator=generator)
    (here,) = torch.autograd.grad((have * weights).sum(), maps, retain_graph=True)
    (there,) = torch.autograd.grad((want * weights).sum(), maps)
    torch.testing.assert_close(here, there)


def test_no_regions_and_half_precision() -> None:
    maps = torch.randn(1, 9, 4, 4)
    none = ps_roi_pool(
        maps, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), spatial_scale=1 / 8, grid=3, offset=0
    )
    assert none.shape == (0, 1, 3, 3)
    box, image = torch.tensor([[0.0, 0, 20, 20]]), torch.zeros(1, dtype=torch.int64)
    half = ps_roi_pool(maps.bfloat16(), box, image, spatial_scale=1 / 8, grid=3, offset=0)
    full = ps_roi_pool(maps, box, image, spatial_scale=1 / 8, grid=3, offset=0)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, atol=0.03, rtol=0.03)


def slow_roi_max_pool(plane: Tensor, box: list[float], scale: float, resolution: int) -> Tensor:
    """One region of one plane [H, W]: corners round to cells, both included."""
    height, width = plane.shape
    x1, y1, x2, y2 = (math.floor(v * scale + 0.5) if v >= 0 else math.ceil(v * scale - 0.5) for v in box)
    high, wide = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    out = torch.zeros(resolution, resolution)
    for i in range(resolution):
        for j in range(resolution):
            top, bottom = y1 + i * high // resolution, y1 + -(-(i + 1) * high // resolution)
            left, right = x1 + j * wide // resolution, x1 + -(-(j + 1) * wide // resolution)
            part = plane[max(top, 0) : max(min(bottom, height), 0), max(left, 0) : max(min(right, width), 0)]
            if part.numel():
                out[i, j] = part.max()
    return out


def test_max_pooling_rounds_to_cells() -> None:
    features = torch.randn(2, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    have = roi_max_pool(features, BOXES, IMAGES, spatial_scale=1 / 8, resolution=4)
    for row, box, image in zip(have, BOXES.tolist(), IMAGES.tolist(), strict=True):
        torch.testing.assert_close(row[0], slow_roi_max_pool(features[image, 0], box, 1 / 8, 4))


@pytest.mark.parametrize("static", [False, True])
def test_max_pooling_on_each_regions_level(static: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.randn(2, 3, 24 // s, 32 // s, generator=generator) - 5 for s in (1, 2)
    ]  # negative: no zero wins
    levels = torch.tensor([0, 1, 0, 1, 0, 1])

    def crop(feature, boxes, image_index, *, spatial_scale, static):
        return roi_max_pool(
            feature, boxes, image_index, spatial_scale=spatial_scale, resolution=3, static=static
        )

    have = multilevel_crop(crop, features, BOXES, IMAGES, strides=(2, 4), levels=levels, static=static)
    for r, level in enumerate(levels.tolist()):
        alone = crop(
            features[level],
            BOXES[r : r + 1],
            IMAGES[r : r + 1],
            spatial_scale=1 / (2, 4)[level],
            static=static,
        )
        torch.testing.assert_close(have[r], alone[0])
