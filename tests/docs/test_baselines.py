"""Detectron's 87 baselines under configs/: their values, their writer, and whether they build."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from detectune.config.legacy import RENAMED_FUNCTIONS, infer
from detectune.config.load import Config, load_config
from detectune.models.build import build_detector


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, dict[str, Any]]:
    return json.loads((shared / "golden/detectron/yaml_values.json").read_text())


@pytest.fixture(scope="module")
def writer(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_baselines", root / "docs/write_baselines.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["write_baselines"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_file_loads_to_exactly_detectrons_values(root: Path, golden: dict[str, dict[str, Any]]) -> None:
    defaults = Config().flat()
    assert len(golden) == 87
    for name, values in golden.items():
        expected = dict(defaults)
        for key, value in values.items():
            value = RENAMED_FUNCTIONS.get(value, value) if isinstance(value, str) else value
            expected[key] = tuple(value) if isinstance(defaults[key], tuple) else value
        expected |= infer(expected)
        config = load_config(root / "configs" / name)
        found = config.flat()
        wrong = {key: (found[key], expected[key]) for key in found if found[key] != expected[key]}
        assert not wrong, name
        assert config.notices == (), name


def test_the_files_are_what_their_writer_writes(root: Path, writer: ModuleType, tmp_path: Path) -> None:
    written = writer.write(tmp_path)
    assert len({*written}) == len(written) == 87
    for file in written:
        name = file.relative_to(tmp_path)
        assert (root / "configs" / name).read_text() == file.read_text(), (
            f"{name} is out of date; run python docs/write_baselines.py"
        )


def test_comments_say_what_detectron_reached(root: Path) -> None:
    """Three figures of MODEL_ZOO.md, one of each kind."""
    folder = root / "configs/12_2017_baselines"
    for name, said in {
        "e2e_mask_rcnn_R-50-FPN_1x": "box AP 37.7, mask AP 33.9",
        "keypoint_rcnn_R-50-FPN_s1x": "box AP 53.4, keypoint AP 65.5",
        "rpn_X-101-32x8d-FPN_1x": "AR 59.5 at 1000 proposals",
    }.items():
        comment = " ".join(
            line.removeprefix("# ")
            for line in (folder / f"{name}.yaml").read_text().splitlines()
            if line.startswith("#")
        )
        assert said in comment


NETWORK = ("MODEL", "RESNETS", "FPN", "RPN", "FAST_RCNN", "MRCNN", "KRCNN", "RETINANET", "RFCN", "GROUP_NORM")


def test_every_file_builds(root: Path, golden: dict[str, dict[str, Any]]) -> None:
    """On the meta device, with the parts that the file asks for; files of one network share it."""
    built: dict[str, tuple[set[str], int]] = {}
    for name in golden:
        config = load_config(root / "configs" / name)
        tree, model = config.tree(), config.MODEL
        network = json.dumps([tree[section] for section in NETWORK], sort_keys=True)
        if network not in built:
            with torch.device("meta"):
                detector = build_detector(config)
            parts = {key.partition(".")[0] for key, _ in detector.named_parameters()}
            built[network] = parts, sum(p.numel() for p in detector.parameters())
        parts, size = built[network]
        one_stage = config.RETINANET.RETINANET_ON
        wanted = {
            "backbone": True,
            "head": one_stage,
            "rpn": not one_stage and (model.FASTER_RCNN or model.RPN_ONLY),
            "box_head": not one_stage and not model.RPN_ONLY,
            "mask_head": model.MASK_ON,
            "keypoint_head": model.KEYPOINTS_ON,
        }
        assert parts == {part for part, there in wanted.items() if there}, name
        assert 1.5e7 < size < 2.5e8, name
    assert len(built) >= 40


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
def test_tutorials_build_and_see_the_same_images(root: Path, gpus: int) -> None:
    config = load_config(root / f"configs/getting_started/tutorial_{gpus}gpu_e2e_faster_rcnn_R-50-FPN.yaml")
    with torch.device("meta"):  # shapes without memory
        model = build_detector(config)
    assert model.box_head.cls_score.out_features == 81
    solver = config.SOLVER
    assert gpus * solver.MAX_ITER == 60000 and pytest.approx(0.0025 * gpus) == solver.BASE_LR
    assert [gpus * step for step in solver.STEPS] == [0, 30000, 40000]
