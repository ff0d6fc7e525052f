"""A classifier-sized detector study: six generated images, two iterations a trial."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

TINY = """\
MODEL: {TYPE: generalized_rcnn, CONV_BODY: FPN.add_fpn_ResNet18_conv5_body, FASTER_RCNN: true}
RESNETS: {NORM: group, WIDTH_MULTIPLIER: 0.125, STRIDE_1X1: false}
GROUP_NORM: {NUM_GROUPS: 4}
FPN: {FPN_ON: true, MULTILEVEL_ROIS: true, MULTILEVEL_RPN: true, DIM: 16, RPN_ANCHOR_START_SIZE: 16}
FAST_RCNN: {ROI_BOX_HEAD: fast_rcnn_heads.add_roi_2mlp_head, ROI_XFORM_METHOD: RoIAlign, MLP_HEAD_DIM: 32,
            ROI_XFORM_SAMPLING_RATIO: 2}
SOLVER: {MAX_ITER: 2, BASE_LR: 0.001}
TRAIN: {DATASETS: [tiny], SCALES: [64], MAX_SIZE: 80, FREEZE_AT: 0, RPN_PRE_NMS_TOP_N: 50, RPN_POST_NMS_TOP_N: 20,
        IMS_PER_BATCH: 2, BATCH_SIZE_PER_IM: 16, LOG_ITERS: 1}
TEST: {DATASETS: [tiny], SCALE: 64, MAX_SIZE: 80, RPN_PRE_NMS_TOP_N: 50, RPN_POST_NMS_TOP_N: 20, IMS_PER_BATCH: 4}
DATA_LOADER: {NUM_THREADS: 0}
DATASETS: {tiny: {images: data/images, annotations: data/annotations.json}}
"""


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/ and annotations.json of six generated images."""
    from detectune.data.shapes import make_shapes

    return make_shapes(
        tmp_path_factory.mktemp("tiny"), split="val", num_images=6, image_size=(64, 80)
    ).annotations.parent


@pytest.fixture
def tiny(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tiny.yaml in an empty working directory, beside its own copy of the data."""
    shutil.copytree(tiny_data, tmp_path / "data")
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tiny.yaml"
