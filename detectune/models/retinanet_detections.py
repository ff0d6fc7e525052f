"""From RetinaNet's scored anchors of one image to its detections (Lin 2017, section 4.1).

Shape legend
    A  anchors of all levels    C  foreground classes    N  candidates or detections
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from detectune.models.detections import SoftSuppression, Voting, suppress
from detectune.ops.boxes import DELTA_CLIP, clip_boxes


@dataclass(frozen=True)
class OneStageRule:
    """What counts as a detection."""

    score_thresh: float = 0.05  # scores must be above
    coarsest_score_thresh: float = 0.05  # the same on the coarsest level
    pre_nms_top_n: int = 1000  # per level
    nms_thresh: float = 0.5
    max_detections: int = 100  # per image; 0: all
    clip: bool = True  # boxes are moved inside the image before they are suppressed
    original_frame: bool = False  # clip and suppress in the original image's pixels (Detectron)
    refine: bool = True  # False: keep the anchors
    offset: float = 0.0
    delta_clip: float = DELTA_CLIP  # limit of predicted log sides; see `ops.boxes.decode_boxes`
    soft: SoftSuppression | None = None
    voting: Voting | None = None  # boxes that are kept become the mean of the candidates that agree with them


class Candidates(NamedTuple):
    """What may become a detection; level by level, and by falling score within a level."""

    boxes: Tensor  # float32 [N, 4]
    scores: Tensor  # float32 [N]
    labels: Tensor  # int64 [N], 1..C
    levels: Tensor  # int64 [N], 0 is the finest


def best_candidates(
    scores: Tensor, per_level: Sequence[int], rule: OneStageRule
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best pairs of anchor and class on each level: anchors int64 [N], labels int64 [N] in 1..C, scores and levels.

    Args:
        scores: float32 [A, C], probabilities, level by level.
        per_level: anchors of each level, finest first.
        rule: see there.
    """
    num_classes = scores.shape[1]
    rows, labels, best, levels = [], [], [], []
    first = 0
    for i, count in enumerate(per_level):
        coarsest = i == len(per_level) - 1
        here = scores[first : first + count].flatten()
        above = (here > (rule.coarsest_score_thresh if coarsest else rule.score_thresh)).nonzero()[:, 0]
        top, order = here[above].topk(min(rule.pre_nms_top_n, len(above)))
        index = above[order]
        rows.append(first + index // num_classes)
        labels.append(index % num_classes + 1)
        best.append(top)
        levels.append(torch.full_like(index, i))
        first += count
    return torch.cat(rows), torch.cat(labels), torch.cat(best), torch.cat(levels)


def placed_candidates(
    scores: Tensor,
    per_level: Sequence[int],
    size: Tensor,
    rule: OneStageRule,
    place: Callable[[Tensor, Tensor], Tensor],
) -> Candidates:
    """`best_candidates` with their boxes.

    Args:
        scores: float32 [A, C], probabilities.
        per_level: anchors of each level, finest first.
        size: [2], height and width in the frame of the boxes.
        rule: see there.
        place: anchors int64 [n] and labels int64 [n] to boxes [n, 4].
    """
    row, label, score, level = best_candidates(scores, per_level, rule)
    boxes = place(row, label)
    if rule.clip:
        boxes = clip_boxes(boxes, size, offset=rule.offset)
    usable = torch.isfinite(boxes).all(1)
    if not bool(usable.all()):
        boxes, label, score, level = boxes[usable], label[usable], score[usable], level[usable]
    return Candidates(boxes, score, label, level)


def select_one_stage(
    scores: Tensor,
    per_level: Sequence[int],
    size: Tensor,
    rule: OneStageRule,
    place: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes float32 [N, 4], scores [N] and labels int64 [N], best first; arguments as for `placed_candidates`."""
    seen = placed_candidates(scores, per_level, size, rule, place)
    limit = rule.max_detections if rule.max_detections > 0 else len(seen.scores)
    boxes, score, label = suppress(seen.boxes, seen.scores, seen.labels, rule)
    return boxes[:limit], score[:limit], label[:limit]
