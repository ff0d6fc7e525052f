"""Keys that more than one part reads: rows for the parts that the main tables do not look at.

A key may be alive in the loader and dead in the predictor, or alive in one family of detectors and dead in another.
"""

from __future__ import annotations

from observe import (
    detections,
    evaluation,
    losses,
    losses_on_proposals,
    parameter_shapes,
    second_run,
    tested_batches,
    trained_weights,
    training_batches,
    updates,
)
from rows_heads import CASCADE, KEYPOINTS_ON
from rows_inference import OTHER_PROPOSALS as OTHERS
from rows_model import FIFTH_STAGE, ONE_LEVEL
from rows_retinanet import RETINANET
from rows_train import OTHER_PROPOSALS, PROPOSALS
from sample import READY_MADE
from table import Row

RFCN = FIFTH_STAGE | {"MODEL.TYPE": "rfcn", "RPN.SIZES": (16, 32, 64)}
LION = {"SOLVER.OPTIMIZER": "lion", "SOLVER.BASE_LR": 1.0}  # so large that signs change
MUON = {"SOLVER.OPTIMIZER": "muon", "SOLVER.BASE_LR": 0.001}
RPN_ONLY = {"MODEL.MASK_ON": False, "MODEL.FASTER_RCNN": False, "MODEL.RPN_ONLY": True}

