"""Pairs of values that must mean the same, as the keys' own descriptions say: off, all, automatic."""

from __future__ import annotations

from observe import compute, detections, losses, tested_batches, tiny_run, training_batches, updates
from rows_heads import KEYPOINTS_ON
from rows_retinanet import RETINANET
from table import Row

SAME: list[Row] = [
    Row("TRAIN.CROWD_FILTER_THRESH", 0.0, 1.0, losses),  # 0 does not filter
    Row("TRAIN.RPN_STRADDLE_THRESH", -1, 10000, losses),  # -1 trains all anchors
    Row("TRAIN.GT_MIN_AREA", -1, 0, training_batches),  # -1 keeps all objects
    Row("TRAIN.BEST_METRIC", "", "bbox/AP", tiny_run, {"TRAIN.EVAL_ITERS": 3}),
    Row("TEST.DETECTIONS_PER_IM", 0, 10000, detections),  # 0 keeps all
    Row("SOLVER.CLIP_GRADIENT_NORM", 0.0, 1e9, updates),  # 0 does not clip
    Row("RESNETS.NORM", "auto", "frozen", losses),  # the functions' names have no _gn
    Row("MODEL.MEMORY_FORMAT", "auto", "contiguous", compute),  # in fp32
    Row("INPUT.RESIZE", "auto", "pillow", training_batches),  # of the geometry detectron2
    Row("INPUT.RESIZE", "auto", "detectron", tested_batches, {"MODEL.GEOMETRY": "detectron"}),
    Row("TRAIN.CROWD_FILTER_THRESH", 0.0, 1.0, losses, RETINANET),
    Row("FAST_RCNN.SMOOTH_L1_BETA", -1.0, 0.0, losses),  # below 0 the geometry's own
    Row("KRCNN.UP_SCALE", -1, 1, losses, KEYPOINTS_ON),
    Row("KRCNN.HEATMAP_SIZE", -1, 14, losses, KEYPOINTS_ON),
    Row("DATA_LOADER.NUM_THREADS", 0, 1, training_batches),  # results do not depend on it
    Row("DATA_LOADER.NUM_THREADS", 0, 1, tested_batches),
]
