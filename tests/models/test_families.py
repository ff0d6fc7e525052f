"""Every family of region-based detectors: all of Detectron's own files build, learn a step and test an image."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detectune.config.load import Config
from detectune.config.rules import contradictions
from detectune.errors import UserError
from detectune.models.box_head import StageBoxHead
from detectune.models.build import build_detector
from detectune.models.geometry import GEOMETRIES
from detectune.models.layers import FrozenAffine, fuse_for_inference
from detectune.structures import Batch, Detections

TWO_IMAGES = [[[10.0, 10, 60, 70], [40, 30, 90, 80]], [[5, 5, 40, 90]]]
SMALL = {
    "RESNETS.WIDTH_MULTIPLIER": 0.125,
    "FPN.DIM": 32,
    "FAST_RCNN.MLP_HEAD_DIM": 32,
    "FAST_RCNN.CONV_HEAD_DIM": 32,
    "MRCNN.DIM_REDUCED": 32,
    "TRAIN.BATCH_SIZE_PER_IM": 16,
    "TRAIN.RPN_PRE_NMS_TOP_N": 40,
    "TRAIN.RPN_POST_NMS_TOP_N": 20,
    "TEST.RPN_PRE_NMS_TOP_N": 40,
    "TEST.RPN_POST_NMS_TOP_N": 20,
}
C4 = {
    "MODEL.CONV_BODY": "ResNet.add_ResNet18_conv4_body",
    "FPN.FPN_ON": False,
    "FPN.MULTILEVEL_ROIS": False,
    "FPN.MULTILEVEL_RPN": False,
    "RPN.SIZES": (16, 32, 64),
    "FAST_RCNN.ROI_BOX_HEAD": "ResNet.add_ResNet_roi_conv5_head",
    "FAST_RCNN.ROI_XFORM_RESOLUTION": 14,
}
C5 = C4 | {
    "MODEL.CONV_BODY": "ResNet.add_ResNet18_conv5_body",
    "RESNETS.RES5_DILATION": 2,
    "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_2mlp_head",
    "FAST_RCNN.ROI_XFORM_RESOLUTION": 7,
}
V0UP = {"MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v0up", "MRCNN.RESOLUTION": 14}
V0UPSHARE = V0UP | {"MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v0upshare"}
RFCN = C5 | {"MODEL.TYPE": "rfcn", "MODEL.MASK_ON": False}
MAX_POOLING = {"FAST_RCNN.ROI_XFORM_METHOD": "RoIPoolF", "MRCNN.ROI_XFORM_METHOD": "RoIPoolF"}
AGNOSTIC = {"MODEL.CLS_AGNOSTIC_BBOX_REG": True, "MRCNN.CLS_SPECIFIC_MASK": False}
FAMILIES = {
    "C4 with a shared mask stage": C4 | V0UPSHARE,
    "C4 with a mask stage of its own": C4 | V0UP,
    "C4 with a dilated mask stage": C4 | V0UP | {"MRCNN.DILATION": 2, "MRCNN.RESOLUTION": 28},
    "C4 with convolutional masks": C4,
    "C4, max pooling": C4 | V0UPSHARE | MAX_POOLING,
    "C4, group norm": C4 | V0UPSHARE | {"RESNETS.NORM": "group"},
    "C4, one box for all classes": C4 | V0UPSHARE | AGNOSTIC,
    "C5, dilated": C5,
    "C5": C5 | {"RESNETS.RES5_DILATION": 1, "RPN.STRIDE": 32},
    "FPN, finest level": {
        "MODEL.CONV_BODY": "FPN.add_fpn_ResNet50_conv5_P2only_body", "FPN.MULTILEVEL_ROIS": False,
        "FPN.MULTILEVEL_RPN": False, "RPN.STRIDE": 4, "RPN.SIZES": (16, 32, 64),
    },
    "FPN, one level for regions": {"FPN.MULTILEVEL_ROIS": False, "FPN.ROI_MIN_LEVEL": 3},
    "FPN, one level for proposals": {"FPN.MULTILEVEL_RPN": False, "RPN.STRIDE": 8, "RPN.SIZES": (16, 32, 64)},
    "FPN, max pooling": MAX_POOLING,
    "fully connected masks": {"MRCNN.USE_FC_OUTPUT": True, "MRCNN.RESOLUTION": 12},
    "R-FCN": RFCN,
    "R-FCN, one box for all classes": RFCN | {"MODEL.CLS_AGNOSTIC_BBOX_REG": True, "RFCN.PS_GRID_SIZE": 7},
}  # fmt: skip


def with_proposals(batch: Batch, *, count: int = 30, seed: int = 0) -> Batch:
    """The same batch with jittered objects, doubled, and boxes of chance as given proposals; two rows only pad."""
    assert batch.targets is not None
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for boxes, valid, size in zip(batch.targets.boxes, batch.targets.valid, batch.images.sizes, strict=True):
        height, width = size.tolist()
        limits = torch.tensor([width, height, width, height]).float() - 1
        low = torch.rand(count, 2, generator=generator) * limits[:2] * 0.7
        chance = torch.cat((low, low + 8 + torch.rand(count, 2, generator=generator) * 40), 1)
        objects = boxes[valid].repeat(3, 1)
        objects = objects + torch.randn(objects.shape, generator=generator) * 3
        here = torch.cat((objects, objects, chance))[:count]
        rows.append(torch.minimum(here.clamp(min=0), limits))
    valid = torch.ones(len(rows), count, dtype=torch.bool)
    valid[:, -2:] = False
    proposals = torch.stack(rows).where(valid[..., None], 0.0)
    return Batch(replace(batch.images, proposals=proposals, proposals_valid=valid), batch.targets)


def _total(out: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([value for name, value in out.items() if name.startswith("loss_")]).sum()


def _one_step(model: nn.Module, batch: Batch) -> None:
    out = model(batch, torch.Generator().manual_seed(0))
    _total(out).backward()
    assert all(bool(torch.isfinite(value)) for value in out.values())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and not [name for name, p in trained.items() if p.grad is None]


def _check_found(found: list[Detections], batch: Batch, *, masks: int | None) -> None:
    assert len(found) == len(batch)
    for one, (height, width) in zip(found, batch.images.sizes.tolist(), strict=True):
        assert torch.isfinite(one.boxes).all() and (one.scores.diff() <= 0).all() and (one.labels >= 1).all()
        assert one.boxes[:, [0, 2]].max() <= width + 32 and one.boxes[:, [1, 3]].max() <= height + 32
        assert (one.masks is None) == (masks is None)
        if masks is not None:
            assert one.masks is not None and one.masks.shape[1:] == (masks, masks)


@pytest.mark.parametrize("family", FAMILIES)
def test_learns_a_step_and_tests_an_image(
    family: str, make_config: Callable[..., Config], make_batch: Callable[..., Batch]
) -> None:
    config = make_config(SMALL | {"TEST.SCORE_THRESH": 0.0} | FAMILIES[family])
    assert contradictions(config) == []
    torch.manual_seed(0)
    model = build_detector(config)
    batch = make_batch(TWO_IMAGES)
    static = []
    for drop in (True, False):
        model.drop_padding = drop
        static.append(float(_total(model(batch)).detach()))
    assert static[0] == pytest.approx(static[1], rel=1e-4), "rows that only pad change the losses"
    model.drop_padding = None
    _one_step(model, batch)
    _one_step(model, make_batch([[], []]))
    found = model.eval().predict(batch.images)
    _check_found(found, batch, masks=config.MRCNN.RESOLUTION if config.MODEL.MASK_ON else None)
    assert all(len(one) for one in found)
    fused = fuse_for_inference(model).predict(batch.images)
    for one, other in zip(found, fused, strict=True):
        assert len(one) == len(other)
        torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=0)


def _distinct(files: dict[str, dict[str, Any]]) -> dict[str, Config]:
    """The first of Detectron's files for each network; what other tests build is left out."""
    sections = ("MODEL", "RESNETS", "FPN", "RPN", "FAST_RCNN", "MRCNN", "RFCN", "GROUP_NORM")
    out: dict[str, Config] = {}
    seen = set()
    for name, values in files.items():
        config = Config().with_overrides(values | {"MODEL.GEOMETRY": "detectron"})
        if config.MODEL.KEYPOINTS_ON or config.RETINANET.RETINANET_ON:
            continue
        tree = config.tree()
        network = json.dumps([tree[section] for section in sections], sort_keys=True)
        if network not in seen:
            seen.add(network)
            out[name] = config
    return out


