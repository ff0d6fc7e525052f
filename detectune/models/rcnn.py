"""Faster R-CNN (Ren 2015) and Mask R-CNN (He 2017), put together from their parts.

Shape legend
    B  images    H, W  pixels of the padded batch    P  proposals per image    R  regions of all images
    K  classes, background (0) included              M  side of a mask
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectune.models.box_head import BoxHead
from detectune.models.detections import DetectionRule, select_detections
from detectune.models.mask_head import MaskHead
from detectune.models.roi_pooler import RoiPooler
from detectune.models.rpn import Proposals, Rpn, ScoredAnchors
from detectune.models.targets import RegionSampling, at_least_one_row, sample_regions
from detectune.structures import Batch, Detections, ImageBatch, ImageInfo

Features = dict[int, Tensor]


class RCNN(nn.Module):
    """Images to regions to boxes, and to masks if there is a mask head.

    Args:
        backbone: normalised images [B, 3, H, W] to {level: features}.
        rpn: proposes regions.
        box_pooler, box_head: name and refine them.
        mask_pooler, mask_head: draw masks; both or neither.
        region_sampling: which regions count in the heads' losses.
        detection_rule: what counts as a detection.
        pixel_mean, pixel_std: RGB, for pixels 0..255.
        clip_proposals_to: in tests proposals may reach as far as the image's sides rounded up to a multiple of this.
        drop_padding: leave out rows that only pad, which makes shapes depend on values. None: on a CPU only.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        rpn: Rpn,
        box_pooler: RoiPooler,
        box_head: BoxHead,
        mask_pooler: RoiPooler | None = None,
        mask_head: MaskHead | None = None,
        *,
        region_sampling: RegionSampling,
        detection_rule: DetectionRule,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        clip_proposals_to: int = 1,
        drop_padding: bool | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.box_pooler, self.box_head = box_pooler, box_head
        self.mask_pooler, self.mask_head = mask_pooler, mask_head
        self.region_sampling, self.detection_rule = region_sampling, detection_rule
        self.clip_proposals_to = clip_proposals_to
        self.drop_padding = drop_padding
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std)[:, None, None], persistent=False)

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """loss_*, stat_* and count_* (what a loss was divided by, where that is counted over the batch), alike in
        training and evaluation mode.

        `generator` (of the images' device) draws the samples; without one the first candidates are taken.
        """
        if batch.targets is None:
            raise ValueError("losses need targets; use predict for images alone")
        images, targets = batch.images, at_least_one_row(batch.targets)
        drop = self._drops_padding(images)
        features, scored = self._propose_from(images)
        out = self.rpn.losses(scored, targets, images.sizes, generator)
        units = original_units(images)
        proposals = self.rpn.propose(scored, images.sizes, self.rpn.train_rule, units)
        regions = sample_regions(
            proposals.boxes, proposals.valid, targets, self.region_sampling, generator,
            drop_padding=drop, units=units,
        )  # fmt: skip
        pooled = self.box_pooler(features, regions.boxes, regions.image_index, static=not drop)
        out |= self.box_head.losses(self.box_head(pooled), regions, targets)
        if self.mask_head is not None and self.mask_pooler is not None:
            inside = regions.foreground(self.region_sampling, drop_padding=drop)
            pooled = self.mask_pooler(features, inside.boxes, inside.image_index, static=not drop)
            out |= self.mask_head.losses(self.mask_head(pooled), inside, targets, static=not drop)
        return out

    @torch.no_grad()
    def predict(self, images: ImageBatch) -> list[Detections]:
        """Detections of each image, network frame, best first, with mask probabilities if there is a mask head."""
        features, scored = self._propose_from(images)
        sizes = self._clipping_sizes(images.sizes)
        proposals = self.rpn.propose(scored, sizes, self.rpn.test_rule, original_units(images))
        found = self.detect(features, proposals, images)
        if self.mask_head is None:
            return found
        return self.add_masks(features, found)

    def detect(self, features: Features, proposals: Proposals, images: ImageBatch) -> list[Detections]:
        """The box head's view of the proposals."""
        drop = self._drops_padding(images)
        batch, count, _ = proposals.boxes.shape
        image_index = torch.arange(batch, device=proposals.boxes.device).repeat_interleave(count)
        boxes, valid = proposals.boxes.flatten(0, 1), proposals.valid.flatten()
        if drop:
            boxes, image_index = boxes[valid], image_index[valid]
            counts = proposals.valid.sum(1).tolist()
        else:
            counts = [count] * batch
        out = self.box_head(self.box_pooler(features, boxes, image_index, static=not drop))
        scores = out.logits.float().softmax(1)
        if not drop:
            scores = scores.masked_fill(~valid[:, None], 0.0)
        return [
            self._detect_image(boxes[rows], scores[rows], out.deltas[rows], images.infos[i], images.sizes[i])
            for i, rows in enumerate(_slices(counts))
        ]

    def add_masks(self, features: Features, found: list[Detections]) -> list[Detections]:
        """The same detections with masks."""
        assert self.mask_head is not None and self.mask_pooler is not None
        boxes, labels = torch.cat([d.boxes for d in found]), torch.cat([d.labels for d in found])
        counts = [len(d) for d in found]
        image_index = torch.repeat_interleave(
            torch.arange(len(found), device=boxes.device), torch.tensor(counts, device=boxes.device)
        )
        static = boxes.device.type != "cpu"
        pooled = self.mask_pooler(features, boxes, image_index, static=static)
        masks = self.mask_head.predict(pooled, labels)
        return [
            Detections(d.boxes, d.scores, d.labels, masks=masks[rows])
            for d, rows in zip(found, _slices(counts), strict=True)
        ]

    def normalize(self, images: ImageBatch) -> Tensor:
        """Pixels 0..255 to what the backbone wants: float32 [B, 3, H, W], zero in the padding."""
        x = (images.tensor.float() - self.pixel_mean) / self.pixel_std
        height, width = x.shape[-2:]
        if self._drops_padding(images):
            for i, (h, w) in enumerate(images.sizes.tolist()):
                x[i, :, h:].zero_()
                x[i, :, :, w:].zero_()
            return x
        rows = torch.arange(height, device=x.device) < images.sizes[:, :1]  # [B, H]
        columns = torch.arange(width, device=x.device) < images.sizes[:, 1:]
        return x * (rows[:, None, :, None] & columns[:, None, None, :])

    def _propose_from(self, images: ImageBatch) -> tuple[Features, ScoredAnchors]:
        features = self.backbone(self.normalize(images))
        height, width = images.tensor.shape[-2:]
        return features, self.rpn(features, (height, width))

    def _detect_image(
        self, boxes: Tensor, scores: Tensor, deltas: Tensor, info: ImageInfo, size: Tensor
    ) -> Detections:
        rule = self.detection_rule
        scale = None
        if rule.original_frame:
            scale = boxes.new_tensor((info.scale_x, info.scale_y, info.scale_x, info.scale_y))
            boxes = boxes / scale
            size = size.new_tensor((info.height, info.width))

        def refine(rows: Tensor, labels: Tensor) -> Tensor:
            return self.box_head.refine(deltas[rows], boxes[rows], labels)

        found, score, label = select_detections(boxes, scores, size, rule, refine)
        return Detections(found if scale is None else found * scale, score, label)

    def _clipping_sizes(self, sizes: Tensor) -> Tensor:
        unit = self.clip_proposals_to
        return sizes if unit == 1 else (sizes + unit - 1) // unit * unit

    def _drops_padding(self, images: ImageBatch) -> bool:
        return images.tensor.device.type == "cpu" if self.drop_padding is None else self.drop_padding


def original_units(images: ImageBatch) -> Tensor:
    """Network over original pixels, float32 [B, 4] (x, y, x, y), on the images' device without waiting for it."""
    units = torch.tensor([(info.scale_x, info.scale_y) * 2 for info in images.infos])
    if images.tensor.is_cuda:
        units = units.pin_memory()
    return units.to(images.tensor.device, non_blocking=True)


def _slices(counts: Sequence[int]) -> list[slice]:
    """Consecutive rows, `counts` of them at a time."""
    out, first = [], 0
    for count in counts:
        out.append(slice(first, first + count))
        first += count
    return out
