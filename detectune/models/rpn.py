"""Region proposal network (Faster R-CNN, Ren 2015): head, anchors, proposals, losses.

Shape legend
    B  images    L  levels    A  anchors of all levels of one image    k  candidates per level    P  proposals per image

Everything is batched over images and levels, and every shape is fixed by the sizes of the feature maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from detectune.models.anchor_grid import AnchorGrid, GridStride
from detectune.models.layers import Conv, gaussian
from detectune.models.targets import covered_by_crowd, rows_of
from detectune.ops.boxes import DELTA_CLIP, centre_inside, clip_boxes, decode_boxes, encode_boxes
from detectune.ops.losses import BoxLoss, generalized_iou, smooth_l1
from detectune.ops.matching import BACKGROUND, FOREGROUND, match_anchors, sample_rows
from detectune.ops.nms import nms_batched
from detectune.structures import Targets

Normalizer = Literal["fixed", "sampled", "sampled_per_image"]
UNIT_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class ProposalRule:
    """From scored anchors to proposals, once for training and once for testing."""

    pre_nms_top_n: int  # per level; 0: all
    post_nms_top_n: int  # per image
    nms_thresh: float  # 0: no NMS and, with a single level, no post_nms_top_n either (Detectron)
    min_size: float = (
        0.0  # smallest side, in pixels of the network frame, or of the original if below says so
    )
    min_size_original: bool = False
    strict_min_size: bool = False  # a side equal to min_size is too small
    centre_inside: bool = False  # the centre must lie in the image

    def cuts(self, num_levels: int) -> bool:
        """Whether only the best `post_nms_top_n` of an image's survivors become proposals."""
        return self.post_nms_top_n > 0 and (self.nms_thresh > 0 or num_levels > 1)


@dataclass(frozen=True)
class RpnSampling:
    """Which anchors count in the loss."""

    batch_size: int = 256
    fg_fraction: float = 0.5
    high: float = 0.7
    low: float = 0.3
    straddle: float = -1.0  # anchors may leave the image by this many pixels, below 0: as far as they like
    crowd_overlap: float = 1.0  # anchors covered by a crowd beyond this are no background; 1: all may be
    promoted_as_background: bool = (
        False  # background is everything below `low`, objects' best anchors included
    )
    cls_normalizer: Normalizer = "fixed"
    box_normalizer: Normalizer = "fixed"
    box_loss: BoxLoss = "smooth_l1"
    beta: float = 0.0  # of the smooth L1 loss


@dataclass(frozen=True)
class Proposals:
    """The regions an image may have objects in, best first."""

    boxes: Tensor  # float32 [B, P, 4], network frame
    scores: Tensor  # float32 [B, P], logits; -inf where padded
    valid: Tensor  # bool [B, P]


@dataclass(frozen=True)
class ScoredAnchors:
    """What the head says about every anchor; levels from fine to coarse, then row, column, anchor of the cell."""

    anchors: Tensor  # float32 [A, 4]
    logits: Tensor  # [B, A]
    deltas: Tensor  # [B, A, 4]
    per_level: tuple[int, ...]  # anchors of each level, sum A


