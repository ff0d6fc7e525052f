"""Configuration sections: MODEL."""

from __future__ import annotations

from detectune.config.knob import Section, knob


class Model(Section):
    BBOX_REG_WEIGHTS: tuple[float, ...] = knob((10.0, 10.0, 5.0, 5.0), "", kind="runtime", stage="nothing")
    CLS_AGNOSTIC_BBOX_REG: bool = knob(False, "", kind="runtime", stage="nothing")
    CONV_BODY: str = knob("", "", kind="runtime", stage="nothing")
    EXECUTION_TYPE: str = knob("dag", "", kind="runtime", stage="nothing")
    FASTER_RCNN: bool = knob(False, "", kind="runtime", stage="nothing")
    KEYPOINTS_ON: bool = knob(False, "", kind="runtime", stage="nothing")
    MASK_ON: bool = knob(False, "", kind="runtime", stage="nothing")
    NUM_CLASSES: int = knob(-1, "", kind="runtime", stage="nothing")
    RPN_ONLY: bool = knob(False, "", kind="runtime", stage="nothing")
    TYPE: str = knob("", "", kind="runtime", stage="nothing")
    GEOMETRY: str = knob("detectron2", "", kind="runtime", stage="nothing")
    DEVICE: str = knob("auto", "", kind="runtime", stage="nothing")
    MEMORY_FORMAT: str = knob("auto", "", kind="runtime", stage="nothing")
