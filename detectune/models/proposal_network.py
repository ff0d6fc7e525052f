"""The region proposal network alone (Faster R-CNN, Ren 2015, 3.1): images to regions that may hold an object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectune.models.detector import Detector, original_units
from detectune.models.rpn import Rpn, ScoredAnchors
from detectune.models.targets import at_least_one_row
from detectune.structures import Batch, Detections, ImageBatch


class ProposalNetwork(Detector):
    """A body and an RPN; every object is of one class.

    Args:
        backbone: normalised images [B, 3, H, W] to {level: features}.
        rpn: proposes regions.
        others: see `Detector`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        rpn: Rpn,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        clip_proposals_to: int = 1,
    ) -> None:
        super().__init__(pixel_mean=pixel_mean, pixel_std=pixel_std, clip_proposals_to=clip_proposals_to)
        self.backbone = backbone
        self.rpn = rpn

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """loss_* and stat_*, alike in training and evaluation mode; `generator` draws the sample of anchors."""
        if batch.targets is None:
            raise ValueError("losses need targets; use predict for images alone")
        return self.rpn.losses(
            self._scored(batch.images), at_least_one_row(batch.targets), batch.images.sizes, generator
        )

    @torch.no_grad()
    def predict(self, images: ImageBatch) -> list[Detections]:
        """The proposals of each image, network frame, best first: label 1, the probability of an object as score."""
        proposals = self.rpn.propose(
            self._scored(images),
            self.clipping_sizes(images.sizes),
            self.rpn.test_rule,
            original_units(images),
        )
        found = []
        for boxes, logits, valid in zip(proposals.boxes, proposals.scores, proposals.valid, strict=True):
            scores = logits[valid].sigmoid()
            found.append(Detections(boxes[valid], scores, torch.ones_like(scores, dtype=torch.int64)))
        return found

    def _scored(self, images: ImageBatch) -> ScoredAnchors:
        height, width = images.tensor.shape[-2:]
        return self.rpn(self.backbone(self.normalize(images)), (height, width))
