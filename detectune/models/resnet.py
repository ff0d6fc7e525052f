"""ResNet (He 2016) and ResNeXt (Xie 2017) as Detectron builds them: stem, res2..res5, optionally a pyramid on top.

Shape legend
    B  images    C  channels    H, W  pixels of the padded batch

Stage s has stride 2^s (res5 keeps 16 when dilated). `forward` returns {level: [B, C, H / stride, W / stride]}.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from detectune.models.deform_conv import DeformConv
from detectune.models.fpn import Fpn
from detectune.models.layers import Conv, Initializer, NormFactory, freeze, msra, xavier


class Widths(NamedTuple):
    """Channels of the body before WIDTH_MULTIPLIER."""

    stem: int = 64
    groups: int = 1
    width_per_group: int = 64
    multiplier: float = 1.0

    def scaled(self, channels: int) -> int:
        """`channels` times the multiplier, kept a multiple of 8 and of the groups."""
        unit = max(8, self.groups)
        return (
            channels if self.multiplier == 1.0 else max(unit, round(channels * self.multiplier / unit) * unit)
        )


PLAIN_WIDTHS = Widths()


class Deform(NamedTuple):
    """Which stages have deformable 3x3 convolutions, and of what kind; see `DeformConv`."""

    stages: tuple[bool, ...]  # res2..res5
    modulated: bool = False
    groups: int = 1


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (ResNet 18 and 34)."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        inner: int,
        *,
        stride: int,
        dilation: int,
        groups: int,
        stride_1x1: bool,
        deform: Deform | None,
        norm: NormFactory,
        init: Initializer,
    ) -> None:
        super().__init__()
        if deform is not None:
            raise ValueError("only bottlenecks have deformable convolutions")
        del inner, groups, stride_1x1
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm, init)
        self.conv1 = Conv(
            in_channels, out_channels, 3, stride=stride, dilation=dilation, norm=norm, relu=True, init=init
        )
        self.conv2 = Conv(out_channels, out_channels, 3, dilation=dilation, norm=norm, relu=True, init=init)

    def forward(self, x: Tensor) -> Tensor:
        # x may be overwritten: nothing else reads the output of a block that another block of the stage follows
        return self.conv2(self.conv1(x), x if self.shortcut is None else self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 around a shortcut; `stride_1x1` puts the stride on the first 1x1 (the original) or on the 3x3."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        inner: int,
        *,
        stride: int,
        dilation: int,
        groups: int,
        stride_1x1: bool,
        deform: Deform | None,
        norm: NormFactory,
        init: Initializer,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_1x1 else (1, stride)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm, init)
        self.conv1 = Conv(in_channels, inner, 1, stride=first, norm=norm, relu=True, init=init)
        self.conv2: Conv
        if deform is None:
            self.conv2 = Conv(
                inner,
                inner,
                3,
                stride=second,
                dilation=dilation,
                groups=groups,
                norm=norm,
                relu=True,
                init=init,
            )
        else:
            self.conv2 = DeformConv(
                inner, stride=second, dilation=dilation, groups=groups, offset_groups=deform.groups,
                modulated=deform.modulated, norm=norm, relu=True, init=init,
            )  # fmt: skip
        self.conv3 = Conv(inner, out_channels, 1, norm=norm, relu=True, init=init)

    def forward(self, x: Tensor) -> Tensor:
        # x may be overwritten: nothing else reads the output of a block that another block of the stage follows
        return self.conv3(self.conv2(self.conv1(x)), x if self.shortcut is None else self.shortcut(x))


DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
"""depth -> (block, blocks of res2..res5)"""


class Stem(nn.Module):
    """7x7 convolution with stride 2, then 3x3 max pooling with stride 2."""

    def __init__(self, out_channels: int, norm: NormFactory, init: Initializer) -> None:
        super().__init__()
        self.conv1 = Conv(3, out_channels, 7, stride=2, norm=norm, relu=True, init=init)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1)


class ResNet(nn.Module):
    """The body, cut after `last_stage`, and the pyramid `fpn` if there is one.

    Stages up to `freeze_at` (1 the stem, 2 res2, ..., 0 none) are frozen and run without gradient; `freeze_all` freezes
    the pyramid too.
    """

    channels: dict[int, int]
    strides: dict[int, int]

    def __init__(
        self,
        depth: int,
        *,
        norm: NormFactory,
        widths: Widths = PLAIN_WIDTHS,
        stride_1x1: bool = True,
        deform: Deform | None = None,
        res5_dilation: int = 1,
        last_stage: int = 5,
        freeze_at: int = 2,
        freeze_all: bool = False,
        init: Initializer = xavier,
        fpn: Fpn | None = None,
    ) -> None:
        super().__init__()
        self.stem = Stem(widths.scaled(widths.stem), norm, init)
        self.channels = body_channels(depth, widths)
        self.strides = {2: 4, 3: 8, 4: 16, 5: 32}
        if res5_dilation > 1:
            self.strides[5] = 16
        in_channels = widths.scaled(widths.stem)
        for stage in range(2, last_stage + 1):
            dilation = res5_dilation if stage == 5 else 1
            stride = 1 if stage == 2 or dilation > 1 else 2
            layer = make_stage(
                depth, stage, in_channels, widths, stride=stride, dilation=dilation,
                stride_1x1=stride_1x1, deform=deform, norm=norm, init=init,
            )  # fmt: skip
            self.add_module(f"res{stage}", layer)
            in_channels = self.channels[stage]
        self.stages = tuple(range(2, last_stage + 1))
        self.fpn = fpn
        self.freeze_at, self.freeze_all = freeze_at, freeze_all
        if freeze_all:
            freeze(self)
        else:
            for stage in range(1, min(freeze_at, last_stage) + 1):
                freeze(self.stem if stage == 1 else self.get_submodule(f"res{stage}"))

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Images [B, 3, H, W], normalised, to the features of every level."""
        enabled = torch.is_grad_enabled()
        features: dict[int, Tensor] = {}
        with torch.set_grad_enabled(enabled and self._trained(1)):
            x = self.stem(x)
        for stage in self.stages:
            with torch.set_grad_enabled(enabled and self._trained(stage)):
                x = self.get_submodule(f"res{stage}")(x)
            features[stage] = x
        if self.fpn is None:
            return {self.stages[-1]: x}
        with torch.set_grad_enabled(enabled and not self.freeze_all):
            return self.fpn(features)

    def _trained(self, stage: int) -> bool:
        return not self.freeze_all and stage > self.freeze_at


