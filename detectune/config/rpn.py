"""The region proposal network on a single level (the pyramid's anchors are in FPN)."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt

from detectune.config.heads import BoxLoss
from detectune.config.knob import Section, among, knob, linear


class Rpn(Section):
    """Region proposals."""

    RPN_ON: bool = knob(
        False,
        "Whether a proposal network is built. Inferred: on with MODEL.FASTER_RCNN or MODEL.RPN_ONLY; "
        "no need to set it.",
        kind="architecture",
        stage="architecture",
        source="Ren et al. 2015 (arXiv:1506.01497)",
    )
    SIZES: tuple[PositiveInt, ...] = knob(
        (64, 128, 256, 512),
        "Sides of the anchors of a body without pyramid, in network pixels. They should span the "
        "sizes of the objects; each further size adds its share of anchors.",
        kind="architecture",
        stage="architecture",
        unit="pixels",
        min_length=1,
        search=among((32, 64, 128, 256, 512), (64, 128, 256, 512), (16, 32, 64, 128, 256)),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.1.1",
    )
    STRIDE: int = knob(
        16,
        "Distance of neighbouring anchors, which is the stride of the body's output without pyramid "
        "(16 for a conv4 body). It must agree with the body.",
        kind="architecture",
        stage="architecture",
        unit="pixels",
        ge=1,
    )
    ASPECT_RATIOS: tuple[PositiveFloat, ...] = knob(
        (0.5, 1, 2),
        "Shapes of the anchors of a body without pyramid. More shapes cover long and thin objects "
        "better and make proposing slower.",
        kind="architecture",
        stage="architecture",
        unit="height / width",
        min_length=1,
        search=among((1.0,), (0.5, 1.0, 2.0), (0.33, 0.5, 1.0, 2.0, 3.0)),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.1.1",
    )
    NUM_CONVS: int = knob(
        1,
        "Convolutions (3x3) before the network's predictors, on every level. torchvision's second generation has 2.",
        kind="architecture",
        stage="architecture",
        unit="layers",
        ge=1,
        search=linear(1, 3),
        source="ours; Ren et al. 2015 (arXiv:1506.01497), section 3.1",
    )
    BOX_LOSS: BoxLoss = knob(
        "smooth_l1",
        "What the boxes of proposals are taught by; see FAST_RCNN.BOX_LOSS.",
        kind="loss",
        stage="training",
        search=among("smooth_l1", "giou"),
        source="ours; Rezatofighi et al. 2019 (arXiv:1902.09630)",
    )
    SMOOTH_L1_BETA: float = knob(
        -1.0,
        "Where the box loss of proposals turns from squared to absolute error. 0 is the absolute error alone; -1 takes "
        "what MODEL.GEOMETRY's system does (1/9, 0 and 1/9).",
        kind="loss",
        stage="training",
        ge=-1,
        search=among(0.0, 0.1, 0.5, 1.0),
        source="ours; Girshick 2015 (arXiv:1504.08083), equation 3",
    )
