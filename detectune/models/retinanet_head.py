"""RetinaNet's head (Lin 2017, section 4): a tower of convolutions for classes, one for boxes, the same on all levels.

Shape legend
    B  images    a  anchors of one cell    A  anchors of all levels of one image
    C  scores per anchor: the foreground classes, with a background in front if they compete (softmax)
    D  boxes per anchor: 1, or one for each foreground class
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectune.models.layers import Conv, NormFactory, gaussian


@dataclass(frozen=True)
class HeadOutputs:
    """What the head says about every anchor; levels from fine to coarse, then row, column, anchor of the cell."""

    logits: Tensor  # [B, A, C]
    deltas: Tensor  # [B, A, D, 4]
    per_level: tuple[int, ...]  # anchors of each level, sum A


class RetinaNetHead(nn.Module):
    """Towers `cls_conv1..n` and `bbox_conv1..n` and the predictors `cls_score` and `bbox_pred`.

    Args:
        channels: of every feature level and of the towers.
        num_anchors: a.
        num_classes: classes, background included.
        num_convs: convolutions of a tower.
        softmax: classes compete, instead of each having a sigmoid of its own.
        class_specific: D is the number of foreground classes.
        shared_tower: boxes are predicted from the class tower.
        prior_prob: probability of an object that fresh weights predict at every anchor (section 4.1).
        norm: of the towers, or None.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_anchors: int,
        num_classes: int,
        num_convs: int = 4,
        softmax: bool = False,
        class_specific: bool = False,
        shared_tower: bool = False,
        prior_prob: float = 0.01,
        norm: NormFactory | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_convs = num_classes, num_convs
        self.softmax, self.shared_tower = softmax, shared_tower
        self.num_scores = num_classes - 1 + softmax
        self.num_boxes = num_classes - 1 if class_specific else 1
        small = gaussian(0.01)
        for tower in ("cls",) if shared_tower else ("cls", "bbox"):
            for i in range(1, num_convs + 1):
                conv = Conv(channels, channels, 3, norm=norm, relu=True, init=small)
                self.add_module(f"{tower}_conv{i}", conv)
        self.cls_score = Conv(channels, num_anchors * self.num_scores, 3, init=small)
        self.bbox_pred = Conv(channels, num_anchors * self.num_boxes * 4, 3, init=small)
        bias = self.cls_score.bias
        assert bias is not None
        with torch.no_grad():
            if softmax:
                odds = (num_classes - 1) * (1 - prior_prob) / prior_prob
                bias.view(num_anchors, self.num_scores)[:, 0] = math.log(odds)
            else:
                bias.fill_(-math.log((1 - prior_prob) / prior_prob))

    def forward(self, features: Mapping[int, Tensor]) -> HeadOutputs:
        """Features {level: [B, channels, H, W]}."""
        logits, deltas, per_level = [], [], []
        for level in sorted(features):
            for_classes = self._tower("cls", features[level])
            for_boxes = for_classes if self.shared_tower else self._tower("bbox", features[level])
            score, delta = self.cls_score(for_classes), self.bbox_pred(for_boxes)
            logits.append(score.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, self.num_scores)))
            deltas.append(delta.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, self.num_boxes, 4)))
            per_level.append(logits[-1].shape[1])
        return HeadOutputs(torch.cat(logits, 1), torch.cat(deltas, 1), tuple(per_level))

    def _tower(self, name: str, x: Tensor) -> Tensor:
        for i in range(1, self.num_convs + 1):
            x = self.get_submodule(f"{name}_conv{i}")(x)
        return x
