"""RetinaNet, the one-stage detector with focal loss."""

from __future__ import annotations

from pydantic import PositiveFloat

from detectune.config.heads import BoxLoss
from detectune.config.knob import Section, among, knob, linear, log


class RetinaNet(Section):
    """RetinaNet."""

    RETINANET_ON: bool = knob(
        False,
        "Builds RetinaNet instead of a two-stage network. Goes with MODEL.TYPE retinanet.",
        kind="architecture",
        stage="architecture",
        source="Lin et al. 2017 (arXiv:1708.02002)",
    )
    ASPECT_RATIOS: tuple[PositiveFloat, ...] = knob(
        (0.5, 1.0, 2.0),
        "Shapes of the anchors. The order decides the order of the output channels, so it must be "
        "that of the weights.",
        kind="architecture",
        stage="architecture",
        unit="height / width",
        min_length=1,
        search=among((1.0,), (0.5, 1.0, 2.0), (0.33, 0.5, 1.0, 2.0, 3.0)),
        source="Lin et al. 2017 (arXiv:1708.02002), section 4",
    )
    SCALES_PER_OCTAVE: int = knob(
        3,
        "Anchor sizes per pyramid level, evenly spread in the logarithm up to the next level. More "
        "cover sizes more densely and cost time.",
        kind="architecture",
        stage="architecture",
        ge=1,
        search=among(1, 2, 3, 4),
        source="Lin et al. 2017 (arXiv:1708.02002), section 4",
    )
    ANCHOR_SCALE: int = knob(
        4,
        "Side of a level's smallest anchor as a multiple of its stride (4 x 8 = 32 pixels on level "
        "3). Lower it when objects are small.",
        kind="architecture",
        stage="training",
        unit="strides",
        ge=1,
        search=linear(2, 6),
        source="Lin et al. 2017 (arXiv:1708.02002), section 4",
    )
    NUM_CONVS: int = knob(
        4,
        "Convolutions in the class and the box tower. More are slower and slightly better.",
        kind="architecture",
        stage="architecture",
        unit="layers",
        ge=1,
        search=linear(1, 4),
        source="Lin et al. 2017 (arXiv:1708.02002), section 4",
    )
    USE_GN: bool = knob(
        False,
        "Group normalisation in the towers. Helps when training from scratch or with a group-normalised "
        "body.",
        kind="architecture",
        stage="architecture",
        search=among(False, True),
        source="Wu & He 2018 (arXiv:1803.08494)",
    )
    BBOX_REG_WEIGHT: float = knob(
        1.0,
        "Factor on the box loss against the focal loss.",
        kind="loss",
        stage="training",
        ge=0,
        search=log(0.25, 4.0),
        source="Lin et al. 2017 (arXiv:1708.02002), section 4.1",
    )
    BBOX_REG_BETA: float = knob(
        0.11,
        "Error at which the box loss turns from quadratic to linear. Smaller values behave like plain "
        "absolute error and weigh small errors more.",
        kind="loss",
        stage="training",
        ge=0,
        search=log(0.01, 1.0),
        source="Girshick 2015 (arXiv:1504.08083), equation 3",
    )
    BOX_LOSS: BoxLoss = knob(
        "smooth_l1",
        "What boxes are taught by; see FAST_RCNN.BOX_LOSS.",
        kind="loss",
        stage="training",
        search=among("smooth_l1", "giou"),
        source="ours; Rezatofighi et al. 2019 (arXiv:1902.09630)",
    )
    PRE_NMS_TOP_N: int = knob(
        1000,
        "Best-scoring boxes of each level that are decoded. Fewer is faster and loses recall in "
        "crowded images.",
        kind="inference",
        stage="inference",
        unit="boxes per level",
        ge=1,
        search=log(100, 5000),
        source="Lin et al. 2017 (arXiv:1708.02002), section 4.1",
    )
    POSITIVE_OVERLAP: float = knob(
        0.5,
        "Anchors that overlap an object at least this much learn to find it. Higher means fewer, "
        "better fitting positives.",
        kind="sampling",
        stage="training",
        unit="IoU",
        ge=0,
        le=1,
        search=linear(0.4, 0.7),
        source="Lin et al. 2017 (arXiv:1708.02002), section 4",
    )
    NEGATIVE_OVERLAP: float = knob(
        0.4,
        "Anchors that overlap every object less than this are background; between the two thresholds "
        "they are ignored.",
        kind="sampling",
        stage="training",
        unit="IoU",
        ge=0,
        le=1,
        search=linear(0.2, 0.4),
        source="Lin et al. 2017 (arXiv:1708.02002), section 4",
    )
    LOSS_ALPHA: float = knob(
        0.25,
        "Weight of positives in the focal loss (negatives get 1 minus it). With a larger LOSS_GAMMA a "
        "smaller value is right.",
        kind="loss",
        stage="training",
        ge=0,
        le=1,
        search=linear(0.1, 0.75),
        source="Lin et al. 2017 (arXiv:1708.02002), equation 5",
    )
    LOSS_GAMMA: float = knob(
        2.0,
        "How strongly the focal loss plays down what is already classified well; 0 is plain cross entropy.",
        kind="loss",
        stage="training",
        ge=0,
        search=linear(0.5, 5.0),
        source="Lin et al. 2017 (arXiv:1708.02002), equation 4",
    )
    PRIOR_PROB: float = knob(
        0.01,
        "Object probability that the untrained network predicts everywhere. Small values keep the "
        "many negatives from blowing up the first steps.",
        kind="optimisation",
        stage="training",
        unit="probability",
        gt=0,
        lt=1,
        search=log(0.001, 0.1),
        source="Lin et al. 2017 (arXiv:1708.02002), section 4.1",
    )
    SHARE_CLS_BBOX_TOWER: bool = knob(
        False,
        "One tower for classes and boxes. Faster, usually a little worse.",
        kind="architecture",
        stage="architecture",
        search=among(False, True),
        source="Lin et al. 2017 (arXiv:1708.02002), section 4",
    )
    CLASS_SPECIFIC_BBOX: bool = knob(
        False,
        "One box regression per class instead of one for all. Many more outputs, hardly ever better.",
        kind="architecture",
        stage="architecture",
        source="Lin et al. 2017 (arXiv:1708.02002), section 4",
    )
    SOFTMAX: bool = knob(
        False,
        "Classes compete (softmax with a background class) instead of each having its own sigmoid.",
        kind="loss",
        stage="architecture",
    )
    INFERENCE_TH: float = knob(
        0.05,
        "Boxes below this score are dropped before decoding, on all levels but the coarsest. Higher "
        "is faster and loses recall.",
        kind="inference",
        stage="inference",
        unit="probability",
        ge=0,
        le=1,
        search=linear(0.01, 0.3),
        source="Lin et al. 2017 (arXiv:1708.02002), section 4.1",
    )