@pytest.fixture(scope="module")
def originals(shared: Path) -> dict[str, Config]:
    return _distinct(json.loads((shared / "golden/detectron/yaml_values.json").read_text()))


def test_detectrons_files_build_as_they_are(originals: dict[str, Config]) -> None:
    assert len(originals) >= 30
    for name, config in originals.items():
        with torch.device("meta"):  # shapes only
            model = build_detector(config)
        depth = re.search(r"ResNet(\d+)", config.MODEL.CONV_BODY)
        blocks = {"50": 6, "101": 23, "152": 36}[depth[1] if depth else ""]
        state = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        assert f"backbone.res4.{blocks - 1}.conv3.weight" in state, name
        groups, width = config.RESNETS.NUM_GROUPS, config.RESNETS.WIDTH_PER_GROUP
        assert state["backbone.res3.1.conv2.weight"][:2] == (2 * groups * width, 2 * width), name
        assert ("rpn.conv.weight" in state) == (config.MODEL.FASTER_RCNN or config.MODEL.RPN_ONLY), name
        assert ("box_head.cls_score.weight" in state) != config.MODEL.RPN_ONLY, name
        assert ("mask_head.predictor.weight" in state) == config.MODEL.MASK_ON, name
        assert ("box_head.res5.2.conv3.weight" in state) == ("C4" in name and not config.MODEL.RPN_ONLY), name
        grouped = any(isinstance(m, nn.GroupNorm) for m in model.backbone.modules())
        assert (
            grouped
            == ("_gn" in config.RESNETS.TRANS_FUNC)
            != any(isinstance(m, FrozenAffine) for m in model.backbone.modules())
        ), name


