"""Which object an anchor or proposal stands for, and which of them are used for the losses.

Shape legend
    B  images      G  objects per image, padded      A  anchors or proposals per image      S  sampled rows per image

Matching follows Faster R-CNN (Ren 2015, 3.1.2): positive at an overlap of at least `high`, negative below `low`,
ignored between; optionally every anchor that reaches an object's best overlap is positive too. All shapes are static
and nothing waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FOREGROUND, BACKGROUND, IGNORED = 1, 0, -1

_SCRATCH_ELEMENTS_CPU = 2**19  # overlaps worked on at a time: what stays in a core's cache
_SCRATCH_ELEMENTS = 2**24  # elsewhere: large enough to fill a device


@dataclass(frozen=True)
class Matches:
    """The best object of every anchor."""

    index: Tensor  # int64 [B, A]: row of the object with the highest overlap, the first of equals; 0 without objects
    iou: Tensor  # float32 [B, A]: that overlap; 0 without objects
    label: Tensor  # int8 [B, A]: 1 foreground, 0 background, -1 ignored


@dataclass(frozen=True)
class Sampled:
    """A fixed number of rows per image, the foreground first."""

    index: Tensor  # int64 [B, S]: rows of the candidates
    is_fg: Tensor  # bool [B, S]
    valid: Tensor  # bool [B, S]: False where an image has too few candidates


@torch.no_grad()
def match_anchors(
    gt_boxes: Tensor,
    gt_valid: Tensor,
    anchors: Tensor,
    *,
    high: float,
    low: float,
    allow_low_quality: bool,
    offset: float = 0.0,
) -> Matches:
    """Match anchors [A, 4] (shared) or [B, A, 4] to objects [B, G, 4] of which `gt_valid` [B, G] are real.

    With `allow_low_quality`, every anchor that ties an object's best overlap is foreground, however small that overlap
    is (an object without any overlap promotes none). It keeps the index of its own best object, which may be another.
    Callers that follow Detectron draw background from `iou < low`, which may include such anchors; see `sample_rows`.

    Works through the objects in groups, so scratch memory is bounded whatever B, G and A are.
    """
    batch, num_gt = gt_valid.shape
    anchors = anchors.float()
    shared = anchors.dim() == 2
    num_anchors = anchors.shape[-2]
    iou = gt_boxes.new_zeros((batch, num_anchors), dtype=torch.float32)
    index = torch.zeros((batch, num_anchors), dtype=torch.int64, device=gt_boxes.device)
    promoted = torch.zeros((batch, num_anchors), dtype=torch.bool, device=gt_boxes.device)
    if num_gt == 0 or num_anchors == 0:
        return Matches(index, iou, torch.zeros_like(index, dtype=torch.int8))
    on_cpu = gt_boxes.device.type == "cpu"
    corners = anchors.transpose(-1, -2).contiguous()  # [4, A] or [B, 4, A]: overlaps then run along memory
    area = (corners[..., 2, :] - corners[..., 0, :] + offset) * (
        corners[..., 3, :] - corners[..., 1, :] + offset
    )
    budget = _SCRATCH_ELEMENTS_CPU if on_cpu else _SCRATCH_ELEMENTS
    rows_at_once = batch if not on_cpu else 1
    group = max(1, budget // (rows_at_once * num_anchors))
    for b in range(0, batch, rows_at_once):
        rows = slice(b, b + rows_at_once)
        here = (corners, area) if shared else (corners[rows], area[rows])
        for start in range(0, num_gt, group):
            stop = min(start + group, num_gt)
            if on_cpu and not bool(gt_valid[rows, start:stop].any()):
                continue  # padding; only where asking is free
            _match_group(
                gt_boxes[rows, start:stop].float(), gt_valid[rows, start:stop], *here, start, offset,
                iou[rows], index[rows], promoted[rows] if allow_low_quality else None,
            )  # fmt: skip
    label = torch.full_like(index, IGNORED, dtype=torch.int8)
    label = torch.where((iou < low) | ~gt_valid.any(dim=1, keepdim=True), BACKGROUND, label)
    label = torch.where((iou >= high) | promoted, FOREGROUND, label)
    return Matches(index, iou, label)


def sample_rows(
    fg: Tensor, bg: Tensor, *, num: int, fg_fraction: float, generator: torch.Generator | None
) -> Sampled:
    """Pick `num` rows per image from candidates fg and bg (bool [B, A]): at most int(num * fg_fraction) foreground
    rows, then background rows until `num` are full or the candidates used up.

    With a generator (of the tensors' device) both are random subsets, each equally likely; without one they are the
    first candidates in order.

    The candidates may overlap (Detectron draws background from every anchor below the low threshold, promoted or not):
    a row drawn as both is background, and its place among the foreground is left invalid.
    """
    batch, num_rows = fg.shape
    max_fg = min(int(num * fg_fraction), num_rows)
    if generator is None:
        key = torch.arange(num_rows, 0, -1, device=fg.device).expand(batch, num_rows)
    else:
        key = torch.randint(1, 2**31 - 1, fg.shape, generator=generator, device=fg.device, dtype=torch.int32)
    fg_key, fg_index = torch.topk(key * fg, max_fg, dim=1)  # a key of 0 marks what is no candidate
    bg_key, bg_index = torch.topk(key * bg, min(num, num_rows), dim=1)
    num_fg = (fg_key > 0).sum(dim=1, keepdim=True)  # [B, 1]
    num_bg = (bg_key > 0).sum(dim=1, keepdim=True).minimum(num - num_fg)

    slot = torch.arange(num, device=fg.device)[None]  # [1, num]
    is_fg = slot < num_fg
    valid = slot < num_fg + num_bg
    if num_rows == 0:
        index = torch.zeros((batch, num), dtype=torch.int64, device=fg.device)
        return Sampled(index, is_fg, valid)
    from_bg = bg_index.gather(1, (slot - num_fg).clamp(0, bg_index.shape[1] - 1))
    if max_fg > 0:
        from_fg = fg_index.gather(1, slot.clamp(max=max_fg - 1).expand(batch, num))
        index = torch.where(is_fg, from_fg, from_bg)
    else:
        index = from_bg
    drawn_as_bg = torch.zeros_like(bg).scatter_reduce(1, index, valid & ~is_fg, "amax")
    valid = valid & ~(is_fg & drawn_as_bg.gather(1, index))
    return Sampled(torch.where(valid, index, 0), is_fg & valid, valid)


def _match_group(
    gt_boxes: Tensor,
    gt_valid: Tensor,
    corners: Tensor,
    area: Tensor,
    first: int,
    offset: float,
    best: Tensor,
    index: Tensor,
    promoted: Tensor | None,
) -> None:
    """Fold objects [b, g, 4], which are rows first.. of their images, into the running `best`, `index`, `promoted`."""
    x1, y1, x2, y2 = gt_boxes[..., None].unbind(-2)  # [b, g, 1]
    ax1, ay1, ax2, ay2 = corners.unsqueeze(-2).unbind(-3)  # [1, A] or [b, 1, A]
    width = torch.minimum(ax2, x2).sub_(torch.maximum(ax1, x1)).add_(offset).clamp_(min=0)  # [b, g, A]
    inter = torch.minimum(ay2, y2).sub_(torch.maximum(ay1, y1)).add_(offset).clamp_(min=0).mul_(width)
    gt_area = (x2 - x1 + offset) * (y2 - y1 + offset)
    union = torch.add(area.unsqueeze(-2), gt_area, out=width).sub_(inter)
    iou = inter.div_(union).nan_to_num_(0.0, 0.0, 0.0)  # a degenerate pair is 0 / 0
    iou.masked_fill_(~gt_valid[..., None], -1.0)
    if promoted is not None:
        best_of_gt = iou.amax(dim=-1, keepdim=True)  # [b, g, 1]
        # an unreachable number stands in for "no overlap at all", so that such an object promotes nothing
        best_of_gt = torch.where(best_of_gt > 0, best_of_gt, 2.0)
        promoted |= (iou == best_of_gt).any(dim=1)
    group_best, group_index = iou.max(dim=1)  # [b, A]
    better = group_best > best
    index.copy_(torch.where(better, group_index + first, index))
    best.copy_(torch.maximum(best, group_best))
