"""A stack's members are the members that are trained one by one; its operations are written down once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detectune.config.tree import Config
from detectune.engine.run_directory import RunDirectory
from detectune.errors import UserError
from detectune.lab.checks import check_stack
from detectune.lab.member import Member, load_data
from detectune.lab.population import prepare_directory, result_of
from detectune.lab.stack import Stack
from detectune.lab.stack_run import StackedMember, train_stack
from detectune.tuner.arrived import NotArrivedError, check_built
from detectune.weights.native import load_weights

STEPS = 100
BASE: dict[str, Any] = {
    "MODEL.TYPE": "classifier",
    "MODEL.DEVICE": "cpu",
    "CLASSIFIER.LAYERS": ["dense 12", "sigmoid", "softmax 10"],
    "TRAIN.DATASETS": ["digits_train"],
    "TEST.DATASETS": ["digits_val"],
    "TRAIN.IMS_PER_BATCH": 10,
    "SOLVER.MAX_ITER": STEPS,
    "SOLVER.WARM_UP_ITERS": 20,
    "SOLVER.LR_POLICY": "steps_with_decay",
    "SOLVER.STEPS": [0, 50],
    "SOLVER.GAMMA": 0.2,  # the rate jumps, and momentum with it
}
PICTURE = ["conv 3 3x3", "relu", "maxpool 2", "dense 12", "tanh", "dropout {rate}", "softmax 10"]
MEMBERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sgd": ({"SOLVER.MOMENTUM": 0.0}, {"SOLVER.MOMENTUM": 0.9, "SOLVER.WEIGHT_DECAY": 0.01}),
    "nesterov": ({"SOLVER.MOMENTUM": 0.5}, {"SOLVER.MOMENTUM": 0.9, "SOLVER.CLIP_GRADIENT_NORM": 0.5}),
    "adagrad": ({"SOLVER.EPS": 1e-8}, {"SOLVER.EPS": 1e-4}),
    "adadelta": ({"SOLVER.RHO": 0.9}, {"SOLVER.RHO": 0.95}),
    "rmsprop": ({"SOLVER.ALPHA": 0.9}, {"SOLVER.ALPHA": 0.99}),
    "adam": ({"SOLVER.BETAS": [0.9, 0.999]}, {"SOLVER.BETAS": [0.8, 0.99]}),
    "adamw": ({"SOLVER.WEIGHT_DECAY": 0.1}, {"SOLVER.WEIGHT_DECAY": 0.01}),
    "nadam": ({"SOLVER.BETAS": [0.9, 0.999]}, {"SOLVER.BETAS": [0.8, 0.99]}),
    "lion": ({"SOLVER.WEIGHT_DECAY": 0.1}, {"SOLVER.BETAS": [0.8, 0.95]}),
    "muon": ({"SOLVER.MOMENTUM": 0.95}, {"SOLVER.MOMENTUM": 0.8}),
}
RATES = {"sgd": 0.1, "nesterov": 0.05, "adagrad": 0.02, "adadelta": 1.0, "muon": 0.01, "lion": 0.001}


@pytest.mark.parametrize("rule", MEMBERS)
def test_members_of_a_stack_are_those_trained_one_by_one(rule: str) -> None:
    solver = {"SOLVER.OPTIMIZER": "sgd", "SOLVER.NESTEROV": True} if rule == "nesterov" else {}
    common = BASE | {"SOLVER.OPTIMIZER": rule} | solver
    rate = RATES.get(rule, 0.003)
    first, second = MEMBERS[rule]
    compare(
        Config().with_overrides(common | {"RNG_SEED": 1, "SOLVER.BASE_LR": rate} | first),
        Config().with_overrides(common | {"RNG_SEED": 2, "SOLVER.BASE_LR": rate / 2} | second),
    )


def test_pictures_and_dropout() -> None:
    configs = []
    for seed, rate in ((1, 0.5), (2, 0.0), (3, 0.2)):
        layers = [text.format(rate=rate) for text in PICTURE]
        configs.append(Config().with_overrides(BASE | {"RNG_SEED": seed, "CLASSIFIER.LAYERS": layers}))
    compare(*configs)


def test_one_that_diverges_leaves_the_others_alone_and_all_go_on(tmp_path: Path) -> None:
    changes = {"SOLVER.MAX_ITER": 60, "TRAIN.EVAL_ITERS": 20, "SOLVER.WARM_UP_ITERS": 0}
    wild = BASE | changes | {"CLASSIFIER.LAYERS": ["dense 12", "relu", "softmax 10"]}
    configs = [
        Config().with_overrides(wild | {"RNG_SEED": seed, "SOLVER.BASE_LR": rate})
        for seed, rate in ((1, 0.1), (2, 1e38), (3, 0.05))
    ]
    whole = trained(configs, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(configs, tmp_path / "parts", stop_after=5)
    parts = trained(configs, tmp_path / "parts")
    for a, b in zip(whole, parts, strict=True):
        assert largest_difference(load_weights(a.weights)[0], load_weights(b.weights)[0]) < 1e-6
        assert [row["iteration"] for row in a.curve] == [row["iteration"] for row in b.curve]
    assert whole[1].diverged_at is not None and whole[1].curve == []
    assert [result.diverged_at for result in whole] == [result.diverged_at for result in parts]
    data, tests = load_data(configs[0])
    alone = Member(configs[1], data=data, tests=tests)
    alone.advance(60)
    assert alone.diverged_at == whole[1].diverged_at
    compare(configs[0], configs[2], steps=60)


@pytest.mark.parametrize("rule", MEMBERS)
def test_what_a_member_was_given_is_found_where_its_updates_take_it_from(rule: str) -> None:
    solver = {"SOLVER.OPTIMIZER": "sgd"} if rule == "nesterov" else {"SOLVER.OPTIMIZER": rule}
    members = [own | {"SOLVER.BASE_LR": 0.01 * (k + 1)} for k, own in enumerate(MEMBERS[rule])]
    configs = [Config().with_overrides(BASE | solver | own) for own in members]
    data, tests = load_data(configs[0])
    stack = Stack(configs, data=data, tests=tests, device=torch.device("cpu"))
    for k, own in enumerate(members):
        found = check_built(StackedMember(stack, k), own, {})
        assert {key: record["how"] for key, record in found.items()} == dict.fromkeys(own, "object")
        with pytest.raises(NotArrivedError, match="did not arrive"):
            check_built(StackedMember(stack, 1 - k), {"SOLVER.BASE_LR": own["SOLVER.BASE_LR"]}, {})
    with pytest.raises(NotArrivedError, match="did not arrive"):
        wrong = next(key for key in members[1] if key != "SOLVER.BASE_LR")
        changed = members[1][wrong]
        value = [0.1, 0.2] if isinstance(changed, list) else changed * 1.01
        check_built(StackedMember(stack, 1), {wrong: value}, {})


def test_what_cannot_be_stacked_is_said() -> None:
    with pytest.raises(UserError, match=r"SOLVER\.EMA_DECAY"):
        check_stack(Config().with_overrides(BASE | {"SOLVER.EMA_DECAY": 0.9}))
    layers = ["dense 12", "batchnorm", "relu", "softmax 10"]
    with pytest.raises(UserError, match="batchnorm"):
        check_stack(Config().with_overrides(BASE | {"CLASSIFIER.LAYERS": layers}))


def compare(*configs: Config, steps: int = STEPS) -> None:
    data, tests = load_data(configs[0])
    stack = Stack(configs, data=data, tests=tests, device=torch.device("cpu"))
    stack.advance(steps)
    for k, config in enumerate(configs):
        alone = Member(config, data=data, tests=tests)
        alone.advance(steps)
        assert largest_difference(stack.weights_of(k), alone.model.state_dict()) < 1e-5
        assert stack.evaluate(k, "digits_val") == pytest.approx(alone.evaluate("digits_val"), abs=1e-4)
        norms = StackedMember(stack, k).gradient_norms
        assert len(norms) == steps // stack.norm_stride and norms == pytest.approx(
            alone.gradient_norms, rel=1e-3, abs=1e-5
        )


def trained(configs: list[Config], folder: Path, *, stop_after: int = 0) -> list[Any]:
    folders = [folder / f"{k:04d}" for k in range(len(configs))]
    for config, own in zip(configs, folders, strict=True):
        prepare_directory(config, own)
    data, tests = load_data(configs[0])
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        if len(lines) == stop_after:
            raise KeyboardInterrupt

    train_stack(configs, folders, data=data, tests=tests, device=torch.device("cpu"), log=log)
    assert all(RunDirectory(own).final_weights.exists() for own in folders)
    return [result_of(own, {}) for own in folders]


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)
