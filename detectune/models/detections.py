"""From scored regions of one image to its detections: threshold, boxes, non-maximum suppression, the best N.

Shape legend
    R  regions    K  classes, background (0) included    N  detections
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from detectune.ops.boxes import clip_boxes
from detectune.ops.nms import batched_class_nms


@dataclass(frozen=True)
class DetectionRule:
    """What counts as a detection."""

    score_thresh: float = 0.05  # scores must be above
    nms_thresh: float = 0.5
    max_detections: int = 100  # per image; 0: all
    keep_ties: bool = False  # everything that ties the last score stays, beyond max_detections
    min_size: float = 0.0  # both sides at least this long
    original_frame: bool = False  # decode, clip and suppress in the original image's pixels (Detectron)
    refine: bool = True  # False: keep the proposals' boxes
    offset: float = 0.0


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    size: Tensor,
    rule: DetectionRule,
    refine: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes float32 [N, 4], scores [N] and labels int64 [N], best first.

    Args:
        boxes: float32 [R, 4], regions, in the frame in which boxes are decoded and suppressed.
        scores: float32 [R, K], probabilities.
        size: [2], height and width in that frame.
        rule: see there.
        refine: rows int64 [n] and labels int64 [n] to boxes [n, 4]; called only for what passes the threshold.
    """
    row, label = (scores[:, 1:] > rule.score_thresh).nonzero().unbind(1)
    label = label + 1
    found = refine(row, label) if rule.refine else boxes[row]
    found = clip_boxes(found, size, offset=rule.offset)
    score = scores[row, label]
    sides = found[:, 2:] - found[:, :2] + rule.offset
    usable = torch.isfinite(found).all(1) & (sides >= rule.min_size).all(1)
    if not bool(usable.all()):
        found, score, label = found[usable], score[usable], label[usable]
    keep = batched_class_nms(
        found, score, label, rule.nms_thresh, offset=rule.offset, inclusive=rule.offset > 0
    )
    limit = rule.max_detections
    if 0 < limit < len(keep):
        if rule.keep_ties:
            keep = keep[score[keep] >= score[keep[limit - 1]]]
        else:
            keep = keep[:limit]
    return found[keep], score[keep], label[keep]
