"""Feature pyramid (FPN, Lin 2017): a top-down path with lateral connections.

Shape legend
    B  images    D  channels of the pyramid    H, W  pixels of the padded batch
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from detectune.models.layers import Conv, NormFactory, xavier

ExtraLevels = Literal["subsample", "convs", "pyramid_convs"]


class Fpn(nn.Module):
    """Levels min_level..max_level of D channels from the body's stages.

    Args:
        in_channels: channels of each stage of the body, up to its last.
        dim: D.
        min_level, max_level: levels returned. Those above the body's last stage are extra: `subsample` takes every
            second cell of the level below (P6 of the RPN), `convs` puts 3x3 convolutions of stride 2 on the body's last
            stage and, behind a ReLU, on one another (RetinaNet), `pyramid_convs` begins with the pyramid's last level.
        norm: norm of all lateral and output convolutions, or None.
        zero_init_lateral: start with laterals that add nothing.
    """

    def __init__(
        self,
        in_channels: Mapping[int, int],
        *,
        dim: int,
        min_level: int,
        max_level: int,
        norm: NormFactory | None = None,
        zero_init_lateral: bool = False,
        extra: ExtraLevels = "subsample",
    ) -> None:
        super().__init__()
        self.last_stage = max(in_channels)
        self.levels = tuple(range(min_level, max_level + 1))
        self.strides = {level: 2**level for level in self.levels}
        self.dim = dim
        self.extra: ExtraLevels = extra
        for stage in range(min_level, self.last_stage + 1):
            top = stage == self.last_stage
            init = nn.init.zeros_ if zero_init_lateral and not top else xavier
            self.add_module(f"lateral{stage}", Conv(in_channels[stage], dim, 1, norm=norm, init=init))
            if stage <= max_level:
                self.add_module(f"output{stage}", Conv(dim, dim, 3, norm=norm, init=xavier))
        if extra != "subsample":
            channels = in_channels[self.last_stage] if extra == "convs" else dim
            for level in range(self.last_stage + 1, max_level + 1):
                self.add_module(f"extra{level}", Conv(channels, dim, 3, stride=2, init=xavier))
                channels = dim

    def forward(self, body: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """{stage: [B, C, H / stride, W / stride]} to {level: [B, D, H / 2^level, W / 2^level]}."""
        out: dict[int, Tensor] = {}
        inner = None
        for stage in range(self.last_stage, self.levels[0] - 1, -1):
            coarser = None
            if inner is not None:
                coarser = F.interpolate(inner, size=body[stage].shape[-2:], mode="nearest")
            inner = self.get_submodule(f"lateral{stage}")(body[stage], coarser)
            if stage <= self.levels[-1]:
                out[stage] = self.get_submodule(f"output{stage}")(inner)
        top = (
            body[self.last_stage]
            if self.extra == "convs"
            else out.get(self.last_stage, body[self.last_stage])
        )
        for level in range(self.last_stage + 1, self.levels[-1] + 1):
            if self.extra == "subsample":
                out[level] = out[level - 1][..., ::2, ::2]
            else:
                top = self.get_submodule(f"extra{level}")(top if level == self.last_stage + 1 else top.relu())
                out[level] = top
        return {level: out[level] for level in self.levels}
