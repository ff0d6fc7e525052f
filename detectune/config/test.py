"""Inference and evaluation: image size, proposals, suppression, precision."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from detectune.config.augmentation import BoxAugmentation, KeypointAugmentation, MaskAugmentation
from detectune.config.knob import Section, among, knob, linear, log


class SoftNms(Section):
    """Soft suppression."""

    ENABLED: bool = knob(
        False,
        "Lowers the scores of overlapping boxes instead of removing them. Better in crowds, a little slower.",
        kind="inference",
        stage="inference",
        search=among(False, True),
        source="Bodla et al. 2017 (arXiv:1704.04503)",
    )
    METHOD: Literal["hard", "linear", "gaussian"] = knob(
        "linear",
        "How scores fall with overlap: linearly above TEST.NMS, by a Gaussian of it, or to zero "
        "(`hard`, ordinary suppression).",
        kind="inference",
        stage="inference",
        search=among("linear", "gaussian"),
        source="Bodla et al. 2017 (arXiv:1704.04503), section 3",
    )
    SIGMA: float = knob(
        0.5,
        "Width of the Gaussian. Larger lowers overlapping boxes less and keeps more of them.",
        kind="inference",
        stage="inference",
        gt=0,
        search=linear(0.1, 1.0),
        source="Bodla et al. 2017 (arXiv:1704.04503), equation 3",
    )


class BoxVoting(Section):
    """Box voting."""

    ENABLED: bool = knob(
        False,
        "Moves each kept box to the score-weighted mean of the boxes that it suppressed. Slightly "
        "better placed boxes at little cost.",
        kind="inference",
        stage="inference",
        search=among(False, True),
        source="Gidaris & Komodakis 2015 (arXiv:1505.01749), section 4",
    )
    VOTE_TH: float = knob(
        0.8,
        "Overlap from which a box has a vote. Lower lets more distant boxes pull.",
        kind="inference",
        stage="inference",
        unit="IoU",
        ge=0,
        le=1,
        search=linear(0.5, 0.95),
        source="Gidaris & Komodakis 2015 (arXiv:1505.01749), section 4",
    )
    SCORING_METHOD: Literal["ID", "TEMP_AVG", "AVG", "IOU_AVG", "GENERALIZED_AVG", "QUASI_SUM"] = knob(
        "ID",
        "How the voters change the kept box's score: not at all (ID), by kinds of mean, or by a sum "
        "divided by a power of their number (QUASI_SUM), which rewards agreement.",
        kind="inference",
        stage="inference",
        search=among("ID", "AVG", "IOU_AVG", "TEMP_AVG", "GENERALIZED_AVG", "QUASI_SUM"),
    )
    SCORING_METHOD_BETA: float = knob(
        1.0,
        "Parameter of the scoring methods: temperature (TEMP_AVG), exponent (GENERALIZED_AVG), power "
        "of the number of voters (QUASI_SUM). Stays 1 where MODEL.GEOMETRY is detectron, as in the original.",
        kind="inference",
        stage="inference",
        gt=0,
        search=log(0.1, 10.0),
    )


class Test(Section):
    """Inference and evaluation."""

    WEIGHTS: str = knob(
        "",
        "Weights to test; empty takes those that the run has just trained.",
        kind="inference",
        stage="inference",
        unit="path or URL",
    )
    DATASETS: tuple[str, ...] = knob(
        (),
        "Names of the data sets to evaluate on, during and after training.",
        kind="evaluation",
        stage="inference",
    )
    SCALE: int = knob(
        600,
        "Length of the shorter image side at test. Larger finds smaller objects at quadratic cost; "
        "best near the training scales.",
        kind="inference",
        stage="inference",
        unit="pixels",
        ge=1,
        search=linear(400, 1200),
    )
    MAX_SIZE: int = knob(
        1000,
        "Limit of the longer image side at test; wins over SCALE.",
        kind="inference",
        stage="inference",
        unit="pixels",
        ge=1,
        search=linear(640, 2000),
    )
    NMS: float = knob(
        0.3,
        "A box of the same class overlapping a better one more than this is removed. Higher keeps "
        "neighbours in crowds, and more doubles.",
        kind="inference",
        stage="inference",
        unit="IoU",
        ge=0,
        le=1,
        search=linear(0.3, 0.7),
        source="Girshick et al. 2014 (arXiv:1311.2524), section 2.2",
    )
    PRECOMPUTED_PROPOSALS: bool = knob(
        True,
        "Takes proposals from PROPOSAL_FILES. Inferred: off when the network proposes by itself; no "
        "need to set it.",
        kind="inference",
        stage="inference",
    )
    PROPOSAL_FILES: tuple[str, ...] = knob(
        (),
        "Files of ready-made proposals (.pkl or .npz), one for each test data set, when the network does not propose "
        "by itself.",
        kind="data",
        stage="inference",
        unit="path",
    )
    PROPOSAL_LIMIT: int = knob(
        2000,
        "Ready-made proposals that are used per image. Fewer is faster and loses recall.",
        kind="inference",
        stage="inference",
        unit="proposals per image",
        ge=1,
        search=log(50, 4000),
    )
    RPN_NMS_THRESH: float = knob(
        0.7,
        "Proposals overlapping a better one more than this are removed at test. Higher keeps more, "
        "and more alike.",
        kind="inference",
        stage="inference",
        unit="IoU",
        ge=0,
        le=1,
        search=linear(0.5, 0.9),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.3",
    )
    RPN_PRE_NMS_TOP_N: int = knob(
        12000,
        "Best proposals (per level with a pyramid) that enter suppression at test. Fewer is faster "
        "and loses recall.",
        kind="inference",
        stage="inference",
        unit="proposals",
        ge=1,
        search=log(100, 12000),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.3",
    )
    RPN_POST_NMS_TOP_N: int = knob(
        2000,
        "Proposals that reach the heads at test. The heads' time is proportional to it; 300 often "
        "loses nothing.",
        kind="inference",
        stage="inference",
        unit="proposals per image",
        ge=1,
        search=log(50, 2000),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.3",
    )
    RPN_MIN_SIZE: int = knob(
        0,
        "Proposals narrower or lower than this, measured in the original image, are dropped at test.",
        kind="inference",
        stage="inference",
        unit="pixels",
        ge=0,
        search=among(0, 4, 16),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.3",
    )
    DETECTIONS_PER_IM: int = knob(
        100,
        "Best detections kept per image over all classes; 0 keeps all. COCO counts 100; more helps "
        "only images with more objects.",
        kind="inference",
        stage="inference",
        unit="detections per image",
        ge=0,
        search=among(20, 50, 100, 300),
    )
    SCORE_THRESH: float = knob(
        0.05,
        "Detections below this score are dropped. Lower gains a little AP and many false boxes; for "
        "pictures see VIS_TH.",
        kind="inference",
        stage="inference",
        unit="probability",
        ge=0,
        le=1,
        search=linear(0.001, 0.3),
    )
    SCORE_THRESH_PER_CLASS: dict[str, Annotated[float, Field(ge=0, le=1)]] = knob(
        {},
        "Least score of detections by class name, such as {cat: 0.4, dog: 0.7}; lower ones are dropped after "
        "suppression, classes that are not named keep SCORE_THRESH. For use at one operating point: AP counts all "
        "scores and falls. `tune --stage inference --operating-point f1` finds the numbers.",
        kind="inference",
        stage="inference",
        unit="probability",
        source="ours",
    )
    COMPETITION_MODE: bool = knob(
        True,
        "Names result files plainly, as evaluation servers want them. Off adds a random suffix, so "
        "that parallel tests do not overwrite each other.",
        kind="evaluation",
        stage="nothing",
    )
    FORCE_JSON_DATASET_EVAL: bool = knob(
        False,
        "Evaluates every data set by COCO's rules, also those with rules of their own (Pascal VOC).",
        kind="evaluation",
        stage="nothing",
    )
    CLASS_SPECIFIC_AR: bool = knob(
        False,
        "Reports average recall for each class as well. A longer table, no other effect.",
        kind="evaluation",
        stage="nothing",
    )
    BBOX_REG: bool = knob(
        True,
        "Applies the predicted box corrections. Off returns the proposals themselves: a way to see "
        "what regression gains.",
        kind="inference",
        stage="inference",
        source="Girshick 2015 (arXiv:1504.08083), section 2.1",
    )
    GENERATE_PROPOSALS_ON_GPU: bool = knob(
        False,
        "Where Caffe2 made proposals at test.",
        kind="runtime",
        stage="nothing",
        obsolete="Proposals are made wherever the model runs: set MODEL.DEVICE.",
    )
    PRECISION: Literal["fp32", "bf16", "fp16", "auto"] = knob(
        "fp32",
        "Number format at test. Half precision is faster where the machine supports it and moves "
        "scores in the third digit; fp16 is for CUDA only. `auto` takes the fastest measured here.",
        kind="inference",
        stage="inference",
        source="ours; Micikevicius et al. 2018 (arXiv:1710.03740)",
    )
    COMPILE: bool = knob(
        False,
        "Compiles and freezes the network at test. A minute at the start, faster images after.",
        kind="runtime",
        stage="nothing",
        source="ours",
    )
    IMS_PER_BATCH: int = knob(
        1,
        "Images per forward pass at test. More keep a GPU busy; on a CPU padding usually eats the gain.",
        kind="runtime",
        stage="nothing",
        unit="images",
        ge=1,
        source="ours",
    )
    BBOX_AUG: BoxAugmentation = Field(default_factory=BoxAugmentation)
    MASK_AUG: MaskAugmentation = Field(default_factory=MaskAugmentation)
    KPS_AUG: KeypointAugmentation = Field(default_factory=KeypointAugmentation)
    SOFT_NMS: SoftNms = Field(default_factory=SoftNms)
    BBOX_VOTE: BoxVoting = Field(default_factory=BoxVoting)
