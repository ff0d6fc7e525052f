"""The head that names a region and refines its box: layers of several kinds, then two predictors.

Shape legend
    R  regions    C  channels    M  resolution    K  classes, background (0) included
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detectune.models.layers import Conv, NormFactory, gaussian, linear, msra, xavier
from detectune.models.targets import Regions
from detectune.ops.boxes import DELTA_CLIP, decode_boxes, encode_boxes
from detectune.ops.losses import BoxLoss, box_regression_loss, generalized_iou_loss, softmax_cross_entropy
from detectune.structures import Targets


class BoxOutput(NamedTuple):
    """What the head says about each region."""

    logits: Tensor  # [R, K]
    deltas: Tensor  # [R, 4 * K], class by class; [R, 4] if class-agnostic


class BoxLearner(nn.Module):
    """What every head that names regions and refines boxes does with its output, whatever made it.

    Args:
        num_classes: K.
        agnostic: one box for all classes.
        box_weights: see `ops.boxes.encode_boxes`.
        box_loss: what boxes learn from.
        beta: of the smooth L1 loss.
        offset: 1 if boxes are inclusive.
        delta_clip: limit of predicted log sides; see `ops.boxes.decode_boxes`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        agnostic: bool = False,
        box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0),
        box_loss: BoxLoss = "smooth_l1",
        beta: float = 0.0,
        offset: float = 0.0,
        delta_clip: float = DELTA_CLIP,
    ) -> None:
        super().__init__()
        self.num_classes, self.agnostic = num_classes, agnostic
        self.box_weights, self.box_loss, self.beta = box_weights, box_loss, beta
        self.offset, self.delta_clip = offset, delta_clip

    def losses(self, out: BoxOutput, regions: Regions, targets: Targets) -> dict[str, Tensor]:
        """loss_cls and loss_bbox, both over the number of regions (told as count_*), and counters."""
        num_valid = regions.valid.sum()
        count = num_valid.clamp(min=1)
        loss_cls = softmax_cross_entropy(out.logits, regions.labels, regions.valid, normalizer=count)
        with torch.no_grad():
            objects = targets.boxes[regions.image_index, regions.gt_index]
            boxes, objects = regions.measured(regions.boxes), regions.measured(objects)
            right = (out.logits.argmax(1) == regions.labels) & regions.valid
            learnt = regions.is_fg if regions.has_box is None else regions.is_fg & regions.has_box
        num_images = targets.labels.shape[0]
        if self.box_loss == "giou":
            moved = self.refine(out.deltas, boxes, regions.labels)
            loss_box = generalized_iou_loss(moved, objects, learnt, offset=self.offset, normalizer=count)
        else:
            wanted = encode_boxes(boxes, objects, weights=self.box_weights, offset=self.offset)
            deltas = self.deltas_of(out.deltas, regions.labels)
            loss_box = box_regression_loss(deltas, wanted, learnt, beta=self.beta, normalizer=count)
        return {
            "loss_cls": loss_cls,
            "loss_bbox": loss_box,
            "count_cls": num_valid,
            "count_bbox": num_valid,
            "count_box_accuracy": num_valid,
            "stat_box_num_fg": regions.is_fg.sum().float() / num_images,
            "stat_box_num_bg": (regions.valid & ~regions.is_fg).sum().float() / num_images,
            "stat_box_accuracy": right.sum().float() / count,
        }  # fmt: skip

    def deltas_of(self, deltas: Tensor, labels: Tensor) -> Tensor:
        """The four deltas of one label per row: [R, 4 * K] (or [R, 4]) and int64 [R] give [R, 4]."""
        if self.agnostic:
            return deltas
        index = labels[:, None, None].expand(-1, 1, 4)
        return deltas.unflatten(1, (-1, 4)).gather(1, index)[:, 0]

    def refine(self, deltas: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Boxes [R, 4] moved as the head wants for one label each."""
        chosen = self.deltas_of(deltas, labels).float()
        return decode_boxes(chosen, boxes, weights=self.box_weights, offset=self.offset, clip=self.delta_clip)


class BoxHead(BoxLearner):
    """`num_convs` 3x3 convolutions and fully connected layers of `fc_dims`, then cls_score and bbox_pred.

    Two layers alone are the perceptron of FPN (Lin 2017) and the head of VGG; four convolutions and a layer are the
    Xconv1fc head (Wu and He 2018; Detectron).

    Args:
        num_classes, agnostic, box_weights, box_loss, beta, offset, delta_clip: see `BoxLearner`.
    """

    def __init__(
        self,
        in_channels: int,
        resolution: int,
        *,
        num_classes: int,
        num_convs: int = 0,
        conv_dim: int = 256,
        norm: NormFactory | None = None,
        fc_dims: Sequence[int] = (1024, 1024),
        agnostic: bool = False,
        box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0),
        box_loss: BoxLoss = "smooth_l1",
        beta: float = 0.0,
        offset: float = 0.0,
        delta_clip: float = DELTA_CLIP,
    ) -> None:
        super().__init__(
            num_classes=num_classes, agnostic=agnostic, box_weights=box_weights, box_loss=box_loss, beta=beta,
            offset=offset, delta_clip=delta_clip,
        )  # fmt: skip
        self.num_convs, self.num_fcs = num_convs, len(fc_dims)
        channels = in_channels
        for i in range(num_convs):
            self.add_module(f"conv{i + 1}", Conv(channels, conv_dim, 3, norm=norm, relu=True, init=msra))
            channels = conv_dim
        features = channels * resolution * resolution
        for i, fc_dim in enumerate(fc_dims):
            self.add_module(f"fc{i + 1}", linear(features, fc_dim, xavier))
            features = fc_dim
        self.cls_score = linear(features, num_classes, gaussian(0.01))
        self.bbox_pred = linear(features, 4 if agnostic else 4 * num_classes, gaussian(0.001))

    def forward(self, x: Tensor) -> BoxOutput:
        """Region features [R, C, M, M]."""
        for i in range(self.num_convs):
            x = self.get_submodule(f"conv{i + 1}")(x)
        x = x.flatten(1)
        for i in range(self.num_fcs):
            x = self.get_submodule(f"fc{i + 1}")(x).relu_()
        return BoxOutput(self.cls_score(x), self.bbox_pred(x))


class StageBoxHead(BoxLearner):
    """The body's last stage, averaged over its cells (ResNet's C4 models: He 2016, appendix A).

    Args:
        stage: region features [R, C, M, M] to [R, C', M', M'].
        channels: C'.
        num_classes, agnostic, box_weights, box_loss, beta, offset, delta_clip: see `BoxLearner`.
    """

    def __init__(
        self,
        stage: nn.Module,
        channels: int,
        *,
        num_classes: int,
        agnostic: bool = False,
        box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0),
        box_loss: BoxLoss = "smooth_l1",
        beta: float = 0.0,
        offset: float = 0.0,
        delta_clip: float = DELTA_CLIP,
    ) -> None:
        super().__init__(
            num_classes=num_classes, agnostic=agnostic, box_weights=box_weights, box_loss=box_loss, beta=beta,
            offset=offset, delta_clip=delta_clip,
        )  # fmt: skip
        self.res5 = stage
        self.cls_score = linear(channels, num_classes, gaussian(0.01))
        self.bbox_pred = linear(channels, 4 if agnostic else 4 * num_classes, gaussian(0.001))

    def forward(self, x: Tensor) -> BoxOutput:
        """Region features [R, C, M, M]."""
        return self.read(self.res5(x))

    def read(self, maps: Tensor) -> BoxOutput:
        """The stage's output [R, C', M', M'], which a mask head may look at too."""
        x = maps.mean((2, 3))
        return BoxOutput(self.cls_score(x), self.bbox_pred(x))
