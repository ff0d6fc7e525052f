"""R-FCN (Dai 2016): regions vote with score maps that know which part of an object they show.

Shape legend
    B  images    R  regions    K  classes, background (0) included    k  side of the grid of parts

Everything that is learnt is convolutional and seen once per image; a region only averages.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from detectune.models.box_head import BoxLearner, BoxOutput
from detectune.models.layers import Conv, gaussian
from detectune.ops.ps_roi import ps_roi_pool


class ScoreMapPooler(nn.Module):
    """Features of one level to score maps by two 1x1 convolutions, and those to k x k parts of every region.

    Args:
        in_channels: channels of the features.
        level: of the features used.
        stride: image pixels per cell.
        grid: k.
        num_classes: K.
        agnostic: one box for all classes.
        offset: 1 if boxes are inclusive.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        level: int,
        stride: int,
        grid: int,
        num_classes: int,
        agnostic: bool,
        offset: float,
    ) -> None:
        super().__init__()
        self.level, self.stride, self.grid, self.offset = level, stride, grid, offset
        parts = grid * grid
        deltas = 4 if agnostic else 4 * num_classes
        self.cls_score = Conv(in_channels, num_classes * parts, 1, init=gaussian(0.01))
        self.bbox_pred = Conv(in_channels, deltas * parts, 1, init=gaussian(0.01))

    def forward(
        self, features: Mapping[int, Tensor], boxes: Tensor, image_index: Tensor, *, static: bool
    ) -> tuple[Tensor, Tensor]:
        """Boxes [R, 4] of images image_index [R] to parts [R, K, k, k] and [R, 4 * K (or 4), k, k]."""
        del static  # the same work whatever the boxes are
        x = features[self.level]
        scores, deltas = (
            ps_roi_pool(
                maps, boxes, image_index, spatial_scale=1 / self.stride, grid=self.grid, offset=self.offset
            )
            for maps in (self.cls_score(x), self.bbox_pred(x))
        )
        return scores, deltas

    def extra_repr(self) -> str:
        return f"level={self.level}, {self.grid}x{self.grid} parts"


class VotingBoxHead(BoxLearner):
    """The mean over a region's parts; see `BoxLearner` for the arguments. Nothing in it is learnt."""

    def forward(self, parts: tuple[Tensor, Tensor]) -> BoxOutput:
        """What `ScoreMapPooler` makes of regions."""
        scores, deltas = parts
        return BoxOutput(scores.mean((2, 3)), deltas.mean((2, 3)))
