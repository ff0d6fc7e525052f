"""Configuration sections: CLUSTER, ."""

from __future__ import annotations

import os
from typing import Any

from detectune.config.knob import Section, knob


class Cluster(Section):
    ON_CLUSTER: bool = knob(False, "", kind="runtime", stage="nothing")


class Runtime(Section):
    BBOX_XFORM_CLIP: float = knob(4.135166556742356, "", kind="runtime", stage="nothing")
    DEDUP_BOXES: float = knob(0.0625, "", kind="runtime", stage="nothing")
    DOWNLOAD_CACHE: str = knob("/tmp/detectron-download-cache", "", kind="runtime", stage="nothing")
    EPS: float = knob(1e-14, "", kind="runtime", stage="nothing")
    EXPECTED_RESULTS: list[list[Any]] = knob([], "", kind="runtime", stage="nothing")
    EXPECTED_RESULTS_ATOL: float = knob(0.005, "", kind="runtime", stage="nothing")
    EXPECTED_RESULTS_EMAIL: str = knob("", "", kind="runtime", stage="nothing")
    EXPECTED_RESULTS_RTOL: float = knob(0.1, "", kind="runtime", stage="nothing")
    EXPECTED_RESULTS_SIGMA_TOL: int = knob(4, "", kind="runtime", stage="nothing")
    MATLAB: str = knob("matlab", "", kind="runtime", stage="nothing")
    MEMONGER: bool = knob(True, "", kind="runtime", stage="nothing")
    MEMONGER_SHARE_ACTIVATIONS: bool = knob(False, "", kind="runtime", stage="nothing")
    NUM_GPUS: int = knob(1, "", kind="runtime", stage="nothing")
    OUTPUT_DIR: str = knob("/tmp", "", kind="runtime", stage="nothing")
    PIXEL_MEANS: list[list[list[float]]] = knob(
        [[[102.9801, 115.9465, 122.7717]]], "", kind="runtime", stage="nothing"
    )
    RNG_SEED: int = knob(3, "", kind="runtime", stage="nothing")
    ROOT_DIR: str = knob(os.getcwd, "", kind="runtime", stage="nothing")
    USE_NCCL: bool = knob(False, "", kind="runtime", stage="nothing")
    VIS: bool = knob(False, "", kind="runtime", stage="nothing")
    VIS_TH: float = knob(0.9, "", kind="runtime", stage="nothing")
