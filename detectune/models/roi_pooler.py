"""Regions of all images to features: the pyramid level of each region, then a crop of that level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from detectune.ops.roi import Crop, assign_levels, multilevel_crop, roi_align, roi_max_pool

CropMethod = Literal["align", "max"]


@dataclass(frozen=True)
class LevelRule:
    """Which level a region belongs to; see `ops.roi.assign_levels`. One level only if min_level == max_level."""

    min_level: int = 2
    max_level: int = 5
    canonical_scale: float = 224.0
    canonical_level: int = 4
    offset: float = 0.0
    eps_inside_log: float = 0.0
    eps_outside_log: float = 0.0

    def levels(self, boxes: Tensor) -> Tensor:
        """int64 [...] of boxes [..., 4]."""
        return assign_levels(
            boxes,
            min_level=self.min_level,
            max_level=self.max_level,
            canonical_scale=self.canonical_scale,
            canonical_level=self.canonical_level,
            offset=self.offset,
            eps_inside_log=self.eps_inside_log,
            eps_outside_log=self.eps_outside_log,
        )


class RoiPooler(nn.Module):
    """RoIAlign (or max pooling, `method`) to resolution x resolution; holds no parameters."""

    def __init__(
        self,
        strides: Mapping[int, int],
        rule: LevelRule,
        *,
        resolution: int,
        sampling_ratio: int,
        aligned: bool,
        method: CropMethod = "align",
    ) -> None:
        super().__init__()
        self.levels = tuple(range(rule.min_level, rule.max_level + 1))
        self.strides = [float(strides[level]) for level in self.levels]
        self.rule = rule
        self.resolution, self.sampling_ratio, self.aligned = resolution, sampling_ratio, aligned
        self.method: CropMethod = method

    def forward(
        self, features: Mapping[int, Tensor], boxes: Tensor, image_index: Tensor, *, static: bool
    ) -> Tensor:
        """Boxes [R, 4] of images image_index [R] to [R, C, M, M]."""
        return multilevel_crop(
            self._crop(),
            [features[level] for level in self.levels],
            boxes,
            image_index,
            strides=self.strides,
            levels=self.rule.levels(boxes),
            static=static,
            first_level=self.levels[0],
        )

    def _crop(self) -> Crop:
        if self.method == "max":
            return partial(roi_max_pool, resolution=self.resolution)
        return partial(
            roi_align,
            resolution=self.resolution,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )

    def extra_repr(self) -> str:
        how = "max" if self.method == "max" else f"sampling_ratio={self.sampling_ratio}"
        return f"levels={self.levels}, {self.resolution}x{self.resolution}, {how}"
