"""TEST, without the augmented tests."""

from __future__ import annotations

from observe import compilation, detections, evaluation, found_with_weights_file, tested_batches
from sample import DATA, READY_MADE, VOC
from table import Row

PROPOSALS = READY_MADE["TEST.PROPOSAL_FILES"]
OTHER_PROPOSALS = [str(DATA / "other_proposals.pkl")]
ON_VOC = {"MODEL.MASK_ON": False, "DATASETS": {"voc": VOC}, "TEST.DATASETS": ["voc"]}
SOFT = {"TEST.SOFT_NMS.ENABLED": True}
VOTES = {"TEST.BBOX_VOTE.ENABLED": True, "TEST.BBOX_VOTE.VOTE_TH": 0.5}

ROWS = [
    Row("TEST.WEIGHTS", str(DATA / "model.safetensors"), str(DATA / "other.safetensors"), found_with_weights_file),
    Row("TEST.DATASETS", ["val"], ["other"], tested_batches),
    Row("TEST.SCALE", 96, 64, tested_batches),
    Row("TEST.MAX_SIZE", 192, 80, tested_batches),
    Row("TEST.NMS", 0.5, 0.1, detections),
    Row("TEST.PRECOMPUTED_PROPOSALS", True, False, tested_batches, READY_MADE),
    Row("TEST.PROPOSAL_FILES", PROPOSALS, OTHER_PROPOSALS, tested_batches, READY_MADE),
    Row("TEST.PROPOSAL_LIMIT", 2000, 3, tested_batches, READY_MADE),
    Row("TEST.RPN_NMS_THRESH", 0.7, 0.2, detections),
    Row("TEST.RPN_PRE_NMS_TOP_N", 100, 5, detections),
    Row("TEST.RPN_POST_NMS_TOP_N", 40, 5, detections),
    Row("TEST.RPN_MIN_SIZE", 0, 40, detections),
    Row("TEST.DETECTIONS_PER_IM", 100, 3, detections),
    Row("TEST.SCORE_THRESH", 0.05, 0.4, detections),
    Row("TEST.SCORE_THRESH_PER_CLASS", {}, {"a": 0.4}, detections),
    Row("TEST.COMPETITION_MODE", True, False, evaluation, ON_VOC),
    Row("TEST.FORCE_JSON_DATASET_EVAL", False, True, evaluation, ON_VOC),
    Row("TEST.CLASS_SPECIFIC_AR", False, True, evaluation),
    Row("TEST.BBOX_REG", True, False, detections),
    Row("TEST.PRECISION", "fp32", "bf16", detections),
    Row("TEST.COMPILE", False, True, compilation),
    Row("TEST.IMS_PER_BATCH", 1, 2, tested_batches),
    Row("TEST.SOFT_NMS.ENABLED", False, True, detections),
    Row("TEST.SOFT_NMS.METHOD", "linear", "gaussian", detections, SOFT),
    Row("TEST.SOFT_NMS.SIGMA", 0.5, 0.1, detections, SOFT | {"TEST.SOFT_NMS.METHOD": "gaussian"}),
    Row("TEST.BBOX_VOTE.ENABLED", False, True, detections),
    Row("TEST.BBOX_VOTE.VOTE_TH", 0.5, 0.9, detections, VOTES),
    Row("TEST.BBOX_VOTE.SCORING_METHOD", "ID", "AVG", detections, VOTES),
    Row("TEST.BBOX_VOTE.SCORING_METHOD_BETA", 1.0, 2.0, detections, VOTES | {
        "TEST.BBOX_VOTE.SCORING_METHOD": "QUASI_SUM",
    }),
]  # fmt: skip
