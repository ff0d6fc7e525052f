"""A small RetinaNet learns eight generated images by heart: data, losses, solver, checkpoint, test path and AP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from detectune.config.load import Config, load_config
from detectune.data.images import load_image
from detectune.data.shapes import make_shapes
from detectune.engine import inference, testing
from detectune.engine.initial_weights import load_initial_weights
from detectune.engine.run_directory import RunDirectory
from detectune.engine.trainer import train
from detectune.models.build import build_detector
from detectune.models.geometry import GEOMETRIES
from detectune.weights.native import load_weights, save_weights


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("shapes")
    paths = make_shapes(folder, split="train", num_images=8, image_size=(96, 96), seed=1)
    return {"images": str(paths.images), "annotations": str(paths.annotations)}


def small(root: Path, data: dict[str, str], **changes: Any) -> Config:
    keys = {
        "DATASETS": {"shapes": data}, "TRAIN.DATASETS": ["shapes"], "TEST.DATASETS": ["shapes"],
        "TRAIN.SCALES": [96], "TEST.SCALE": 96, "TRAIN.USE_FLIPPED": False, "TRAIN.IMS_PER_BATCH": 4,
        "RESNETS.WIDTH_MULTIPLIER": 0.25, "FPN.DIM": 32, "FPN.RPN_MAX_LEVEL": 5, "FPN.COARSEST_STRIDE": 32,
        "RETINANET.NUM_CONVS": 1, "SOLVER.BASE_LR": 0.004, "SOLVER.MAX_ITER": 60, "TRAIN.LOG_ITERS": 10,
        "TRAIN.EVAL_ITERS": 0, "TRAIN.SNAPSHOT_ITERS": 1000, "DATA_LOADER.NUM_THREADS": 0, "MODEL.DEVICE": "cpu",
    }  # fmt: skip
    overrides = keys | {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(root / "configs/getting_started/retinanet_shapes.yaml", overrides)


@pytest.mark.slow
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_it_learns_and_what_it_saved_detects(
    geometry: str, root: Path, data: dict[str, str], tmp_path: Path
) -> None:
    config = small(root, data, MODEL__GEOMETRY=geometry)
    result = train(config, output_dir=tmp_path, log=lambda _: None)
    rows = [row for row in RunDirectory(tmp_path).read_metrics() if row["kind"] == "train"]
    for name in ("loss_retnet_cls", "loss_retnet_bbox"):
        assert rows[-1][name] < 0.25 * rows[0][name]
    assert result.metrics["bbox/AP"] > 0.6 and result.metrics["bbox/AP75"] > 0.7
    again = testing.test(config, result.weights, output_dir=tmp_path / "again", log=lambda _: None)
    assert again["bbox/AP"] == pytest.approx(result.metrics["bbox/AP"], abs=1e-6)
    found = inference.Predictor(config, result.weights)(load_image(sorted(Path(data["images"]).iterdir())[0]))
    assert found.masks is None and found.rles is None
    assert float(found.scores[0]) > 0.5 and (found.boxes >= 0).all() and (found.boxes <= 96).all()
    assert ("loss_normalizer" in load_weights(result.weights)[0]) == (geometry == "detectron2")


def test_a_run_cut_in_two_is_the_same_run(root: Path, data: dict[str, str], tmp_path: Path) -> None:
    """The moving average of the loss is part of a checkpoint."""
    config = small(root, data, SOLVER__MAX_ITER=4, SOLVER__LR_POLICY="step", TRAIN__SNAPSHOT_ITERS=2)
    train(config, output_dir=tmp_path / "whole", log=lambda _: None)
    half = config.with_overrides({"SOLVER.MAX_ITER": 2})
    train(half, output_dir=tmp_path / "cut", log=lambda _: None)
    train(config, output_dir=tmp_path / "cut", log=lambda _: None)
    whole, cut = (load_weights(tmp_path / name / "model_final.safetensors")[0] for name in ("whole", "cut"))
    assert float(whole["loss_normalizer"]) != 100.0
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_other_classes_keep_the_towers_and_begin_at_the_prior(
    root: Path, data: dict[str, str], tmp_path: Path
) -> None:
    config = small(root, data)
    source, target = build_detector(config, num_classes=9), build_detector(config, num_classes=4)
    with torch.no_grad():
        source.head.cls_score.bias.fill_(0.5)
    save_weights(tmp_path / "w.safetensors", source.state_dict(), {})
    said = load_initial_weights(target, tmp_path / "w.safetensors")
    assert "start anew: head.cls_score.bias, head.cls_score.weight." in said
    assert torch.equal(target.head.cls_conv1.weight, source.head.cls_conv1.weight)
    assert torch.equal(target.head.bbox_pred.weight, source.head.bbox_pred.weight)
    assert target.head.cls_score.bias.sigmoid().tolist() == pytest.approx([0.01] * 27)
