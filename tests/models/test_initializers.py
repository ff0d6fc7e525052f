"""Fresh weights are drawn as Detectron drew them: the filler of every parameter of a recorded model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from detectune.config.tree import Config
from detectune.models.build import build_detector
from detectune.weights.detectron import to_detectron


@pytest.mark.parametrize("name", ["e2e_keypoint_rcnn_R-50-FPN_1x"])
def test_fillers_are_detectrons(name: str, shared: Path) -> None:
    folder = shared / "golden" / "detectron" / name
    fillers = json.loads((folder / "initializers.json").read_text())["params"]
    values = json.loads((folder / "config.json").read_text())["yaml_values"]
    torch.manual_seed(0)
    model = build_detector(Config().with_overrides(values | {"MODEL.GEOMETRY": "detectron"}))
    blobs = {k: v.detach() for k, v in to_detectron(model.state_dict()).items()}
    assert blobs.keys() == fillers.keys()
    for blob, (kind, options) in fillers.items():
        weight = blobs[blob]
        deviation = float(weight.std()) if weight.numel() > 1 else 0.0
        count = weight.numel()
        if kind == "ConstantFill":
            torch.testing.assert_close(weight, torch.full_like(weight, options.get("value", 0.0)), msg=blob)
            continue
        if kind == "GivenTensorFill":  # the enlargement of heat maps: every interior pixel is a mean of four
            torch.testing.assert_close(weight.sum((0, 2, 3)), torch.full((len(weight),), 4.0))
            continue
        fan_in, fan_out = count / weight.shape[0], count / weight.shape[1]
        wanted = {
            "XavierFill": math.sqrt(1 / fan_in), "MSRAFill": math.sqrt(2 / fan_out), "GaussianFill": options.get("std"),
        }[kind]  # fmt: skip
        assert deviation == pytest.approx(wanted, rel=5 / math.sqrt(count)), (blob, kind)
