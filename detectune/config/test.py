"""Configuration sections: TEST.BBOX_VOTE, TEST.SOFT_NMS, TEST."""

from __future__ import annotations

from detectune.config.augmentation import BoxAugmentation, KeypointAugmentation, MaskAugmentation
from detectune.config.knob import Section, knob


class BoxVoting(Section):
    ENABLED: bool = knob(False, "", kind="runtime", stage="nothing")
    SCORING_METHOD: str = knob("ID", "", kind="runtime", stage="nothing")
    SCORING_METHOD_BETA: float = knob(1.0, "", kind="runtime", stage="nothing")
    VOTE_TH: float = knob(0.8, "", kind="runtime", stage="nothing")


class SoftNms(Section):
    ENABLED: bool = knob(False, "", kind="runtime", stage="nothing")
    METHOD: str = knob("linear", "", kind="runtime", stage="nothing")
    SIGMA: float = knob(0.5, "", kind="runtime", stage="nothing")


class Test(Section):
    BBOX_REG: bool = knob(True, "", kind="runtime", stage="nothing")
    CLASS_SPECIFIC_AR: bool = knob(False, "", kind="runtime", stage="nothing")
    COMPETITION_MODE: bool = knob(True, "", kind="runtime", stage="nothing")
    DATASETS: tuple[str, ...] = knob((), "", kind="runtime", stage="nothing")
    DETECTIONS_PER_IM: int = knob(100, "", kind="runtime", stage="nothing")
    FORCE_JSON_DATASET_EVAL: bool = knob(False, "", kind="runtime", stage="nothing")
    GENERATE_PROPOSALS_ON_GPU: bool = knob(False, "", kind="runtime", stage="nothing")
    MAX_SIZE: int = knob(1000, "", kind="runtime", stage="nothing")
    NMS: float = knob(0.3, "", kind="runtime", stage="nothing")
    PRECOMPUTED_PROPOSALS: bool = knob(True, "", kind="runtime", stage="nothing")
    PROPOSAL_FILES: tuple[str, ...] = knob((), "", kind="runtime", stage="nothing")
    PROPOSAL_LIMIT: int = knob(2000, "", kind="runtime", stage="nothing")
    RPN_MIN_SIZE: int = knob(0, "", kind="runtime", stage="nothing")
    RPN_NMS_THRESH: float = knob(0.7, "", kind="runtime", stage="nothing")
    RPN_POST_NMS_TOP_N: int = knob(2000, "", kind="runtime", stage="nothing")
    RPN_PRE_NMS_TOP_N: int = knob(12000, "", kind="runtime", stage="nothing")
    SCALE: int = knob(600, "", kind="runtime", stage="nothing")
    SCORE_THRESH: float = knob(0.05, "", kind="runtime", stage="nothing")
    WEIGHTS: str = knob("", "", kind="runtime", stage="nothing")
    PRECISION: str = knob("fp32", "", kind="runtime", stage="nothing")
    COMPILE: bool = knob(False, "", kind="runtime", stage="nothing")
    IMS_PER_BATCH: int = knob(1, "", kind="runtime", stage="nothing")
    BBOX_AUG: BoxAugmentation = BoxAugmentation()
    MASK_AUG: MaskAugmentation = MaskAugmentation()
    KPS_AUG: KeypointAugmentation = KeypointAugmentation()
    SOFT_NMS: SoftNms = SoftNms()
    BBOX_VOTE: BoxVoting = BoxVoting()
