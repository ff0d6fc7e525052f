"""TEST.BBOX_AUG, TEST.MASK_AUG and TEST.KPS_AUG."""

from __future__ import annotations

from observe import detections, evaluation
from rows_heads import KEYPOINTS_ON
from sample import READY_MADE
from table import Row

BOXES = {"TEST.BBOX_AUG.ENABLED": True, "TEST.BBOX_AUG.H_FLIP": True}
LARGER_BOXES = BOXES | {"TEST.BBOX_AUG.SCALES": [160]}
BY_SIZE = LARGER_BOXES | {
    "TEST.BBOX_AUG.SCALES": [64, 160], "TEST.BBOX_AUG.SCALE_SIZE_DEP": True,
    "TEST.BBOX_AUG.AREA_TH_LO": 500, "TEST.BBOX_AUG.AREA_TH_HI": 1000,
}  # fmt: skip
OWN = READY_MADE | BOXES | {"TEST.BBOX_AUG.SCORE_HEUR": "ID", "TEST.BBOX_AUG.COORD_HEUR": "ID"}

MASKS = {"TEST.MASK_AUG.ENABLED": True, "TEST.MASK_AUG.H_FLIP": True}
LARGER_MASKS = MASKS | {"TEST.MASK_AUG.SCALES": [160]}
POINTS = KEYPOINTS_ON | {"TEST.KPS_AUG.ENABLED": True, "TEST.KPS_AUG.H_FLIP": True}
LARGER_POINTS = POINTS | {"TEST.KPS_AUG.SCALES": [160]}

ROWS = [
    Row("TEST.BBOX_AUG.ENABLED", False, True, detections, {"TEST.BBOX_AUG.H_FLIP": True}),
    Row("TEST.BBOX_AUG.SCORE_HEUR", "ID", "AVG", evaluation, OWN),
    Row("TEST.BBOX_AUG.COORD_HEUR", "ID", "AVG", evaluation, OWN),
    Row("TEST.BBOX_AUG.H_FLIP", False, True, detections, BOXES),
    Row("TEST.BBOX_AUG.SCALES", [], [160], detections, BOXES),
    Row("TEST.BBOX_AUG.MAX_SIZE", 4000, 120, detections, LARGER_BOXES),
    Row("TEST.BBOX_AUG.SCALE_H_FLIP", False, True, detections, LARGER_BOXES),
    Row("TEST.BBOX_AUG.SCALE_SIZE_DEP", False, True, detections, BY_SIZE),
    Row("TEST.BBOX_AUG.AREA_TH_LO", 500, 100, detections, BY_SIZE),
    Row("TEST.BBOX_AUG.AREA_TH_HI", 1000, 3000, detections, BY_SIZE),
    Row("TEST.BBOX_AUG.ASPECT_RATIOS", [], [1.5], detections, BOXES),
    Row("TEST.BBOX_AUG.ASPECT_RATIO_H_FLIP", False, True, detections, BOXES | {
        "TEST.BBOX_AUG.ASPECT_RATIOS": [1.5],
    }),
    Row("TEST.MASK_AUG.ENABLED", False, True, detections, {"TEST.MASK_AUG.H_FLIP": True}),
    Row("TEST.MASK_AUG.HEUR", "SOFT_AVG", "SOFT_MAX", detections, MASKS),
    Row("TEST.MASK_AUG.H_FLIP", False, True, detections, MASKS),
    Row("TEST.MASK_AUG.SCALES", [], [160], detections, MASKS),
    Row("TEST.MASK_AUG.MAX_SIZE", 4000, 120, detections, LARGER_MASKS),
    Row("TEST.MASK_AUG.SCALE_H_FLIP", False, True, detections, LARGER_MASKS),
    Row("TEST.MASK_AUG.SCALE_SIZE_DEP", False, True, detections, LARGER_MASKS | {"TEST.MASK_AUG.AREA_TH": 1000}),
    Row("TEST.MASK_AUG.AREA_TH", 1000, 100000, detections, LARGER_MASKS | {"TEST.MASK_AUG.SCALE_SIZE_DEP": True}),
    Row("TEST.MASK_AUG.ASPECT_RATIOS", [], [1.5], detections, MASKS),
    Row("TEST.MASK_AUG.ASPECT_RATIO_H_FLIP", False, True, detections, MASKS | {
        "TEST.MASK_AUG.ASPECT_RATIOS": [1.5],
    }),
    Row("TEST.KPS_AUG.ENABLED", False, True, detections, KEYPOINTS_ON | {"TEST.KPS_AUG.H_FLIP": True}),
    Row("TEST.KPS_AUG.HEUR", "HM_AVG", "HM_MAX", detections, POINTS),
    Row("TEST.KPS_AUG.H_FLIP", False, True, detections, POINTS),
    Row("TEST.KPS_AUG.SCALES", [], [160], detections, POINTS),
    Row("TEST.KPS_AUG.MAX_SIZE", 4000, 120, detections, LARGER_POINTS),
    Row("TEST.KPS_AUG.SCALE_H_FLIP", False, True, detections, LARGER_POINTS),
    Row("TEST.KPS_AUG.SCALE_SIZE_DEP", False, True, detections, LARGER_POINTS | {"TEST.KPS_AUG.AREA_TH": 1000}),
    Row("TEST.KPS_AUG.AREA_TH", 1000, 100000, detections, LARGER_POINTS | {"TEST.KPS_AUG.SCALE_SIZE_DEP": True}),
    Row("TEST.KPS_AUG.ASPECT_RATIOS", [], [1.5], detections, POINTS),
    Row("TEST.KPS_AUG.ASPECT_RATIO_H_FLIP", False, True, detections, POINTS | {"TEST.KPS_AUG.ASPECT_RATIOS": [1.5]}),
]  # fmt: skip