PLACES: dict[str, list[Row]] = {
    "the predictor": [
        Row("TEST.SCALE", 96, 64, detections),
        Row("TEST.MAX_SIZE", 192, 80, detections),
        Row("INPUT.RESIZE", "pillow", "detectron", detections),
        Row("INPUT.PIXEL_STDS", (57.375, 57.12, 58.395), (30.0, 30.0, 30.0), detections),
        Row("PIXEL_MEANS", [[[102.9801, 115.9465, 122.7717]]], [[[0.0, 0.0, 0.0]]], detections),
        Row("FPN.COARSEST_STRIDE", 32, 128, detections),
        Row("MODEL.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0), (1.0, 1.0, 1.0, 1.0), detections),
        Row("FPN.ROI_CANONICAL_SCALE", 56, 224, detections),
        Row("MRCNN.ROI_XFORM_SAMPLING_RATIO", 2, 1, detections),
        Row("FAST_RCNN.ROI_XFORM_SAMPLING_RATIO", 2, 1, detections),
    ],
    "training": [
        Row("MODEL.GEOMETRY", "detectron2", "detectron", losses),
        Row("MODEL.GEOMETRY", "detectron2", "torchvision", losses),
        Row("RNG_SEED", 3, 4, losses),
        Row("BBOX_XFORM_CLIP", 4.0, 0.01, losses),
        Row("FAST_RCNN.ROI_XFORM_METHOD", "RoIAlign", "RoIAlignUnshifted", losses),
        Row("MRCNN.ROI_XFORM_METHOD", "RoIAlign", "RoIAlignUnshifted", losses),
        Row("MODEL.CLS_AGNOSTIC_BBOX_REG", False, True, losses),
        Row("MRCNN.CLS_SPECIFIC_MASK", True, False, losses),
    ],
    "other optimisers": [
        Row("SOLVER.OPTIMIZER", "adam", "nadam", updates, {"SOLVER.BASE_LR": 0.001}),
        Row("SOLVER.BETAS", (0.9, 0.99), (0.5, 0.9), updates, LION),
        Row("SOLVER.WEIGHT_DECAY", 0.0005, 0.1, updates, LION),
        Row("SOLVER.MOMENTUM", 0.95, 0.5, updates, MUON),
        Row("SOLVER.BETAS", (0.9, 0.999), (0.5, 0.9), updates, MUON),
        Row("SOLVER.EPS", 1e-8, 0.1, updates, MUON),
        Row("SOLVER.WEIGHT_DECAY", 0.0005, 0.1, updates, MUON),
    ],
    "the training data": [
        Row("MODEL.GEOMETRY", "detectron2", "detectron", training_batches),
        Row("MODEL.MASK_ON", True, False, training_batches),
        Row("FPN.COARSEST_STRIDE", 32, 64, training_batches),
    ],
    "the test data": [
        Row("INPUT.RESIZE", "pillow", "detectron", tested_batches),
        Row("MODEL.GEOMETRY", "detectron2", "detectron", tested_batches),
    ],
    "a second run": [
        Row("SOLVER.MAX_ITER", 4, 6, second_run),
    ],
    "RetinaNet": [
        Row("BBOX_XFORM_CLIP", 4.0, 0.01, detections, RETINANET),
        Row("TEST.NMS", 0.5, 0.1, detections, RETINANET),
        Row("TEST.DETECTIONS_PER_IM", 100, 3, detections, RETINANET),
        Row("TEST.PRECISION", "fp32", "bf16", detections, RETINANET),
        Row("MODEL.GEOMETRY", "detectron2", "detectron", detections, RETINANET),
        Row("FPN.RPN_MIN_LEVEL", 3, 4, losses, RETINANET),
        Row("FPN.RPN_MAX_LEVEL", 7, 6, losses, RETINANET),
        Row("FPN.DIM", 16, 32, losses, RETINANET),
        Row("TRAIN.FREEZE_AT", 2, 3, trained_weights, RETINANET),
    ],
    "R-FCN": [
        Row("BBOX_XFORM_CLIP", 4.0, 0.01, detections, RFCN),
        Row("TEST.NMS", 0.5, 0.1, detections, RFCN),
        Row("TEST.SCORE_THRESH", 0.05, 0.4, detections, RFCN),
        Row("RPN.SIZES", (16, 32, 64), (16, 32), losses, RFCN),
        Row("MODEL.CLS_AGNOSTIC_BBOX_REG", False, True, parameter_shapes, RFCN),
        Row("MODEL.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0), (1.0, 1.0, 1.0, 1.0), losses, RFCN),
        Row("TRAIN.BATCH_SIZE_PER_IM", 32, 16, losses, RFCN),
    ],
    "a body without pyramid": [
        Row("BBOX_XFORM_CLIP", 4.0, 0.01, detections, ONE_LEVEL),
        Row("FAST_RCNN.ROI_XFORM_RESOLUTION", 7, 14, losses, ONE_LEVEL),
        Row("FAST_RCNN.ROI_XFORM_METHOD", "RoIAlign", "RoIPoolF", losses, ONE_LEVEL),
        Row("FAST_RCNN.ROI_XFORM_SAMPLING_RATIO", 2, 1, losses, ONE_LEVEL),
        Row("TRAIN.RPN_PRE_NMS_TOP_N", 100, 10, losses, ONE_LEVEL),
        Row("TEST.RPN_POST_NMS_TOP_N", 40, 5, detections, ONE_LEVEL),
        Row("TRAIN.FREEZE_AT", 2, 3, trained_weights, ONE_LEVEL),
        Row("RESNETS.STRIDE_1X1", True, False, losses, ONE_LEVEL),
    ],
    "given proposals": [
        Row("TRAIN.PROPOSAL_FILES", PROPOSALS, OTHER_PROPOSALS, losses_on_proposals),
        Row("TRAIN.FG_THRESH", 0.5, 0.8, losses_on_proposals),
        Row("TRAIN.CROWD_FILTER_THRESH", 0.7, 0.05, losses_on_proposals),
        Row("BBOX_XFORM_CLIP", 4.0, 0.01, evaluation, READY_MADE),
        Row("TEST.PROPOSAL_LIMIT", 2000, 3, evaluation, READY_MADE),
        Row("TEST.PROPOSAL_FILES", READY_MADE["TEST.PROPOSAL_FILES"], OTHERS, evaluation, READY_MADE),
    ],
    "a cascade": [
        Row("BBOX_XFORM_CLIP", 4.0, 0.01, detections, CASCADE),
        Row("FAST_RCNN.SMOOTH_L1_BETA", -1.0, 1.0, losses, CASCADE),
        Row("TEST.BBOX_REG", True, False, detections, CASCADE),
    ],
    "proposals alone": [
        Row("TRAIN.RPN_POSITIVE_OVERLAP", 0.7, 0.4, losses, RPN_ONLY),
        Row("FPN.RPN_MAX_LEVEL", 6, 5, losses, RPN_ONLY),
    ],
    "keypoints": [
        Row("FPN.ROI_CANONICAL_SCALE", 56, 224, losses, KEYPOINTS_ON),
        Row("TEST.DETECTIONS_PER_IM", 100, 3, detections, KEYPOINTS_ON),
        Row("TRAIN.FG_THRESH", 0.5, 0.9, losses, KEYPOINTS_ON),
    ],
}
