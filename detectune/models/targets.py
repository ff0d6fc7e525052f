"""Which regions the heads learn from, and what each is to become.

Shape legend
    B  images    G  objects per image, padded    P  proposals per image    S  sampled regions per image
    R  regions of all images, flattened          N  boxes
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detectune.ops.matching import Sampled, match_anchors, sample_rows
from detectune.structures import Targets

_SCRATCH_ELEMENTS = 2**24


@dataclass(frozen=True)
class RegionSampling:
    """Which regions count in the losses of the heads (Fast R-CNN, Girshick 2015, 2.3)."""

    batch_size: int = 512
    fg_fraction: float = 0.25
    fg_thresh: float = 0.5
    bg_thresh_hi: float = 0.5
    bg_thresh_lo: float = 0.0
    crowd_overlap: float = 1.0  # proposals covered by a crowd beyond this are not used; 1: all may be
    box_thresh: float = 0.0  # foreground below this overlap is named but its box is not learnt
    offset: float = 0.0
    original_frame: bool = (
        False  # overlaps and what is to be learnt are measured in the original image (Detectron)
    )

    @property
    def max_fg(self) -> int:
        """Foreground regions per image, at most."""
        return int(self.batch_size * self.fg_fraction)


@dataclass(frozen=True)
class Candidates:
    """Every region that may be sampled: proposals, then the objects themselves. N = P + G."""

    boxes: Tensor  # float32 [B, N, 4]
    fg: Tensor  # bool [B, N]
    bg: Tensor  # bool [B, N]
    gt_index: Tensor  # int64 [B, N]: the object that a region overlaps most
    unit: Tensor | None  # float32 [B, 4]; see `Regions`
    has_box: Tensor | None = None  # bool [B, N]; see `Regions`


@dataclass(frozen=True)
class Regions:
    """Sampled regions of all images; image by image, foreground first."""

    boxes: Tensor  # float32 [R, 4]
    image_index: Tensor  # int64 [R]
    labels: Tensor  # int64 [R], 0 background
    gt_index: Tensor  # int64 [R]: row of the image's targets; meaningless for background
    is_fg: Tensor  # bool [R]
    valid: Tensor  # bool [R]
    unit: Tensor | None = (
        None  # float32 [R, 4]: network pixels per pixel of the frame in which targets are measured
    )
    has_box: Tensor | None = None  # bool [R]: foreground whose box is learnt; None: all of it

    def __getitem__(self, rows: Tensor) -> Regions:
        """The regions that an index or a mask selects."""
        return Regions(
            self.boxes[rows], self.image_index[rows], self.labels[rows],
            self.gt_index[rows], self.is_fg[rows], self.valid[rows],
            None if self.unit is None else self.unit[rows],
            None if self.has_box is None else self.has_box[rows],
        )  # fmt: skip

    def measured(self, coordinates: Tensor) -> Tensor:
        """Network coordinates [R, ..., 4], x and y in turn, in the frame in which targets are measured."""
        if self.unit is None:
            return coordinates
        return coordinates / self.unit.view(-1, *[1] * (coordinates.dim() - 2), 4)

    def measured_points(self, points: Tensor) -> Tensor:
        """Network points [R, K, 2] in the frame in which targets are measured."""
        return points if self.unit is None else points / self.unit[:, None, :2]

    def foreground(self, sampling: RegionSampling, *, drop_padding: bool) -> Regions:
        """Only the foreground; with padding a fixed number of rows per image, whose is_fg tells which are real."""
        return self[self.foreground_rows(sampling, drop_padding=drop_padding)]

    def foreground_rows(self, sampling: RegionSampling, *, drop_padding: bool) -> Tensor:
        """The rows of `foreground`, as an index int64 [n]."""
        if drop_padding:
            return self.is_fg.nonzero()[:, 0]
        slot = torch.arange(len(self.labels), device=self.labels.device)
        return slot.view(-1, sampling.batch_size)[:, : sampling.max_fg].flatten()


def rows_of(values: Tensor, index: Tensor) -> Tensor:
    """values [B, N, C] at rows index [B, S] of each image: [B, S, C]."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def at_least_one_row(targets: Targets) -> Targets:
    """The same targets with one padding object where no image has any, so that gathering is always possible."""
    if targets.labels.shape[1] > 0:
        return targets
    batch = targets.labels.shape[0]

    def padded(value: Tensor | None, fill_dims: tuple[int, ...]) -> Tensor | None:
        return None if value is None else value.new_zeros((batch, 1, *fill_dims))

    edges = targets.edges
    num_edges = 1 if edges is None else max(1, edges.shape[2])
    keypoints = targets.keypoints
    changes = {
        "boxes": padded(targets.boxes, (4,)),
        "labels": padded(targets.labels, ()),
        "is_crowd": padded(targets.is_crowd, ()),
        "valid": padded(targets.valid, ()),
        "edges": padded(edges, (num_edges, 4)),
        "edge_polygon": padded(targets.edge_polygon, (num_edges,)),
        "keypoints": None if keypoints is None else padded(keypoints, tuple(keypoints.shape[2:])),
    }
    return replace(targets, **changes)  # type: ignore[arg-type]  # each value has its field's type


