"""RetinaNet as a program; see `models.program`.

Shape legend
    A  anchors of all levels    C  foreground classes    n  candidates, anchor x class    N  detections
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from detectune.models.program import Program, framed, keep_best, to_original_frame
from detectune.models.retinanet import RetinaNet
from detectune.models.retinanet_loss import UNIT_WEIGHTS
from detectune.ops.boxes import clip_boxes, decode_boxes
from detectune.ops.class_nms import ClassNms


class RetinaNetProgram(Program):
    """A one-stage detector; arguments as for `RcnnProgram`."""

    def __init__(self, model: RetinaNet, *, stride: int, suppress: ClassNms, drop_empty: bool) -> None:
        super().__init__()
        self.model, self.stride, self.suppress, self.drop_empty = model, stride, suppress, drop_empty

    def forward(self, image: Tensor, size: Tensor, scale: Tensor) -> dict[str, Tensor]:
        """See `Program`."""
        model, rule = self.model, self.model.detection_rule
        frame = framed(image, size, scale, mean=model.pixel_mean, std=model.pixel_std, stride=self.stride)
        features = model.backbone(frame.pixels)
        height, width = frame.pixels.shape[-2:]
        said, anchors = model.head(features), model.anchors(features, (height, width))
        logits = said.logits[0].float()
        scores = logits.softmax(-1)[:, 1:] if model.head.softmax else logits.sigmoid()
        row, label, score = self._candidates(scores, said.per_level)
        boxes = anchors[row]
        if rule.refine:
            own = said.deltas[
                0, row, label - 1 if model.head.num_boxes > 1 else torch.zeros_like(label)
            ].float()
            boxes = decode_boxes(own, boxes, weights=UNIT_WEIGHTS, offset=rule.offset, clip=rule.delta_clip)
        limits = frame.sizes[0]
        if rule.original_frame:
            boxes, limits = boxes / frame.scale, frame.original
        if rule.clip:
            boxes = clip_boxes(boxes, limits, offset=rule.offset)
        boxes, score, label = keep_best(
            boxes, score, label, self.suppress,
            nms_thresh=rule.nms_thresh, offset=rule.offset, limit=rule.max_detections, keep_ties=False,
        )  # fmt: skip
        if rule.original_frame:
            boxes = boxes * frame.scale
        boxes = to_original_frame(boxes, frame, offset=rule.offset)
        if self.drop_empty:
            row = (boxes[:, 2:] > boxes[:, :2]).all(1).nonzero()[:, 0]
            boxes, score, label = boxes[row], score[row], label[row]
        return {"boxes": boxes, "scores": score, "labels": label}

    def _candidates(self, scores: Tensor, per_level: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of anchor and class on each level: anchors int64 [n], labels int64 [n] in 1..C, scores [n]."""
        rule, num_classes = self.model.detection_rule, scores.shape[1]
        pairs, best = [], []
        first = 0
        for i, count in enumerate(per_level):
            last = i == len(per_level) - 1
            thresh = rule.coarsest_score_thresh if last else rule.score_thresh
            here = scores[first : first + count].flatten()
            here = here.masked_fill(here <= thresh, -torch.inf)
            top, pair = F.pad(here, (0, rule.pre_nms_top_n), value=-torch.inf).topk(rule.pre_nms_top_n)
            pairs.append(pair + first * num_classes)
            best.append(top)
            first = first + count
        pair, score = torch.cat(pairs), torch.cat(best)
        there = (score > -torch.inf).nonzero()[:, 0]
        pair, score = pair[there], score[there]
        return torch.div(pair, num_classes, rounding_mode="floor"), pair % num_classes + 1, score
