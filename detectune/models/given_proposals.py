"""Regions that come with the images instead of from an RPN (Fast R-CNN, Girshick 2015).

Shape legend
    B  images    P  proposals per image    R  regions of all images
"""

from __future__ import annotations

import torch
from torch import Tensor

from detectune.errors import UserError
from detectune.models.rpn import Proposals
from detectune.structures import ImageBatch


def given_proposals(images: ImageBatch) -> Proposals:
    """The batch's proposals, in their own order; the scores are zero where the batch has none."""
    boxes, valid = images.proposals, images.proposals_valid
    if boxes is None or valid is None:
        raise UserError(
            "This model does not propose regions itself (MODEL.FASTER_RCNN is False) and the images come without any; "
            "name files with proposals in TRAIN.PROPOSAL_FILES and TEST.PROPOSAL_FILES, or set MODEL.FASTER_RCNN "
            "to True."
        )
    scores = boxes.new_zeros(valid.shape) if images.proposal_scores is None else images.proposal_scores
    return Proposals(boxes, scores.masked_fill(~valid, -torch.inf), valid)


def first_of_equals(boxes: Tensor, image_index: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    """Regions that fall into the same cells, of which one look is enough.

    Boxes [R, 4] of one image are equal if their corners, times `scale` (one over the stride of the features), round to
    the same numbers. Returns the rows int64 [U] of the first of each kind, and for each region its kind, int64 [R] in
    0..U-1.
    """
    cells = torch.cat((image_index[:, None].to(boxes.dtype), (boxes * scale).round()), dim=1)
    kinds, kind = torch.unique(cells, dim=0, return_inverse=True)
    rows = torch.arange(len(boxes), device=boxes.device)
    first = rows.new_full((len(kinds),), len(boxes)).scatter_reduce(0, kind, rows, "amin")
    return first, kind
