"""Names and layouts of Detectron, detectron2 and torchvision: complete, and the way back undoes the way there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision

from detectune.weights.detectron import from_detectron, to_detectron
from detectune.weights.detectron2 import from_detectron2, to_detectron2
from detectune.weights.torchvision import from_torchvision, to_torchvision

State = dict[str, torch.Tensor]
OURS = ("backbone.", "rpn.", "box_head.", "mask_head.", "keypoint_head.")


def _random(shapes: dict[str, list[int]]) -> State:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _assert_same(have: State, want: State) -> None:
    assert have.keys() == want.keys()
    for name, value in want.items():
        assert torch.equal(have[name], value), name


def test_detectron2_there_and_back(shared: Path) -> None:
    shapes = json.loads(
        (shared / "golden" / "detectron2" / "mask_rcnn_R_50_FPN_1x" / "params.json").read_text()
    )
    state = _random(shapes)
    ours = from_detectron2(state)
    assert all(name.startswith(OURS) for name in ours)
    back = to_detectron2(ours)
    _assert_same(back, state)
    cls_score = ours["box_head.cls_score.weight"]
    assert torch.equal(cls_score[0], state["roi_heads.box_predictor.cls_score.weight"][80])
    assert torch.equal(cls_score[1:], state["roi_heads.box_predictor.cls_score.weight"][:80])
    deltas = ours["box_head.bbox_pred.weight"]
    assert len(deltas) == 4 * 81 and float(deltas[:4].abs().sum()) == 0
    assert torch.equal(deltas[4:8], state["roi_heads.box_predictor.bbox_pred.weight"][:4])
    assert len(ours["mask_head.predictor.bias"]) == 81
    first = state["backbone.bottom_up.stem.conv1.weight"]
    assert torch.equal(ours["backbone.stem.conv1.weight"][:, 0], first[:, 2])


def test_detectron2_options() -> None:
    state = {
        "backbone.bottom_up.stem.conv1.weight": torch.randn(2, 3, 7, 7),
        "backbone.fpn_lateral2.weight": torch.randn(2, 2, 1, 1),
        "roi_heads.box_predictor.bbox_pred.weight": torch.randn(4, 8),
        "roi_heads.mask_head.predictor.weight": torch.randn(1, 8, 1, 1),
        "pixel_mean": torch.zeros(3, 1, 1),
    }
    options = {"bgr": False, "agnostic_boxes": True, "class_specific_masks": False}
    ours = from_detectron2(state, **options)
    assert torch.equal(
        ours["pixel_mean"], state["pixel_mean"]
    )  # no word of ours: kept, so that a report names it
    assert torch.equal(ours["backbone.stem.conv1.weight"], state["backbone.bottom_up.stem.conv1.weight"])
    assert ours["box_head.bbox_pred.weight"].shape == (4, 8)
    assert ours["mask_head.predictor.weight"].shape == (1, 8, 1, 1)
    del state["pixel_mean"]
    del ours["pixel_mean"]
    _assert_same(to_detectron2(ours, **options), state)


def test_detectron_there_and_back(shared: Path) -> None:
    shapes = json.loads(
        (shared / "golden" / "detectron" / "e2e_faster_rcnn_R-50-FPN_1x" / "blobs.json").read_text()
    )
    blobs = _random(shapes) | _random(
        {
            f"_[mask]_fcn{i}_{part}": [256, 256, 3, 3] if part == "w" else [256]
            for i in (1, 2, 3, 4)
            for part in "wb"
        }
        | {"conv5_mask_w": [256, 256, 2, 2], "conv5_mask_b": [256]}
        | {"mask_fcn_logits_w": [81, 256, 1, 1], "mask_fcn_logits_b": [81]}
    )
    ours = from_detectron(blobs)
    assert all(name.startswith(OURS) for name in ours)
    assert torch.equal(ours["backbone.stem.conv1.weight"][:, 0], blobs["conv1_w"][:, 2])
    assert torch.equal(ours["backbone.fpn.lateral5.weight"], blobs["fpn_inner_res5_2_sum_w"])
    back = to_detectron(ours)
    _assert_same(back, blobs)


def test_keypoint_heads_there_and_back(shared: Path) -> None:
    folder = shared / "golden"
    shapes = json.loads((folder / "detectron/e2e_keypoint_rcnn_R-50-FPN_1x/blobs.json").read_text())
    blobs = _random({name: shape for name, shape in shapes.items() if not name.startswith("kps_score_")})
    blobs |= _random({"kps_score_lowres_w": [512, 17, 4, 4], "kps_score_lowres_b": [17]})
    tent = torch.tensor([0.25, 0.75, 0.75, 0.25])  # the fixed enlargement: each map by itself, bilinearly
    blobs["kps_score_w"] = torch.einsum("ij,y,x->ijyx", torch.eye(17), tent, tent)
    blobs["kps_score_b"] = torch.zeros(17)
    ours = from_detectron(blobs)
    assert all(name.startswith(OURS) for name in ours)
    assert torch.equal(ours["keypoint_head.predictor.weight"], blobs["kps_score_lowres_w"])
    _assert_same(to_detectron(ours), blobs)

    state = _random(json.loads((folder / "detectron2/keypoint_rcnn_R_50_FPN_1x/params.json").read_text()))
    converted = from_detectron2(state)
    assert all(name.startswith(OURS) for name in converted) and converted.keys() == ours.keys()
    _assert_same(to_detectron2(converted), state)

    peer = torchvision.models.detection.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    theirs = {k: v for k, v in peer.state_dict().items() if not k.endswith("num_batches_tracked")}
    read = from_torchvision(theirs)
    assert read.keys() == ours.keys()
    _assert_same(to_torchvision(read), theirs)


def test_detectrons_other_keypoint_heads() -> None:
    """Without enlargement the predictor is kps_score itself; the head may be a fifth stage and a deconvolution."""
    blobs = _random(
        {"kps_score_w": [64, 5, 4, 4], "kps_score_b": [5], "kps_deconv_w": [8, 64, 4, 4], "kps_deconv_b": [64],
         "_[pose]_res5_0_branch2a_w": [4, 8, 1, 1], "_[pose]_res5_0_branch2a_bn_s": [4],
         "_[pose]_res5_0_branch2a_bn_b": [4], "_[pose]_res5_0_branch1_w": [8, 8, 1, 1]}
    )  # fmt: skip
    ours = from_detectron(blobs)
    assert set(ours) >= {"keypoint_head.predictor.weight", "keypoint_head.stage.0.conv1.norm.weight"}
    _assert_same(to_detectron(ours, keypoint_upscale=1), blobs)


def test_detectron_group_norm_and_agnostic_boxes() -> None:
    blobs = _random(
        {
            "conv1_w": [64, 3, 7, 7], "conv1_gn_s": [64], "conv1_gn_b": [64], "res2_0_branch1_w": [8, 4, 1, 1],
            "res2_0_branch1_gn_s": [8], "res2_2_branch2c_gn_b": [8], "res2_2_branch2c_gn_s": [8],
            "fpn_inner_res2_2_sum_w": [8, 8, 1, 1], "fpn_inner_res2_2_sum_gn_s": [8], "fpn_inner_res2_2_sum_gn_b": [8],
            "head_conv1_w": [8, 8, 3, 3], "head_conv1_gn_s": [8], "head_conv1_gn_b": [8], "fc6_w": [4, 8],
            "_mask_fcn1_w": [8, 8, 3, 3], "_mask_fcn1_gn_s": [8], "_mask_fcn1_gn_b": [8],
            "bbox_pred_w": [8, 16], "bbox_pred_b": [8],
        }
    )  # fmt: skip
    blobs["bbox_pred_w"][:4], blobs["bbox_pred_b"][:4] = 0, 0  # the background's rows, which nothing reads
    ours = from_detectron(blobs, agnostic_boxes=True)
    assert all(name.startswith(OURS) for name in ours)
    assert ours["box_head.bbox_pred.weight"].shape == (4, 16)
    assert "backbone.stem.conv1.norm.running_var" not in ours
    _assert_same(to_detectron(ours, agnostic_boxes=True), blobs)


def test_detectron_stage_of_the_body_or_of_heads() -> None:
    """res5 goes where cls_score says, or where the caller does; a head's own copy wins."""
    stage = _random(
        {"res5_0_branch2c_w": [8, 4, 1, 1], "res5_0_branch2c_bn_s": [8], "res5_0_branch2c_bn_b": [8]}
    )
    head = "box_head.res5.0.conv3.weight"
    assert head in from_detectron(stage | {"cls_score_w": torch.zeros(3, 8)})
    assert "backbone.res5.0.conv3.weight" in from_detectron(stage | {"cls_score_w": torch.zeros(3, 9)})
    assert "backbone.res5.0.conv3.weight" in from_detectron(stage)
    own = {"_[mask]_res5_0_branch2c_w": torch.ones(8, 4, 1, 1)}
    ours = from_detectron(stage | own, stage_heads=("box_head", "mask_head"))
    assert not any(name.startswith("backbone.") for name in ours)
    assert torch.equal(ours[head], stage["res5_0_branch2c_w"])
    assert torch.equal(ours["mask_head.res5.0.conv3.weight"], own["_[mask]_res5_0_branch2c_w"])
    assert torch.equal(ours["mask_head.res5.0.conv3.norm.weight"], stage["res5_0_branch2c_bn_s"])
    back = to_detectron(ours)
    assert {"res5_0_branch2c_w", "_[mask]_res5_0_branch2c_w", "_[mask]_res5_0_branch2c_bn_s"} <= set(back)


