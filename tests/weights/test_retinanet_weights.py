"""RetinaNet's names in Detectron, detectron2 and torchvision: complete, in the right place, and back again."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from detectune.config.tree import Config
from detectune.models.build import build_detector
from detectune.weights.detectron import from_detectron, to_detectron
from detectune.weights.detectron2 import from_detectron2, to_detectron2
from detectune.weights.native import fit_weights
from detectune.weights.torchvision import from_torchvision, to_torchvision

State = dict[str, torch.Tensor]


def _assert_same(have: State, want: State) -> None:
    assert have.keys() == want.keys()
    for name, value in want.items():
        assert torch.equal(have[name], value), name


def _detectron_shapes(depths: tuple[int, ...], *, groups: int = 1, width: int = 64) -> dict[str, list[int]]:
    """Blobs of a published RetinaNet checkpoint, spelt out from the network's picture."""
    shapes = {"conv1_w": [64, 3, 7, 7], "res_conv1_bn_s": [64], "res_conv1_bn_b": [64]}
    inputs = 64
    for stage, count in zip((2, 3, 4, 5), depths, strict=True):
        outputs, inner = 256 * 2 ** (stage - 2), groups * width * 2 ** (stage - 2)
        for block in range(count):
            branches = {
                "branch2a": [inner, inputs, 1, 1],
                "branch2b": [inner, inner // groups, 3, 3],
                "branch2c": [outputs, inner, 1, 1],
            }
            if block == 0:
                branches["branch1"] = [outputs, inputs, 1, 1]
            for branch, shape in branches.items():
                name = f"res{stage}_{block}_{branch}"
                shapes |= {f"{name}_w": shape, f"{name}_bn_s": shape[:1], f"{name}_bn_b": shape[:1]}
            inputs = outputs
    layers = {"fpn_6": [256, 2048, 3, 3], "fpn_7": [256, 256, 3, 3]}
    for stage, lateral in ((3, "_lateral"), (4, "_lateral"), (5, "")):
        top = f"res{stage}_{depths[stage - 2] - 1}_sum"
        layers[f"fpn_inner_{top}{lateral}"] = [256, 256 * 2 ** (stage - 2), 1, 1]
        layers[f"fpn_{top}"] = [256, 256, 3, 3]
    for tower in ("cls", "bbox"):
        layers |= {f"retnet_{tower}_conv_n{i}_fpn3": [256, 256, 3, 3] for i in range(4)}
    layers |= {"retnet_cls_pred_fpn3": [720, 256, 3, 3], "retnet_bbox_pred_fpn3": [36, 256, 3, 3]}
    for name, shape in layers.items():
        shapes |= {f"{name}_w": shape, f"{name}_b": shape[:1]}
    return shapes


@pytest.mark.parametrize(
    ("file", "depths", "groups", "width"),
    [
        ("retinanet_R-50-FPN_1x", (3, 4, 6, 3), 1, 64),
        ("retinanet_R-101-FPN_1x", (3, 4, 23, 3), 1, 64),
        ("retinanet_X-101-32x8d-FPN_1x", (3, 4, 23, 3), 32, 8),
        ("retinanet_X-101-64x4d-FPN_1x", (3, 4, 23, 3), 64, 4),
    ],
)
def test_a_detectron_checkpoint_fills_its_model(
    file: str, depths: tuple[int, ...], groups: int, width: int, shared: Path
) -> None:
    values = json.loads((shared / "golden" / "detectron" / "yaml_values.json").read_text())
    config = Config().with_overrides(values[f"12_2017_baselines/{file}.yaml"])
    with torch.device("meta"):
        model = build_detector(config.with_overrides({"MODEL.GEOMETRY": "detectron"}))
        blobs = {
            name: torch.empty(shape)
            for name, shape in _detectron_shapes(depths, groups=groups, width=width).items()
        }
        ours = from_detectron(blobs)
    state = model.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {n: v.shape for n, v in state.items()}


def test_detectron_blobs_land_where_they_belong_and_come_back(shared: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        "seeded_weights_detectron", shared / "golden" / "seeded_weights_detectron.py"
    )
    assert spec is not None and spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    shapes = {  # the body's convolutions are large and proved by other models
        name: shape
        for name, shape in _detectron_shapes((3, 4, 6, 3)).items()
        if not (name.startswith("res") and name.endswith("_w"))
    }
    blobs = {name: torch.from_numpy(array) for name, array in recipe.make_blobs(shapes).items()}
    ours = from_detectron(blobs)
    assert torch.equal(ours["head.cls_conv1.weight"], blobs["retnet_cls_conv_n0_fpn3_w"])
    assert torch.equal(ours["head.bbox_conv4.bias"], blobs["retnet_bbox_conv_n3_fpn3_b"])
    assert torch.equal(ours["head.cls_score.bias"], blobs["retnet_cls_pred_fpn3_b"])
    assert torch.equal(ours["head.bbox_pred.weight"], blobs["retnet_bbox_pred_fpn3_w"])
    assert torch.equal(ours["backbone.fpn.extra7.weight"], blobs["fpn_7_w"])
    back = to_detectron(ours)
    assert back.keys() == blobs.keys()
    for name, value in blobs.items():
        torch.testing.assert_close(back[name], value, rtol=1e-6, atol=0, msg=name)


def test_detectron2_there_and_back(shared: Path) -> None:
    folder = shared / "golden" / "detectron2" / "retinanet_R_50_FPN_1x"
    generator = torch.Generator().manual_seed(0)
    shapes = json.loads((folder / "params.json").read_text())
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    ours = from_detectron2(state)
    assert all(name.startswith(("backbone.", "head.")) for name in ours)
    assert torch.equal(ours["head.cls_conv3.weight"], state["head.cls_subnet.4.weight"])
    assert torch.equal(ours["head.bbox_conv1.bias"], state["head.bbox_subnet.0.bias"])
    _assert_same(to_detectron2(ours), state)


def test_detectron2_towers_with_norms() -> None:
    state = {
        f"head.{tower}_subnet.{i}.{part}": torch.randn(
            [4, 4, 3, 3] if i % 3 == 0 and part == "weight" else [4]
        )
        for tower in ("cls", "bbox")
        for i in (0, 1, 3, 4)
        for part in ("weight", "bias")
    }
    ours = from_detectron2(state)
    assert torch.equal(ours["head.cls_conv2.norm.weight"], state["head.cls_subnet.4.weight"])
    assert torch.equal(ours["head.bbox_conv2.weight"], state["head.bbox_subnet.3.weight"])
    _assert_same(to_detectron2(ours), state)


def test_torchvisions_older_names_and_its_class_for_background() -> None:
    state = {
        "backbone.body.conv1.weight": torch.randn(4, 3, 7, 7),
        "backbone.fpn.inner_blocks.0.weight": torch.randn(4, 4, 1, 1),
        "head.classification_head.conv.2.weight": torch.randn(4, 4, 3, 3),
        "head.regression_head.conv.6.bias": torch.randn(4),
        "head.classification_head.cls_logits.weight": torch.randn(2 * 3, 4, 3, 3),
        "head.classification_head.cls_logits.bias": torch.randn(2 * 3),
        "head.regression_head.bbox_reg.bias": torch.randn(2 * 4),
    }
    ours = from_torchvision(state)
    assert "backbone.fpn.lateral3.weight" in ours  # the pyramid begins at level 3
    assert torch.equal(ours["head.cls_conv2.weight"], state["head.classification_head.conv.2.weight"])
    assert torch.equal(ours["head.bbox_conv4.bias"], state["head.regression_head.conv.6.bias"])
    rows = [1, 2, 4, 5]
    for part in ("weight", "bias"):
        theirs = state[f"head.classification_head.cls_logits.{part}"]
        assert torch.equal(ours[f"head.cls_score.{part}"], theirs[rows])
    back = to_torchvision(ours)
    assert back["head.classification_head.cls_logits.bias"][[0, 3]].sigmoid().max() < 1e-20
    _assert_same(from_torchvision(back), ours)


def test_a_fresh_average_is_not_missed() -> None:
    """Weights from elsewhere have no moving average of the loss; they fit nevertheless."""
    keys = {
        "MODEL.TYPE": "retinanet", "RETINANET.RETINANET_ON": True, "MODEL.NUM_CLASSES": 3, "FPN.FPN_ON": True,
        "MODEL.CONV_BODY": "FPN.add_fpn_ResNet18_conv5_body", "RESNETS.WIDTH_MULTIPLIER": 0.1, "FPN.DIM": 8,
    }  # fmt: skip
    model = build_detector(Config().with_overrides(keys))
    state = {name: value for name, value in model.state_dict().items() if name != "loss_normalizer"}
    assert len(state) == len(model.state_dict()) - 1
    assert fit_weights(model, state).complete