def test_detectrons_keypoint_and_retinanet_files_build(shared: Path) -> None:
    files = json.loads((shared / "golden/detectron/yaml_values.json").read_text())
    built = set()
    for name, values in files.items():
        config = Config().with_overrides(values | {"MODEL.GEOMETRY": "detectron"})
        kind = (config.MODEL.CONV_BODY, config.MODEL.FASTER_RCNN, config.RETINANET.RETINANET_ON)
        if (config.MODEL.KEYPOINTS_ON or config.RETINANET.RETINANET_ON) and kind not in built:
            built.add(kind)
            with torch.device("meta"):
                state = build_detector(config).state_dict()
            wanted = (
                "keypoint_head.predictor.weight" if config.MODEL.KEYPOINTS_ON else "head.cls_score.weight"
            )
            assert wanted in state, name
    assert len(built) == 6


@pytest.mark.slow
def test_detectrons_files_learn_and_test_at_a_small_scale(
    originals: dict[str, Config], make_batch: Callable[..., Batch]
) -> None:
    batch = with_proposals(make_batch(TWO_IMAGES))
    kinds = set()
    for name, config in originals.items():
        body = config.MODEL.CONV_BODY.replace("101", "50").replace(
            "152", "50"
        )  # depths differ in the number of blocks
        kind = (body, *(json.dumps(config.tree()[section]) for section in ("FAST_RCNN", "MRCNN", "RESNETS")),
                config.MODEL.FASTER_RCNN, config.MODEL.RPN_ONLY, config.MODEL.MASK_ON)  # fmt: skip
        if kind in kinds:
            continue
        kinds.add(kind)
        small = config.with_overrides(SMALL | {"MODEL.NUM_CLASSES": 4, "TEST.SCORE_THRESH": 0.0})
        torch.manual_seed(0)
        model = build_detector(small)
        _one_step(model, batch)
        found = model.eval().predict(batch.images)
        _check_found(found, batch, masks=config.MRCNN.RESOLUTION if config.MODEL.MASK_ON else None)
        assert all(len(one) for one in found), name
    assert len(kinds) >= 15


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_given_proposals(
    geometry: str, make_config: Callable[..., Config], make_batch: Callable[..., Batch]
) -> None:
    """Fast R-CNN learns from and looks at the regions it is given, and asks for them in a sentence."""
    config = make_config(
        SMALL | {"MODEL.FASTER_RCNN": False, "MODEL.GEOMETRY": geometry, "TEST.SCORE_THRESH": 0.0}
    )
    torch.manual_seed(0)
    model = build_detector(config)
    assert not any(name.startswith("rpn") for name in model.state_dict())
    bare = make_batch(TWO_IMAGES)
    batch = with_proposals(bare)
    _one_step(model, batch)
    out = model(batch)
    assert set(out) >= {"loss_cls", "loss_bbox", "loss_mask"} and not any("rpn" in name for name in out)
    assert float(out["stat_box_num_fg"]) > 2  # jittered objects count, not only the objects themselves
    _check_found(model.eval().predict(batch.images), batch, masks=28)
    for call in (lambda: model(bare), lambda: model.predict(bare.images)):
        with pytest.raises(UserError, match="PROPOSAL_FILES"):
            call()
    empty = replace(batch.images, proposals_valid=torch.zeros_like(batch.images.proposals_valid))
    assert [len(one) for one in model.predict(empty)] == [0, 0]
    _one_step(model, Batch(empty, batch.targets))


