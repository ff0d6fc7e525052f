"""RetinaNet (Lin 2017), put together from its parts: every anchor is classified, without proposals.

Shape legend
    B  images    H, W  pixels of the padded batch    A  anchors of all levels    C  scores per anchor
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from detectune.models.anchor_grid import AnchorGrid
from detectune.models.detections import frame_scale
from detectune.models.pixels import normalize_pixels
from detectune.models.retinanet_detections import (
    Candidates,
    OneStageRule,
    placed_candidates,
    select_one_stage,
)
from detectune.models.retinanet_head import HeadOutputs, RetinaNetHead
from detectune.models.retinanet_loss import (
    UNIT_WEIGHTS,
    FocalRule,
    box_loss,
    class_loss,
    counted,
    label_anchors,
    normalized,
)
from detectune.models.targets import at_least_one_row
from detectune.models.whole_batch import WholeBatch
from detectune.ops.boxes import decode_boxes
from detectune.structures import Batch, Detections, ImageBatch, ImageInfo

FIRST_NORMALIZER, NORMALIZER_MOMENTUM = 100.0, 0.9


class RetinaNet(nn.Module):
    """Images to classified and moved anchors.

    With the normaliser `moving_average` there is a buffer `loss_normalizer`, which every training step moves; it is
    part of a checkpoint. In evaluation mode it stays as it is.

    Args:
        backbone: normalised images [B, 3, H, W] to {level: features}.
        anchors: where the head looks.
        head: says what is there.
        focal_rule: what the anchors learn.
        detection_rule: what counts as a detection.
        pixel_mean, pixel_std: RGB, for pixels 0..255.
        drop_padding: may ask for values where that is free. None: on a CPU only.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    loss_normalizer: Tensor | None

    def __init__(
        self,
        backbone: nn.Module,
        anchors: AnchorGrid,
        head: RetinaNetHead,
        *,
        focal_rule: FocalRule,
        detection_rule: OneStageRule,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        drop_padding: bool | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.anchors, self.head = backbone, anchors, head
        self.focal_rule, self.detection_rule = focal_rule, detection_rule
        self.drop_padding, self.whole_batch = drop_padding, WholeBatch()
        average = torch.tensor(FIRST_NORMALIZER) if focal_rule.normalizer == "moving_average" else None
        self.register_buffer("loss_normalizer", average)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std)[:, None, None], persistent=False)

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """loss_*, stat_* and count_* (what a loss was divided by, where that is counted over the batch), alike in
        training and evaluation mode. Nothing is drawn at random.
        """
        del generator
        if batch.targets is None:
            raise ValueError("losses need targets; use predict for images alone")
        targets, rule = at_least_one_row(batch.targets), self.focal_rule
        out, anchors = self.score(batch.images)
        wanted = label_anchors(anchors, targets, rule)
        num_fg = wanted.has_box.sum(1).float()
        average = self._average(num_fg)
        count = counted(num_fg, rule.normalizer)
        counts = {} if count is None else {"count_retnet_cls": count, "count_retnet_bbox": count}
        loss_cls = class_loss(out.logits, wanted, rule)
        loss_box = box_loss(out.deltas, wanted, rule)
        return {
            "loss_retnet_cls": normalized(loss_cls, num_fg, rule.normalizer, average),
            "loss_retnet_bbox": normalized(loss_box, num_fg, rule.normalizer, average),
            **counts,
            "stat_retnet_num_fg": num_fg.mean(),
            "stat_retnet_num_bg": (wanted.has_class & (wanted.label == 0)).sum(1).float().mean(),
        }

    @torch.no_grad()
    def predict(self, images: ImageBatch) -> list[Detections]:
        """Detections of each image, network frame, best first."""
        return self.detect(*self.score(images), images)

    def detect(self, out: HeadOutputs, anchors: Tensor, images: ImageBatch) -> list[Detections]:
        """Detections from what `score` returned."""
        return [
            self._detect_image(out, anchors, i, images.infos[i], images.sizes[i]) for i in range(len(images))
        ]

    def score(self, images: ImageBatch) -> tuple[HeadOutputs, Tensor]:
        """What the head says of every anchor, and the anchors, float32 [A, 4]."""
        features = self.backbone(self.normalize(images))
        height, width = images.tensor.shape[-2:]
        return self.head(features), self.anchors(features, (height, width))

    def normalize(self, images: ImageBatch) -> Tensor:
        """Pixels 0..255 to what the backbone wants: float32 [B, 3, H, W], zero in the padding."""
        on_cpu = images.tensor.device.type == "cpu"
        drop = on_cpu if self.drop_padding is None else self.drop_padding
        return normalize_pixels(images, self.pixel_mean, self.pixel_std, drop_padding=drop)

    def _average(self, num_fg: Tensor) -> Tensor | None:
        """The moving average of a batch's foreground anchors, moved by this batch in training.

        Of several processes each gets its share, so that the mean of their losses is the loss of the batch.
        """
        if self.loss_normalizer is None or not self.training:
            return self.loss_normalizer
        total = self.whole_batch(num_fg.sum())
        new = torch.lerp(total.clamp(min=1), self.loss_normalizer, NORMALIZER_MOMENTUM)
        self.loss_normalizer.copy_(new)
        return new / self.whole_batch.num_parts

    def candidates(
        self, out: HeadOutputs, anchors: Tensor, row: int, info: ImageInfo, size: Tensor
    ) -> Candidates:
        """`placed_candidates` of image `row` of a batch, in the rule's frame; `size` [2] is of the network's."""
        return placed_candidates(*self._in_frame(out, anchors, row, info, size))

    def _detect_image(
        self, out: HeadOutputs, anchors: Tensor, row: int, info: ImageInfo, size: Tensor
    ) -> Detections:
        found, score, label = select_one_stage(*self._in_frame(out, anchors, row, info, size))
        in_original = self.detection_rule.original_frame
        return Detections(found * frame_scale(info, found) if in_original else found, score, label)

    def _in_frame(
        self, out: HeadOutputs, anchors: Tensor, row: int, info: ImageInfo, size: Tensor
    ) -> tuple[Tensor, Sequence[int], Tensor, OneStageRule, Callable[[Tensor, Tensor], Tensor]]:
        """The arguments of `select_one_stage`."""
        rule = self.detection_rule
        logits, deltas = out.logits[row].float(), out.deltas[row]
        scores = logits.softmax(-1)[:, 1:] if self.head.softmax else logits.sigmoid()
        if rule.original_frame:
            size = size.new_tensor((info.height, info.width))

        def place(rows: Tensor, labels: Tensor) -> Tensor:
            boxes = anchors[rows]
            if rule.refine:
                own = deltas[rows, labels - 1 if self.head.num_boxes > 1 else 0].float()
                boxes = decode_boxes(
                    own, boxes, weights=UNIT_WEIGHTS, offset=rule.offset, clip=rule.delta_clip
                )
            return boxes / frame_scale(info, boxes) if rule.original_frame else boxes

        return scores, out.per_level, size, rule, place