class Rpn(nn.Module):
    """3x3 convolutions and two 1x1 predictors shared by all levels, and what follows from them.

    Args:
        in_channels: channels of every feature level.
        dim: channels of the 3x3 convolutions.
        num_convs: how many; `conv`, `conv2`, `conv3`, ...
        cells, strides, grid_stride: of the `AnchorGrid`.
        offset: 1 if boxes are inclusive.
        delta_clip: limit of predicted log sides; see `ops.boxes.decode_boxes`.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        dim: int,
        num_convs: int = 1,
        cells: Mapping[int, Tensor],
        strides: Mapping[int, int],
        train_rule: ProposalRule,
        test_rule: ProposalRule,
        sampling: RpnSampling,
        offset: float = 0.0,
        grid_stride: GridStride = "nominal",
        delta_clip: float = DELTA_CLIP,
    ) -> None:
        super().__init__()
        self.anchors = AnchorGrid(cells, strides, grid_stride)
        self.train_rule, self.test_rule, self.sampling = train_rule, test_rule, sampling
        self.offset, self.delta_clip = offset, delta_clip
        per_cell = self.anchors.num_anchors
        self.conv = Conv(in_channels, dim, 3, relu=True, init=gaussian(0.01))
        self.further_convs = tuple(f"conv{i}" for i in range(2, num_convs + 1))
        for name in self.further_convs:
            self.add_module(name, Conv(dim, dim, 3, relu=True, init=gaussian(0.01)))
        self.objectness = Conv(dim, per_cell, 1, init=gaussian(0.01))
        self.deltas = Conv(dim, 4 * per_cell, 1, init=gaussian(0.01))

    def forward(self, features: Mapping[int, Tensor], padded_size: tuple[int, int]) -> ScoredAnchors:
        """Features {level: [B, C, H, W]} of images padded to `padded_size` (height, width)."""
        logits, deltas = [], []
        for level in self.anchors.levels:
            hidden = self.conv(features[level])
            for name in self.further_convs:
                hidden = self.get_submodule(name)(hidden)
            score, delta = self.objectness(hidden), self.deltas(hidden)
            logits.append(score.permute(0, 2, 3, 1).flatten(1))
            deltas.append(delta.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
        per_level = tuple(scores.shape[1] for scores in logits)
        anchors = self.anchors(features, padded_size)
        return ScoredAnchors(anchors, torch.cat(logits, 1), torch.cat(deltas, 1), per_level)

    @torch.no_grad()
    def propose(
        self, scored: ScoredAnchors, sizes: Tensor, rule: ProposalRule, units: Tensor | None = None
    ) -> Proposals:
        """Best anchors per level, moved, clipped to `sizes` [B, 2], thinned by NMS per level; the best of all levels.

        Cutting each level to post_nms_top_n as well, as some systems do, would change nothing: the best N of all levels
        hold at most N of one. `units` [B, 4] (network over original pixels) is needed for min_size_original.
        """
        boxes, scores = self.candidates(scored, sizes, rule)
        index, top = thin_proposals(boxes, scores, sizes, rule, units, offset=self.offset)
        return Proposals(rows_of(boxes.flatten(1, 2), index), top, top > -torch.inf)

    @torch.no_grad()
    def candidates(self, scored: ScoredAnchors, sizes: Tensor, rule: ProposalRule) -> tuple[Tensor, Tensor]:
        """The best anchors of each level by falling score, moved and clipped: boxes [B, L, k, 4] and logits [B, L, k].

        Only these are decoded. Levels with fewer than k anchors are filled up with scores of -inf.
        """
        limit = rule.pre_nms_top_n if rule.pre_nms_top_n > 0 else max(scored.per_level)
        k = min(limit, max(scored.per_level))
        rows, scores = [], []
        first = 0
        for count in scored.per_level:
            here = scored.logits[:, first : first + count].float()
            top, index = here.topk(min(k, count), dim=1)
            scores.append(F.pad(top, (0, k - top.shape[1]), value=-torch.inf))
            rows.append(F.pad(index + first, (0, k - top.shape[1])))
            first += count
        index = torch.cat(rows, 1)  # [B, L * k]
        boxes = decode_boxes(
            rows_of(scored.deltas, index).float(),
            scored.anchors[index],
            weights=UNIT_WEIGHTS,
            offset=self.offset,
            clip=self.delta_clip,
        )
        num_levels = len(scored.per_level)
        boxes = clip_boxes(boxes.unflatten(1, (num_levels, k)), sizes[:, None, None], offset=self.offset)
        return boxes, torch.stack(scores, 1)

    def losses(
        self, scored: ScoredAnchors, targets: Targets, sizes: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """loss_rpn_cls, loss_rpn_bbox and counters."""
        rule = self.sampling
        with torch.no_grad():
            fg, bg, gt_index = self._label_anchors(scored.anchors, targets, sizes)
            picked = sample_rows(
                fg, bg, num=rule.batch_size, fg_fraction=rule.fg_fraction, generator=generator
            )
            objects = rows_of(targets.boxes, gt_index.gather(1, picked.index))
        logits = scored.logits.gather(1, picked.index).float()
        deltas = rows_of(scored.deltas, picked.index).float()
        cross_entropy = F.binary_cross_entropy_with_logits(logits, picked.is_fg.float(), reduction="none")
        distance = self._distance(deltas, scored.anchors[picked.index], objects, picked.is_fg)
        count = picked.valid.sum(1).clamp(min=1)
        loss_cls = cross_entropy.where(picked.valid, 0.0).sum(1)
        loss_box = distance.where(picked.is_fg, 0.0).sum(1)
        return {
            "loss_rpn_cls": _normalized(loss_cls, count, rule.cls_normalizer, rule.batch_size),
            "loss_rpn_bbox": _normalized(loss_box, count, rule.box_normalizer, rule.batch_size),
            **_counts(count, rule),
            "stat_rpn_num_fg": picked.is_fg.sum(1).float().mean(),
            "stat_rpn_num_bg": (picked.valid & ~picked.is_fg).sum(1).float().mean(),
        }

    def _distance(self, deltas: Tensor, anchors: Tensor, objects: Tensor, is_fg: Tensor) -> Tensor:
        """How far moved anchors are from their objects, all [B, S, 4], as the box loss has it: [B, S]."""
        rule = self.sampling
        if rule.box_loss == "giou":
            moved = decode_boxes(
                deltas, anchors, weights=UNIT_WEIGHTS, offset=self.offset, clip=self.delta_clip
            )
            return 1 - generalized_iou(moved, objects, is_fg, offset=self.offset)
        wanted = encode_boxes(anchors, objects, weights=UNIT_WEIGHTS, offset=self.offset)
        return smooth_l1(deltas, wanted, rule.beta).sum(-1)

    def acceptable(self, boxes: Tensor, sizes: Tensor, rule: ProposalRule, units: Tensor | None) -> Tensor:
        """Bool [B, L, k] of clipped boxes [B, L, k, 4]: not too small, not centred outside."""
        return acceptable_boxes(boxes, sizes, rule, units, offset=self.offset)

    def _label_anchors(
        self, anchors: Tensor, targets: Targets, sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Foreground and background candidates, bool [B, A], and the object each anchor overlaps most, int64 [B, A]."""
        rule = self.sampling
        inside = None
        candidates = anchors
        if rule.straddle >= 0:
            x1, y1, x2, y2 = anchors.unbind(-1)
            height, width = sizes[:, :1], sizes[:, 1:]
            inside = (x1 >= -rule.straddle) & (y1 >= -rule.straddle)
            inside = inside & (x2 < width + rule.straddle) & (y2 < height + rule.straddle)
            candidates = torch.where(inside[..., None], anchors, _NOWHERE)
        matches = match_anchors(
            targets.boxes, targets.valid & ~targets.is_crowd, candidates,
            high=rule.high, low=rule.low, allow_low_quality=True, offset=self.offset,
        )  # fmt: skip
        fg = matches.label == FOREGROUND
        bg = matches.iou < rule.low if rule.promoted_as_background else matches.label == BACKGROUND
        if inside is not None:
            fg, bg = fg & inside, bg & inside
        if rule.crowd_overlap < 1.0:
            bg = bg & ~covered_by_crowd(anchors, targets, rule.crowd_overlap, offset=self.offset)
        return fg, bg, matches.index