def body_channels(depth: int, widths: Widths = PLAIN_WIDTHS) -> dict[int, int]:
    """Output channels of res2..res5."""
    block, _ = DEPTHS[depth]
    base = 64 * block.expansion
    return {stage: widths.scaled(base * 2 ** (stage - 2)) for stage in range(2, 6)}


def make_stage(
    depth: int,
    stage: int,
    in_channels: int,
    widths: Widths,
    *,
    stride: int,
    dilation: int,
    stride_1x1: bool,
    deform: Deform | None = None,
    norm: NormFactory,
    init: Initializer = msra,
) -> nn.Sequential:
    """The blocks of one stage; the first one has the stride."""
    block, counts = DEPTHS[depth]
    out_channels = body_channels(depth, widths)[stage]
    inner = widths.scaled(widths.groups * widths.width_per_group * 2 ** (stage - 2))
    blocks = []
    for i in range(counts[stage - 2]):
        blocks.append(
            block(
                in_channels, out_channels, inner, stride=stride if i == 0 else 1, dilation=dilation,
                groups=widths.groups, stride_1x1=stride_1x1, norm=norm, init=init,
                deform=deform if deform is not None and deform.stages[stage - 2] else None,
            )
        )  # fmt: skip
        in_channels = out_channels
    return nn.Sequential(*blocks)


def _shortcut(
    in_channels: int, out_channels: int, stride: int, norm: NormFactory, init: Initializer
) -> Conv | None:
    if in_channels == out_channels and stride == 1:
        return None
    return Conv(in_channels, out_channels, 1, stride=stride, norm=norm, init=init)
