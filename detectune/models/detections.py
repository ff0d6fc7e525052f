"""From scored regions of one image to its detections: threshold, boxes, suppression, voting, the best N.

Shape legend
    R  regions    K  classes, background (0) included    n  candidates, region x class    N  detections
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from detectune.ops.boxes import clip_boxes
from detectune.ops.nms import SoftMethod, batched_class_nms, nms, soft_nms
from detectune.ops.voting import ScoringMethod, box_voting
from detectune.structures import ImageInfo

SOFT_SCORE_THRESH = 1e-4
"""What Soft-NMS lowers below this goes (Detectron's number; the threshold on scores came before)."""


class SuppressionRule(Protocol):
    """Which candidates of a class stay, and what becomes of those that do."""

    @property
    def nms_thresh(self) -> float: ...
    @property
    def offset(self) -> float: ...
    @property
    def soft(self) -> SoftSuppression | None: ...
    @property
    def voting(self) -> Voting | None: ...


class ScoredRegions(NamedTuple):
    """What a box head says about the regions of one image, before anything is decided."""

    boxes: Tensor  # float32 [R, 4], network frame
    scores: Tensor  # float32 [R, K], probabilities
    deltas: Tensor  # what the head's `refine` reads, one row per region


@dataclass(frozen=True)
class SoftSuppression:
    """Overlapping boxes lose score instead of being dropped; see `ops.nms.soft_nms`."""

    method: SoftMethod = "linear"
    sigma: float = 0.5


@dataclass(frozen=True)
class Voting:
    """Kept boxes become the mean of the candidates that agree with them; see `ops.voting.box_voting`."""

    thresh: float = 0.8
    scoring_method: ScoringMethod = "ID"
    beta: float = 1.0


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
    soft: SoftSuppression | None = None
    voting: Voting | None = None


def frame_scale(info: ImageInfo, like: Tensor) -> Tensor:
    """What boxes [*, 4] of the original frame are multiplied with in the network frame, of the type of `like`."""
    return like.new_tensor((info.scale_x, info.scale_y, info.scale_x, info.scale_y))


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    size: Tensor,
    rule: DetectionRule,
    refine: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes float32 [N, 4], scores [N] and labels int64 [N], best first; arguments as for `candidates`."""
    return best_detections(*suppress(*candidates(boxes, scores, size, rule, refine), rule), rule)


def candidates(
    boxes: Tensor,
    scores: Tensor,
    size: Tensor,
    rule: DetectionRule,
    refine: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """What passes the threshold: boxes float32 [n, 4], scores [n] and labels int64 [n], in the order of the regions.

    Args:
        boxes: float32 [R, 4], regions, in the frame in which boxes are decoded and suppressed.
        scores: float32 [R, K], probabilities.
        size: [2], height and width in that frame.
        rule: see there.
        refine: rows int64 [n] and labels int64 [n] to boxes [n, 4]; called only for what passes the threshold.
    """
    return candidate_rows(boxes, scores, size, rule, refine)[1:]


def candidate_rows(
    boxes: Tensor,
    scores: Tensor,
    size: Tensor,
    rule: DetectionRule,
    refine: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The region int64 [n] that each candidate comes from, before what `candidates` returns."""
    row, label = (scores[:, 1:] > rule.score_thresh).nonzero().unbind(1)
    label = label + 1
    found = refine(row, label) if rule.refine else boxes[row]
    found = clip_boxes(found, size, offset=rule.offset)
    score = scores[row, label]
    sides = found[:, 2:] - found[:, :2] + rule.offset
    usable = torch.isfinite(found).all(1) & (sides >= rule.min_size).all(1)
    if not bool(usable.all()):
        row, found, score, label = row[usable], found[usable], score[usable], label[usable]
    return row, found, score, label


def suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, rule: SuppressionRule
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates [n, 4], [n], [n] of which each class keeps what the rule keeps, by falling (new) score."""
    found, score, rows = survivors(boxes, scores, labels, rule)
    return found, score, labels[rows]


def survivors(
    boxes: Tensor, scores: Tensor, labels: Tensor, rule: SuppressionRule
) -> tuple[Tensor, Tensor, Tensor]:
    """`suppress`, with the rows int64 of the candidates that stay in place of their labels."""
    if rule.soft is None and rule.voting is None:
        keep = batched_class_nms(
            boxes, scores, labels, rule.nms_thresh, offset=rule.offset, inclusive=rule.offset > 0
        )
        return boxes[keep], scores[keep], keep
    found, new, rows = [boxes[:0]], [scores[:0]], [labels[:0]]
    for number in torch.unique(labels).tolist():
        mine = (labels == number).nonzero()[:, 0]
        kept, score, row = _suppress_class(boxes[mine], scores[mine], rule)
        found.append(kept)
        new.append(score)
        rows.append(mine[row])
    score = torch.cat(new)
    order = torch.sort(score, descending=True, stable=True).indices
    return torch.cat(found)[order], score[order], torch.cat(rows)[order]


def best_detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, rule: DetectionRule
) -> tuple[Tensor, Tensor, Tensor]:
    """The first `max_detections` of detections that are sorted by falling score, and what ties the last of them."""
    limit = rule.max_detections
    if not 0 < limit < len(scores):
        return boxes, scores, labels
    if rule.keep_ties:
        limit = int((scores >= scores[limit - 1]).sum())
    return boxes[:limit], scores[:limit], labels[:limit]


def _suppress_class(boxes: Tensor, scores: Tensor, rule: SuppressionRule) -> tuple[Tensor, Tensor, Tensor]:
    """What stays of one class, its scores and its rows. Everybody votes, also those that did not stay."""
    if rule.soft is not None:
        keep, new = soft_nms(
            boxes, scores,
            method=rule.soft.method, sigma=rule.soft.sigma, overlap_thresh=rule.nms_thresh,
            score_thresh=SOFT_SCORE_THRESH, offset=rule.offset,
        )  # fmt: skip
    else:
        keep = nms(boxes, scores, rule.nms_thresh, offset=rule.offset, inclusive=rule.offset > 0)
        new = scores[keep]
    if rule.voting is None:
        return boxes[keep], new, keep
    vote = rule.voting
    voted, new = box_voting(
        boxes[keep], new, boxes, scores, vote.thresh,
        scoring_method=vote.scoring_method, beta=vote.beta, offset=rule.offset,
    )  # fmt: skip
    return voted, new, keep
