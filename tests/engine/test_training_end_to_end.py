"""A small real Mask R-CNN on generated shapes: data, model, solver, evaluation and files, put together."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from detectune.config.load import Config, load_config
from detectune.data.shapes import make_shapes
from detectune.engine.hooks import Hook
from detectune.engine.run_directory import RunDirectory
from detectune.engine.running import Run
from detectune.engine.trainer import train
from detectune.errors import DataError
from detectune.models.build import build_detector
from detectune.weights.native import load_weights


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("shapes")
    sets = {}
    for split, count in (("train", 6), ("val", 2)):
        paths = make_shapes(folder / split, split=split, num_images=count, image_size=(96, 96), seed=1)
        sets[f"my_{split}"] = {"images": str(paths.images), "annotations": str(paths.annotations)}
    return sets


def small(root: Path, data: dict[str, Any], **changes: Any) -> Config:
    keys = {
        "DATASETS": data, "TRAIN.DATASETS": ["my_train"], "TEST.DATASETS": ["my_val"], "TRAIN.SCALES": [96],
        "TEST.SCALE": 96, "RESNETS.WIDTH_MULTIPLIER": 0.125, "FPN.DIM": 16, "FAST_RCNN.MLP_HEAD_DIM": 32,
        "MRCNN.DIM_REDUCED": 16, "TRAIN.IMS_PER_BATCH": 2, "TRAIN.RPN_POST_NMS_TOP_N": 50,
        "TEST.RPN_POST_NMS_TOP_N": 20, "TEST.IMS_PER_BATCH": 2, "SOLVER.MAX_ITER": 4, "TRAIN.EVAL_ITERS": 0,
        "TRAIN.LOG_ITERS": 2, "TRAIN.SNAPSHOT_ITERS": 2, "DATA_LOADER.NUM_THREADS": 0, "MODEL.DEVICE": "cpu",
    }  # fmt: skip
    overrides = keys | {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(root / "configs/getting_started/shapes.yaml", overrides)


class StopAt(Hook):
    """Ends the process's work as a crash would."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_step(self, run: Run) -> None:
        if run.iteration == self.iteration:
            raise ConnectionAbortedError


def quiet(_: str) -> None:
    return


def test_a_real_run_is_exact_measured_and_loadable(root: Path, data: dict[str, Any], tmp_path: Path) -> None:
    config = small(root, data)
    result = train(config, output_dir=tmp_path / "whole", log=quiet)
    with pytest.raises(ConnectionAbortedError):
        train(config, output_dir=tmp_path / "cut", log=quiet, hooks=[StopAt(3)])
    # Another number of loader processes: results must not depend on it.
    other = config.with_overrides({"DATA_LOADER.NUM_THREADS": 1})
    train(other, output_dir=tmp_path / "cut", log=quiet)
    final = [load_weights(tmp_path / name / "model_final.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(final[0][0][name], final[1][0][name]) for name in final[0][0])
    assert {"bbox/AP", "segm/AP", "val/loss", "val/loss_mask"} <= set(result.metrics)
    assert math.isfinite(result.metrics["val/loss"]) and result.metrics["val/loss"] > 0
    rows = RunDirectory(tmp_path / "whole").read_metrics()
    assert [(row["kind"], row["iteration"]) for row in rows] == [
        ("train", 2),
        ("train", 4),
        ("evaluation", 4),
    ]
    losses = {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"}
    assert losses <= set(rows[0]) and all(math.isfinite(rows[0][name]) for name in losses)
    model = build_detector(config, num_classes=final[0][0]["box_head.cls_score.weight"].shape[0])
    model.load_state_dict(final[0][0])
    assert load_config(tmp_path / "whole" / "config.yaml").diff() == config.diff()


def test_a_truncated_photograph_is_named_or_skipped_and_counted(
    root: Path, tmp_path: Path, data: dict[str, Any]
) -> None:
    paths = make_shapes(tmp_path / "broken", split="train", num_images=3, image_size=(96, 96), seed=2)
    victim = sorted(Path(paths.images).iterdir())[1]
    victim.write_bytes(victim.read_bytes()[:200])
    sets = data | {"torn": {"images": str(paths.images), "annotations": str(paths.annotations)}}
    config = small(root, sets, TRAIN__DATASETS=["torn"])
    with pytest.raises(DataError, match=victim.name):
        train(config, output_dir=tmp_path / "strict", log=quiet)
    said: list[str] = []
    config = config.with_overrides({"TRAIN.SKIP_BROKEN_IMAGES": True})
    train(config, output_dir=tmp_path / "lenient", log=said.append)
    assert any("1 image could not be read" in line and victim.name in line for line in said)
    assert RunDirectory(tmp_path / "lenient").read_metrics()[1]["skipped_images"] == 1


def test_a_signal_to_the_whole_process_group_saves(root: Path, data: dict[str, Any], tmp_path: Path) -> None:
    """Job schedulers and `timeout` signal loader workers too."""
    config = small(root, data, SOLVER__MAX_ITER=100_000, TRAIN__LOG_ITERS=1, DATA_LOADER__NUM_THREADS=1)
    file = tmp_path / "small.yaml"
    file.write_text(config.to_yaml())
    command = [sys.executable, "-m", "detectune", "train", str(file), "--output", str(tmp_path / "run")]
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert run.stdout is not None
    try:
        said = next(line for line in run.stdout if line.startswith("3/100000 "))
        os.killpg(run.pid, signal.SIGTERM)
        said = run.communicate(timeout=120)[0]
    finally:
        run.kill()
    assert run.returncode == 128 + signal.SIGTERM and "Give the same command again" in said, said
    assert list((tmp_path / "run" / "checkpoints").glob("*.pt"))
