"""A box head in stages, each of which refines the boxes of the one before (Cascade R-CNN, Cai and Vasconcelos 2018).

Every stage is a `BoxHead` with one box for all classes, and learns from better boxes: the overlap that makes a region
an object grows from stage to stage. At test time scores are averaged over the stages and boxes are the last one's.

Shape legend
    R  regions of all images    C  channels    M  resolution    K  classes, background (0) included    G  objects
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detectune.models.box_head import BoxHead, BoxOutput
from detectune.models.targets import Regions
from detectune.ops.boxes import box_iou, clip_boxes
from detectune.structures import Targets

Pool = Callable[[Tensor, Tensor], Tensor]
"""Boxes [R, 4] and their images int64 [R] to features [R, C, M, M]."""


class CascadeOutput(NamedTuple):
    """What the last stage wants to do with the boxes that it was given, and what all stages think of them."""

    boxes: Tensor  # float32 [R, 4], network frame
    scores: Tensor  # float32 [R, K], the mean of the stages' probabilities
    deltas: Tensor  # [R, 4]


class CascadeHead(nn.Module):
    """Box heads one after the other.

    Args:
        stages: class-agnostic box heads.
        ious: overlap from which a region is an object, for each stage; the first one's is the sampling's.
        offset: 1 if boxes are inclusive.
    """

    def __init__(self, stages: Sequence[BoxHead], *, ious: Sequence[float], offset: float = 0.0) -> None:
        super().__init__()
        if len(stages) != len(ious) or not all(stage.agnostic for stage in stages):
            raise ValueError("a cascade needs an overlap for each stage, and class-agnostic stages")
        self.stages: Any = nn.ModuleList(stages)
        self.ious, self.offset = tuple(ious), offset

    def losses(self, pool: Pool, regions: Regions, targets: Targets, sizes: Tensor) -> dict[str, Tensor]:
        """Losses and counters of each stage, `loss_cls_stage0` and so on.

        Args:
            pool: features of regions.
            regions: what the first stage learns from.
            targets: the objects.
            sizes: int64 [B, 2], height and width of the images in the network frame.
        """
        out: dict[str, Tensor] = {}
        share = 1.0 / len(self.ious)
        for i, stage in enumerate(self.stages):
            # every stage learns at full speed, but together they pull at the features as one head would
            pooled = _ScaledGradient.apply(pool(regions.boxes, regions.image_index), share)
            said = stage(pooled)
            out |= {f"{name}_stage{i}": value for name, value in stage.losses(said, regions, targets).items()}
            if i + 1 < len(self.stages):
                boxes = self._moved(stage, said, regions.boxes, regions.image_index, sizes, regions.unit)
                regions = matched_again(regions, boxes, targets, self.ious[i + 1], offset=self.offset)
        return out

    def forward(
        self, pool: Pool, boxes: Tensor, image_index: Tensor, sizes: Tensor, unit: Tensor | None = None
    ) -> CascadeOutput:
        """Proposals [R, 4] of images int64 [R] through all stages; `sizes` as above, `unit` as in `Regions`."""
        total: Tensor | None = None
        last = len(self.stages) - 1
        for i, stage in enumerate(self.stages):
            said: BoxOutput = stage(pool(boxes, image_index))
            scores = said.logits.float().softmax(1)
            total = scores if total is None else total + scores
            if i < last:
                boxes = self._moved(stage, said, boxes, image_index, sizes, unit)
        assert total is not None
        return CascadeOutput(boxes, total / len(self.stages), said.deltas)

    def refine(self, deltas: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """The last stage's boxes [R, 4]."""
        return self.stages[-1].refine(deltas, boxes, labels)

    @torch.no_grad()
    def _moved(
        self,
        stage: BoxHead,
        said: BoxOutput,
        boxes: Tensor,
        image_index: Tensor,
        sizes: Tensor,
        unit: Tensor | None,
    ) -> Tensor:
        """The boxes that a stage makes of its own, inside their images."""
        limits = sizes[image_index].to(boxes.dtype)  # [R, 2]: height, width
        if unit is not None:
            boxes, limits = boxes / unit, limits / unit[:, [1, 0]]
        labels = image_index  # class-agnostic: read by nobody
        moved = clip_boxes(stage.refine(said.deltas.detach(), boxes, labels), limits, offset=self.offset)
        return moved if unit is None else moved * unit


@torch.no_grad()
def matched_again(regions: Regions, boxes: Tensor, targets: Targets, iou: float, *, offset: float) -> Regions:
    """The regions with new boxes [R, 4], each labelled by the object that it overlaps most, if by `iou` at least.

    Nothing is drawn anew, so the number of regions stays; those whose box has become empty do not count.
    """
    moved = replace(regions, boxes=boxes, has_box=None)
    image = regions.image_index
    there = (targets.valid & ~targets.is_crowd)[image]  # [R, G]
    objects = moved.measured(targets.boxes[image].to(boxes.dtype))  # [R, G, 4]
    overlap = box_iou(moved.measured(boxes)[:, None], objects, offset=offset)[:, 0].where(there, -1.0)
    best, index = overlap.max(1)
    valid = regions.valid & (boxes[:, 2:] > boxes[:, :2]).all(1)
    is_fg = valid & (best >= iou)
    labels = targets.labels[image, index].where(is_fg, 0)
    return replace(moved, labels=labels, gt_index=index, is_fg=is_fg, valid=valid)


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None
