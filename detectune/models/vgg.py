"""The bodies that came before residual networks: VGG-16 (Simonyan 2015) and VGG_CNN_M_1024 (Chatfield 2014).

Shape legend
    B  images    H, W  pixels of the padded batch

Both end at stride 16, as level 5. Convolutions keep the names of the published weights: conv1_1, ..., conv5.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from detectune.models.layers import Conv, freeze

LEVEL, STRIDE, CHANNELS = 5, 16, 512

VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of the 3x3 convolutions of each stage."""


class Vgg16(nn.Module):
    """Five stages of 3x3 convolutions, with 2x2 max pooling between them.

    The first `freeze_at` stages are frozen and run without gradient (Detectron: 2); `freeze_all` freezes them all.
    """

    def __init__(self, *, freeze_at: int = 2, freeze_all: bool = False) -> None:
        super().__init__()
        self.num_frozen = len(VGG16) if freeze_all else min(freeze_at, len(VGG16))
        in_channels = 3
        for stage, (channels, count) in enumerate(VGG16, start=1):
            for i in range(1, count + 1):
                conv = Conv(in_channels, channels, 3, relu=True)
                self.add_module(f"conv{stage}_{i}", conv)
                in_channels = channels
                if stage <= self.num_frozen:
                    freeze(conv)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Images [B, 3, H, W], normalised, to {5: [B, 512, H / 16, W / 16]}, rounded down."""
        enabled = torch.is_grad_enabled()
        for stage, (_, count) in enumerate(VGG16, start=1):
            with torch.set_grad_enabled(enabled and stage > self.num_frozen):
                if stage > 1:
                    x = F.max_pool2d(x, kernel_size=2, stride=2)
                for i in range(1, count + 1):
                    x = self.get_submodule(f"conv{stage}_{i}")(x)
        return {LEVEL: x}


class VggCnnM1024(nn.Module):
    """Five convolutions; the first two are large, strided and followed by normalisation across channels and pooling.

    `freeze_at` counts strides as in the other bodies: from 2 on (stride 4) conv1 is frozen, as Detectron has it, from 4
    on (stride 16) conv2, from 5 on the others; `freeze_all` freezes them all.
    """

    def __init__(self, *, freeze_at: int = 2, freeze_all: bool = False) -> None:
        super().__init__()
        stage = 5 if freeze_all else freeze_at
        self.num_frozen = 5 if stage >= 5 else 2 if stage >= 4 else 1 if stage >= 2 else 0
        self.conv1 = Conv(3, 96, 7, stride=2, padding=0, relu=True)
        self.conv2 = Conv(96, 256, 5, stride=2, padding=0, relu=True)
        self.conv3 = Conv(256, 512, 3, relu=True)
        self.conv4 = Conv(512, 512, 3, relu=True)
        self.conv5 = Conv(512, 512, 3, relu=True)
        for i in range(1, self.num_frozen + 1):
            freeze(self.get_submodule(f"conv{i}"))

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Images [B, 3, H, W], normalised, to {5: [B, 512, h, w]}: about a sixteenth, less what borders take."""
        enabled = torch.is_grad_enabled()
        for i in range(1, 6):
            with torch.set_grad_enabled(enabled and i > self.num_frozen):
                x = self.get_submodule(f"conv{i}")(x)
                if i <= 2:
                    x = F.local_response_norm(x, size=5, alpha=0.0005, beta=0.75, k=2.0)
                    x = F.max_pool2d(x, kernel_size=3, stride=2)
        return {LEVEL: x}
