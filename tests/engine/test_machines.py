"""Several machines: two launchers of torchrun meet, as on two hosts, and give what one process gives.

Both run on this machine and meet over its loopback; bench/machines.py does the same with two network namespaces.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from detectune.config.load import load_config
from detectune.data.shapes import make_shapes
from detectune.engine.run_directory import RunDirectory
from detectune.engine.trainer import train

SECONDS = 300  # far more than is needed: a hang ends with a failure
SMALL = {
    "TRAIN.DATASETS": ["mine"], "TEST.DATASETS": ["mine"], "TRAIN.SCALES": [64, 96], "TEST.SCALE": 96,
    "RESNETS.WIDTH_MULTIPLIER": 0.125, "FPN.DIM": 16, "FAST_RCNN.MLP_HEAD_DIM": 32, "MRCNN.DIM_REDUCED": 16,
    "TRAIN.RPN_POST_NMS_TOP_N": 50, "TEST.RPN_POST_NMS_TOP_N": 20, "TRAIN.BATCH_SIZE_PER_IM": 32,
    "RESNETS.NORM": "group", "GROUP_NORM.NUM_GROUPS": 4, "SOLVER.OPTIMIZER": "sgd", "SOLVER.BASE_LR": 0.01,
    "SOLVER.MAX_ITER": 2, "SOLVER.PRECISION": "fp32", "TRAIN.EVAL_ITERS": 0, "TRAIN.LOG_ITERS": 1,
    "DATA_LOADER.NUM_THREADS": 0, "MODEL.DEVICE": "cpu", "TEST.SCORE_THRESH": 0.0,
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


@pytest.mark.slow
def test_two_machines_equal_one_process_with_the_whole_batch(root: Path, tmp_path: Path) -> None:
    paths = make_shapes(tmp_path / "shapes", split="train", num_images=6, image_size=(96, 96), seed=1)
    place = {"images": str(paths.images), "annotations": str(paths.annotations)}
    changes = SMALL | {"DATASETS": {"mine": place}, "TRAIN.IMS_PER_BATCH": 2}
    config = load_config(root / "configs/getting_started/shapes.yaml", changes)
    (tmp_path / "machines.yaml").write_text(config.to_yaml())

    port = free_port()
    launchers = [
        subprocess.Popen(
            [
                sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
                "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "two",
                "--local-addr", "127.0.0.1", "-m", "detectune", "train", str(tmp_path / "machines.yaml"),
                "--output", str(tmp_path / "two"),
            ],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        said = [launcher.communicate(timeout=SECONDS)[0] for launcher in launchers]
    finally:
        for launcher in launchers:
            launcher.kill()
    assert [launcher.returncode for launcher in launchers] == [0, 0], said
    assert sum("Run directory:" in text for text in said) == 1, "of all processes the first speaks"

    whole = config.with_overrides({"TRAIN.IMS_PER_BATCH": 4})
    train(whole, output_dir=tmp_path / "one", log=lambda _: None)
    one, two = (rows_of(tmp_path / name) for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-5) and len(one) > 10
    assert yaml.safe_load((tmp_path / "two/config.yaml").read_text())["NUM_GPUS"] == 2


def rows_of(run: Path) -> dict[str, float]:
    """Every loss of every step, and the AP at the end."""
    found = {}
    for row in RunDirectory(run).read_metrics():
        for name, value in row.items():
            if name.startswith(("loss", "bbox/AP", "segm/AP")) and value is not None:
                found[f"{row['kind']} {row['iteration']} {name}"] = value
    return found
