"""Detectron's command lines on six generated images and a network that trains in seconds."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TINY = """\
MODEL: {TYPE: generalized_rcnn, CONV_BODY: FPN.add_fpn_ResNet18_conv5_body, FASTER_RCNN: true, MASK_ON: true}
RESNETS: {NORM: group, WIDTH_MULTIPLIER: 0.125, STRIDE_1X1: false}
GROUP_NORM: {NUM_GROUPS: 4}
FPN: {FPN_ON: true, MULTILEVEL_ROIS: true, MULTILEVEL_RPN: true, DIM: 16, RPN_ANCHOR_START_SIZE: 16}
FAST_RCNN: {ROI_BOX_HEAD: fast_rcnn_heads.add_roi_2mlp_head, ROI_XFORM_METHOD: RoIAlign, MLP_HEAD_DIM: 32}
MRCNN: {ROI_MASK_HEAD: mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs, ROI_XFORM_METHOD: RoIAlign, DIM_REDUCED: 16,
        ROI_XFORM_RESOLUTION: 14, RESOLUTION: 28}
SOLVER: {BASE_LR: 0.001}
TRAIN: {DATASETS: [tiny], SCALES: [64], MAX_SIZE: 80, FREEZE_AT: 0, RPN_PRE_NMS_TOP_N: 50, RPN_POST_NMS_TOP_N: 20,
        IMS_PER_BATCH: 2, BATCH_SIZE_PER_IM: 16}
TEST: {DATASETS: [tiny], SCALE: 64, MAX_SIZE: 80, RPN_PRE_NMS_TOP_N: 50, RPN_POST_NMS_TOP_N: 20, SCORE_THRESH: 0.0,
       DETECTIONS_PER_IM: 5, IMS_PER_BATCH: 2}
DATA_LOADER: {NUM_THREADS: 0}
DATASETS: {tiny: {images: data/images, annotations: data/annotations.json}}
OUTPUT_DIR: out
"""

Line = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def line(root: Path) -> Line:
    """line("train_net", "--cfg", ..., cwd=folder) runs tools/train_net.py in a process of its own."""

    def run(tool: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(root / "tools" / f"{tool}.py"), *map(str, words)],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def tool(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """tool("reval", "--dataset", ..., cwd=folder) runs tools/reval.py in this process and returns its exit code."""

    def run(name: str, *words: object, cwd: Path) -> int:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        try:
            runpy.run_path(str(root / "tools" / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        raise AssertionError("a tool leaves with an exit code")

    return run


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.yaml and its data."""
    from detectune.data.shapes import make_shapes

    folder = tmp_path_factory.mktemp("work")
    made = make_shapes(tmp_path_factory.mktemp("made"), split="val", num_images=6, image_size=(64, 80))
    made.annotations.parent.rename(folder / "data")
    (folder / "tiny.yaml").write_text(TINY)
    return folder
