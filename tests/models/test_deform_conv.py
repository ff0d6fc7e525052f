"""Deformable convolutions: sampled one by one, and where a detector has them."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from detectune.config.load import load_config
from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.models.build import build_detector
from detectune.models.build_program import build_program
from detectune.models.deform_conv import DeformConv
from detectune.models.layers import Conv, frozen_affine, fuse_for_inference, msra
from detectune.ops.class_nms import spread_class_nms
from detectune.weights.detectron2 import from_detectron2, to_detectron2


def sampled(plane: Tensor, y: float, x: float) -> float:
    """Bilinear, zero outside."""
    total = 0.0
    for row, column in product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * float(plane[row, column])
    return total


def slow(x: Tensor, conv: DeformConv, offset_groups: int) -> Tensor:
    moves = conv.offset(x)
    stride, dilation = conv.stride[0], conv.dilation[0]
    height, width = moves.shape[-2:]
    out = torch.zeros(len(x), conv.out_channels, height, width)
    per_group, per_offset = conv.in_channels // conv.groups, conv.in_channels // offset_groups
    for b, o, row, column in product(range(len(x)), range(conv.out_channels), range(height), range(width)):
        first = o // (conv.out_channels // conv.groups) * per_group
        for i, tap in product(range(per_group), range(9)):
            channel = first + i
            place = channel // per_offset * 9 + tap
            y = row * stride - dilation + tap // 3 * dilation + float(moves[b, 2 * place, row, column])
            z = column * stride - dilation + tap % 3 * dilation + float(moves[b, 2 * place + 1, row, column])
            value = sampled(x[b, channel], y, z) * float(conv.weight[o, i, tap // 3, tap % 3])
            if conv.modulated:
                value *= float(moves[b, 18 * offset_groups + place, row, column].sigmoid())
            out[b, o, row, column] += value
    return out


@pytest.mark.parametrize(
    ("stride", "dilation", "groups", "offset_groups", "modulated"),
    [(1, 1, 1, 1, False), (2, 1, 2, 2, True), (1, 2, 1, 2, False)],
)
@torch.no_grad()
def test_every_place_is_sampled_where_its_offset_says(
    stride: int, dilation: int, groups: int, offset_groups: int, modulated: bool
) -> None:
    torch.manual_seed(0)
    conv = DeformConv(
        4, stride=stride, dilation=dilation, groups=groups, offset_groups=offset_groups, modulated=modulated,
        norm=frozen_affine, init=msra,
    )  # fmt: skip
    x = torch.randn(1, 4, 5, 6)
    plain = Conv(4, 4, 3, stride=stride, dilation=dilation, groups=groups, norm=frozen_affine)
    plain.weight.copy_(conv.weight)
    torch.testing.assert_close(
        conv(x), plain(x) * (0.5 if modulated else 1.0)
    )  # untrained, it looks straight ahead
    conv.offset.weight.normal_(std=0.3)
    conv.offset.bias.uniform_(-2, 2)
    torch.testing.assert_close(conv(x), slow(x, conv, offset_groups), atol=1e-4, rtol=1e-4)


SMALL = {
    "RESNETS.WIDTH_MULTIPLIER": 0.125, "FPN.DIM": 16, "FAST_RCNN.MLP_HEAD_DIM": 8, "MRCNN.DIM_REDUCED": 8,
    "MODEL.NUM_CLASSES": 4, "MODEL.DEVICE": "cpu",
}  # fmt: skip


def config_of() -> Config:
    return load_config("Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5").with_overrides(SMALL)


@torch.no_grad()
def test_a_model_of_detectron2s_zoo_has_them_on_three_stages() -> None:
    torch.manual_seed(0)
    model = build_detector(config_of()).eval()
    assert config_of().notices == ()
    state = {n: v for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    theirs = to_detectron2(state)
    offsets = {n for n in theirs if "conv2_offset" in n}
    assert len(offsets) == 2 * (4 + 6 + 3) and not any(".res2." in n for n in offsets)
    assert theirs["backbone.bottom_up.res3.0.conv2_offset.weight"].shape == (18, 16, 3, 3)
    back = from_detectron2(theirs)
    assert back.keys() == state.keys()
    for name, parameter in model.named_parameters():
        if ".offset." in name:
            parameter.normal_(std=0.05)
    x = torch.randn(1, 3, 64, 64)
    have, want = fuse_for_inference(model).backbone(x), model.backbone(x)
    for level, features in want.items():
        torch.testing.assert_close(have[level].contiguous(), features, atol=1e-4, rtol=1e-4)


def test_the_zoos_deepest_model_can_be_built() -> None:
    """X-152 with deformable convolutions, a cascade, four and eight convolutions with group norms in the heads."""
    config = load_config("Misc/cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv")
    with torch.device("meta"):
        theirs = to_detectron2(build_detector(config).state_dict())
    assert theirs["backbone.bottom_up.res4.35.conv2.weight"].shape == (1024, 32, 3, 3)
    assert theirs["backbone.bottom_up.res4.35.conv2_offset.weight"].shape == (18, 1024, 3, 3)
    assert theirs["roi_heads.box_head.2.conv4.norm.weight"].shape == (256,)
    assert theirs["roi_heads.mask_head.mask_fcn8.norm.bias"].shape == (256,)
    assert theirs["roi_heads.box_predictor.2.bbox_pred.weight"].shape == (4, 1024)


def test_gradients_reach_the_offsets() -> None:
    torch.manual_seed(0)
    conv = DeformConv(4, norm=frozen_affine, init=msra)
    conv(torch.randn(1, 4, 6, 6)).square().sum().backward()
    assert conv.offset.weight.grad is not None and conv.offset.weight.grad.abs().sum() > 0


def test_where_they_cannot_be() -> None:
    with pytest.raises(UserError, match="deformable convolutions cannot be exported"):
        build_program(build_detector(config_of()), config_of(), suppress=spread_class_nms)
    with pytest.raises(UserError, match=r"ResNet18 has no bottleneck blocks"):
        config_of().with_overrides({"MODEL.CONV_BODY": "FPN.add_fpn_ResNet18_conv5_body"})
