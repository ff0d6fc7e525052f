"""From the configuration to a body: a residual network with or without pyramid, or one of the VGGs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from torch import nn

from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.models import vgg
from detectune.models.build_parts import build_body_norm, build_part_norm, unsupported
from detectune.models.fpn import ExtraLevels, Fpn
from detectune.models.layers import Initializer, NormFactory, msra, xavier
from detectune.models.resnet import DEPTHS, Deform, ResNet, Widths, body_channels, make_stage
from detectune.models.timm_body import TimmBody, level_channels, load_features

Pyramid = Literal["none", "all levels", "finest level"]


TIMM = "timm/"  # before the name of a model of timm


class Body(NamedTuple):
    """A network from images to features by level, and what those look like."""

    module: nn.Module  # normalised images [B, 3, H, W] to {level: features}
    channels: Mapping[int, int]
    strides: Mapping[int, int]  # image pixels per cell


class ResNetKind(NamedTuple):
    """Which residual network a name stands for."""

    depth: int
    last_stage: int = 5
    pyramid: Pyramid = "none"


RESNETS: dict[str, ResNetKind] = (
    {f"FPN.add_fpn_ResNet{d}_conv5_body": ResNetKind(d, 5, "all levels") for d in DEPTHS}
    | {f"FPN.add_fpn_ResNet{d}_conv5_P2only_body": ResNetKind(d, 5, "finest level") for d in (50, 101, 152)}
    | {f"ResNet.add_ResNet{d}_conv4_body": ResNetKind(d, 4) for d in DEPTHS}
    | {f"ResNet.add_ResNet{d}_conv5_body": ResNetKind(d, 5) for d in DEPTHS}
)

VGGS: dict[str, type[vgg.Vgg16] | type[vgg.VggCnnM1024]] = {
    "VGG16.add_VGG16_conv5_body": vgg.Vgg16,
    "VGG_CNN_M_1024.add_VGG_CNN_M_1024_conv5_body": vgg.VggCnnM1024,
}


def build_body(config: Config, *, levels: tuple[int, int] | None = None) -> Body:
    """MODEL.CONV_BODY. `levels`, the finest and the coarsest, say which part of a full pyramid is needed."""
    name, train = config.MODEL.CONV_BODY, config.TRAIN
    if name in VGGS:
        plain = VGGS[name](freeze_at=train.FREEZE_AT, freeze_all=train.FREEZE_CONV_BODY)
        return Body(plain, {vgg.LEVEL: vgg.CHANNELS}, {vgg.LEVEL: vgg.STRIDE})
    if name.startswith(TIMM):
        features = load_features(name.removeprefix(TIMM))
        pyramid_of_timm = _pyramid(config, level_channels(features), levels)
        timm_body = TimmBody(
            features, freeze_at=train.FREEZE_AT, freeze_all=train.FREEZE_CONV_BODY, fpn=pyramid_of_timm
        )
        return _with_pyramid(timm_body, pyramid_of_timm)
    if name not in RESNETS:
        raise unsupported("MODEL.CONV_BODY", name, [*RESNETS, *VGGS, f"{TIMM}NAME"])
    depth, last_stage, pyramid = RESNETS[name]
    resnet = config.RESNETS
    norm, init = _norm_and_init(config)
    fpn = None
    if pyramid != "none":
        channels = body_channels(depth, _widths(config))
        fpn = _pyramid(config, channels, levels if pyramid == "all levels" else (2, 2))
    module = ResNet(
        depth,
        norm=norm,
        widths=_widths(config),
        stride_1x1=resnet.STRIDE_1X1,
        deform=_deform(config),
        res5_dilation=resnet.RES5_DILATION,
        last_stage=last_stage,
        freeze_at=train.FREEZE_AT,
        freeze_all=train.FREEZE_CONV_BODY,
        init=init,
        fpn=fpn,
    )
    if fpn is not None:
        return _with_pyramid(module, fpn)
    return Body(module, {last_stage: module.channels[last_stage]}, {last_stage: module.strides[last_stage]})


def has_levels(config: Config) -> bool:
    """Whether the body has a pyramid of several levels."""
    if config.MODEL.CONV_BODY.startswith(TIMM):
        return True
    kind = RESNETS.get(config.MODEL.CONV_BODY)
    return kind is not None and kind.pyramid == "all levels"


class LastStage(NamedTuple):
    """The fifth stage as a head on regions."""

    depth: int
    channels: int
    stride: int
    side: int  # cells of its output


def last_stage(config: Config, *, resolution: int, dilation: int = 1) -> LastStage:
    """What the fifth stage makes of regions of `resolution` cells: about 7 are left; dilated, it keeps them all."""
    kind = RESNETS.get(config.MODEL.CONV_BODY)
    if kind is None:
        raise UserError(
            f"A head made of a ResNet's fifth stage needs a ResNet, but MODEL.CONV_BODY {config.MODEL.CONV_BODY} is no "
            "ResNet; take one or another head."
        )
    stride = 1 if dilation > 1 else max(1, resolution // 7)
    channels = body_channels(kind.depth, _widths(config))[5]
    return LastStage(kind.depth, channels, stride, -(-resolution // stride))


def build_last_stage(config: Config, in_channels: int, *, resolution: int, dilation: int = 1) -> nn.Module:
    """The module of `last_stage`."""
    norm, init = _norm_and_init(config)
    stage = last_stage(config, resolution=resolution, dilation=dilation)
    return make_stage(
        stage.depth, 5, in_channels, _widths(config), stride=stage.stride, dilation=dilation,
        stride_1x1=config.RESNETS.STRIDE_1X1, deform=_deform(config), norm=norm, init=init,
    )  # fmt: skip


def _norm_and_init(config: Config) -> tuple[NormFactory, Initializer]:
    kind, norm = build_body_norm(config)
    init: Initializer = xavier if kind == "frozen" else msra
    return norm, init


def _deform(config: Config) -> Deform | None:
    resnet = config.RESNETS
    if not any(resnet.DEFORM_ON_PER_STAGE):
        return None
    return Deform(resnet.DEFORM_ON_PER_STAGE, resnet.DEFORM_MODULATED, resnet.DEFORM_NUM_GROUPS)


def _widths(config: Config) -> Widths:
    resnet = config.RESNETS
    return Widths(
        groups=resnet.NUM_GROUPS, width_per_group=resnet.WIDTH_PER_GROUP, multiplier=resnet.WIDTH_MULTIPLIER
    )


def _with_pyramid(module: nn.Module, fpn: Fpn) -> Body:
    return Body(module, dict.fromkeys(fpn.levels, fpn.dim), fpn.strides)


def _pyramid(config: Config, channels: Mapping[int, int], levels: tuple[int, int] | None) -> Fpn:
    pyramid = config.FPN
    finest, coarsest = levels or (2, 5)
    extra: ExtraLevels = "subsample"
    if pyramid.EXTRA_CONV_LEVELS:
        extra = "convs" if pyramid.EXTRA_CONVS_FROM == "body" else "pyramid_convs"
    return Fpn(
        channels,
        dim=pyramid.DIM,
        min_level=finest,
        max_level=coarsest,
        norm=build_part_norm(config, "pyramid"),
        zero_init_lateral=pyramid.ZERO_INIT_LATERAL,
        extra=extra,
    )
