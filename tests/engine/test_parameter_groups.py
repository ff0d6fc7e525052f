"""Which parameters of real models decay and how fast they learn, against what Detectron recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from detectune.config.load import Config, load_config
from detectune.engine.solver import parameter_groups
from detectune.models.build import build_detector
from detectune.weights.detectron import from_detectron, stage_heads_of


@pytest.mark.parametrize(
    "name", ["e2e_faster_rcnn_R-50-FPN_1x", "e2e_keypoint_rcnn_R-50-FPN_1x", "e2e_mask_rcnn_R-50-C4_1x"]
)
def test_groups_are_detectrons(name: str, shared: Path) -> None:
    folder = shared / "golden/detectron" / name
    recorded = json.loads((folder / "param_groups.json").read_text())
    shapes = json.loads((folder / "blobs.json").read_text())
    config = Config().with_overrides(json.loads((folder / "config.json").read_text())["yaml_values"])
    with torch.device("meta"):  # names only: no weight is drawn
        model = build_detector(config)
    own = set(model.state_dict())
    groups = {
        group["name"]: set(group["names"])
        for group in parameter_groups(model, weight_decay=1e-4, weight_decay_norm=0.0)
    }

    heads = stage_heads_of(own)
    assert heads == (() if config.FPN.FPN_ON else ("box_head",))

    def ours(blobs: list[str]) -> set[str]:
        converted = from_detectron({blob: torch.zeros(shapes[blob]) for blob in blobs}, stage_heads=heads)
        return {entry for entry in converted if entry in own}

    assert groups["bias"] == ours(recorded["bias_2x_lr_no_weight_decay"])
    assert groups["weight"] == ours(recorded["weight_decay"])
    assert "norm" not in groups and len(groups["weight"]) == len(recorded["weight_decay"])
    trained = groups["bias"] | groups["weight"]
    # the enlargement of heat maps has weights there, here it is no parameter
    frozen = [blob for blob in recorded["frozen"] if blob not in ("kps_score_w", "kps_score_b")]
    assert not trained & ours(frozen), "a frozen parameter is trained"


def test_group_norm_scales_have_their_own_decay(root: Path) -> None:
    config = load_config(
        root / "configs/getting_started/shapes.yaml", {"RESNETS.NORM": "group", "MODEL.NUM_CLASSES": 3}
    )
    with torch.device("meta"):
        model = build_detector(config)
    groups = {g["name"]: g for g in parameter_groups(model, weight_decay=0.1, weight_decay_norm=0.2)}
    assert groups["norm"]["weight_decay"] == 0.2
    assert groups["norm"]["names"] and all(".norm" in name for name in groups["norm"]["names"])
    assert not any(".norm." in name for name in groups["weight"]["names"])


def test_biases_decay_where_they_are_told_to_and_those_of_norms_never(root: Path) -> None:
    config = load_config(
        root / "configs/getting_started/shapes.yaml", {"RESNETS.NORM": "group", "MODEL.NUM_CLASSES": 3}
    )
    with torch.device("meta"):
        model = build_detector(config)
    made = parameter_groups(
        model, weight_decay=0.1, weight_decay_norm=0.2, weight_decay_bias=0.3, bias_lr_factor=1.0
    )
    groups = {g["name"]: g for g in made}
    assert {name: g["weight_decay"] for name, g in groups.items()} == {
        "weight": 0.1, "norm": 0.2, "bias": 0.3, "norm_bias": 0.0,
    }  # fmt: skip
    assert all(n.endswith(".norm.bias") for n in groups["norm_bias"]["names"])
    assert not any(".norm." in n for n in groups["bias"]["names"]) and groups["bias"]["names"]
    assert sum(len(g["names"]) for g in made) == sum(p.requires_grad for p in model.parameters())
