"""How the weights are trained: update rule, learning rate over time, precision."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from detectune.config.knob import Section, among, knob, linear, log, one_minus_log

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Solver(Section):
    """The optimiser."""

    BASE_LR: float = knob(
        0.001,
        "Learning rate at its height, for the whole batch. Too low learns slowly, too high diverges; "
        "scale it with the batch, and take 10 to 100 times less for the adam family.",
        kind="optimisation",
        stage="training",
        gt=0,
        search=log(0.0001, 0.1),
        source="Goyal et al. 2017 (arXiv:1706.02677), section 2.1",
    )
    LR_POLICY: Literal[
        "step",
        "steps_with_decay",
        "steps_with_lrs",
        "cosine_decay",
        "exp_decay",
        "polynomial_decay",
        "one_cycle",
    ] = knob(
        "step",
        "How the learning rate falls: in steps (every STEP_SIZE, at STEPS by GAMMA, at STEPS to LRS), "
        "along a cosine, exponential or polynomial curve, or up and down once. Cosine needs no steps "
        "to be chosen.",
        kind="optimisation",
        stage="training",
        search=among("steps_with_decay", "cosine_decay", "one_cycle"),
        source="Detectron; Loshchilov & Hutter 2017 (arXiv:1608.03983); Smith & Topin 2018 (arXiv:1708.07120)",
    )
    GAMMA: float = knob(
        0.1,
        "Factor on the learning rate at each step; for exp_decay the factor over the whole run. "
        "Smaller values end at a lower rate.",
        kind="optimisation",
        stage="training",
        unit="factor",
        gt=0,
        le=1,
        search=log(0.05, 0.5),
    )
    STEP_SIZE: int = knob(
        30000,
        "Iterations between two steps of policy `step`. Shorter steps lower the rate earlier.",
        kind="optimisation",
        stage="training",
        unit="iterations",
        ge=1,
    )
    STEPS: list[NonNegativeInt] = knob(
        [],
        "Iterations at which the rate changes, for steps_with_decay and steps_with_lrs; the first "
        "must be 0. Usual are two thirds and eight ninths of MAX_ITER.",
        kind="optimisation",
        stage="training",
        unit="iterations",
    )
    LRS: list[PositiveFloat] = knob(
        [],
        "Learning rates of policy steps_with_lrs, one for each entry of STEPS. BASE_LR is then not used.",
        kind="optimisation",
        stage="training",
    )
    MAX_ITER: int = knob(
        40000,
        "Optimiser steps of the whole training. Longer trains better until it overfits; lower it "
        "together with STEPS.",
        kind="optimisation",
        stage="training",
        unit="iterations",
        ge=1,
    )
    MOMENTUM: float = knob(
        0.9,
        "How much of the last update is carried on, for sgd and muon. Raising it smooths and acts "
        "like a larger learning rate: tune them together.",
        kind="optimisation",
        stage="training",
        ge=0,
        lt=1,
        search=one_minus_log(0.8, 0.99),
        source="Sutskever et al. 2013 (ICML), section 2",
    )
    WEIGHT_DECAY: float = knob(
        0.0005,
        "Pulls weights towards zero at every step. More prevents overfitting on small data; adamw "
        "wants values around 0.05.",
        kind="regularisation",
        stage="training",
        ge=0,
        search=log(0.00001, 0.01),
        source="Krogh & Hertz 1991 (NeurIPS)",
    )
    WEIGHT_DECAY_GN: float = knob(
        0.0,
        "Weight decay of the scales of normalisation layers. 0 leaves them free, as is usual.",
        kind="regularisation",
        stage="training",
        ge=0,
        search=among(0.0, 0.00001, 0.0001),
        source="Wu & He 2018 (arXiv:1803.08494)",
    )
    WEIGHT_DECAY_BIAS: float = knob(
        0.0,
        "Weight decay of biases, those of normalisation layers excepted. 0 leaves them free, as Detectron does; "
        "detectron2 and torchvision decay them like weights.",
        kind="regularisation",
        stage="training",
        ge=0,
        source="ours; Krogh & Hertz 1991 (NeurIPS)",
    )
    BIAS_LR_FACTOR: float = knob(
        2.0,
        "Learning rate of biases over that of weights. 2 is Caffe's habit, which Detectron's schedules were made with; "
        "most other systems have 1.",
        kind="optimisation",
        stage="training",
        unit="factor",
        ge=0,
        search=among(1.0, 2.0),
        source="Detectron",
    )
    WARM_UP_ITERS: int = knob(
        500,
        "Iterations over which the rate rises to its full value; 0 starts at once. Longer is safer "
        "with large rates and batches or fresh weights.",
        kind="optimisation",
        stage="training",
        unit="iterations",
        ge=0,
        search=log(50, 5000),
        source="Goyal et al. 2017 (arXiv:1706.02677), section 2.2",
    )
    WARM_UP_FACTOR: float = knob(
        1.0 / 3.0,
        "Fraction of the rate at the first warm-up iteration. Lower starts more gently.",
        kind="optimisation",
        stage="training",
        unit="factor",
        ge=0,
        le=1,
        search=log(0.001, 0.5),
        source="Goyal et al. 2017 (arXiv:1706.02677), section 2.2",
    )
    WARM_UP_METHOD: Literal["linear", "constant"] = knob(
        "linear",
        "Whether the warm-up rises along a line or stays at WARM_UP_FACTOR until it ends.",
        kind="optimisation",
        stage="training",
        source="Goyal et al. 2017 (arXiv:1706.02677), section 2.2",
    )
    SCALE_MOMENTUM: bool = knob(
        True,
        "Rescales the momentum when the learning rate jumps, so that past gradients keep their worth. "
        "Matters at steps; leave it on to repeat Detectron's results.",
        kind="optimisation",
        stage="training",
        source="Goyal et al. 2017 (arXiv:1706.02677), section 3",
    )
    SCALE_MOMENTUM_THRESHOLD: float = knob(
        1.1,
        "Relative change of the learning rate from which SCALE_MOMENTUM acts. Higher ignores the "
        "small changes of smooth schedules.",
        kind="optimisation",
        stage="training",
        unit="factor",
        ge=1,
    )
    LOG_LR_CHANGE_THRESHOLD: float = knob(
        1.1,
        "Relative change of the learning rate from which it is reported in the log. Higher reports less.",
        kind="runtime",
        stage="nothing",
        unit="factor",
        ge=1,
    )
    OPTIMIZER: Literal["sgd", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "nadam", "lion", "muon"] = (
        knob(
            "sgd",
            "Update rule. sgd with momentum is what all published detectors were trained with; adamw is "
            "less sensitive to the learning rate. Each wants its own BASE_LR; lion about a tenth of adamw's.",
            kind="optimisation",
            stage="training",
            search=among("sgd", "adam", "adamw"),
            source="ours; Zeiler 2012 (arXiv:1212.5701); Kingma & Ba 2015 (arXiv:1412.6980); "
            "Dozat 2016 (ICLR); Chen et al. 2023 (arXiv:2302.06675); Jordan 2024 (kellerjordan.github.io/posts/muon)",
        )
    )
    BETAS: tuple[Fraction, Fraction] = knob(
        (0.9, 0.999),
        "Memory of adam, adamw and nadam for the gradient and for its square. A smaller second value adapts "
        "faster and is noisier. For lion: weight of the memory in a step, and memory; its authors take 0.9, 0.99.",
        kind="optimisation",
        stage="training",
        search=among((0.9, 0.999), (0.9, 0.99), (0.9, 0.95)),
        source="Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1",
    )
    EPS: float = knob(
        1e-08,
        "Added to the denominator by all rules but sgd and lion. Large values make them behave more like sgd "
        "with momentum.",
        kind="optimisation",
        stage="training",
        gt=0,
        search=log(1e-10, 0.1),
        source="Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1",
    )
    RHO: float = knob(
        0.9,
        "Memory of adadelta for squared gradients and updates. Raising it averages over more steps.",
        kind="optimisation",
        stage="training",
        ge=0,
        lt=1,
        search=one_minus_log(0.8, 0.99),
        source="Zeiler 2012 (arXiv:1212.5701), section 3.1",
    )
    ALPHA: float = knob(
        0.99,
        "Memory of rmsprop for squared gradients. Raising it averages over more steps.",
        kind="optimisation",
        stage="training",
        ge=0,
        lt=1,
        search=one_minus_log(0.9, 0.999),
        source="Hinton 2012 (Coursera lecture 6e)",
    )
    NESTEROV: bool = knob(
        False,
        "Looks ahead along the momentum before taking the gradient (sgd). Slightly faster at high "
        "momentum; needs MOMENTUM above 0.",
        kind="optimisation",
        stage="training",
        search=among(False, True),
        source="Sutskever et al. 2013 (ICML), section 2",
    )
    LR_FINAL_FRACTION: float = knob(
        0.0,
        "Where cosine, polynomial and one-cycle schedules end. Above 0 the last iterations still learn.",
        kind="optimisation",
        stage="training",
        unit="fraction of BASE_LR",
        ge=0,
        le=1,
        search=among(0.0, 0.01, 0.1),
        source="ours; Loshchilov & Hutter 2017 (arXiv:1608.03983), equation 5",
    )
    POLY_POWER: float = knob(
        0.9,
        "Exponent of polynomial_decay. 1 is a straight line, more falls earlier.",
        kind="optimisation",
        stage="training",
        gt=0,
        search=linear(0.5, 2.0),
        source="Chen et al. 2017 (arXiv:1606.00915), section 4.1",
    )
    ONE_CYCLE_PEAK: float = knob(
        0.3,
        "When one_cycle reaches BASE_LR. Earlier leaves more time at low rates.",
        kind="optimisation",
        stage="training",
        unit="fraction of the run",
        gt=0,
        lt=1,
        search=linear(0.1, 0.5),
        source="Smith & Topin 2018 (arXiv:1708.07120)",
    )
    PRECISION: Literal["fp32", "bf16", "fp16", "auto"] = knob(
        "fp32",
        "Number format of the forward and backward pass in training; weights stay fp32. Half "
        "precision is faster and smaller where the machine supports it; fp16 is for CUDA only. `auto` "
        "takes the fastest measured here.",
        kind="runtime",
        stage="training",
        source="ours; Micikevicius et al. 2018 (arXiv:1710.03740)",
    )
    COMPILE: bool = knob(
        False,
        "Compiles the training step with torch.compile. Minutes at the start, faster steps after: "
        "worth it in long runs.",
        kind="runtime",
        stage="nothing",
        source="ours",
    )
    CLIP_GRADIENT_NORM: float = knob(
        0.0,
        "Gradients longer than this are shortened to it; 0 is off. Prevents single bad batches from "
        "wrecking the weights; too low slows learning.",
        kind="optimisation",
        stage="training",
        ge=0,
        search=log(0.1, 35.0),
        source="Pascanu et al. 2013 (arXiv:1211.5063), algorithm 1",
    )
    ACCUMULATE: int = knob(
        1,
        "Batches whose gradients are averaged into one optimiser step. Makes the effective batch "
        "larger without more memory, at proportional time.",
        kind="optimisation",
        stage="training",
        unit="batches",
        ge=1,
        source="ours",
    )
    EMA_DECAY: float = knob(
        0.0,
        "Evaluates and saves a running average of the weights with this memory; 0 is off. Higher "
        "averages over more steps; smooths the end of training.",
        kind="regularisation",
        stage="training",
        ge=0,
        lt=1,
        search=one_minus_log(0.99, 0.9999),
        source="Polyak & Juditsky 1992 (SIAM J. Control Optim. 30)",
    )
    MAX_EPOCHS: int = knob(
        0,
        "Length of training in passes over the data; 0 leaves it to MAX_ITER. Convenient when data "
        "sets differ in size.",
        kind="optimisation",
        stage="training",
        unit="epochs",
        ge=0,
        source="ours",
    )
    REFERENCE_BATCH: int = knob(
        0,
        "Batch for which BASE_LR, MAX_ITER, STEPS and warm-up were chosen; they are rescaled to the "
        "actual batch and the log says so. 0 is off. Use it to run an 8-GPU schedule on one.",
        kind="optimisation",
        stage="training",
        unit="images",
        ge=0,
        source="Goyal et al. 2017 (arXiv:1706.02677), section 2.1",
    )