def test_proposals_without_regression_come_back(
    make_config: Callable[..., Config], make_batch: Callable[..., Batch]
) -> None:
    """With TEST.BBOX_REG off every detection is one of the given regions of its own image."""
    config = make_config(
        SMALL
        | {
            "MODEL.FASTER_RCNN": False,
            "MODEL.MASK_ON": False,
            "TEST.SCORE_THRESH": 0.0,
            "TEST.BBOX_REG": False,
        }
    )
    torch.manual_seed(0)
    batch = with_proposals(make_batch(TWO_IMAGES))
    images = batch.images
    assert images.proposals is not None and images.proposals_valid is not None
    for i, found in enumerate(build_detector(config).eval().predict(images)):
        given = images.proposals[i][images.proposals_valid[i]]
        distance = (found.boxes[:, None] - given[None]).abs().amax(2).amin(1)
        assert len(found) and float(distance.max()) < 1e-3


def test_proposals_in_the_same_cells_are_looked_at_once(
    make_config: Callable[..., Config], make_batch: Callable[..., Batch]
) -> None:
    base = SMALL | {"MODEL.FASTER_RCNN": False, "MODEL.MASK_ON": False, "TEST.SCORE_THRESH": 0.0, "TEST.NMS": 1.0,
                    "TEST.BBOX_REG": False, "TEST.DETECTIONS_PER_IM": 0}  # fmt: skip
    batch = make_batch([[[10.0, 10, 60, 70]]])
    boxes = torch.tensor([[[16.0, 16, 64, 64], [18, 15, 66, 62], [16, 16, 96, 64], [17, 17, 63, 63]]])
    images = replace(batch.images, proposals=boxes, proposals_valid=torch.ones(1, 4, dtype=torch.bool))
    looked_at = {}
    for scale in (0.0, 1 / 16):
        torch.manual_seed(0)
        model = build_detector(make_config(base | {"DEDUP_BOXES": scale})).eval()
        seen: list[int] = []
        model.box_head.register_forward_hook(lambda module, args, out, seen=seen: seen.append(len(args[0])))
        found = model.predict(images)[0]
        looked_at[scale] = seen, {tuple(box) for box in found.boxes.tolist()}, len(found)
    assert looked_at[0.0] == ([4], {tuple(box) for box in boxes[0].tolist()}, 12)
    assert looked_at[1 / 16] == ([2], {(16, 16, 64, 64), (16, 16, 96, 64)}, 12)


