"""Test-time augmentation: one image seen several times, mirrored, larger, smaller or stretched, and the answers merged.

Boxes come first (Detectron's TEST.BBOX_AUG), then masks and keypoints of these boxes (MASK_AUG, KPS_AUG), each from
views of its own. Everything is merged in the original frame; what comes out is in the network frame of the plain view,
as if there had been no other, so that `engine.inference.to_original` need not know.

Shape legend
    V  views    R  regions of one view    K  classes, background (0) included    n  candidates    N  detections
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from detectune.data.images import ResizeStyle
from detectune.engine.views import Looks, Seen, View
from detectune.models.detections import best_detections, candidates, suppress
from detectune.models.keypoint_head import place_keypoints
from detectune.models.rcnn import RCNN
from detectune.ops.boxes import box_area, clip_boxes
from detectune.ops.keypoints import flip_heatmaps
from detectune.ops.merging import Merge, merge_views, views_for_size
from detectune.structures import Detections, ImageBatch

BoxMerge = Literal["union", "mean", "plain"]
"""All candidates side by side before suppression; each region's mean over the views; the plain view's."""

Candidates = tuple[
    Tensor, Tensor, Tensor
]  # boxes float32 [n, 4], original frame; scores [n]; labels int64 [n]


@dataclass(frozen=True)
class SizeRule:
    """Views above the plain one's scale count only for small objects, views below it only for large ones.

    Areas are pixels^2 of the original image; see `ops.merging.views_for_size`.
    """

    low: float
    high: float


@dataclass(frozen=True)
class BoxPlan:
    """How boxes are found. `union` is for scores and coordinates together; the others need the same regions in every
    view, that is a model which is given its proposals.
    """

    views: tuple[View, ...]  # besides the plain one
    scores: BoxMerge = "union"
    coordinates: BoxMerge = "union"
    sizes: SizeRule | None = None


@dataclass(frozen=True)
class MapPlan:
    """How masks or heat maps are found."""

    views: tuple[View, ...]  # besides the plain one
    how: Merge
    sizes: SizeRule | None = None


@dataclass(frozen=True)
class Plan:
    """What is found in several views; None: in the plain one alone."""

    plain: View
    boxes: BoxPlan | None = None
    masks: MapPlan | None = None
    keypoints: MapPlan | None = None


class AugmentedDetector:
    """A detector that looks at every image as a plan says.

    Args:
        model: on its device, ready for `predict`.
        style, stride: how images are resized and what their sides are padded to a multiple of.
        keypoint_flip: in the mirror keypoint i becomes keypoint_flip[i].
    """

    def __init__(
        self,
        model: RCNN,
        plan: Plan,
        *,
        style: ResizeStyle,
        stride: int,
        keypoint_flip: Sequence[int] = (),
    ) -> None:
        self.model, self.plan = model, plan
        self.style, self.stride, self.keypoint_flip = style, stride, keypoint_flip
        self.offset = model.detection_rule.offset

    @torch.inference_mode()
    def predict(self, pixels: np.ndarray, images: ImageBatch) -> Detections:
        """Detections of an image uint8 [H, W, 3] of which `images` is the plain view, in its network frame."""
        look = Looks(
            pixels,
            self.plan.plain,
            images,
            see=self.model.features_of,
            wanted=self._wanted(),
            style=self.style,
            stride=self.stride,
            offset=self.offset,
        )
        found = self._boxes(look)
        plain = look(self.plan.plain)
        placed = plain.find(found)
        if self.model.mask_head is not None:
            placed.masks = self._maps(look, found, self.plan.masks, self._masks_of)
        if self.model.keypoint_head is not None:
            maps = self._maps(look, found, self.plan.keypoints, self._heatmaps_of)
            scale = (plain.info.scale_x, plain.info.scale_y)
            placed = place_keypoints(maps, placed, scale, self.model.pose_rule)
        return placed

    def _wanted(self) -> list[View]:
        """Every view as often as `predict` asks for it."""
        plan = self.plan
        wanted = [plan.plain] * 2
        if plan.boxes is not None:
            wanted += plan.boxes.views
        for head, maps in ((self.model.mask_head, plan.masks), (self.model.keypoint_head, plan.keypoints)):
            if head is not None:
                wanted += (plan.plain, *(maps.views if maps else ()))
        return wanted

    def _boxes(self, look: Looks) -> Detections:
        """Detections in the original frame."""
        plan, model = self.plan.boxes, self.model
        if plan is None:
            seen = look(self.plan.plain)
            found = model.detect(seen.features, model.propose(seen.features, seen.images), seen.images)[0]
            return replace(found, boxes=found.boxes / seen.scale(found.boxes))
        views = (
            *plan.views,
            self.plan.plain,
        )  # the plain one last, as in Detectron: where scores tie, order decides
        merge = self._united if plan.scores == "union" else self._averaged
        rule = model.detection_rule
        return Detections(*best_detections(*suppress(*merge(look, views, plan), rule), rule))

    def _united(self, look: Looks, views: Sequence[View], plan: BoxPlan) -> Candidates:
        parts = []
        for view in views:
            seen = look(view)
            regions, scores, refine = self._scored(seen)
            boxes, score, label = candidates(
                regions, scores, seen.own_size, self.model.detection_rule, refine
            )
            boxes = seen.to_original(boxes)
            if plan.sizes is not None:
                counts = self._counted([view], boxes, plan.sizes)[0]
                boxes, score, label = boxes[counts], score[counts], label[counts]
            parts.append((boxes, score, label))
        boxes, score, label = (torch.cat(column) for column in zip(*parts, strict=True))
        return boxes, score, label

    def _averaged(self, look: Looks, views: Sequence[View], plan: BoxPlan) -> Candidates:
        """The same regions in every view, each with a box and a score per class: merged before anything is chosen."""
        rule = self.model.detection_rule
        all_boxes, all_scores = [], []
        regions = torch.zeros(0)
        size = torch.zeros(0)
        for view in views:
            seen = look(view)
            regions, scores, refine = self._scored(seen)
            num_regions, num_classes = scores.shape
            row = torch.arange(num_regions, device=scores.device).repeat_interleave(num_classes)
            label = torch.arange(num_classes, device=scores.device).repeat(num_regions)
            boxes = refine(row, label) if rule.refine else regions[row]
            boxes = seen.to_original(clip_boxes(boxes, seen.own_size, offset=self.offset))
            all_boxes.append(boxes.view(num_regions, num_classes, 4))
            all_scores.append(scores)
            size = seen.own_size  # in the end, as `regions`, the plain view's
        used = self._counted(views, regions, plan.sizes)
        scores = _merged(torch.stack(all_scores), used, plan.scores)
        boxes = _merged(torch.stack(all_boxes), used, plan.coordinates)
        chosen = replace(rule, refine=True)  # the boxes are refined already, or the regions themselves
        return candidates(regions, scores, size, chosen, lambda rows, labels: boxes[rows, labels])

    def _scored(self, seen: Seen) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]:
        """Regions [R, 4] in the own frame, scores [R, K], and how the head refines rows for labels."""
        model = self.model
        proposals = model.propose(seen.features, seen.images)
        scored = model.score(seen.features, proposals, seen.images)[0]
        regions = scored.boxes / seen.scale(scored.boxes)

        def refine(rows: Tensor, labels: Tensor) -> Tensor:
            moved: Tensor = model.box_head.refine(scored.deltas[rows], regions[rows], labels)
            return moved

        return regions, scored.scores, refine

    def _maps(
        self,
        look: Looks,
        found: Detections,
        plan: MapPlan | None,
        maps_of: Callable[[Seen, Detections], Tensor],
    ) -> Tensor:
        """Masks or heat maps [N, ...] of detections in the original frame."""
        if plan is None or not len(found):
            return maps_of(look(self.plan.plain), found)
        views = (self.plan.plain, *plan.views)
        maps = torch.stack([maps_of(look(view), found) for view in views])
        return merge_views(maps, self._counted(views, found.boxes, plan.sizes), plan.how)

    def _masks_of(self, seen: Seen, found: Detections) -> Tensor:
        masks = self.model.add_masks(seen.features, [seen.find(found)])[0].masks
        assert masks is not None
        return masks.flip(-1) if seen.view.flip else masks

    def _heatmaps_of(self, seen: Seen, found: Detections) -> Tensor:
        maps = self.model.keypoint_maps(seen.features, [seen.find(found)])[0]
        return flip_heatmaps(maps, self.keypoint_flip) if seen.view.flip else maps

    def _counted(self, views: Sequence[View], boxes: Tensor, sizes: SizeRule | None) -> Tensor:
        """Which boxes [N, 4] of the original frame count in which view, bool [V, N]."""
        if sizes is None:
            return torch.ones((len(views), len(boxes)), dtype=torch.bool, device=boxes.device)
        plain = self.plan.plain.short_side
        enlarged = torch.tensor([view.short_side > plain for view in views], device=boxes.device)
        reduced = torch.tensor([view.short_side < plain for view in views], device=boxes.device)
        areas = box_area(boxes, offset=self.offset)
        return views_for_size(areas, enlarged, reduced, low=sizes.low, high=sizes.high)


def _merged(values: Tensor, used: Tensor, how: BoxMerge) -> Tensor:
    return values[-1] if how == "plain" else merge_views(values, used, "mean")
