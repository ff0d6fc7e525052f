"""RoIAlign for CPUs, as weighted sums of feature rows.

Shape legend
    B  images    R  regions    C  channels    M  output resolution    T  taps of one bin along one axis

Every output bin of RoIAlign is a weighted sum of a few cells' feature vectors, and with channels last a cell's vector
is one contiguous row. That is an embedding bag, which vectorises over channels and has an equally direct gradient.
The usual kernels walk one channel after another; on a CPU this is several times faster, most of all in bfloat16.

Bilinear weights are products of one weight down and one across, so taps are found per axis. With adaptive sampling the
samples of a bin lie at most a cell apart, hence g samples touch at most g + 1 neighbouring cells, and are merged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_SCRATCH_ENTRIES = 2**21  # cells gathered at a time


def roi_align_rows(
    features: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    *,
    spatial_scale: float,
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Like `ops.roi.roi_align`: [R, C, M, M], channels last in memory, in the precision of the features.

    Fastest where features [B, C, H, W] are channels last too. Shapes inside depend on the boxes' values.
    """
    batch, channels, height, width = features.shape
    rows = features.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    corners = boxes.float() * spatial_scale - (0.5 if aligned else 0.0)
    start, side = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not aligned:
        side = side.clamp(min=1.0)
    across = _axis_taps(start[:, 0], side[:, 0], resolution, sampling_ratio, width)
    down = _axis_taps(start[:, 1], side[:, 1], resolution, sampling_ratio, height)
    down = _Taps(down.cell * width + image_index[:, None, None] * (height * width), down.weight, down.count)

    num_regions = len(boxes)
    largest = resolution * resolution * across.cell.shape[2] * down.cell.shape[2]
    at_once = max(1, _SCRATCH_ENTRIES // max(1, largest))
    if features.requires_grad:
        at_once = max(1, num_regions)  # each bag's gradient is as large as the map
    parts = [
        _sum_rows(rows, down[i : i + at_once], across[i : i + at_once], uniform=sampling_ratio > 0)
        for i in range(0, max(1, num_regions), at_once)
    ]
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out.view(num_regions, resolution, resolution, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _Taps:
    cell: Tensor  # int64 [R, M, T]
    weight: Tensor  # float32 [R, M, T]
    count: Tensor  # int64 [R]: how many taps of each of a region's bins are in use

    def __getitem__(self, rows: slice) -> _Taps:
        return _Taps(self.cell[rows], self.weight[rows], self.count[rows])


def _axis_taps(start: Tensor, side: Tensor, resolution: int, sampling_ratio: int, length: int) -> _Taps:
    """Taps along an axis of `length` cells of regions that begin at `start` [R] and have a `side` [R], in cells."""
    step = side / resolution  # [R], of a bin
    adaptive = sampling_ratio <= 0
    if adaptive:
        samples = torch.ceil(step).clamp(min=0).to(torch.int64)
        most = int(samples.max()) if len(samples) else 0
    else:
        samples, most = torch.full_like(start, sampling_ratio, dtype=torch.int64), sampling_ratio
    number = torch.arange(most, device=start.device)
    divisor = samples.clamp(min=1)[:, None, None]
    bins = torch.arange(resolution, device=start.device)[:, None]
    within = (number + 0.5) * step[:, None, None] / divisor  # [R, 1, S]
    position = start[:, None, None] + bins * step[:, None, None] + within  # [R, M, S]
    counts = (position >= -1) & (position <= length) & (number < samples[:, None, None])
    position = position.clamp(0, length - 1)
    low = position.floor()
    fraction = position - low
    share = counts / divisor
    cell = (
        torch.stack((low, (low + 1).clamp(max=length - 1)), dim=-1).to(torch.int64).flatten(2)
    )  # [R, M, 2S]
    weight = torch.stack(((1 - fraction) * share, fraction * share), dim=-1).flatten(2)
    if not adaptive:
        return _Taps(cell, weight, 2 * samples)
    first = cell[:, :, :1] if most else cell.new_zeros((len(start), resolution, 1))
    reach = min(most + 1, length)
    merged = weight.new_zeros((len(start), resolution, reach))
    merged.scatter_add_(2, (cell - first).clamp(0, reach - 1), weight)
    neighbours = (first + torch.arange(reach, device=start.device)).clamp(max=length - 1)
    return _Taps(neighbours, merged, (samples + 1).clamp(max=reach))


def _sum_rows(rows: Tensor, down: _Taps, across: _Taps, *, uniform: bool) -> Tensor:
    """The sums [R * M * M, C] over every pair of a tap down and a tap across; uniform if all counts are equal."""
    regions, resolution, taps_down = down.cell.shape
    taps_across = across.cell.shape[2]
    if uniform:
        entry = down.cell[:, :, None, :, None] + across.cell[:, None, :, None, :]
        weight = down.weight[:, :, None, :, None] * across.weight[:, None, :, None, :]
        shape = (regions * resolution * resolution, taps_down * taps_across)
        return F.embedding_bag(
            entry.reshape(shape), rows, per_sample_weights=weight.reshape(shape).to(rows.dtype), mode="sum"
        )
    bins = resolution * resolution
    size = (down.count * across.count).repeat_interleave(bins)  # entries of each bag
    offset = size.cumsum(0) - size
    bag = torch.repeat_interleave(size)  # [entries]
    inside = torch.arange(len(bag), device=rows.device) - offset[bag]
    region, cell = bag // bins, bag % bins
    width = across.count[region]
    tap_down = inside // width
    at_down = (region * resolution + cell // resolution) * taps_down + tap_down
    at_across = (region * resolution + cell % resolution) * taps_across + inside - tap_down * width
    entry = down.cell.flatten()[at_down] + across.cell.flatten()[at_across]
    weight = down.weight.flatten()[at_down] * across.weight.flatten()[at_across]
    return F.embedding_bag(entry, rows, offset, per_sample_weights=weight.to(rows.dtype), mode="sum")
