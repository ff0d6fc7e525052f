"""What several views of one image say about the same objects, made one.

Shape legend
    V  views    N  objects    ...  a score, a box, a mask, heat maps: any dimensions
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Merge = Literal["mean", "max", "logit_mean"]

_TINY_PROBABILITY = 1e-20


def merge_views(values: Tensor, used: Tensor, how: Merge) -> Tensor:
    """Values [V, N, ...] to [N, ...], each object over the views that `used` bool [V, N] allows it (at least one).

    `logit_mean` takes probabilities and averages their logits.
    """
    allowed = used.view(*used.shape, *[1] * (values.dim() - 2))
    if how == "max":
        return values.masked_fill(~allowed, -torch.inf).amax(0)
    if how == "mean":
        return values.masked_fill(~allowed, 0).sum(0) / allowed.sum(0)
    logits = torch.log(values.clamp(min=_TINY_PROBABILITY)) - torch.log1p(-values.clamp(max=_ALMOST_ONE))
    return torch.sigmoid(merge_views(logits, used, "mean"))


def views_for_size(areas: Tensor, enlarged: Tensor, reduced: Tensor, *, low: float, high: float) -> Tensor:
    """Which objects count in which view, bool [V, N]: small ones not in reduced views, large ones not in enlarged ones.

    Args:
        areas: [N], of the objects in the original image.
        enlarged, reduced: bool [V], against the image at the test scale.
        low, high: below `low` an object is small enough for enlarged views, from `high` on large enough for reduced
            ones; in between it counts only in views at the test scale.
    """
    wrong = (enlarged[:, None] & (areas >= low)) | (reduced[:, None] & (areas < high))
    return ~wrong


_ALMOST_ONE = 1 - 2.0**-24  # the largest float32 below one: keeps the logit of a certain pixel finite
