"""Keys change the network they speak of; what cannot be built is refused in one sentence that lists what can."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from detectune.errors import UserError
from detectune.models.build import build_detector
from detectune.models.rpn import ScoredAnchors
from detectune.structures import Batch

BOXES = [[[10.0, 10, 60, 70]]]
C4 = {
    "MODEL.CONV_BODY": "ResNet.add_ResNet18_conv4_body",
    "FPN.FPN_ON": False,
    "FPN.MULTILEVEL_ROIS": False,
    "FPN.MULTILEVEL_RPN": False,
    "RPN.SIZES": (16, 32, 64),
    "FAST_RCNN.ROI_BOX_HEAD": "ResNet.add_ResNet_roi_conv5_head",
    "FAST_RCNN.ROI_XFORM_RESOLUTION": 14,
}
V0UPSHARE = {"MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v0upshare", "MRCNN.RESOLUTION": 14}


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.state_dict().items()}


@pytest.mark.parametrize(
    ("overrides", "name", "shape"),
    [
        ({}, "backbone.res5.1.conv2.weight", (128, 128, 3, 3)),
        ({"RESNETS.WIDTH_MULTIPLIER": 0.5}, "backbone.res5.1.conv2.weight", (256, 256, 3, 3)),
        ({"MODEL.CONV_BODY": "FPN.add_fpn_ResNet34_conv5_body"}, "backbone.res4.5.conv2.weight", (64, 64, 3, 3)),
        (
            {"MODEL.CONV_BODY": "FPN.add_fpn_ResNet50_conv5_body", "RESNETS.WIDTH_MULTIPLIER": 1.0,
             "RESNETS.NUM_GROUPS": 32, "RESNETS.WIDTH_PER_GROUP": 8},
            "backbone.res3.0.conv2.weight", (512, 16, 3, 3),
        ),
        ({"RESNETS.NORM": "batch"}, "backbone.res5.1.conv2.norm.num_batches_tracked", ()),
        ({"FPN.DIM": 48}, "backbone.fpn.lateral2.weight", (48, 16, 1, 1)),
        ({"FPN.USE_GN": True}, "backbone.fpn.output5.norm.weight", (32,)),
        ({"FPN.EXTRA_CONV_LEVELS": True}, "backbone.fpn.extra6.weight", (32, 128, 3, 3)),
        ({"FPN.RPN_ASPECT_RATIOS": (0.5, 1, 2, 3)}, "rpn.objectness.weight", (4, 32, 1, 1)),
        ({"MODEL.CLS_AGNOSTIC_BBOX_REG": True}, "box_head.bbox_pred.weight", (4, 64)),
        ({"FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_Xconv1fc_head", "FAST_RCNN.NUM_STACKED_CONVS": 3},
         "box_head.conv3.bias", (32,)),
        ({"FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_Xconv1fc_gn_head"}, "box_head.conv4.norm.bias", (32,)),
        ({"FAST_RCNN.ROI_XFORM_RESOLUTION": 5}, "box_head.fc1.weight", (64, 32 * 25)),
        ({"MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs_gn"},
         "mask_head.conv4.norm.weight", (32,)),
        ({"MRCNN.CLS_SPECIFIC_MASK": False}, "mask_head.predictor.weight", (1, 32, 1, 1)),
        ({"MRCNN.DIM_REDUCED": 24}, "mask_head.upsample.weight", (24, 24, 2, 2)),
    ],
)  # fmt: skip
def test_keys_set_shapes(
    overrides: dict[str, Any],
    name: str,
    shape: tuple[int, ...],
    make_config: Callable[..., Any],
    make_batch: Callable[..., Batch],
) -> None:
    model = build_detector(make_config(overrides))
    assert _shapes(model)[name] == shape
    out = model(make_batch(BOXES))
    total = torch.stack([v for k, v in out.items() if k.startswith("loss_")]).sum()
    total.backward()
    assert torch.isfinite(total)


def test_v1up_has_two_convolutions_and_may_dilate_and_enlarge(
    make_config: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    overrides = {
        "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up",
        "MRCNN.DILATION": 2, "MRCNN.UPSAMPLE_RATIO": 2, "MRCNN.RESOLUTION": 28, "MRCNN.ROI_XFORM_RESOLUTION": 7,
    }  # fmt: skip
    model = build_detector(make_config(overrides))
    assert "mask_head.conv2.weight" in _shapes(model) and "mask_head.conv3.weight" not in _shapes(model)
    assert model.mask_head.conv1.dilation == (2, 2)
    found = model.eval().predict(make_batch(BOXES).images)[0]
    assert found.masks.shape[1:] == (28, 28)
    assert float(model(make_batch(BOXES))["loss_mask"].detach()) > 0


def test_stride_in_the_first_or_second_convolution(make_config: Callable[..., Any]) -> None:
    body = {"MODEL.CONV_BODY": "FPN.add_fpn_ResNet50_conv5_body"}
    for first, strides in ((True, ((2, 2), (1, 1))), (False, ((1, 1), (2, 2)))):
        block = build_detector(make_config(body | {"RESNETS.STRIDE_1X1": first})).backbone.res3[0]
        assert (block.conv1.stride, block.conv2.stride) == strides


def test_the_limit_of_predicted_sides_reaches_proposals_and_boxes(make_config: Callable[..., Any]) -> None:
    model = build_detector(make_config({"BBOX_XFORM_CLIP": 0.5}))
    box = torch.tensor([[20.0, 20.0, 40.0, 60.0]])
    deltas = torch.zeros(1, 4 * 4)
    deltas[0, 4:8] = torch.tensor([0.0, 0.0, 50.0, 1.0])  # of label 1; the weights divide by 5
    (x1, y1, x2, y2) = model.box_head.refine(deltas, box, torch.tensor([1]))[0].tolist()
    assert x2 - x1 == pytest.approx(20 * math.exp(0.5), rel=1e-5)
    assert y2 - y1 == pytest.approx(40 * math.exp(0.2), rel=1e-5)
    scored = ScoredAnchors(
        torch.tensor([[40.0, 40.0, 60.0, 60.0]]),
        torch.ones(1, 1),
        torch.tensor([[[0.0, 0.0, 9.0, 9.0]]]),
        (1,),
    )
    found = model.rpn.propose(scored, torch.tensor([[200, 200]]), model.rpn.test_rule).boxes[0, 0].tolist()
    assert found[2] - found[0] == pytest.approx(20 * math.exp(0.5), rel=1e-5)


def test_zero_init_lateral(make_config: Callable[..., Any]) -> None:
    for on in (True, False):
        fpn = build_detector(make_config({"FPN.ZERO_INIT_LATERAL": on})).backbone.fpn
        assert bool((fpn.lateral2.weight == 0).all()) == on
        assert not bool((fpn.lateral5.weight == 0).any())


def test_freshly_built_predictors_are_small(make_config: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = build_detector(make_config({"FAST_RCNN.MLP_HEAD_DIM": 512}))
    assert float(model.box_head.cls_score.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert float(model.box_head.bbox_pred.weight.detach().std()) == pytest.approx(0.001, rel=0.1)
    assert float(model.rpn.conv.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    fan_in = model.box_head.fc1.weight[0].numel()
    assert float(model.box_head.fc1.weight.detach().abs().max()) == pytest.approx(
        (3 / fan_in) ** 0.5, rel=0.01
    )


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"MODEL.TYPE": "rfcn"}, ["rfcn", "MASK_ON"]),
        ({"MODEL.KEYPOINTS_ON": True}, ["KRCNN.NUM_KEYPOINTS", "data set"]),
        (
            {"MODEL.KEYPOINTS_ON": True, "KRCNN.NUM_KEYPOINTS": 3, "KRCNN.ROI_KEYPOINTS_HEAD": ""},
            ["KRCNN.ROI_KEYPOINTS_HEAD", "v1convX"],
        ),
        (
            {"MODEL.KEYPOINTS_ON": True, "KRCNN.NUM_KEYPOINTS": 3, "KRCNN.OKS_SIGMAS": (0.1,)},
            ["KRCNN.OKS_SIGMAS", "3 keypoints"],
        ),
        ({"MODEL.CONV_BODY": ""}, ["CONV_BODY", "FPN.add_fpn_ResNet101_conv5_body", "VGG16"]),
        ({"FAST_RCNN.ROI_BOX_HEAD": ""}, ["ROI_BOX_HEAD", "2mlp"]),
        (
            {"FAST_RCNN.ROI_BOX_HEAD": "ResNet.add_ResNet_roi_conv5_head"},
            ["fifth stage", "FPN.add_fpn_ResNet18_conv5_body"],
        ),
        ({"MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v0up"}, ["MRCNN.RESOLUTION", "14"]),
        (
            {"MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v0upshare"},
            ["v0upshare", "ROI_BOX_HEAD"],
        ),
        (C4 | V0UPSHARE | {"MRCNN.DILATION": 2}, ["v0upshare", "MRCNN.DILATION 2"]),
        (C4 | V0UPSHARE | {"FAST_RCNN.ROI_XFORM_RESOLUTION": 7}, ["ROI_XFORM_RESOLUTION 7"]),
        (C4 | V0UPSHARE | {"MRCNN.RESOLUTION": 28}, ["MRCNN.RESOLUTION", "14"]),
        (C4 | V0UPSHARE | {"RPN.STRIDE": 8}, ["RPN.STRIDE is 8", "16"]),
        ({"FPN.MULTILEVEL_RPN": False, "RPN.STRIDE": 15}, ["RPN.STRIDE", "4, 8, 16, 32, 64"]),
        ({"MRCNN.USE_FC_OUTPUT": True, "MRCNN.UPSAMPLE_RATIO": 2}, ["USE_FC_OUTPUT", "UPSAMPLE_RATIO"]),
        ({"MRCNN.RESOLUTION": 14}, ["MRCNN.RESOLUTION", "28"]),
        ({"MODEL.NUM_CLASSES": -1}, ["NUM_CLASSES", "data set"]),
    ],
)
def test_what_cannot_be_built_is_named(
    overrides: dict[str, Any], words: list[str], make_config: Callable[..., Any]
) -> None:
    with pytest.raises(UserError) as caught:
        build_detector(make_config(overrides))
    message = str(caught.value)
    assert all(word in message for word in words) and message.endswith(".") and "\n" not in message


def test_number_of_classes_comes_from_the_data_set_or_must_agree(make_config: Callable[..., Any]) -> None:
    model = build_detector(make_config({"MODEL.NUM_CLASSES": -1}), num_classes=6)
    assert model.box_head.num_classes == 6
    with pytest.raises(UserError, match="5 classes"):
        build_detector(make_config({"MODEL.NUM_CLASSES": 4}), num_classes=6)