def thin_proposals(
    boxes: Tensor, scores: Tensor, sizes: Tensor, rule: ProposalRule, units: Tensor | None, *, offset: float
) -> tuple[Tensor, Tensor]:
    """Which of `Rpn.candidates` become proposals, best first: rows int64 [B, P] of L * k, and logits [B, P].

    A logit of -inf pads. No weight is read: who kept the candidates can ask again with another rule.
    """
    num_levels = scores.shape[1]
    valid = (scores > -torch.inf) & acceptable_boxes(boxes, sizes, rule, units, offset=offset)
    if rule.nms_thresh > 0:
        keep = nms_batched(
            boxes.flatten(0, 1), scores.flatten(0, 1), valid.flatten(0, 1), rule.nms_thresh,
            offset=offset, inclusive=offset > 0,
        ).view(len(scores), -1)  # fmt: skip
    else:
        keep = valid.flatten(1)
    scores = scores.flatten(1).masked_fill(~keep, -torch.inf)
    limit = rule.post_nms_top_n if rule.cuts(num_levels) else scores.shape[1]
    top, index = scores.topk(min(limit, scores.shape[1]), dim=1)
    return index, top


def acceptable_boxes(
    boxes: Tensor, sizes: Tensor, rule: ProposalRule, units: Tensor | None, *, offset: float
) -> Tensor:
    """Bool [B, L, k] of clipped boxes [B, L, k, 4]: not too small, not centred outside."""
    sides = boxes[..., 2:] - boxes[..., :2]
    if rule.min_size_original:
        assert units is not None
        sides = sides / units[:, None, None, :2]
    sides = sides + offset
    fits = sides > rule.min_size if rule.strict_min_size else sides >= rule.min_size
    acceptable = fits.all(-1)
    if rule.centre_inside:
        acceptable = acceptable & centre_inside(boxes, sizes[:, None, None], offset=offset)
    return acceptable


_NOWHERE = -1e6
"""All four coordinates of a box that no object overlaps."""


def _counts(count: Tensor, rule: RpnSampling) -> dict[str, Tensor]:
    """count_* of those losses that are divided by a count over the batch, see `engine.distributed.share_outputs`."""
    normalizers = {"count_rpn_cls": rule.cls_normalizer, "count_rpn_bbox": rule.box_normalizer}
    return {name: count.sum() for name, how in normalizers.items() if how == "sampled"}


def _normalized(per_image: Tensor, count: Tensor, how: Normalizer, batch_size: int) -> Tensor:
    """Sums per image [B] to one loss, given how many anchors were sampled in each image (int64 [B])."""
    if how == "fixed":
        return per_image.sum() / (batch_size * len(per_image))
    if how == "sampled":
        return per_image.sum() / count.sum()
    return (per_image / count).mean()