@pytest.mark.parametrize(
    ("shapes", "names"),
    [
        (
            {"conv1_1_w": [4, 3, 3, 3], "conv1_1_b": [4], "conv5_3_w": [4, 4, 3, 3], "fc6_w": [8, 4], "fc7_b": [8]},
            {"backbone.conv1_1.weight", "backbone.conv5_3.weight", "box_head.fc1.weight", "box_head.fc2.bias"},
        ),
        (
            {"conv1_w": [4, 3, 7, 7], "conv1_b": [4], "conv3_w": [4, 4, 3, 3], "conv5_b": [4],
             "conv_rpn_w": [4, 4, 3, 3]},
            {"backbone.conv1.weight", "backbone.conv1.bias", "backbone.conv5.bias", "rpn.conv.weight"},
        ),
        (
            {"conv_cls_w": [27, 4, 1, 1], "conv_cls_b": [27], "conv_bbox_pred_w": [108, 4, 1, 1],
             "rpn_cls_logits_b": [15], "rpn_bbox_pred_w": [60, 4, 1, 1]},
            {"box_pooler.cls_score.weight", "box_pooler.bbox_pred.weight", "rpn.objectness.bias", "rpn.deltas.weight"},
        ),
    ],
)  # fmt: skip
def test_detectron_vgg_and_rfcn(shapes: dict[str, list[int]], names: set[str]) -> None:
    blobs = _random(shapes)
    ours = from_detectron(blobs)
    assert names <= set(ours) and len(ours) == len(blobs)
    assert all(not name.endswith(("_w", "_b")) for name in ours)
    _assert_same(to_detectron(ours), blobs)


