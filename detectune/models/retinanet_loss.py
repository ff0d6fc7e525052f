"""What RetinaNet's anchors are to say, and how wrong they are (Lin 2017, sections 3 and 4).

Shape legend
    B  images    A  anchors per image
    C  scores per anchor (see `retinanet_head`)  D  boxes per anchor: 1, or one for each foreground class

All anchors count, in images and in their padding. Shapes are static and nothing waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detectune.models.targets import covered_by_crowd, rows_of
from detectune.ops.boxes import DELTA_CLIP, decode_boxes, encode_boxes
from detectune.ops.losses import BoxLoss, generalized_iou, sigmoid_focal, smooth_l1, softmax_focal
from detectune.ops.matching import BACKGROUND, FOREGROUND, match_anchors
from detectune.structures import Targets

Normalizer = Literal["plus_one", "moving_average", "per_image"]
"""What both losses are divided by: foreground anchors of the batch, one more for each image (Detectron); a moving
average of the batch's foreground anchors (detectron2); each image's own number, then the mean (torchvision)."""

UNIT_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class FocalRule:
    """Which anchors learn what, and the numbers of the two losses."""

    positive_overlap: float = 0.5
    negative_overlap: float = 0.4
    alpha: float = 0.25
    gamma: float = 2.0
    box_loss: BoxLoss = "smooth_l1"
    beta: float = 0.11  # of the smooth L1 loss; 0: absolute error
    box_weight: float = 1.0
    softmax: bool = False
    promoted_as_background: bool = (
        False  # an object's best anchor below negative_overlap learns its box, not its class
    )
    crowd_overlap: float = 1.0  # anchors covered by a crowd beyond this are no background; 1: all may be
    normalizer: Normalizer = "plus_one"
    offset: float = 0.0
    delta_clip: float = DELTA_CLIP  # limit of predicted log sides; see `ops.boxes.decode_boxes`


@dataclass(frozen=True)
class AnchorTargets:
    """What each anchor is to learn."""

    label: Tensor  # int64 [B, A]: the class, 0 background
    has_class: Tensor  # bool [B, A]: counts in the class loss
    has_box: Tensor  # bool [B, A]: counts in the box loss and in the normaliser
    deltas: Tensor  # float32 [B, A, 4]: the way to that object's box
    anchors: Tensor | None = None  # float32 [A, 4]; with `objects`, for losses of boxes rather than of deltas
    objects: Tensor | None = None  # float32 [B, A, 4]: that object's box


@torch.no_grad()
def label_anchors(anchors: Tensor, targets: Targets, rule: FocalRule) -> AnchorTargets:
    """Targets for anchors [A, 4] shared by all images; `targets` with at least one row."""
    matches = match_anchors(
        targets.boxes, targets.valid & ~targets.is_crowd, anchors,
        high=rule.positive_overlap, low=rule.negative_overlap, allow_low_quality=True, offset=rule.offset,
    )  # fmt: skip
    has_box = matches.label == FOREGROUND
    is_fg, is_bg = has_box, matches.label == BACKGROUND
    if rule.promoted_as_background:
        is_bg = matches.iou < rule.negative_overlap
        is_fg = has_box & ~is_bg
    if rule.crowd_overlap < 1.0:
        is_bg = is_bg & ~covered_by_crowd(anchors, targets, rule.crowd_overlap, offset=rule.offset)
    label = targets.labels.gather(1, matches.index).where(is_fg, 0)
    objects = rows_of(targets.boxes, matches.index)
    deltas = encode_boxes(anchors, objects, weights=UNIT_WEIGHTS, offset=rule.offset)
    return AnchorTargets(label, is_fg | is_bg, has_box, deltas, anchors, objects)


def class_loss(logits: Tensor, wanted: AnchorTargets, rule: FocalRule) -> Tensor:
    """Focal loss of logits [B, A, C], summed per image: float32 [B]."""
    if rule.softmax:
        loss = softmax_focal(logits, wanted.label, alpha=rule.alpha, gamma=rule.gamma)  # [B, A]
    else:
        classes = torch.arange(1, logits.shape[-1] + 1, device=logits.device)
        positive = wanted.label[..., None] == classes  # [B, A, C]
        loss = sigmoid_focal(logits, positive, alpha=rule.alpha, gamma=rule.gamma).sum(-1)
    return loss.where(wanted.has_class, 0.0).sum(1)


def box_loss(deltas: Tensor, wanted: AnchorTargets, rule: FocalRule) -> Tensor:
    """Loss of deltas [B, A, D, 4], summed per image: float32 [B].

    Where each class has its own box, an anchor that learns no class learns no box (as in Detectron).
    """
    has_box = wanted.has_box
    if deltas.shape[2] == 1:
        chosen = deltas[:, :, 0]
    else:
        has_box = has_box & (wanted.label > 0)
        index = (wanted.label - 1).clamp(min=0)
        chosen = deltas.gather(2, index[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
    if rule.box_loss == "giou":
        assert wanted.anchors is not None and wanted.objects is not None
        moved = decode_boxes(
            chosen.float(), wanted.anchors, weights=UNIT_WEIGHTS, offset=rule.offset, clip=rule.delta_clip
        )
        loss = 1 - generalized_iou(moved, wanted.objects, has_box, offset=rule.offset)
    else:
        target = wanted.deltas.where(has_box[..., None], 0.0)
        loss = smooth_l1(chosen, target, rule.beta).sum(-1)
    return rule.box_weight * loss.where(has_box, 0.0).sum(1)


def counted(num_fg: Tensor, normalizer: Normalizer) -> Tensor | None:
    """The count over the batch that both losses are divided by, if they are divided by one of the images at hand.

    `num_fg`: float32 [B], the foreground anchors of each image.
    """
    return (num_fg + 1).sum() if normalizer == "plus_one" else None


def normalized(per_image: Tensor, num_fg: Tensor, normalizer: Normalizer, average: Tensor | None) -> Tensor:
    """Sums per image [B] to one loss, given the foreground anchors of each image (float32 [B]) and their average."""
    count = counted(num_fg, normalizer)
    if count is not None:
        return per_image.sum() / count
    if normalizer == "per_image":
        return (per_image / num_fg.clamp(min=1)).mean()
    assert average is not None
    return per_image.sum() / average
