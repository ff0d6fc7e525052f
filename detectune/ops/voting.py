"""Box voting (Gidaris 2015, 3.3): a kept detection is averaged with the candidates that agree with it.

Shape legend
    T  kept detections    N  all candidates before suppression
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from detectune.ops.boxes import box_iou

ScoringMethod = Literal["ID", "TEMP_AVG", "AVG", "IOU_AVG", "GENERALIZED_AVG", "QUASI_SUM"]

_SCRATCH_ELEMENTS = 2**24


def box_voting(
    boxes: Tensor,
    scores: Tensor,
    all_boxes: Tensor,
    all_scores: Tensor,
    thresh: float,
    *,
    scoring_method: ScoringMethod = "ID",
    beta: float = 1.0,
    offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Boxes [T, 4] become the mean, weighted by score, of all_boxes [N, 4] that overlap them by at least `thresh`.

    The new scores [T] come from the voters' scores p:

        ID               unchanged
        AVG              mean of p
        IOU_AVG          mean of p weighted by overlap
        GENERALIZED_AVG  (mean of p^beta)^(1 / beta)
        QUASI_SUM        sum of p / count^beta
        TEMP_AVG         mean of p sharpened (beta < 1) or smoothed (beta > 1) as a two-class softmax

    A detection without voters stays as it is. Memory is bounded by slices of T.
    """
    step = max(1, _SCRATCH_ELEMENTS // max(1, len(all_boxes)))
    parts = [
        _vote(
            boxes[i : i + step],
            scores[i : i + step],
            all_boxes,
            all_scores,
            thresh,
            scoring_method,
            beta,
            offset,
        )
        for i in range(0, max(1, len(boxes)), step)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _vote(
    boxes: Tensor,
    scores: Tensor,
    all_boxes: Tensor,
    all_scores: Tensor,
    thresh: float,
    scoring_method: ScoringMethod,
    beta: float,
    offset: float,
) -> tuple[Tensor, Tensor]:
    overlap = box_iou(boxes, all_boxes, offset=offset)  # [T, N]
    return vote_of_overlaps(
        overlap, boxes, scores, all_boxes, all_scores, thresh, scoring_method=scoring_method, beta=beta
    )


def vote_of_overlaps(
    overlap: Tensor,
    boxes: Tensor,
    scores: Tensor,
    all_boxes: Tensor,
    all_scores: Tensor,
    thresh: float,
    *,
    scoring_method: ScoringMethod,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """`box_voting` where the overlaps [T, N] are known; an overlap below 0 has no vote.

    Each of the T may have candidates of its own: all_boxes [T, N, 4] and all_scores [T, N].
    """
    votes = (overlap >= thresh).to(boxes.dtype)
    count = votes.sum(dim=1)
    weights = votes * all_scores
    total = weights.sum(dim=1)
    own = all_boxes.dim() == 3
    voted = ((weights[:, None] @ all_boxes)[:, 0] if own else weights @ all_boxes) / total[:, None]
    if scoring_method == "ID":
        new = scores
    elif scoring_method == "AVG":
        new = total / count
    elif scoring_method == "IOU_AVG":
        new = (weights * overlap).sum(dim=1) / (votes * overlap).sum(dim=1)
    elif scoring_method == "GENERALIZED_AVG":
        new = ((votes * all_scores**beta).sum(dim=1) / count) ** (1 / beta)
    elif scoring_method == "QUASI_SUM":
        new = total / count**beta
    else:
        log_odds = torch.log(all_scores) - torch.log1p(-all_scores)
        new = (votes * torch.sigmoid(log_odds / beta)).sum(dim=1) / count
    has_votes = total > 0
    return torch.where(has_votes[:, None], voted, boxes), torch.where(has_votes, new, scores)