def test_rpn_alone(make_config: Callable[..., Config], make_batch: Callable[..., Batch]) -> None:
    """The same proposals and losses as inside a Faster R-CNN of the same weights."""
    torch.manual_seed(0)
    whole = build_detector(make_config({"MODEL.MASK_ON": False}))
    alone = build_detector(
        make_config({"MODEL.RPN_ONLY": True, "MODEL.MASK_ON": False, "MODEL.NUM_CLASSES": -1})
    )
    alone.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("box_head")})
    batch = make_batch(TWO_IMAGES)
    out, wanted = alone(batch), whole(batch)
    assert {name for name in out if name.startswith("loss_")} == {"loss_rpn_cls", "loss_rpn_bbox"}
    assert all(torch.equal(value, wanted[name]) for name, value in out.items())
    _one_step(alone, batch)
    _one_step(alone, make_batch([[], []]))
    with torch.no_grad():
        proposals = whole.propose(whole.backbone(whole.normalize(batch.images)), batch.images)
    for i, found in enumerate(alone.eval().predict(batch.images)):
        kept = proposals.valid[i]
        assert torch.equal(found.boxes, proposals.boxes[i][kept]) and len(found) > 10
        torch.testing.assert_close(found.scores, proposals.scores[i][kept].sigmoid())
        assert (found.labels == 1).all() and (found.scores.diff() <= 0).all()


