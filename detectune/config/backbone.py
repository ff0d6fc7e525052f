"""Configuration sections: RESNETS, FPN, GROUP_NORM."""

from __future__ import annotations

from detectune.config.knob import Section, knob


class ResNets(Section):
    NUM_GROUPS: int = knob(1, "", kind="runtime", stage="nothing")
    RES5_DILATION: int = knob(1, "", kind="runtime", stage="nothing")
    SHORTCUT_FUNC: str = knob("basic_bn_shortcut", "", kind="runtime", stage="nothing")
    STEM_FUNC: str = knob("basic_bn_stem", "", kind="runtime", stage="nothing")
    STRIDE_1X1: bool = knob(True, "", kind="runtime", stage="nothing")
    TRANS_FUNC: str = knob("bottleneck_transformation", "", kind="runtime", stage="nothing")
    WIDTH_PER_GROUP: int = knob(64, "", kind="runtime", stage="nothing")
    NORM: str = knob("auto", "", kind="runtime", stage="nothing")
    WIDTH_MULTIPLIER: float = knob(1.0, "", kind="runtime", stage="nothing")


class Fpn(Section):
    COARSEST_STRIDE: int = knob(32, "", kind="runtime", stage="nothing")
    DIM: int = knob(256, "", kind="runtime", stage="nothing")
    EXTRA_CONV_LEVELS: bool = knob(False, "", kind="runtime", stage="nothing")
    FPN_ON: bool = knob(False, "", kind="runtime", stage="nothing")
    MULTILEVEL_ROIS: bool = knob(False, "", kind="runtime", stage="nothing")
    MULTILEVEL_RPN: bool = knob(False, "", kind="runtime", stage="nothing")
    ROI_CANONICAL_LEVEL: int = knob(4, "", kind="runtime", stage="nothing")
    ROI_CANONICAL_SCALE: int = knob(224, "", kind="runtime", stage="nothing")
    ROI_MAX_LEVEL: int = knob(5, "", kind="runtime", stage="nothing")
    ROI_MIN_LEVEL: int = knob(2, "", kind="runtime", stage="nothing")
    RPN_ANCHOR_START_SIZE: int = knob(32, "", kind="runtime", stage="nothing")
    RPN_ASPECT_RATIOS: tuple[float, ...] = knob((0.5, 1, 2), "", kind="runtime", stage="nothing")
    RPN_MAX_LEVEL: int = knob(6, "", kind="runtime", stage="nothing")
    RPN_MIN_LEVEL: int = knob(2, "", kind="runtime", stage="nothing")
    USE_GN: bool = knob(False, "", kind="runtime", stage="nothing")
    ZERO_INIT_LATERAL: bool = knob(False, "", kind="runtime", stage="nothing")


class GroupNorm(Section):
    DIM_PER_GP: int = knob(-1, "", kind="runtime", stage="nothing")
    EPSILON: float = knob(1e-05, "", kind="runtime", stage="nothing")
    NUM_GROUPS: int = knob(32, "", kind="runtime", stage="nothing")
