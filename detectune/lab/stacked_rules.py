"""SOLVER's update rules with a value for each member of a stack: which rule, and its values by parameter.

The rules are those of `lab/update_rules.py`, but for SOLVER.OPTIMIZER sgd, whose velocity is in units of weights
(`engine/optimizers.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from detectune.config.tree import Config
from detectune.engine.solver import trained_groups
from detectune.lab.update_rules import RULES, State
from detectune.models.classifier import Classifier

Rule = Callable[[Tensor, Tensor, State, Mapping[str, Any]], tuple[Tensor, State]]
"""(parameter [K, ...], gradient, state, values that broadcast against it) -> (parameter, state)."""


def values_of(config: Config, model: Classifier) -> dict[str, dict[str, float]]:
    """For each trained parameter the values of its rule, its group's decay, and the factor on its rate."""
    solver = config.SOLVER
    betas = {"beta1": solver.BETAS[0], "beta2": solver.BETAS[1]}
    own: dict[str, dict[str, float]] = {
        "sgd": {"momentum": solver.MOMENTUM},
        "adagrad": {"eps": solver.EPS},
        "adadelta": {"rho": solver.RHO, "eps": solver.EPS},
        "rmsprop": {"alpha": solver.ALPHA, "eps": solver.EPS},
        "adam": betas | {"eps": solver.EPS},
        "adamw": betas | {"eps": solver.EPS},
        "nadam": betas | {"eps": solver.EPS},
        "lion": betas,
        "muon": betas | {"eps": solver.EPS, "momentum": solver.MOMENTUM},
    }
    return {
        name: own[solver.OPTIMIZER] | {"lr_factor": group["lr_factor"], "weight_decay": group["weight_decay"]}
        for group in trained_groups(config, model)
        for name in group["names"]
    }


def rule_of(config: Config) -> Rule:
    """The rule of SOLVER.OPTIMIZER."""
    name = config.SOLVER.OPTIMIZER
    if name == "sgd":
        return _nesterov if config.SOLVER.NESTEROV else _momentum
    update, extra = RULES[name], {"member_axes": 1} if name == "muon" else {}

    def rule(w: Tensor, g: Tensor, state: State, values: Mapping[str, Any]) -> tuple[Tensor, State]:
        return update(w, g, state, **{key: v for key, v in values.items() if key != "carry"}, **extra)

    return rule


def _momentum(w: Tensor, g: Tensor, state: State, values: Mapping[str, Any]) -> tuple[Tensor, State]:
    """v <- mu v + lr (g + decay w);  w <- w - v."""
    v = _velocity(w, g, state, values)
    return w - v, state.after(velocity=v)


def _nesterov(w: Tensor, g: Tensor, state: State, values: Mapping[str, Any]) -> tuple[Tensor, State]:
    """v as above;  w <- w - lr (g + decay w) - mu v."""
    v = _velocity(w, g, state, values)
    return w - values["lr"] * (g + values["weight_decay"] * w) - values["momentum"] * v, state.after(
        velocity=v
    )


def _velocity(w: Tensor, g: Tensor, state: State, values: Mapping[str, Any]) -> Tensor:
    """`carry` turns steps made at an earlier rate into steps at this one."""
    carried = values["momentum"] * values["carry"] * state.recall("velocity", w)
    velocity: Tensor = carried + values["lr"] * (g + values["weight_decay"] * w)
    return velocity
