"""Which configurations can be trained as one population, and what to say about those that cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.models.layer_list import BatchNorm, Dropout, Layer, parse_layers

SHARED = (
    "MODEL.DEVICE",
    "TRAIN.DATASETS",
    "TEST.DATASETS",
    "TEST.IMS_PER_BATCH",
    "TRAIN.IMS_PER_BATCH",
    "TRAIN.EVAL_ITERS",
    "SOLVER.OPTIMIZER",
    "SOLVER.NESTEROV",
    "SOLVER.MAX_ITER",
    "SOLVER.MAX_EPOCHS",
    "CLASSIFIER.INPUT_SHAPE",
    "CLASSIFIER.LOSS",
)
"""Keys that all members must have alike: they are one program on the same data."""

ONLY: dict[str, tuple[Any, str]] = {
    "NUM_GPUS": (1, "a population takes one device"),
    "SOLVER.ACCUMULATE": (1, "its members take one batch for an update"),
    "SOLVER.PRECISION": ("fp32", "its members compute in fp32"),
    "SOLVER.COMPILE": (False, "its steps are compiled in another way"),
    "TRAIN.WEIGHTS": ("", "its members start from fresh weights"),
    "TRAIN.EARLY_STOP_PATIENCE": (0, "its members are all trained to the end"),
}
"""Keys that can have one value only, and why."""


def check_members(configs: Sequence[Config]) -> None:
    """A `UserError` that names the first key which keeps these configurations from being one population."""
    if not configs:
        raise UserError("A population needs at least one member.")
    first = configs[0]
    if first.MODEL.TYPE != "classifier":
        raise UserError(
            f"A population is of classifiers, but MODEL.TYPE is {first.MODEL.TYPE!r}; train detectors one by one."
        )
    shared = first.flat()
    for config in configs:
        values = config.flat()
        for key, (value, why) in ONLY.items():
            if values[key] != value:
                raise UserError(
                    f"{key}={values[key]} cannot be followed by a population: {why}; set it to {value!r}."
                )
        for key in SHARED:
            if values[key] != shared[key]:
                raise UserError(
                    f"The members of a population share {key}, but have {shared[key]} and {values[key]}; train one "
                    "population for each value."
                )
        if architecture(config) != architecture(first):
            raise UserError(
                "The members of a population differ in CLASSIFIER.LAYERS by more than the rates of dropout layers; "
                "train one population for each architecture."
            )


def check_stack(config: Config) -> None:
    """A `UserError` for what a population on a GPU cannot follow, although one on a CPU can."""
    if config.SOLVER.EMA_DECAY > 0:
        raise UserError(
            "SOLVER.EMA_DECAY cannot be followed by a population on a GPU; set it to 0, or MODEL.DEVICE to cpu."
        )
    if any(isinstance(layer, BatchNorm) for layer in architecture(config)):
        raise UserError(
            "CLASSIFIER.LAYERS has batchnorm, whose statistics a population on a GPU cannot keep; set MODEL.DEVICE to "
            "cpu."
        )


def architecture(config: Config) -> tuple[Layer, ...]:
    """The layers of a classifier, with every dropout rate taken for the same."""
    layers = parse_layers(config.CLASSIFIER.LAYERS)
    return tuple(replace(layer, rate=0.0) if isinstance(layer, Dropout) else layer for layer in layers)
