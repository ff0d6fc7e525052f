"""Losses over padded rows: every one takes a validity mask and the number to divide by.

Shape legend
    ...  any leading dimensions (images, rows)    K  classes, background included    R  rois    M  side of a mask

The normaliser always comes from the caller, because systems differ in what they count; each function returns the sum
over valid rows divided by it. Values in invalid rows, infinities and NaN of the targets included, change neither the
loss nor a gradient. Computed in float32 or better.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from detectune.ops.boxes import box_area

BoxLoss = Literal["smooth_l1", "giou"]


def smooth_l1(pred: Tensor, target: Tensor, beta: float) -> Tensor:
    """Elementwise loss: d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, with d = pred - target.

    Fast R-CNN (Girshick 2015, eq. 3) has beta = 1, the RPN of Detectron beta = 1/9; beta = 0 is the absolute error.
    """
    distance = (_at_least_float32(pred) - target).abs()
    if beta <= 0:
        return distance
    return torch.where(distance < beta, 0.5 / beta * distance * distance, distance - 0.5 * beta)


def box_regression_loss(
    pred: Tensor, target: Tensor, valid: Tensor, *, beta: float, normalizer: Tensor | float
) -> Tensor:
    """Smooth L1 of deltas [..., 4], summed over the four and over valid rows (bool [...]), over the normaliser."""
    mask = valid[..., None]
    pred = _at_least_float32(pred).where(mask, 0.0)
    target = target.where(mask, 0.0)
    return smooth_l1(pred, target, beta).sum() / normalizer


def generalized_iou_loss(
    pred: Tensor, target: Tensor, valid: Tensor, *, offset: float = 0.0, normalizer: Tensor | float
) -> Tensor:
    """1 - GIoU (Rezatofighi 2019) of boxes [..., 4], summed over valid rows (bool [...]), over the normaliser.

    GIoU is the overlap less the part of the smallest box around both that neither covers.
    """
    return (1 - generalized_iou(pred, target, valid, offset=offset)).where(valid, 0.0).sum() / normalizer


def generalized_iou(pred: Tensor, target: Tensor, valid: Tensor, *, offset: float = 0.0) -> Tensor:
    """GIoU [...] in -1..1 of boxes [..., 4], row by row; 1 in rows that are not valid."""
    mask = valid[..., None]
    unit = target.new_tensor((0.0, 0.0, 1.0, 1.0))  # stands for rows that do not count
    pred = _at_least_float32(pred).where(mask, unit)
    target = target.where(mask, unit)
    both = (
        torch.minimum(pred[..., 2:], target[..., 2:]) - torch.maximum(pred[..., :2], target[..., :2]) + offset
    )
    around = (
        torch.maximum(pred[..., 2:], target[..., 2:]) - torch.minimum(pred[..., :2], target[..., :2]) + offset
    )
    inter = both.clamp(min=0).prod(-1)
    union = box_area(pred, offset=offset) + box_area(target, offset=offset) - inter
    hull = around.prod(-1)
    return inter / (union + _NO_DIVISION_BY_ZERO) - (hull - union) / (hull + _NO_DIVISION_BY_ZERO)


def softmax_cross_entropy(
    logits: Tensor, labels: Tensor, valid: Tensor, *, normalizer: Tensor | float
) -> Tensor:
    """Cross entropy of logits [..., K] against labels [...] in 0..K-1, summed over valid rows, over the normaliser."""
    labels = labels.where(valid, _NO_LABEL)
    flat = _at_least_float32(logits).reshape(-1, logits.shape[-1])
    total = F.cross_entropy(flat, labels.reshape(-1), ignore_index=_NO_LABEL, reduction="sum")
    return total / normalizer


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, valid: Tensor, *, normalizer: Tensor | float
) -> Tensor:
    """Sigmoid cross entropy of logits [...] against targets [...] in 0..1, over valid elements, over the normaliser."""
    logits = _at_least_float32(logits).where(valid, 0.0)
    loss = F.binary_cross_entropy_with_logits(
        logits, targets.to(logits.dtype).where(valid, 0.0), reduction="none"
    )
    return loss.where(valid, 0.0).sum() / normalizer


def mask_bce(
    logits: Tensor, channel: Tensor, targets: Tensor, valid: Tensor, *, normalizer: Tensor | float
) -> Tensor:
    """Mask R-CNN's loss (He 2017, 3): per-pixel sigmoid cross entropy of one channel of each roi's mask.

    Args:
        logits: [R, C, M, M].
        channel: int64 [R], the class channel to compare (0 for class-agnostic masks).
        targets: bool or float [R, M, M].
        valid: bool [R].
        normalizer: usually the number of valid rois; the mean is taken over the pixels of a mask.
    """
    chosen = select_channel(logits, channel)  # [R, M, M]
    pixels = logits.shape[-2] * logits.shape[-1]
    mask = valid[:, None, None].expand_as(chosen)
    return binary_cross_entropy(chosen, targets, mask, normalizer=normalizer) / pixels


def sigmoid_focal(logits: Tensor, positive: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Elementwise, RetinaNet's loss (Lin 2017, eq. 5): sigmoid cross entropy times alpha_t (1 - p_t)^gamma.

    Logits [...] and positive, bool [...]; alpha weighs the positives and 1 - alpha the negatives. Finite for every
    finite logit and gamma, gradient included, because 1 - p_t enters as a logarithm.
    """
    z = _at_least_float32(logits)
    z = torch.where(positive, z, -z)  # p_t = sigmoid(z)
    weight = torch.where(positive, alpha, 1 - alpha)
    return weight * torch.exp(-gamma * F.softplus(z)) * F.softplus(-z)


def softmax_focal(logits: Tensor, labels: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """The focal loss of competing classes: logits [..., K] and labels int64 [...] in 0..K-1 give losses [...].

    alpha weighs the foreground and 1 - alpha the background, class 0.
    """
    log_p = F.log_softmax(_at_least_float32(logits), dim=-1).gather(-1, labels[..., None])[..., 0]
    wrong = -torch.expm1(log_p)  # 1 - p_t
    weight = torch.where(labels > 0, alpha, 1 - alpha)
    return -weight * wrong.clamp(min=_TINY) ** gamma * log_p


def select_channel(maps: Tensor, channel: Tensor) -> Tensor:
    """Channel channel[r] of each map r: [R, C, M, M] and int64 [R] give [R, M, M]."""
    index = channel[:, None, None, None].expand(-1, 1, *maps.shape[2:])
    return maps.gather(1, index)[:, 0]


_NO_LABEL = -100
_NO_DIVISION_BY_ZERO = 1e-7
_TINY = 1e-12  # keeps the gradient of x^gamma finite at 0


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
