"""TRAIN."""

from __future__ import annotations

from observe import (
    broken_images,
    losses,
    losses_on_proposals,
    run_with_weights,
    second_run,
    tiny_run,
    trained_weights,
    training_batches,
)
from sample import DATA, READY_MADE
from table import Row

START = {"TRAIN.WEIGHTS": str(DATA / "start.safetensors")}
EVALUATED = {"TRAIN.EVAL_ITERS": 3}
PROPOSALS = READY_MADE["TRAIN.PROPOSAL_FILES"]
OTHER_PROPOSALS = [str(DATA / "other_train_proposals.pkl")]

ROWS = [
    Row("TRAIN.WEIGHTS", "", START["TRAIN.WEIGHTS"], run_with_weights),
    Row("TRAIN.DATASETS", ["train"], ["other"], training_batches),
    Row("TRAIN.SCALES", [96], [64], training_batches),
    Row("TRAIN.MAX_SIZE", 1000, 64, training_batches),
    Row("TRAIN.IMS_PER_BATCH", 2, 1, training_batches),
    Row("TRAIN.BATCH_SIZE_PER_IM", 32, 16, losses),
    Row("TRAIN.FG_FRACTION", 0.25, 0.05, losses),
    Row("TRAIN.FG_THRESH", 0.5, 0.9, losses),
    Row("TRAIN.BG_THRESH_HI", 0.5, 0.1, losses),
    Row("TRAIN.BG_THRESH_LO", 0.0, 0.1, losses),
    Row("TRAIN.USE_FLIPPED", True, False, training_batches),
    Row("TRAIN.BBOX_THRESH", 0.5, 0.9, losses_on_proposals),
    Row("TRAIN.SNAPSHOT_ITERS", 4, 12, tiny_run, {"TRAIN.KEEP_LAST": 10}),
    Row("TRAIN.PROPOSAL_FILES", PROPOSALS, OTHER_PROPOSALS, training_batches, READY_MADE),
    Row("TRAIN.ASPECT_GROUPING", True, False, training_batches),
    Row("TRAIN.RPN_POSITIVE_OVERLAP", 0.7, 0.4, losses),
    Row("TRAIN.RPN_NEGATIVE_OVERLAP", 0.3, 0.1, losses),
    Row("TRAIN.RPN_FG_FRACTION", 0.5, 0.01, losses),
    Row("TRAIN.RPN_BATCH_SIZE_PER_IM", 256, 16, losses),
    Row("TRAIN.RPN_NMS_THRESH", 0.7, 0.3, losses),
    Row("TRAIN.RPN_PRE_NMS_TOP_N", 100, 10, losses),
    Row("TRAIN.RPN_POST_NMS_TOP_N", 60, 10, losses),
    Row("TRAIN.RPN_STRADDLE_THRESH", -1, 0, losses),
    Row("TRAIN.RPN_MIN_SIZE", 0, 20, losses),
    Row("TRAIN.CROWD_FILTER_THRESH", 0.7, 0.2, losses),
    Row("TRAIN.GT_MIN_AREA", -1, 300, training_batches),
    Row("TRAIN.FREEZE_CONV_BODY", False, True, trained_weights),
    Row("TRAIN.AUTO_RESUME", True, False, second_run),
    Row("TRAIN.COPY_WEIGHTS", False, True, run_with_weights, START),
    Row("TRAIN.FREEZE_AT", 2, 3, trained_weights),
    Row("TRAIN.EVAL_ITERS", 0, 3, tiny_run),
    Row("TRAIN.EARLY_STOP_PATIENCE", 0, 1, tiny_run, EVALUATED),
    Row("TRAIN.KEEP_BEST", True, False, tiny_run, EVALUATED),
    Row("TRAIN.BEST_METRIC", "bbox/AP", "bbox/AP50", tiny_run, EVALUATED),
    Row("TRAIN.KEEP_LAST", 2, 1, tiny_run),
    Row("TRAIN.LOG_ITERS", 3, 4, tiny_run),
    Row("TRAIN.SKIP_BROKEN_IMAGES", False, True, broken_images),
]  # fmt: skip
