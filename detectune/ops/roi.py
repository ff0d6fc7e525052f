"""Features of regions: RoIAlign (Mask R-CNN, He 2017, 3) or RoI max pooling (Fast R-CNN, Girshick 2015, 2.1), on one
map or on the right level of a pyramid.

Shape legend
    B  images    R  regions of all images    C  channels    L  pyramid levels    M  output resolution

`aligned=False` is the original RoIAlign of Detectron and torchvision (coordinates times scale, sides at least one
cell); `aligned=True` shifts by half a cell, which detectron2 introduced. `sampling_ratio=0` samples as densely as the
region needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
import torchvision
from torch import Tensor

from detectune.ops.roi_rows import roi_align_rows
from detectune.ops.routes import static_by_default


def roi_align(
    features: Tensor,
    boxes: Tensor,
    image_index: Tensor | None = None,
    *,
    spatial_scale: float,
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
    static: bool | None = None,
) -> Tensor:
    """Features [B, C, H, W] of regions as [R, C, M, M], in the precision of the features.

    Regions are boxes [R, 4] with image_index int [R], or one tensor [R, 5] whose first column is the image.
    Coordinates stay in float32 even for half precision features. On a CPU (unless `static`) `ops.roi_rows` does the
    work where that pays; it agrees with torchvision's kernel up to the order of summation.
    """
    if image_index is None:
        image_index, boxes = boxes[:, 0].to(torch.int64), boxes[:, 1:]
    if static is None:
        static = static_by_default(features)
    if not static and _rows_pay(features, len(boxes) * resolution**2):
        return roi_align_rows(
            features, boxes, image_index, spatial_scale=spatial_scale, resolution=resolution,
            sampling_ratio=sampling_ratio, aligned=aligned,
        )  # fmt: skip
    rois = torch.cat((image_index[:, None].to(boxes.dtype), boxes), dim=1)
    dtype = features.dtype if features.dtype == torch.float64 else torch.float32
    out: Tensor = torchvision.ops.roi_align(
        features.to(dtype), rois.to(dtype), resolution, spatial_scale, sampling_ratio, aligned
    )
    return out.to(features.dtype)


def roi_max_pool(
    features: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    *,
    spatial_scale: float,
    resolution: int,
    static: bool | None = None,
) -> Tensor:
    """The largest value of each cell of regions, as [R, C, M, M], in the precision of the features.

    Corners round to whole cells of the map, both included, and so do the borders of the output's cells; one that covers
    nothing of the map is zero. Inputs as for `roi_align`; shapes never depend on values.
    """
    del static
    rois = torch.cat((image_index[:, None].to(boxes.dtype), boxes), dim=1)
    dtype = features.dtype if features.dtype == torch.float64 else torch.float32
    out: Tensor = torchvision.ops.roi_pool(features.to(dtype), rois.to(dtype), resolution, spatial_scale)
    return out.to(features.dtype)


class Crop(Protocol):
    """`roi_align` or `roi_max_pool` with all but these arguments given."""

    def __call__(
        self, features: Tensor, boxes: Tensor, image_index: Tensor, *, spatial_scale: float, static: bool
    ) -> Tensor: ...


def assign_levels(
    boxes: Tensor,
    *,
    min_level: int,
    max_level: int,
    canonical_scale: float,
    canonical_level: int,
    offset: float = 0.0,
    eps_inside_log: float = 0.0,
    eps_outside_log: float = 0.0,
) -> Tensor:
    """The pyramid level of each box, int64 [...] in min_level..max_level (FPN, Lin 2017, eq. 1).

    floor(canonical_level + log2(sqrt(area) / canonical_scale + eps_inside_log) + eps_outside_log). The epsilons are
    Detectron's (1e-6 inside), detectron2's (1e-8 inside) and torchvision's (1e-6 outside).
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    side = torch.sqrt(((x2 - x1 + offset) * (y2 - y1 + offset)).clamp(min=0))
    level = canonical_level + torch.log2(side / canonical_scale + eps_inside_log) + eps_outside_log
    return torch.floor(level).clamp(min=min_level, max=max_level).to(torch.int64)


def multilevel_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    *,
    strides: Sequence[float],
    levels: Tensor,
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
    static: bool,
    first_level: int = 0,
) -> Tensor:
    """`multilevel_crop` by `roi_align`."""
    align = partial(roi_align, resolution=resolution, sampling_ratio=sampling_ratio, aligned=aligned)
    return multilevel_crop(
        align, features, boxes, image_index, strides=strides, levels=levels, static=static, first_level=first_level
    )  # fmt: skip


def multilevel_crop(
    crop: Crop,
    features: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    *,
    strides: Sequence[float],
    levels: Tensor,
    static: bool,
    first_level: int = 0,
) -> Tensor:
    """Each region's features from its own level: [R, C, M, M].

    Args:
        crop: cuts regions out of one level.
        features: L maps [B, C, H_l, W_l].
        boxes: [R, 4], image pixels.
        image_index: int [R].
        strides: L numbers, image pixels per cell.
        levels: int64 [R]; level first_level is features[0].
        static: True does the same work whatever the levels are, without waiting for the device (each level sees all
            regions, the foreign ones moved off the map, where sampling costs nothing and gives zeros); False picks
            each level's regions, which is free on a CPU, and may take the faster route of `roi_align`.
        first_level: see `levels`.
    """
    if len(features) == 1:
        return crop(features[0], boxes, image_index, spatial_scale=1 / strides[0], static=static)
    if static:
        return _crop_everywhere(crop, features, boxes, image_index, strides, levels - first_level)
    parts, rows = [], []
    for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        here = (levels == level + first_level).nonzero()[:, 0]
        rows.append(here)
        parts.append(crop(feature, boxes[here], image_index[here], spatial_scale=1 / stride, static=False))
    return torch.cat(parts)[torch.argsort(torch.cat(rows))]


def _crop_everywhere(
    crop: Crop,
    features: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    strides: Sequence[float],
    levels: Tensor,
) -> Tensor:
    total = None
    for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        moved = torch.where((levels == level)[:, None], boxes, _OFF_MAP)
        part = crop(feature, moved, image_index, spatial_scale=1 / stride, static=True)
        total = part if total is None else total + part
    assert total is not None
    return total


def _rows_pay(features: Tensor, num_bins: int) -> bool:
    """Whether gathering rows beats the kernel: for wide maps that are channels last or worth rearranging."""
    batch, channels, height, width = features.shape
    channels_last = features.permute(0, 2, 3, 1).is_contiguous()
    return channels >= _MIN_CHANNELS and (channels_last or 16 * num_bins > batch * height * width)


_MIN_CHANNELS = 48
"""Measured on one core: the kernel's time grows with the channels, that of gathering with the regions."""

_OFF_MAP = -1e5
"""All four coordinates of a region whose every sample lies outside any map, where nothing is read and zero given. A
number, because a tensor made from numbers would have to wait for the device."""
