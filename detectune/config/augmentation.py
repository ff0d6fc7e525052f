"""Configuration sections: TEST.BBOX_AUG, TEST.MASK_AUG, TEST.KPS_AUG."""

from __future__ import annotations

from detectune.config.knob import Section, knob


class BoxAugmentation(Section):
    AREA_TH_HI: int = knob(32400, "", kind="runtime", stage="nothing")
    AREA_TH_LO: int = knob(2500, "", kind="runtime", stage="nothing")
    ASPECT_RATIOS: tuple[float, ...] = knob((), "", kind="runtime", stage="nothing")
    ASPECT_RATIO_H_FLIP: bool = knob(False, "", kind="runtime", stage="nothing")
    COORD_HEUR: str = knob("UNION", "", kind="runtime", stage="nothing")
    ENABLED: bool = knob(False, "", kind="runtime", stage="nothing")
    H_FLIP: bool = knob(False, "", kind="runtime", stage="nothing")
    MAX_SIZE: int = knob(4000, "", kind="runtime", stage="nothing")
    SCALES: tuple[int, ...] = knob((), "", kind="runtime", stage="nothing")
    SCALE_H_FLIP: bool = knob(False, "", kind="runtime", stage="nothing")
    SCALE_SIZE_DEP: bool = knob(False, "", kind="runtime", stage="nothing")
    SCORE_HEUR: str = knob("UNION", "", kind="runtime", stage="nothing")


class MaskAugmentation(Section):
    AREA_TH: int = knob(32400, "", kind="runtime", stage="nothing")
    ASPECT_RATIOS: tuple[float, ...] = knob((), "", kind="runtime", stage="nothing")
    ASPECT_RATIO_H_FLIP: bool = knob(False, "", kind="runtime", stage="nothing")
    ENABLED: bool = knob(False, "", kind="runtime", stage="nothing")
    HEUR: str = knob("SOFT_AVG", "", kind="runtime", stage="nothing")
    H_FLIP: bool = knob(False, "", kind="runtime", stage="nothing")
    MAX_SIZE: int = knob(4000, "", kind="runtime", stage="nothing")
    SCALES: tuple[int, ...] = knob((), "", kind="runtime", stage="nothing")
    SCALE_H_FLIP: bool = knob(False, "", kind="runtime", stage="nothing")
    SCALE_SIZE_DEP: bool = knob(False, "", kind="runtime", stage="nothing")


class KeypointAugmentation(Section):
    AREA_TH: int = knob(32400, "", kind="runtime", stage="nothing")
    ASPECT_RATIOS: tuple[float, ...] = knob((), "", kind="runtime", stage="nothing")
    ASPECT_RATIO_H_FLIP: bool = knob(False, "", kind="runtime", stage="nothing")
    ENABLED: bool = knob(False, "", kind="runtime", stage="nothing")
    HEUR: str = knob("HM_AVG", "", kind="runtime", stage="nothing")
    H_FLIP: bool = knob(False, "", kind="runtime", stage="nothing")
    MAX_SIZE: int = knob(4000, "", kind="runtime", stage="nothing")
    SCALES: tuple[int, ...] = knob((), "", kind="runtime", stage="nothing")
    SCALE_H_FLIP: bool = knob(False, "", kind="runtime", stage="nothing")
    SCALE_SIZE_DEP: bool = knob(False, "", kind="runtime", stage="nothing")