def test_detectron_rfcn_with_one_box() -> None:
    """Detectron predicts a box for the background too, in the first half of the score maps."""
    blobs = _random({"conv_bbox_pred_w": [8 * 9, 4, 1, 1]})
    blobs["conv_bbox_pred_w"][:36] = 0
    ours = from_detectron(blobs, agnostic_boxes=True)
    assert torch.equal(ours["box_pooler.bbox_pred.weight"], blobs["conv_bbox_pred_w"][36:])
    _assert_same(to_detectron(ours, agnostic_boxes=True), blobs)


def test_detectron_ignores_momentum_and_the_classifier() -> None:
    extras = ("conv1_w_momentum", "fc1000_w", "fc1000_b", "conv1_b", "pred_w_something")
    ours = from_detectron({"conv1_w": torch.ones(4, 3, 7, 7), **{name: torch.ones(2) for name in extras}})
    assert set(ours) == {"backbone.stem.conv1.weight", *extras[1:]}


def test_frozen_affine_reads_as_scale_and_shift() -> None:
    """Mean 0 and variance 1 - eps make the scale exactly the blob, bit for bit."""
    scale, shift = torch.rand(64) + 0.5, torch.randn(64)
    ours = from_detectron({"res_conv1_bn_s": scale, "res_conv1_bn_b": shift})
    prefix = "backbone.stem.conv1.norm"
    factor = ours[f"{prefix}.weight"] * (ours[f"{prefix}.running_var"] + 1e-5).rsqrt()
    assert torch.equal(factor, scale)
    assert torch.equal(ours[f"{prefix}.bias"] - ours[f"{prefix}.running_mean"] * factor, shift)


@pytest.mark.parametrize("norm_eps", [1e-5, 0.0])
def test_torchvision_there_and_back(norm_eps: float) -> None:
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=5
    )
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    ours = from_torchvision(state, norm_eps=norm_eps)
    assert all(name.startswith(OURS) for name in ours)
    back = to_torchvision(ours, norm_eps=norm_eps)
    assert back.keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(back[name], value, rtol=0, atol=1e-7 if norm_eps == 0 else 0)
    variance = ours["backbone.res2.0.conv1.norm.running_var"]
    want = state["backbone.body.layer1.0.bn1.running_var"] + norm_eps
    torch.testing.assert_close(variance + 1e-5, want, rtol=0, atol=1e-7)


def test_torchvision_older_names_and_classifiers() -> None:
    older = {
        "backbone.body.conv1.weight": torch.randn(4, 3, 7, 7),
        "backbone.fpn.inner_blocks.1.weight": torch.randn(4, 4, 1, 1),
        "rpn.head.conv.bias": torch.randn(4),
        "roi_heads.mask_head.mask_fcn2.bias": torch.randn(4),
    }
    assert set(from_torchvision(older)) == {
        "backbone.stem.conv1.weight", "backbone.fpn.lateral3.weight", "rpn.conv.bias", "mask_head.conv2.bias",
    }  # fmt: skip
    classifier = torchvision.models.resnet18(weights=None).state_dict()
    ours = from_torchvision(classifier)
    assert {name for name in ours if not name.startswith(OURS)} == {"fc.weight", "fc.bias"}
    assert torch.equal(ours["backbone.res4.0.shortcut.norm.bias"], classifier["layer3.0.downsample.1.bias"])