@torch.no_grad()
def covered_by_crowd(boxes: Tensor, targets: Targets, thresh: float, *, offset: float) -> Tensor:
    """Bool [B, N]: more than `thresh` of a box's own area (boxes [N, 4] or [B, N, 4]) lies in one crowd."""
    batch, num_gt = targets.labels.shape
    num_boxes = boxes.shape[-2]
    crowd = targets.is_crowd & targets.valid
    covered = torch.zeros((batch, num_boxes), dtype=torch.bool, device=boxes.device)
    if boxes.device.type == "cpu" and not bool(crowd.any()):
        return covered  # rare; only where asking is free
    x1, y1, x2, y2 = (v[..., None, :] for v in boxes.unbind(-1))  # [1, N] or [B, 1, N]
    area = (x2 - x1 + offset) * (y2 - y1 + offset)
    group = max(1, _SCRATCH_ELEMENTS // max(1, batch * num_boxes))
    for start in range(0, num_gt, group):
        rows = slice(start, start + group)
        cx1, cy1, cx2, cy2 = targets.boxes[:, rows, :, None].unbind(2)  # [B, g, 1]
        width = (torch.minimum(x2, cx2) - torch.maximum(x1, cx1) + offset).clamp(min=0)
        height = (torch.minimum(y2, cy2) - torch.maximum(y1, cy1) + offset).clamp(min=0)
        hit = (width * height > thresh * area) & crowd[:, rows, None]
        covered = covered | hit.any(1)
    return covered


@torch.no_grad()
def sample_regions(
    proposals: Tensor,
    proposals_valid: Tensor,
    targets: Targets,
    sampling: RegionSampling,
    generator: torch.Generator | None,
    *,
    drop_padding: bool,
    units: Tensor | None = None,
) -> Regions:
    """Regions to learn from, out of proposals [B, P, 4] (bool [B, P]) and the objects themselves, which join them last.

    R is B * batch_size, unless padding is dropped, which makes it depend on the values (and a GPU wait). `units`
    [B, 4], network over original pixels (x, y, x, y), is needed if the sampling measures in the original frame.
    """
    candidates = region_candidates(proposals, proposals_valid, targets, sampling, units)
    return draw_regions(candidates, targets, sampling, generator, drop_padding=drop_padding)


@torch.no_grad()
def region_candidates(
    proposals: Tensor,
    proposals_valid: Tensor,
    targets: Targets,
    sampling: RegionSampling,
    units: Tensor | None = None,
) -> Candidates:
    """What `sample_regions` draws from."""
    gt_valid = targets.valid & ~targets.is_crowd
    boxes = torch.cat((proposals, targets.boxes.to(proposals.dtype)), dim=1)  # [B, P + G, 4]
    valid = torch.cat((proposals_valid, gt_valid), dim=1)
    measured, seen = boxes, targets
    if sampling.original_frame:
        assert units is not None
        measured = boxes / units[:, None]
        seen = replace(targets, boxes=targets.boxes / units[:, None])
    matches = match_anchors(
        seen.boxes, gt_valid, measured,
        high=sampling.fg_thresh, low=sampling.fg_thresh, allow_low_quality=False, offset=sampling.offset,
    )  # fmt: skip
    has_object = gt_valid.any(1, keepdim=True)
    fg = valid & (matches.iou >= sampling.fg_thresh) & has_object
    bg = valid & (matches.iou < sampling.bg_thresh_hi) & (matches.iou >= sampling.bg_thresh_lo) & ~fg
    if sampling.crowd_overlap < 1.0:
        candidates = measured[:, : proposals.shape[1]]
        covered = covered_by_crowd(candidates, seen, sampling.crowd_overlap, offset=sampling.offset)
        free = ~torch.cat((covered, torch.zeros_like(gt_valid)), dim=1)
        fg, bg = fg & free, bg & free
    has_box = fg & (matches.iou >= sampling.box_thresh) if sampling.box_thresh > sampling.fg_thresh else None
    return Candidates(boxes, fg, bg, matches.index, units if sampling.original_frame else None, has_box)


@torch.no_grad()
def draw_regions(
    candidates: Candidates,
    targets: Targets,
    sampling: RegionSampling,
    generator: torch.Generator | None,
    *,
    drop_padding: bool,
) -> Regions:
    """`batch_size` foreground and background regions of each image; see `sample_regions`."""
    picked = sample_rows(
        candidates.fg, candidates.bg, num=sampling.batch_size, fg_fraction=sampling.fg_fraction,
        generator=generator,
    )  # fmt: skip
    return _picked_regions(candidates, targets, picked, drop_padding=drop_padding)


@torch.no_grad()
def draw_posed_regions(
    candidates: Candidates,
    targets: Targets,
    sampling: RegionSampling,
    generator: torch.Generator | None,
    *,
    drop_padding: bool,
) -> Regions:
    """At most `max_fg` of an image's foreground regions with a labelled keypoint inside, whatever the box head drew.

    So Detectron does, whose keypoint head thus sees as many regions as can be had.
    """
    assert targets.keypoints is not None
    row = candidates.gt_index[..., None, None].expand(-1, -1, *targets.keypoints.shape[2:])
    posed = keypoint_inside(targets.keypoints.gather(1, row), candidates.boxes)
    picked = sample_rows(
        candidates.fg & posed,
        torch.zeros_like(posed),
        num=sampling.max_fg,
        fg_fraction=1.0,
        generator=generator,
    )
    return _picked_regions(candidates, targets, picked, drop_padding=drop_padding)


def keypoint_inside(keypoints: Tensor, boxes: Tensor) -> Tensor:
    """Bool [...]: a labelled keypoint of keypoints [..., K, 3] lies in its box [..., 4], border included."""
    x, y, visibility = keypoints.unbind(-1)
    x1, y1, x2, y2 = boxes[..., None, :].unbind(-1)
    return ((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2) & (visibility > 0)).any(-1)


def _picked_regions(
    candidates: Candidates, targets: Targets, picked: Sampled, *, drop_padding: bool
) -> Regions:
    gt_index = candidates.gt_index.gather(1, picked.index)
    labels = targets.labels.gather(1, gt_index).where(picked.is_fg, 0)
    batch, num = picked.index.shape
    boxes, unit = candidates.boxes, candidates.unit
    image_index = torch.arange(batch, device=boxes.device)[:, None].expand(batch, num).flatten()
    regions = Regions(
        rows_of(boxes, picked.index).flatten(0, 1), image_index, labels.flatten(), gt_index.flatten(),
        picked.is_fg.flatten(), picked.valid.flatten(), None if unit is None else unit[image_index],
        None if candidates.has_box is None else candidates.has_box.gather(1, picked.index).flatten(),
    )  # fmt: skip
    return regions[regions.valid] if drop_padding else regions