def test_shared_stage_is_one_stage(
    make_config: Callable[..., Config], make_batch: Callable[..., Batch]
) -> None:
    """The mask head has no stage of its own, its loss reaches the box head's, and tests repeat what training did."""
    torch.manual_seed(0)
    model = build_detector(make_config(SMALL | C4 | V0UPSHARE | {"TEST.SCORE_THRESH": 0.0}))
    assert isinstance(model.box_head, StageBoxHead) and model.shares_stage
    assert not any(name.startswith("mask_head.res5") for name in model.state_dict())
    batch = make_batch(TWO_IMAGES)
    calls: list[int] = []
    model.box_head.res5.register_forward_hook(lambda module, args, out: calls.append(len(out)))
    out = model(batch)
    assert len(calls) == 1
    out["loss_mask"].backward()
    gradient = model.box_head.res5[0].conv1.weight.grad
    assert gradient is not None and float(gradient.abs().sum()) > 0
    model.eval()
    with torch.no_grad():
        features = model.backbone(model.normalize(batch.images))
        found = model.add_masks(
            features, model.detect(features, model.propose(features, batch.images), batch.images)
        )
        boxes, index = found[0].boxes[:3], torch.zeros(3, dtype=torch.int64)
        maps = model.box_head.res5(model.box_pooler(features, boxes, index, static=False))
        masks = model.mask_head(maps)[torch.arange(3), found[0].labels[:3]].sigmoid()
    assert found[0].masks is not None
    torch.testing.assert_close(found[0].masks[:3], masks, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("overrides", [{}, {"MRCNN.CLS_SPECIFIC_MASK": False}])
def test_fully_connected_masks_of_the_right_class(
    overrides: dict[str, Any], make_config: Callable[..., Config]
) -> None:
    torch.manual_seed(0)
    config = make_config(SMALL | {"MRCNN.USE_FC_OUTPUT": True, "MRCNN.RESOLUTION": 12} | overrides)
    head = build_detector(config).mask_head.eval()
    labels = torch.tensor([3, 1])
    with torch.no_grad():
        nn.init.normal_(head.predictor.weight, std=0.1)
        x = torch.randn(2, 32, 14, 14)
        channel = labels if config.MRCNN.CLS_SPECIFIC_MASK else torch.zeros(2, dtype=torch.int64)
        want = head(x)[torch.arange(2), channel].sigmoid()
        torch.testing.assert_close(head.predict(x, labels), want)
    assert head.predictor.weight.shape == ((4 if config.MRCNN.CLS_SPECIFIC_MASK else 1) * 144, 32 * 28 * 28)


def test_frozen_stages_of_the_vggs() -> None:
    """FREEZE_AT counts strides: the default freezes what Detectron freezes."""
    frozen = {
        "VGG16.add_VGG16_conv5_body": {
            0: "",
            2: "conv1_1 conv1_2 conv2_1 conv2_2",
            3: "conv3_1 conv3_2 conv3_3",
        },
        "VGG_CNN_M_1024.add_VGG_CNN_M_1024_conv5_body": {
            0: "",
            2: "conv1",
            4: "conv2",
            5: "conv3 conv4 conv5",
        },
    }
    for body, stages in frozen.items():
        head = body.replace("_conv5_body", "_roi_fc_head")
        named: set[str] = set()
        for freeze_at, more in stages.items():
            named |= set(more.split())
            config = Config().with_overrides(
                {"MODEL.CONV_BODY": body, "FAST_RCNN.ROI_BOX_HEAD": head, "MODEL.NUM_CLASSES": 3,
                 "MODEL.FASTER_RCNN": True, "TRAIN.FREEZE_AT": freeze_at}
            )  # fmt: skip
            with torch.device("meta"):
                model = build_detector(config)
            fixed = {n.split(".")[0] for n, p in model.backbone.named_parameters() if not p.requires_grad}
            assert fixed == named, (body, freeze_at)
        assert model.box_head.fc1.weight.shape[1] == 512 * model.box_pooler.resolution**2
        assert model.box_head.cls_score.weight.shape[1] == {"VGG16": 4096}.get(body.split(".")[0], 1024)


@pytest.mark.parametrize("frozen", [0, 5])
def test_vgg_m_learns_what_is_not_frozen(frozen: int) -> None:
    from detectune.models.vgg import VggCnnM1024

    torch.manual_seed(0)
    body = VggCnnM1024(freeze_at=frozen)
    x = torch.randn(1, 3, 97, 113)
    features = body(x)
    assert set(features) == {5} and features[5].shape == (1, 512, 4, 5)
    assert features[5].requires_grad == (frozen == 0)
    norm = nn.LocalResponseNorm(5, alpha=0.0005, beta=0.75, k=2.0)
    y = x
    with torch.no_grad():
        for i in (1, 2):
            conv = body.get_submodule(f"conv{i}")
            y = nn.functional.conv2d(y, conv.weight, conv.bias, stride=2).relu()
            y = nn.functional.max_pool2d(norm(y), 3, 2)
        for i in (3, 4, 5):
            conv = body.get_submodule(f"conv{i}")
            y = nn.functional.conv2d(y, conv.weight, conv.bias, padding=1).relu()
    torch.testing.assert_close(features[5].detach(), y)


@pytest.mark.slow
def test_a_whole_vgg_learns_and_tests(
    make_config: Callable[..., Config], make_batch: Callable[..., Batch]
) -> None:
    """Faster R-CNN of 2015: one level, its own fully connected head, max pooling."""
    body = "VGG_CNN_M_1024.add_VGG_CNN_M_1024"
    config = make_config(
        SMALL | C4 | MAX_POOLING
        | {"MODEL.CONV_BODY": f"{body}_conv5_body", "FAST_RCNN.ROI_BOX_HEAD": f"{body}_roi_fc_head",
           "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up", "TEST.SCORE_THRESH": 0.0}
    )  # fmt: skip
    assert contradictions(config) == []
    torch.manual_seed(0)
    model = build_detector(config)
    batch = make_batch(TWO_IMAGES)
    _one_step(model, batch)
    _check_found(model.eval().predict(batch.images), batch, masks=28)
