"""Configuration sections: RETINANET."""

from __future__ import annotations

from detectune.config.knob import Section, knob


class RetinaNet(Section):
    ANCHOR_SCALE: int = knob(4, "", kind="runtime", stage="nothing")
    ASPECT_RATIOS: tuple[float, ...] = knob((0.5, 1.0, 2.0), "", kind="runtime", stage="nothing")
    BBOX_REG_BETA: float = knob(0.11, "", kind="runtime", stage="nothing")
    BBOX_REG_WEIGHT: float = knob(1.0, "", kind="runtime", stage="nothing")
    CLASS_SPECIFIC_BBOX: bool = knob(False, "", kind="runtime", stage="nothing")
    INFERENCE_TH: float = knob(0.05, "", kind="runtime", stage="nothing")
    LOSS_ALPHA: float = knob(0.25, "", kind="runtime", stage="nothing")
    LOSS_GAMMA: float = knob(2.0, "", kind="runtime", stage="nothing")
    NEGATIVE_OVERLAP: float = knob(0.4, "", kind="runtime", stage="nothing")
    NUM_CONVS: int = knob(4, "", kind="runtime", stage="nothing")
    POSITIVE_OVERLAP: float = knob(0.5, "", kind="runtime", stage="nothing")
    PRE_NMS_TOP_N: int = knob(1000, "", kind="runtime", stage="nothing")
    PRIOR_PROB: float = knob(0.01, "", kind="runtime", stage="nothing")
    RETINANET_ON: bool = knob(False, "", kind="runtime", stage="nothing")
    SCALES_PER_OCTAVE: int = knob(3, "", kind="runtime", stage="nothing")
    SHARE_CLS_BBOX_TOWER: bool = knob(False, "", kind="runtime", stage="nothing")
    SOFTMAX: bool = knob(False, "", kind="runtime", stage="nothing")
