"""The anchors of all levels of a pyramid.

Shape legend
    A  anchors of all levels of one image    a  anchors of one cell
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from detectune.ops.anchors import grid_anchors

GridStride = Literal["nominal", "measured"]


class AnchorGrid(nn.Module):
    """The same cell repeated over every level's map.

    Args:
        cells: anchors of one cell per level, float32 [a, 4], the same number everywhere.
        strides: level -> pixels per cell.
        grid_stride: `nominal` uses `strides`, `measured` divides the padded size by the size of the map, rounding down.
    """

    def __init__(
        self, cells: Mapping[int, Tensor], strides: Mapping[int, int], grid_stride: GridStride = "nominal"
    ) -> None:
        super().__init__()
        self.levels = tuple(sorted(cells))
        self.strides = {level: strides[level] for level in self.levels}
        self.grid_stride: GridStride = grid_stride
        self.num_anchors = len(cells[self.levels[0]])
        for level in self.levels:
            self.register_buffer(f"cell{level}", cells[level].float(), persistent=False)

    def forward(self, features: Mapping[int, Tensor], padded_size: tuple[int, int]) -> Tensor:
        """Float32 [A, 4], by level, row, column, anchor, for maps {level: [B, C, H, W]} of a batch of `padded_size`."""
        return torch.cat([self._of(level, features[level], padded_size) for level in self.levels])

    def _of(self, level: int, feature: Tensor, padded_size: tuple[int, int]) -> Tensor:
        height, width = feature.shape[-2:]
        stride: float | tuple[float, float] = self.strides[level]
        if self.grid_stride == "measured":
            stride = (padded_size[0] // height, padded_size[1] // width)
        return grid_anchors(self.get_buffer(f"cell{level}"), height, width, stride)
