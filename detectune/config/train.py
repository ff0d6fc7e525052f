"""Training data, sampling of examples, what is frozen, checkpoints and evaluation on the way."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PositiveInt

from detectune.config.knob import Section, among, knob, linear, log


def _no_bool(value: Any) -> Any:
    """pydantic compares with a Literal by ==, and False == 0."""
    if isinstance(value, bool):
        raise ValueError("Input should be a number, not true or false")
    return value


Stage = Annotated[Literal[0, 2, 3, 4, 5], BeforeValidator(_no_bool)]


class Train(Section):
    """Training."""

    WEIGHTS: str = knob(
        "",
        "Weights to start from; empty starts from random ones. Pre-trained weights save most of the "
        "training on small data sets.",
        kind="optimisation",
        stage="training",
        unit="path or URL",
    )
    DATASETS: tuple[str, ...] = knob(
        (),
        "Names of the data sets to train on, joined into one. Built-in names and those defined under "
        "DATASETS.",
        kind="data",
        stage="training",
    )
    SCALES: tuple[PositiveInt, ...] = knob(
        (600,),
        "Length of the shorter image side in the network; one of them is drawn for each image. Larger "
        "finds smaller objects at quadratic cost; several make the network robust to size.",
        kind="data",
        stage="training",
        unit="pixels",
        min_length=1,
        search=among((480,), (600,), (800,), (640, 672, 704, 736, 768, 800)),
        source="Detectron; Girshick 2015 (arXiv:1504.08083), section 5.2",
    )
    MAX_SIZE: int = knob(
        1000,
        "Limit of the longer image side; wins over SCALES. Keeps panoramas from filling the memory.",
        kind="data",
        stage="training",
        unit="pixels",
        ge=1,
        search=linear(640, 1600),
    )
    IMS_PER_BATCH: int = knob(
        2,
        "Images per device and step. More are smoother and faster per image until memory is full; "
        "change BASE_LR in proportion.",
        kind="optimisation",
        stage="training",
        unit="images per GPU",
        ge=1,
        search=among(1, 2, 4, 8, 16),
    )
    BATCH_SIZE_PER_IM: int = knob(
        64,
        "Regions per image that train the second stage. More use more proposals per image and cost "
        "time in the heads.",
        kind="sampling",
        stage="training",
        unit="regions per image",
        ge=1,
        search=log(32, 1024),
        source="Girshick 2015 (arXiv:1504.08083), section 2.3",
    )
    FG_FRACTION: float = knob(
        0.25,
        "Largest share of objects among the sampled regions; background fills the rest. Raising it "
        "trains objects harder and background less, so more false alarms.",
        kind="sampling",
        stage="training",
        unit="fraction",
        gt=0,
        le=1,
        search=linear(0.1, 0.5),
        source="Girshick 2015 (arXiv:1504.08083), section 2.3",
    )
    FG_THRESH: float = knob(
        0.5,
        "Regions overlapping an object at least this much count as it. Higher trains tighter boxes on "
        "fewer examples.",
        kind="sampling",
        stage="training",
        unit="IoU",
        gt=0,
        le=1,
        search=linear(0.5, 0.7),
        source="Girshick 2015 (arXiv:1504.08083), section 2.3; Cai & Vasconcelos 2018 (arXiv:1712.00726)",
    )
    BG_THRESH_HI: float = knob(
        0.5,
        "Regions overlapping every object less than this may serve as background. Below FG_THRESH it "
        "leaves a band of ignored regions.",
        kind="sampling",
        stage="training",
        unit="IoU",
        ge=0,
        le=1,
        search=linear(0.3, 0.5),
        source="Girshick 2015 (arXiv:1504.08083), section 2.3",
    )
    BG_THRESH_LO: float = knob(
        0.0,
        "Regions overlapping every object less than this are not even background. 0.1 keeps only near "
        "misses as negatives; with a trained proposal network 0 is right.",
        kind="sampling",
        stage="training",
        unit="IoU",
        ge=0,
        le=1,
        search=among(0.0, 0.05, 0.1),
        source="Girshick 2015 (arXiv:1504.08083), section 2.3",
    )
    USE_FLIPPED: bool = knob(
        True,
        "Shows every image also mirrored left to right. Doubles the variety for free; switch it off "
        "where left and right mean something.",
        kind="data",
        stage="training",
        search=among(True, False),
        source="Girshick 2015 (arXiv:1504.08083), section 2.3",
    )
    BBOX_THRESH: float = knob(
        0.5,
        "Overlap that a given proposal needs to train box regression. Higher leaves out coarse "
        "proposals whose correction is hard to learn.",
        kind="sampling",
        stage="training",
        unit="IoU",
        ge=0,
        le=1,
        search=linear(0.3, 0.7),
        source="Girshick et al. 2014 (arXiv:1311.2524), appendix C",
    )
    SNAPSHOT_ITERS: int = knob(
        80000,
        "A checkpoint is written every this many iterations, divided by NUM_GPUS. Smaller loses less "
        "at a crash and writes more.",
        kind="runtime",
        stage="nothing",
        unit="iterations x GPUs",
        ge=1,
    )
    PROPOSAL_FILES: tuple[str, ...] = knob(
        (),
        "Files of ready-made proposals (Detectron's .pkl or our .npz), one for each training data set, when no "
        "proposal network is built.",
        kind="data",
        stage="training",
        unit="path",
    )
    ASPECT_GROUPING: bool = knob(
        True,
        "Fills a batch with images of one orientation. Less padding, hence faster; order is a little "
        "less random.",
        kind="data",
        stage="training",
    )
    RPN_POSITIVE_OVERLAP: float = knob(
        0.7,
        "Anchors overlapping an object at least this much learn to propose it; each object's best "
        "anchor always does. Lower gives more and looser positives.",
        kind="sampling",
        stage="training",
        unit="IoU",
        gt=0,
        le=1,
        search=linear(0.5, 0.8),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.1.2",
    )
    RPN_NEGATIVE_OVERLAP: float = knob(
        0.3,
        "Anchors overlapping every object less than this are background; those between the thresholds "
        "are ignored.",
        kind="sampling",
        stage="training",
        unit="IoU",
        ge=0,
        le=1,
        search=linear(0.1, 0.5),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.1.2",
    )
    RPN_FG_FRACTION: float = knob(
        0.5,
        "Largest share of positives among the sampled anchors. Rarely reached; lower it if proposals "
        "are too eager.",
        kind="sampling",
        stage="training",
        unit="fraction",
        gt=0,
        le=1,
        search=linear(0.25, 0.75),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.1.3",
    )
    RPN_BATCH_SIZE_PER_IM: int = knob(
        256,
        "Anchors per image that train the proposal network. More help images with many objects and "
        "cost next to nothing.",
        kind="sampling",
        stage="training",
        unit="anchors per image",
        ge=1,
        search=log(64, 1024),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.1.3",
    )
    RPN_NMS_THRESH: float = knob(
        0.7,
        "Proposals overlapping a better one more than this are removed in training. Higher keeps "
        "more, and more alike.",
        kind="sampling",
        stage="training",
        unit="IoU",
        ge=0,
        le=1,
        search=linear(0.5, 0.9),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.3",
    )
    RPN_PRE_NMS_TOP_N: int = knob(
        12000,
        "Best proposals (per level with a pyramid) that enter suppression in training. Fewer is "
        "faster and loses recall.",
        kind="sampling",
        stage="training",
        unit="proposals",
        ge=1,
        search=log(500, 12000),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.3; Lin et al. 2017 (arXiv:1612.03144)",
    )
    RPN_POST_NMS_TOP_N: int = knob(
        2000,
        "Proposals left after suppression in training, from which regions are sampled. More give more "
        "variety among the negatives.",
        kind="sampling",
        stage="training",
        unit="proposals per image",
        ge=1,
        search=log(200, 4000),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.3",
    )
    RPN_STRADDLE_THRESH: int = knob(
        0,
        "Anchors reaching further than this outside the image are not trained; -1 trains all. -1 is "
        "better with a pyramid, whose large anchors nearly all straddle.",
        kind="sampling",
        stage="training",
        unit="pixels",
        ge=-1,
        search=among(-1, 0),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.3",
    )
    RPN_MIN_SIZE: int = knob(
        0,
        "Proposals narrower or lower than this, measured in the original image, are dropped in "
        "training. Raise it if objects are known to be large.",
        kind="sampling",
        stage="training",
        unit="pixels",
        ge=0,
        search=among(0, 4, 16),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.3",
    )
    CROWD_FILTER_THRESH: float = knob(
        0.7,
        "Proposals with more than this part of their area inside a crowd region are not used as "
        "background; 0 does not filter. Lower leaves out more.",
        kind="sampling",
        stage="training",
        unit="fraction",
        ge=0,
        le=1,
        search=linear(0.3, 1.0),
    )
    GT_MIN_AREA: int = knob(
        -1,
        "Objects with a smaller area are left out of training; -1 keeps all. Raise it if tiny "
        "annotations are unreliable.",
        kind="data",
        stage="training",
        unit="pixels^2",
        ge=-1,
        search=among(-1, 16, 64, 256),
    )
    FREEZE_CONV_BODY: bool = knob(
        False,
        "Trains only pyramid and heads and leaves the backbone as it is. Faster, and safer on very "
        "small data sets.",
        kind="regularisation",
        stage="training",
        search=among(False, True),
    )
    AUTO_RESUME: bool = knob(
        True,
        "Continues from the latest checkpoint in the run directory if there is one. Off starts anew.",
        kind="runtime",
        stage="nothing",
    )
    COPY_WEIGHTS: bool = knob(
        False,
        "Copies the file of TRAIN.WEIGHTS into the run directory, so that the run can be repeated "
        "after the original is gone.",
        kind="runtime",
        stage="nothing",
    )
    FREEZE_AT: Stage = knob(
        2,
        "Stages of the backbone up to this one stay as they were pre-trained: 2 is the stem and the "
        "first stage, 0 trains everything. Freeze less with much data or weights from scratch.",
        kind="regularisation",
        stage="training",
        unit="stage",
        search=among(0, 2, 3),
        source="Girshick 2015 (arXiv:1504.08083), section 4.5",
    )
    GENERATE_PROPOSALS_ON_GPU: bool = knob(
        False,
        "Where Caffe2 made proposals in training.",
        kind="runtime",
        stage="nothing",
        obsolete="Proposals are made wherever the model runs: set MODEL.DEVICE.",
    )
    EVAL_ITERS: int = knob(
        0,
        "Evaluates TEST.DATASETS every this many iterations; 0 only at the end. Shorter shows the "
        "curve more finely and takes time from training.",
        kind="evaluation",
        stage="nothing",
        unit="iterations",
        ge=0,
        source="ours",
    )
    EARLY_STOP_PATIENCE: int = knob(
        0,
        "Stops after this many evaluations without a better BEST_METRIC; 0 is off. Small values stop "
        "at a plateau that may have ended.",
        kind="regularisation",
        stage="training",
        unit="evaluations",
        ge=0,
        source="Prechelt 1998 (LNCS 1524)",
    )
    KEEP_BEST: bool = knob(
        True,
        "Keeps the weights of the best evaluation as checkpoints/best.safetensors.",
        kind="evaluation",
        stage="nothing",
        source="ours",
    )
    BEST_METRIC: str = knob(
        "",
        "Metric by which evaluations are compared, such as `bbox/AP50`. Empty is segm/AP with masks, "
        "else keypoints/AP with keypoints, else bbox/AP.",
        kind="evaluation",
        stage="nothing",
        pattern=r"^((bbox|segm|keypoints|proposal|val)/\w+)?$",
        source="ours",
    )
    KEEP_LAST: int = knob(
        2,
        "Checkpoints that are kept; older ones are deleted when a new one is safe on disk.",
        kind="runtime",
        stage="nothing",
        unit="checkpoints",
        ge=1,
        source="ours",
    )
    LOG_ITERS: int = knob(
        20,
        "Losses are averaged and written every this many iterations. On a GPU small values slow "
        "training down, as each row waits for the device.",
        kind="runtime",
        stage="nothing",
        unit="iterations",
        ge=1,
        source="ours",
    )
    SKIP_BROKEN_IMAGES: bool = knob(
        False,
        "Leaves out images that cannot be read and counts them. Off stops with the file's name.",
        kind="data",
        stage="training",
        source="ours",
    )
