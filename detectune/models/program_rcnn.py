"""Faster, Mask and Keypoint R-CNN, Cascade R-CNN and R-FCN as programs; see `models.program`.

Shape legend
    L  levels    k  candidates per level    P  proposals    K  classes, background (0) included    n  candidates
    N  detections    M  side of a mask
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from detectune.models.box_head import StageBoxHead
from detectune.models.cascade import CascadeHead
from detectune.models.program import Frame, Program, framed, keep_best, to_original_frame
from detectune.models.program_keypoints import read_heatmaps
from detectune.models.proposal_network import ProposalNetwork
from detectune.models.rcnn import RCNN
from detectune.models.rpn import UNIT_WEIGHTS, Proposals, Rpn, ScoredAnchors
from detectune.ops.boxes import clip_boxes, decode_boxes
from detectune.ops.class_nms import ClassNms


class RcnnProgram(Program):
    """A two-stage detector.

    Args:
        model: with an RPN, in evaluation mode.
        stride: what images are padded to a multiple of.
        suppress: how a class is suppressed.
        drop_empty: boxes without area in the original image are dropped.
    """

    def __init__(self, model: RCNN, *, stride: int, suppress: ClassNms, drop_empty: bool) -> None:
        super().__init__()
        self.model, self.stride, self.suppress, self.drop_empty = model, stride, suppress, drop_empty
        if model.mask_head is not None:
            self.output_names += ("masks",)
        if model.keypoint_head is not None:
            self.output_names += ("keypoints",)

    def forward(self, image: Tensor, size: Tensor, scale: Tensor) -> dict[str, Tensor]:
        """See `Program`."""
        model = self.model
        frame = framed(image, size, scale, mean=model.pixel_mean, std=model.pixel_std, stride=self.stride)
        features = model.backbone(frame.pixels)
        assert model.rpn is not None
        proposals = propose(model.rpn, features, model.clipping_sizes(frame.sizes), frame, self.suppress)
        boxes, scores, labels = self._detect(features, proposals, frame)
        placed = to_original_frame(boxes, frame, offset=model.detection_rule.offset)
        if self.drop_empty:
            rows = (placed[:, 2:] > placed[:, :2]).all(1).nonzero()[:, 0]
            boxes, placed, scores, labels = boxes[rows], placed[rows], scores[rows], labels[rows]
        out = {"boxes": placed, "scores": scores, "labels": labels}
        if model.mask_head is not None:
            out["masks"] = self._masks(features, boxes, labels)
        if model.keypoint_head is not None:
            out["keypoints"] = self._keypoints(features, boxes, labels, frame)
        return out

    def _detect(
        self, features: dict[int, Tensor], proposals: Proposals, frame: Frame
    ) -> tuple[Tensor, Tensor, Tensor]:
        model, rule = self.model, self.model.detection_rule
        boxes, valid = proposals.boxes[0], proposals.valid[0]
        image_index = torch.zeros_like(valid, dtype=torch.int64)
        pool = partial(model.box_pooler, features, static=True)
        if isinstance(model.box_head, CascadeHead):
            unit = frame.scale.expand_as(boxes) if rule.original_frame else None
            boxes, scores, deltas = model.box_head(pool, boxes, image_index, frame.sizes, unit)
        else:
            said = model.box_head(pool(boxes, image_index))
            scores, deltas = said.logits.float().softmax(1), said.deltas
        scores = scores.masked_fill(~valid[:, None], -1.0)
        size = frame.sizes[0]
        if rule.original_frame:
            boxes, size = boxes / frame.scale, frame.original
        row, label = (scores[:, 1:] > rule.score_thresh).nonzero().unbind(1)
        label = label + 1
        found = model.box_head.refine(deltas[row], boxes[row], label) if rule.refine else boxes[row]
        found = clip_boxes(found, size, offset=rule.offset)
        score = scores[row, label]
        if rule.min_size > 0:
            sides = found[:, 2:] - found[:, :2] + rule.offset
            score = score.masked_fill(~(sides >= rule.min_size).all(1), -torch.inf)
        found, score, label = keep_best(
            found, score, label, self.suppress,
            nms_thresh=rule.nms_thresh, offset=rule.offset, limit=rule.max_detections, keep_ties=rule.keep_ties,
        )  # fmt: skip
        return found * frame.scale if rule.original_frame else found, score, label

    def _masks(self, features: dict[int, Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        model = self.model
        assert model.mask_head is not None
        pooler = model.mask_pooler or model.box_pooler
        pooled = pooler(features, boxes, torch.zeros_like(labels), static=True)
        if model.mask_pooler is None:
            assert isinstance(model.box_head, StageBoxHead)
            pooled = model.box_head.res5(pooled)
        return model.mask_head.predict(pooled, labels)

    def _keypoints(self, features: dict[int, Tensor], boxes: Tensor, labels: Tensor, frame: Frame) -> Tensor:
        model, rule = self.model, self.model.pose_rule
        assert model.keypoint_head is not None and model.keypoint_pooler is not None
        pooled = model.keypoint_pooler(features, boxes, torch.zeros_like(labels), static=True)
        maps = model.keypoint_head(pooled).float()
        if rule.original_frame:
            return read_heatmaps(maps, boxes / frame.scale, rule)
        points = read_heatmaps(maps, boxes, rule)
        return torch.cat((points[..., :2] / frame.scale[:2], points[..., 2:]), dim=-1)


class ProposalProgram(Program):
    """A proposal network alone: every object is of class 1. Arguments as for `RcnnProgram`."""

    def __init__(self, model: ProposalNetwork, *, stride: int, suppress: ClassNms, drop_empty: bool) -> None:
        super().__init__()
        self.model, self.stride, self.suppress, self.drop_empty = model, stride, suppress, drop_empty

    def forward(self, image: Tensor, size: Tensor, scale: Tensor) -> dict[str, Tensor]:
        """See `Program`."""
        model = self.model
        frame = framed(image, size, scale, mean=model.pixel_mean, std=model.pixel_std, stride=self.stride)
        features = model.backbone(frame.pixels)
        found = propose(model.rpn, features, model.clipping_sizes(frame.sizes), frame, self.suppress)
        boxes = to_original_frame(found.boxes[0], frame, offset=model.rpn.offset)
        stays = found.valid[0]
        if self.drop_empty:
            stays = stays & (boxes[:, 2:] > boxes[:, :2]).all(1)
        rows = stays.nonzero()[:, 0]
        scores = found.scores[0, rows].sigmoid()
        return {"boxes": boxes[rows], "scores": scores, "labels": torch.ones_like(rows)}


def propose(
    rpn: Rpn, features: dict[int, Tensor], sizes: Tensor, frame: Frame, suppress: ClassNms
) -> Proposals:
    """`Rpn.propose` with the test's rule for one image; `sizes` [1, 2] is what boxes are clipped to."""
    height, width = frame.pixels.shape[-2:]
    scored = rpn(features, (height, width))
    rule = rpn.test_rule
    row, score, level = _best_of_levels(scored, rule.pre_nms_top_n)
    boxes = decode_boxes(
        scored.deltas[0, row].float(), scored.anchors[row],
        weights=UNIT_WEIGHTS, offset=rpn.offset, clip=rpn.delta_clip,
    )  # fmt: skip
    boxes = clip_boxes(boxes, sizes, offset=rpn.offset)
    stays = rpn.acceptable(boxes[None, None], sizes, rule, frame.scale[None])[0, 0] & torch.isfinite(
        boxes
    ).all(1)
    row = stays.nonzero()[:, 0]
    boxes, score, level = boxes[row], score[row], level[row]
    if rule.nms_thresh > 0:
        row = suppress(boxes, score, level, rule.nms_thresh, rpn.offset)
        boxes, score = boxes[row], score[row]
    cut = rule.post_nms_top_n > 0 and (rule.nms_thresh > 0 or len(scored.per_level) > 1)
    limit = rule.post_nms_top_n if cut else 0
    # rows that do not count fill up, so that there are always `limit`, and at least one
    boxes, score = F.pad(boxes, (0, 0, 0, max(limit, 1))), F.pad(score, (0, max(limit, 1)), value=-torch.inf)
    if limit:
        score, row = score.topk(limit)
        boxes = boxes[row]
    return Proposals(boxes[None], score[None], score[None] > -torch.inf)


def _best_of_levels(scored: ScoredAnchors, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `limit` best anchors of each level (0: all), or as many as it has: rows int64 [n], logits, levels int64."""
    rows, scores, levels = [], [], []
    first = 0
    for level, count in enumerate(scored.per_level):
        score = scored.logits[0, first : first + count].float()
        row = torch.arange(count, device=score.device)
        if limit:
            score, row = F.pad(score, (0, limit), value=-torch.inf).topk(limit)
        rows.append(row + first)
        scores.append(score)
        levels.append(torch.full_like(row, level))
        first = first + count
    score = torch.cat(scores)
    there = (score > -torch.inf).nonzero()[:, 0]
    return torch.cat(rows)[there], score[there], torch.cat(levels)[there]
