"""Which object an anchor or proposal stands for, and which of them are used for the losses.

Shape legend
    B  images      G  objects per image, padded      A  anchors or proposals per image      S  sampled rows per image

Matching follows Faster R-CNN (Ren 2015, 3.1.2): positive at an overlap of at least `high`, negative below `low`,
ignored between; optionally every anchor that reaches an object's best overlap is positive too. Shapes
are static.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from detectune.ops.draws import draw_for_images
from detectune.ops.routes import static_by_default

FOREGROUND, BACKGROUND, IGNORED = 1, 0, -1

_SCRATCH_ELEMENTS = 2**24  # overlaps held at a time by the static route
_RUN = 8192  # anchors worked on at a time by the other: what stays in a core's cache
_FIRST_WINS = 2**20  # more objects than any image has; small enough to count in float32


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
    static: bool | None = None,
) -> Matches:
    """Match anchors [A, 4] (shared) or [B, A, 4] to objects [B, G, 4] of which `gt_valid` [B, G] are real.

    With `allow_low_quality`, every anchor that ties an object's best overlap is foreground, however small that overlap
    is (an object without any overlap promotes none). It keeps the index of its own best object, which may be another.
    Callers that follow Detectron draw background from `iou < low`, which may include such anchors; see `sample_rows`.

    Scratch memory is bounded whatever B, G and A are. Static (by default: not on a CPU), every object meets every
    anchor, a group of objects at a time. Otherwise anchors are taken in runs, and each run meets only the objects that
    touch the box around it. The results are equal.
    """
    gt_boxes, anchors = gt_boxes.float(), anchors.float()
    batch, num_gt = gt_valid.shape
    corners = anchors.transpose(-1, -2).contiguous()  # [4, A] or [B, 4, A]: overlaps then run along memory
    if num_gt == 0 or anchors.shape[-2] == 0:
        best = torch.zeros((batch, anchors.shape[-2]), device=anchors.device)
        found = best, torch.zeros_like(best, dtype=torch.int64), torch.zeros_like(best, dtype=torch.bool)
    elif static_by_default(gt_boxes) if static is None else static:
        found = _match_by_groups(gt_boxes, gt_valid, corners, offset)
    else:
        found = _match_by_runs(gt_boxes, gt_valid, corners, offset, allow_low_quality)
    iou, index, ties_best = found
    label = torch.full_like(index, IGNORED, dtype=torch.int8)
    label = label.masked_fill((iou < low) | ~gt_valid.any(dim=1, keepdim=True), BACKGROUND)
    label = label.masked_fill((iou >= high) & (iou > 0), FOREGROUND)
    if allow_low_quality:
        label = label.masked_fill(ties_best, FOREGROUND)
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

        def draw(num_images: int) -> Tensor:
            shape = (num_images, num_rows)
            return torch.randint(
                1, 2**31 - 1, shape, generator=generator, device=fg.device, dtype=torch.int32
            )

        key = draw_for_images(generator, batch, draw)
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
    times_bg = torch.zeros_like(bg, dtype=torch.int32).scatter_add(1, index, (valid & ~is_fg).to(torch.int32))
    valid = valid & ~(is_fg & (times_bg.gather(1, index) > 0))
    return Sampled(torch.where(valid, index, 0), is_fg & valid, valid)


def _match_by_groups(
    gt_boxes: Tensor, gt_valid: Tensor, corners: Tensor, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Best overlap, its object and "ties an object's best", each [B, A], from corners [4, A] or [B, 4, A]."""
    batch, num_gt = gt_valid.shape
    num_anchors = corners.shape[-1]
    best = torch.zeros((batch, num_anchors), device=gt_boxes.device)
    index = torch.zeros((batch, num_anchors), dtype=torch.int64, device=gt_boxes.device)
    ties_best = torch.zeros((batch, num_anchors), dtype=torch.bool, device=gt_boxes.device)
    group = max(1, _SCRATCH_ELEMENTS // (batch * num_anchors))
    for start in range(0, num_gt, group):
        rows = slice(start, start + group)
        iou = _overlaps(gt_boxes[:, rows], corners, offset)  # [B, g, A]
        iou = iou.masked_fill(~gt_valid[:, rows, None], -1.0)
        best_of_gt = iou.amax(dim=-1, keepdim=True)  # [B, g, 1]
        ties_best |= ((iou == best_of_gt) & (best_of_gt > 0)).any(dim=1)
        group_best, group_index = iou.max(dim=1)
        index = torch.where(group_best > best, group_index + start, index)
        best = torch.maximum(group_best, best)
    return best, index, ties_best


def _match_by_runs(
    gt_boxes: Tensor, gt_valid: Tensor, corners: Tensor, offset: float, want_ties: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `_match_by_groups`, skipping pairs that cannot overlap. Asks for values, so for a CPU."""
    batch, num_anchors = len(gt_boxes), corners.shape[-1]
    best = torch.zeros((batch, num_anchors))
    index = torch.zeros((batch, num_anchors), dtype=torch.int64)
    ties_best = torch.zeros((batch, num_anchors), dtype=torch.bool)
    for b in range(batch):
        real = gt_valid[b].nonzero()[:, 0]
        if not len(real):
            continue
        boxes, own = gt_boxes[b, real], corners if corners.dim() == 2 else corners[b]
        around = torch.cat((boxes[:, :2].amin(dim=0), boxes[:, 2:].amax(dim=0)))
        rows = (
            _touching(around[:2, None], around[2:, None], own[:2], own[2:], offset).all(dim=0).nonzero()[:, 0]
        )
        if len(rows) < num_anchors // 2:  # padding, or a caller who moved anchors away
            found = _match_image(boxes, own[:, rows], offset, want_ties)
            best[b, rows], index[b, rows], ties_best[b, rows] = found[0], real[found[1]], found[2]
        else:
            best[b], nearest, ties_best[b] = _match_image(boxes, own, offset, want_ties)
            index[b] = real[nearest]
    return best, index.masked_fill_(best == 0, 0), ties_best


def _match_image(
    boxes: Tensor, corners: Tensor, offset: float, want_ties: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Best overlap, row of `boxes` [g, 4] and "ties a row's best", each [A], for anchors as corners [4, A]."""
    num_anchors = corners.shape[-1]
    best = torch.zeros(num_anchors)
    index = torch.zeros(num_anchors, dtype=torch.int64)
    ties_best = torch.zeros(num_anchors, dtype=torch.bool)
    visits = []  # (run of anchors, rows met there, the best overlap of each in this run)
    best_of_row = torch.zeros(len(boxes))
    for run, met in _meetings(boxes, corners, offset):
        iou = _overlaps(boxes[met], corners[:, run], offset)  # [m, run]
        best[run] = iou.amax(dim=0)
        earliest = (iou - best[run]).sign_().add_(1).mul_(_FIRST_WINS - met[:, None]).amax(dim=0)
        index[run] = (_FIRST_WINS - earliest).long()
        if want_ties:
            peaks = iou.amax(dim=1)
            best_of_row[met] = torch.maximum(best_of_row[met], peaks)
            visits.append((run, met, peaks))
    for run, met, peaks in visits:
        peak = (peaks == best_of_row[met]) & (peaks > 0)
        if peak.any():
            iou = _overlaps(boxes[met[peak]], corners[:, run], offset)
            ties_best[run] = (iou == peaks[peak, None]).any(dim=0)
    return best, index, ties_best


def _meetings(boxes: Tensor, corners: Tensor, offset: float) -> Iterator[tuple[slice, Tensor]]:
    """Runs of consecutive anchors, and the rows of `boxes` [g, 4] that overlap the box around each run at all."""
    for start in range(0, corners.shape[-1], _RUN):
        run = slice(start, start + _RUN)
        low, high = corners[:2, run].amin(dim=1), corners[2:, run].amax(dim=1)
        met = _touching(boxes[:, :2], boxes[:, 2:], low, high, offset).all(dim=1).nonzero()[:, 0]
        if len(met):
            yield run, met


def _touching(low: Tensor, high: Tensor, other_low: Tensor, other_high: Tensor, offset: float) -> Tensor:
    """Whether intervals overlap by more than nothing, with the rounding of `_overlaps`."""
    return torch.minimum(high, other_high) - torch.maximum(low, other_low) + offset > 0


def _overlaps(boxes: Tensor, corners: Tensor, offset: float) -> Tensor:
    """Intersection over union [..., g, A] of boxes [..., g, 4] with anchors given as corners [..., 4, A]."""
    x1, y1, x2, y2 = boxes[..., None].unbind(-2)  # [..., g, 1]
    ax1, ay1, ax2, ay2 = corners[..., None, :, :].unbind(-2)  # [..., 1, A]
    area = (ax2 - ax1 + offset) * (ay2 - ay1 + offset)
    width = torch.minimum(ax2, x2).sub_(torch.maximum(ax1, x1)).add_(offset).clamp_(min=0)
    inter = torch.minimum(ay2, y2).sub_(torch.maximum(ay1, y1)).add_(offset).clamp_(min=0).mul_(width)
    union = (area + (x2 - x1 + offset) * (y2 - y1 + offset)).sub_(inter)
    return inter.div_(union).nan_to_num_(0.0, 0.0, 0.0)  # a degenerate pair is 0 / 0
