"""Deformable convolution (Dai 2017; Zhu 2019): it learns where to look.

Shape legend
    B  images    C  channels    H, W  cells
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torchvision
from torch import Tensor, nn

from detectune.models.layers import Conv, Initializer, NormFactory


class DeformConv(Conv):
    """A 3x3 convolution that samples where a convolution of its own, `offset`, moves each of its nine places, for each
    of `offset_groups` groups of channels (Dai 2017); `modulated`, it weighs the samples too (Zhu 2019).
    """

    ordinary: ClassVar[bool] = False

    def __init__(
        self,
        channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        offset_groups: int = 1,
        modulated: bool = False,
        norm: NormFactory,
        relu: bool = False,
        init: Initializer,
    ) -> None:
        super().__init__(
            channels,
            channels,
            3,
            stride=stride,
            dilation=dilation,
            groups=groups,
            norm=norm,
            relu=relu,
            init=init,
        )
        self.modulated = modulated
        numbers = (3 if modulated else 2) * 9 * offset_groups
        self.offset = Conv(channels, numbers, 3, stride=stride, dilation=dilation, init=nn.init.zeros_)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """In float32 at least, which the kernel needs."""
        moves = self.offset(x)
        mask = None
        if self.modulated:
            places = moves.shape[1] // 3
            moves, mask = moves[:, : 2 * places], moves[:, 2 * places :].sigmoid()
        dtype = torch.promote_types(x.dtype, torch.float32)
        out: Tensor = torchvision.ops.deform_conv2d(
            x.to(dtype), moves.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype),
            stride=self.stride, padding=self.padding, dilation=self.dilation,
            mask=None if mask is None else mask.to(dtype),
        )  # fmt: skip
        return out.to(x.dtype)
