"""Fast, Faster, Mask and Keypoint R-CNN and R-FCN (Girshick 2015, Ren 2015, He 2017, Dai 2016), put together from their
parts.

Shape legend
    B  images    H, W  pixels of the padded batch    P  proposals per image    R  regions of all images
    K  classes, background (0) included              M  side of a mask
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from detectune.models.box_head import BoxHead, BoxOutput, StageBoxHead
from detectune.models.cascade import CascadeHead
from detectune.models.detections import (
    DetectionRule,
    ScoredRegions,
    candidate_rows,
    frame_scale,
    select_detections,
)
from detectune.models.detector import Detector, Features, original_units
from detectune.models.given_proposals import first_of_equals, given_proposals
from detectune.models.keypoint_head import KeypointHead, PoseRule, place_keypoints
from detectune.models.mask_head import MaskHead
from detectune.models.rfcn import ScoreMapPooler, VotingBoxHead
from detectune.models.roi_pooler import RoiPooler
from detectune.models.rpn import Proposals, Rpn, ScoredAnchors
from detectune.models.targets import (
    Candidates,
    Regions,
    RegionSampling,
    at_least_one_row,
    draw_posed_regions,
    draw_regions,
    keypoint_inside,
    region_candidates,
)
from detectune.structures import Batch, Detections, ImageBatch, ImageInfo, Targets


class RCNN(Detector):
    """Images to regions to boxes, and to masks and keypoints if there are heads for them.

    Args:
        backbone: normalised images [B, 3, H, W] to {level: features}.
        rpn: proposes regions; None: they come with the images.
        box_pooler, box_head: name and refine them.
        mask_pooler, mask_head: draw masks, if there is a head. Without a pooler the head sees the output of the box
            head's stage, which is a `StageBoxHead` then.
        keypoint_pooler, keypoint_head: find keypoints; both or neither.
        region_sampling: which regions count in the heads' losses.
        detection_rule: what counts as a detection.
        dedup_scale: in tests, given proposals whose corners times this round to the same numbers are looked at once;
            0: each by itself.
        pose_rule: how heat maps become keypoints.
        keypoints_drawn_apart: the keypoint head learns from a sample of its own (Detectron), not from the foreground of
            the box head's.
        others: see `Detector`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        rpn: Rpn | None,
        box_pooler: RoiPooler | ScoreMapPooler,
        box_head: BoxHead | StageBoxHead | VotingBoxHead | CascadeHead,
        mask_pooler: RoiPooler | None = None,
        mask_head: MaskHead | None = None,
        keypoint_pooler: RoiPooler | None = None,
        keypoint_head: KeypointHead | None = None,
        *,
        region_sampling: RegionSampling,
        detection_rule: DetectionRule,
        dedup_scale: float = 0.0,
        pose_rule: PoseRule | None = None,
        keypoints_drawn_apart: bool = False,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        clip_proposals_to: int = 1,
        drop_padding: bool | None = None,
    ) -> None:
        super().__init__(
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            clip_proposals_to=clip_proposals_to,
            drop_padding=drop_padding,
        )
        self.backbone = backbone
        self.rpn = rpn
        self.box_pooler, self.box_head = box_pooler, box_head
        self.mask_pooler, self.mask_head = mask_pooler, mask_head
        self.keypoint_pooler, self.keypoint_head = keypoint_pooler, keypoint_head
        self.region_sampling, self.detection_rule = region_sampling, detection_rule
        self.pose_rule = pose_rule or PoseRule()
        self.keypoints_drawn_apart = keypoints_drawn_apart
        self.dedup_scale = dedup_scale

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """loss_*, stat_* and count_* (what a loss was divided by, where that is counted over the batch), alike in
        training and evaluation mode.

        `generator` (of the images' device) draws the samples; without one the first candidates are taken.
        """
        if batch.targets is None:
            raise ValueError("losses need targets; use predict for images alone")
        images, targets = batch.images, at_least_one_row(batch.targets)
        drop = self._drops_padding(images)
        features = self.backbone(self.normalize(images))
        units = original_units(images)
        out: dict[str, Tensor] = {}
        if self.rpn is None:
            proposals = given_proposals(images)
        else:
            scored = self.score_anchors(self.rpn, features, images)
            out |= self.rpn.losses(scored, targets, images.sizes, generator)
            proposals = self.rpn.propose(scored, images.sizes, self.rpn.train_rule, units)
        candidates = region_candidates(proposals.boxes, proposals.valid, targets, self.region_sampling, units)
        regions = draw_regions(candidates, targets, self.region_sampling, generator, drop_padding=drop)
        pool = partial(self.box_pooler, features, static=not drop)
        if isinstance(self.box_head, CascadeHead):
            out |= self.box_head.losses(pool, regions, targets, images.sizes)
        elif self.shares_stage:
            assert isinstance(self.box_head, StageBoxHead)
            shared = self.box_head.res5(pool(regions.boxes, regions.image_index))
            out |= self.box_head.losses(self.box_head.read(shared), regions, targets)
        else:
            said = self.box_head(pool(regions.boxes, regions.image_index))
            out |= self.box_head.losses(said, regions, targets)
        if self.mask_head is not None:
            rows = regions.foreground_rows(self.region_sampling, drop_padding=drop)
            inside = regions[rows]
            if self.mask_pooler is None:
                pooled = shared[rows]
            else:
                pooled = self.mask_pooler(features, inside.boxes, inside.image_index, static=not drop)
            out |= self.mask_head.losses(self.mask_head(pooled), inside, targets, static=not drop)
        if self.keypoint_head is not None and self.keypoint_pooler is not None:
            posed = self._posed_regions(candidates, regions, targets, generator, drop=drop)
            pooled = self.keypoint_pooler(features, posed.boxes, posed.image_index, static=not drop)
            out |= self.keypoint_head.losses(self.keypoint_head(pooled), posed, targets)
        return out

    @property
    def shares_stage(self) -> bool:
        """Whether the mask head sees what the box head's stage makes of a region."""
        return self.mask_head is not None and self.mask_pooler is None

    @torch.no_grad()
    def predict(self, images: ImageBatch) -> list[Detections]:
        """Detections of each image, network frame, best first, with mask probabilities and keypoints if there are heads
        for them."""
        features = self.features_of(images)
        found = self.detect(features, self.propose(features, images), images)
        if self.mask_head is not None:
            found = self.add_masks(features, found)
        if self.keypoint_head is not None:
            found = self.add_keypoints(features, found, images)
        return found

    def features_of(self, images: ImageBatch) -> Features:
        """What the heads look at: {level: features}."""
        features: Features = self.backbone(self.normalize(images))
        return features

    def propose(self, features: Features, images: ImageBatch) -> Proposals:
        """The regions to look at in a test."""
        if self.rpn is None:
            return given_proposals(images)
        scored = self.score_anchors(self.rpn, features, images)
        sizes = self.clipping_sizes(images.sizes)
        return self.rpn.propose(scored, sizes, self.rpn.test_rule, original_units(images))

    def detect(self, features: Features, proposals: Proposals, images: ImageBatch) -> list[Detections]:
        """What the box head sees in the proposals, suppressed."""
        return [
            self._detect_image(scored, info, size)
            for scored, info, size in zip(
                self.score(features, proposals, images), images.infos, images.sizes, strict=True
            )
        ]

    def score(self, features: Features, proposals: Proposals, images: ImageBatch) -> list[ScoredRegions]:
        """What the box head says about each image's proposals."""
        drop = self._drops_padding(images)
        batch, count, _ = proposals.boxes.shape
        image_index = torch.arange(batch, device=proposals.boxes.device).repeat_interleave(count)
        boxes, valid = proposals.boxes.flatten(0, 1), proposals.valid.flatten()
        if drop:
            boxes, image_index = boxes[valid], image_index[valid]
            counts = proposals.valid.sum(1).tolist()
        else:
            counts = [count] * batch
        pool = partial(self.box_pooler, features, static=not drop)
        if isinstance(self.box_head, CascadeHead):
            unit = original_units(images)[image_index] if self.detection_rule.original_frame else None
            boxes, scores, deltas = self.box_head(pool, boxes, image_index, images.sizes, unit)
        else:
            boxes, out = self._read_regions(features, boxes, image_index, static=not drop)
            scores, deltas = out.logits.float().softmax(1), out.deltas
        if not drop:
            scores = scores.masked_fill(~valid[:, None], 0.0)
        return [ScoredRegions(boxes[rows], scores[rows], deltas[rows]) for rows in _slices(counts)]

    def add_masks(self, features: Features, found: list[Detections]) -> list[Detections]:
        """The same detections with masks."""
        assert self.mask_head is not None
        pooled = _pooled_detections(self.mask_pooler or self.box_pooler, features, found)
        if self.mask_pooler is None:
            assert isinstance(self.box_head, StageBoxHead)
            pooled = self.box_head.res5(pooled)
        masks = self.mask_head.predict(pooled, torch.cat([d.labels for d in found]))
        return [
            Detections(d.boxes, d.scores, d.labels, masks=masks[rows])
            for d, rows in zip(found, _slices([len(d) for d in found]), strict=True)
        ]

    def keypoint_maps(self, features: Features, found: list[Detections]) -> list[Tensor]:
        """Logits float32 [N, K, S, S] of each image's detections."""
        assert self.keypoint_head is not None and self.keypoint_pooler is not None
        maps = self.keypoint_head(_pooled_detections(self.keypoint_pooler, features, found)).float()
        return [maps[rows] for rows in _slices([len(d) for d in found])]

    def add_keypoints(
        self, features: Features, found: list[Detections], images: ImageBatch
    ) -> list[Detections]:
        """The same detections with keypoints, fewer if poses suppress each other."""
        maps = self.keypoint_maps(features, found)
        return [
            place_keypoints(own, d, (info.scale_x, info.scale_y), self.pose_rule)
            for own, d, info in zip(maps, found, images.infos, strict=True)
        ]

    def score_anchors(self, rpn: Rpn, features: Features, images: ImageBatch) -> ScoredAnchors:
        height, width = images.tensor.shape[-2:]
        return rpn(features, (height, width))

    def _read_regions(
        self, features: Features, boxes: Tensor, image_index: Tensor, *, static: bool
    ) -> tuple[Tensor, BoxOutput]:
        """What the box head says about boxes [R, 4]; of given ones that fall together, about their first for all."""
        if self.rpn is not None or not self.dedup_scale:
            return boxes, self.box_head(self.box_pooler(features, boxes, image_index, static=static))
        first, kind = first_of_equals(boxes, image_index, scale=self.dedup_scale)
        out = self.box_head(self.box_pooler(features, boxes[first], image_index[first], static=static))
        return boxes[first[kind]], BoxOutput(out.logits[kind], out.deltas[kind])

    def _posed_regions(
        self,
        candidates: Candidates,
        regions: Regions,
        targets: Targets,
        generator: torch.Generator | None,
        *,
        drop: bool,
    ) -> Regions:
        """What the keypoint head learns from: foreground, as far as padding may be dropped with keypoints inside."""
        sampling = self.region_sampling
        if self.keypoints_drawn_apart:
            return draw_posed_regions(candidates, targets, sampling, generator, drop_padding=drop)
        inside = regions.foreground(sampling, drop_padding=drop)
        if not drop or targets.keypoints is None:
            return inside
        points = targets.keypoints[inside.image_index, inside.gt_index]
        return inside[keypoint_inside(points, inside.boxes)]

    def candidates(
        self, scored: ScoredRegions, info: ImageInfo, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`candidate_rows` of one image, in the frame of the detection rule; `size` [2] is of the network's."""
        return candidate_rows(*self._in_frame(scored, info, size))

    def _detect_image(self, scored: ScoredRegions, info: ImageInfo, size: Tensor) -> Detections:
        found, score, label = select_detections(*self._in_frame(scored, info, size))
        in_original = self.detection_rule.original_frame
        return Detections(found * frame_scale(info, found) if in_original else found, score, label)

    def _in_frame(
        self, scored: ScoredRegions, info: ImageInfo, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, DetectionRule, Callable[[Tensor, Tensor], Tensor]]:
        """The arguments of `select_detections`."""
        boxes, scores, deltas = scored
        rule = self.detection_rule
        if rule.original_frame:
            boxes = boxes / frame_scale(info, boxes)
            size = size.new_tensor((info.height, info.width))

        def refine(rows: Tensor, labels: Tensor) -> Tensor:
            return self.box_head.refine(deltas[rows], boxes[rows], labels)

        return boxes, scores, size, rule, refine


def _pooled_detections(pooler: nn.Module, features: Features, found: list[Detections]) -> Tensor:
    """The features of all images' detections [R, C, M, M]."""
    boxes = torch.cat([d.boxes for d in found])
    counts = torch.tensor([len(d) for d in found], device=boxes.device)
    image_index = torch.repeat_interleave(torch.arange(len(found), device=boxes.device), counts)
    return pooler(features, boxes, image_index, static=boxes.device.type != "cpu")


def _slices(counts: Sequence[int]) -> list[slice]:
    """Consecutive rows, `counts` of them at a time."""
    out, first = [], 0
    for count in counts:
        out.append(slice(first, first + count))
        first += count
    return out
