"""Top-level keys: machine, folders, pixel means, small numbers; and the cluster section."""

from __future__ import annotations

import math
import os
from typing import Annotated, Any

from pydantic import Field

from detectune.config.knob import Section, knob

# One pixel of an image [1, 1, 3], so that it broadcasts over [H, W, 3].
PixelMeans = Annotated[
    list[
        Annotated[
            list[Annotated[list[float], Field(min_length=3, max_length=3)]], Field(min_length=1, max_length=1)
        ]
    ],
    Field(min_length=1, max_length=1),
]


class Cluster(Section):
    """Cluster of machines."""

    ON_CLUSTER: bool = knob(
        False,
        "Whether Detectron ran on its authors' cluster.",
        kind="runtime",
        stage="nothing",
        obsolete="Nothing to set: a run behaves the same everywhere; put OUTPUT_DIR on the shared disk.",
    )


class Runtime(Section):
    """Keys without a section."""

    NUM_GPUS: int = knob(
        1,
        "Devices that share each step, each with its own process. The batch is TRAIN.IMS_PER_BATCH "
        "times this: with fewer devices than a schedule was written for, lower the learning rate or "
        "set SOLVER.REFERENCE_BATCH. With MODEL.DEVICE cpu the processes share the processor.",
        kind="runtime",
        stage="training",
        unit="devices",
        ge=1,
    )
    USE_NCCL: bool = knob(
        False,
        "Whether Caffe2 summed gradients with NCCL.",
        kind="runtime",
        stage="nothing",
        obsolete="Nothing to set: several GPUs talk through NCCL.",
    )
    DEDUP_BOXES: float = knob(
        0.0625,
        "Ready-made proposals that are equal after multiplication by this and rounding are computed "
        "once (1/16: equal on the feature grid); 0 computes all. Smaller merges more.",
        kind="inference",
        stage="inference",
        unit="1 / pixels",
        ge=0,
        source="Detectron; He et al. 2014 (arXiv:1406.4729)",
    )
    BBOX_XFORM_CLIP: float = knob(
        math.log(1000.0 / 16.0),
        "Limit of the predicted logarithm of width and height, so that untrained networks cannot "
        "overflow. The default allows boxes 62.5 times their reference.",
        kind="inference",
        stage="training",
        unit="log factor",
        gt=0,
    )
    PIXEL_MEANS: PixelMeans = knob(
        [[[102.9801, 115.9465, 122.7717]]],
        "Mean of blue, green and red that is subtracted from every image. Use what the pre-trained "
        "weights were trained with.",
        kind="data",
        stage="training",
        unit="grey levels",
        source="Detectron (Caffe ImageNet models)",
    )
    RNG_SEED: int = knob(
        3,
        "Start of all random numbers. Equal seeds give equal runs on the same machine; repeat with "
        "several to see what is luck.",
        kind="runtime",
        stage="training",
        ge=0,
    )
    EPS: float = knob(
        1e-14,
        "Tiny number that once kept divisions by empty counts defined.",
        kind="runtime",
        stage="nothing",
        gt=0,
        obsolete="Nothing to set: every division guards its own denominator; the update rules' is SOLVER.EPS.",
    )
    ROOT_DIR: str = knob(
        os.getcwd,
        "Folder against which relative paths are resolved that do not exist beside the configuration "
        "file. The default is the working directory.",
        kind="runtime",
        stage="nothing",
        unit="path",
    )
    OUTPUT_DIR: str = knob(
        "/tmp",
        "Where run directories are written.",
        kind="runtime",
        stage="nothing",
        unit="path",
    )
    MATLAB: str = knob(
        "matlab",
        "Command that started Matlab for the VOC evaluation.",
        kind="runtime",
        stage="nothing",
        obsolete="Nothing to set: Pascal VOC is evaluated in Python.",
    )
    VIS: bool = knob(
        False,
        "Also draws every tested image with its detections into the evaluation's folder. Off draws "
        "only the samples of the report.",
        kind="evaluation",
        stage="nothing",
    )
    VIS_TH: float = knob(
        0.9,
        "Detections below this score are not drawn. Lower shows more mistakes.",
        kind="evaluation",
        stage="nothing",
        unit="probability",
        ge=0,
        le=1,
    )
    EXPECTED_RESULTS: list[list[Any]] = knob(
        [],
        "Metrics that a test must reach, as rows [data set, task, metric, value]; the test fails if "
        "one is off. For regression tests.",
        kind="evaluation",
        stage="nothing",
    )
    EXPECTED_RESULTS_RTOL: float = knob(
        0.1,
        "Allowed relative deviation from EXPECTED_RESULTS. Larger forgives more.",
        kind="evaluation",
        stage="nothing",
        unit="fraction",
        ge=0,
    )
    EXPECTED_RESULTS_ATOL: float = knob(
        0.005,
        "Allowed absolute deviation from EXPECTED_RESULTS. Larger forgives more.",
        kind="evaluation",
        stage="nothing",
        ge=0,
    )
    EXPECTED_RESULTS_SIGMA_TOL: int = knob(
        4,
        "Allowed deviation for rows that give a standard deviation, [data set, task, metric, mean, "
        "sd]. Larger forgives more.",
        kind="evaluation",
        stage="nothing",
        unit="standard deviations",
        ge=0,
    )
    EXPECTED_RESULTS_EMAIL: str = knob(
        "",
        "Whom Detectron mailed about unexpected results.",
        kind="evaluation",
        stage="nothing",
        obsolete="Nothing to set: the exit code and the message tell of a failure.",
    )
    MEMONGER: bool = knob(
        True,
        "Whether Caffe2 shared memory among gradients.",
        kind="runtime",
        stage="nothing",
        obsolete="Nothing to set: PyTorch frees and reuses memory by itself.",
    )
    MEMONGER_SHARE_ACTIVATIONS: bool = knob(
        False,
        "Whether Caffe2 shared memory among activations.",
        kind="runtime",
        stage="nothing",
        obsolete="Nothing to set: PyTorch frees and reuses memory by itself.",
    )
    DOWNLOAD_CACHE: str = knob(
        "/tmp/detectron-download-cache",
        "Folder for downloaded weights and data, used again by later runs.",
        kind="runtime",
        stage="nothing",
        unit="path",
    )
