"""SOLVER."""

from __future__ import annotations

from observe import compilation, losses, rates, tiny_run, updates
from table import Row

STEPS = {"SOLVER.LR_POLICY": "steps_with_decay", "SOLVER.STEPS": [0, 5]}
ADAM = {"SOLVER.OPTIMIZER": "adam", "SOLVER.BASE_LR": 0.001}

ROWS = [
    Row("SOLVER.BASE_LR", 0.05, 0.1, rates),
    Row("SOLVER.LR_POLICY", "step", "cosine_decay", rates),
    Row("SOLVER.GAMMA", 0.1, 0.5, rates, STEPS),
    Row("SOLVER.STEP_SIZE", 5, 7, rates),
    Row("SOLVER.STEPS", [0, 5], [0, 6], rates, STEPS),
    Row("SOLVER.LRS", [0.1, 0.01], [0.1, 0.02], rates, STEPS | {"SOLVER.LR_POLICY": "steps_with_lrs"}),
    Row("SOLVER.MAX_ITER", 12, 10, rates),
    Row("SOLVER.MOMENTUM", 0.9, 0.5, updates),
    Row("SOLVER.WEIGHT_DECAY", 0.0005, 0.1, updates),
    Row("SOLVER.WEIGHT_DECAY_GN", 0.0, 0.1, updates),
    Row("SOLVER.WEIGHT_DECAY_BIAS", 0.0, 0.1, updates),
    Row("SOLVER.WARM_UP_ITERS", 4, 6, rates),
    Row("SOLVER.WARM_UP_FACTOR", 0.25, 0.5, rates),
    Row("SOLVER.WARM_UP_METHOD", "linear", "constant", rates),
    Row("SOLVER.SCALE_MOMENTUM", True, False, updates),
    Row("SOLVER.SCALE_MOMENTUM_THRESHOLD", 1.1, 20.0, updates),
    Row("SOLVER.LOG_LR_CHANGE_THRESHOLD", 1.1, 100.0, tiny_run),
    Row("SOLVER.OPTIMIZER", "sgd", "adam", updates),
    Row("SOLVER.BETAS", (0.9, 0.999), (0.5, 0.9), updates, ADAM),
    Row("SOLVER.EPS", 1e-8, 0.1, updates, ADAM),
    Row("SOLVER.RHO", 0.9, 0.5, updates, {"SOLVER.OPTIMIZER": "adadelta"}),
    Row("SOLVER.ALPHA", 0.99, 0.5, updates, {"SOLVER.OPTIMIZER": "rmsprop", "SOLVER.BASE_LR": 0.001}),
    Row("SOLVER.NESTEROV", False, True, updates),
    Row("SOLVER.LR_FINAL_FRACTION", 0.0, 0.1, rates, {"SOLVER.LR_POLICY": "cosine_decay"}),
    Row("SOLVER.POLY_POWER", 0.9, 2.0, rates, {"SOLVER.LR_POLICY": "polynomial_decay"}),
    Row("SOLVER.ONE_CYCLE_PEAK", 0.3, 0.6, rates, {"SOLVER.LR_POLICY": "one_cycle"}),
    Row("SOLVER.PRECISION", "fp32", "bf16", losses),
    Row("SOLVER.COMPILE", False, True, compilation),
    Row("SOLVER.CLIP_GRADIENT_NORM", 0.0, 0.01, updates),
    Row("SOLVER.ACCUMULATE", 1, 2, tiny_run),
    Row("SOLVER.EMA_DECAY", 0.0, 0.9, tiny_run),
    Row("SOLVER.MAX_EPOCHS", 0, 3, rates),
    Row("SOLVER.REFERENCE_BATCH", 0, 8, rates),
]  # fmt: skip
