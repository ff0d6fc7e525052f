"""Configuration sections: SOLVER."""

from __future__ import annotations

from detectune.config.knob import Section, knob


class Solver(Section):
    BASE_LR: float = knob(0.001, "", kind="runtime", stage="nothing")
    GAMMA: float = knob(0.1, "", kind="runtime", stage="nothing")
    LOG_LR_CHANGE_THRESHOLD: float = knob(1.1, "", kind="runtime", stage="nothing")
    LRS: list[float] = knob([], "", kind="runtime", stage="nothing")
    LR_POLICY: str = knob("step", "", kind="runtime", stage="nothing")
    MAX_ITER: int = knob(40000, "", kind="runtime", stage="nothing")
    MOMENTUM: float = knob(0.9, "", kind="runtime", stage="nothing")
    SCALE_MOMENTUM: bool = knob(True, "", kind="runtime", stage="nothing")
    SCALE_MOMENTUM_THRESHOLD: float = knob(1.1, "", kind="runtime", stage="nothing")
    STEPS: list[int] = knob([], "", kind="runtime", stage="nothing")
    STEP_SIZE: int = knob(30000, "", kind="runtime", stage="nothing")
    WARM_UP_FACTOR: float = knob(0.3333333333333333, "", kind="runtime", stage="nothing")
    WARM_UP_ITERS: int = knob(500, "", kind="runtime", stage="nothing")
    WARM_UP_METHOD: str = knob("linear", "", kind="runtime", stage="nothing")
    WEIGHT_DECAY: float = knob(0.0005, "", kind="runtime", stage="nothing")
    WEIGHT_DECAY_GN: float = knob(0.0, "", kind="runtime", stage="nothing")
    OPTIMIZER: str = knob("sgd", "", kind="runtime", stage="nothing")
    BETAS: tuple[float, float] = knob((0.9, 0.999), "", kind="runtime", stage="nothing")
    EPS: float = knob(1e-08, "", kind="runtime", stage="nothing")
    RHO: float = knob(0.9, "", kind="runtime", stage="nothing")
    ALPHA: float = knob(0.99, "", kind="runtime", stage="nothing")
    NESTEROV: bool = knob(False, "", kind="runtime", stage="nothing")
    PRECISION: str = knob("fp32", "", kind="runtime", stage="nothing")
    COMPILE: bool = knob(False, "", kind="runtime", stage="nothing")
    CLIP_GRADIENT_NORM: float = knob(0.0, "", kind="runtime", stage="nothing")
    ACCUMULATE: int = knob(1, "", kind="runtime", stage="nothing")
    EMA_DECAY: float = knob(0.0, "", kind="runtime", stage="nothing")
    MAX_EPOCHS: int = knob(0, "", kind="runtime", stage="nothing")
    REFERENCE_BATCH: int = knob(0, "", kind="runtime", stage="nothing")
    LR_FINAL_FRACTION: float = knob(0.0, "", kind="runtime", stage="nothing")
    POLY_POWER: float = knob(0.9, "", kind="runtime", stage="nothing")
    ONE_CYCLE_PEAK: float = knob(0.3, "", kind="runtime", stage="nothing")
