"""A member of a population is the network that the plain trainer makes; members do not touch one another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detectune.config.tree import Config
from detectune.data.labelled import LabelledImages
from detectune.engine.finite import NonFiniteLossError
from detectune.engine.run_directory import RunDirectory
from detectune.engine.trainer import train
from detectune.errors import UserError
from detectune.lab.member import Member, load_data
from detectune.lab.population import train_population
from detectune.lab.population_worker import one_thread, train_block
from detectune.weights.native import load_weights

STEPS = 100
BASE: dict[str, Any] = {
    "MODEL.TYPE": "classifier",
    "MODEL.DEVICE": "cpu",
    "CLASSIFIER.LAYERS": ["dense 20", "sigmoid", "softmax 10"],
    "TRAIN.DATASETS": ["digits_train"],
    "TEST.DATASETS": ["digits_val"],
    "TRAIN.IMS_PER_BATCH": 10,
    "SOLVER.MAX_ITER": STEPS,
    "SOLVER.WARM_UP_ITERS": 0,
    "SOLVER.LR_POLICY": "cosine_decay",
    "SOLVER.BASE_LR": 0.1,
    "RNG_SEED": 3,
}
PICTURE = ["conv 4 3x3", "relu", "maxpool 2", "dense 20", "tanh", "dropout 0.4", "softmax 10"]
VARIANTS: dict[str, dict[str, Any]] = {
    "sgd": {"SOLVER.MOMENTUM": 0.0},
    "momentum, decay": {"SOLVER.MOMENTUM": 0.9, "SOLVER.WEIGHT_DECAY": 0.01, "SOLVER.BIAS_LR_FACTOR": 2.0},
    "nesterov": {"SOLVER.MOMENTUM": 0.8, "SOLVER.NESTEROV": True},
    "adagrad": {"SOLVER.OPTIMIZER": "adagrad", "SOLVER.BASE_LR": 0.01},
    "adadelta": {"SOLVER.OPTIMIZER": "adadelta", "SOLVER.BASE_LR": 1.0},
    "rmsprop": {"SOLVER.OPTIMIZER": "rmsprop", "SOLVER.BASE_LR": 0.001, "SOLVER.ALPHA": 0.95},
    "adam": {"SOLVER.OPTIMIZER": "adam", "SOLVER.BASE_LR": 0.003, "SOLVER.BETAS": [0.8, 0.99]},
    "adamw": {"SOLVER.OPTIMIZER": "adamw", "SOLVER.BASE_LR": 0.003, "SOLVER.WEIGHT_DECAY": 0.1},
    "nadam": {"SOLVER.OPTIMIZER": "nadam", "SOLVER.BASE_LR": 0.003},
    "lion": {"SOLVER.OPTIMIZER": "lion", "SOLVER.BASE_LR": 0.001},
    "muon": {"SOLVER.OPTIMIZER": "muon", "SOLVER.BASE_LR": 0.01},
    "picture, dropout": {"CLASSIFIER.LAYERS": PICTURE, "SOLVER.BASE_LR": 0.05},
    "clipped, averaged": {"SOLVER.CLIP_GRADIENT_NORM": 0.5, "SOLVER.EMA_DECAY": 0.9},
    "warm-up, smoothing": {"SOLVER.WARM_UP_ITERS": 50, "CLASSIFIER.LABEL_SMOOTHING": 0.1},
    "augmented": {"CLASSIFIER.SHIFT": 1},
}


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    """Members that are trained here without a population have one thread, too, so that sums have the same order."""
    with one_thread():
        yield


def test_every_optimiser_is_compared() -> None:
    from detectune.engine.optimizers import USED_BY

    compared = {changes.get("SOLVER.OPTIMIZER", "sgd") for changes in VARIANTS.values()}
    assert compared >= {name for readers in USED_BY.values() for name in readers}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_member_equals_the_network_trained_alone(changes: dict[str, Any], tmp_path: Path) -> None:
    config = a_config(changes)
    alone = train(config, output_dir=tmp_path, log=silent)
    expected, _ = load_weights(alone.weights)
    member = a_member(config)
    member.advance(STEPS)
    assert (member.iteration, alone.iterations) == (STEPS, STEPS)
    with member.evaluated_weights():
        assert largest_difference(member.model.state_dict(), expected) < 1e-5
    assert member.evaluate("digits_val") == pytest.approx(alone.metrics, abs=1e-5)


@pytest.mark.parametrize(("every", "stride"), [(20, 1), (50, 3)])
def test_a_member_keeps_some_of_the_norms_that_the_plain_trainer_keeps(
    every: int, stride: int, tmp_path: Path
) -> None:
    changes = {"SOLVER.CLIP_GRADIENT_NORM": 0.5, "SOLVER.MAX_ITER": 2 * every, "TRAIN.EVAL_ITERS": every}
    config = a_config(changes | {"TRAIN.LOG_ITERS": every})
    train(config, output_dir=tmp_path / "alone", log=silent)
    (member,) = train_population(config, [{}], output_dir=tmp_path, workers=0, log=silent)
    alone, own = (
        [row["gradient_norms"] for row in RunDirectory(folder).read_metrics() if row["kind"] == "train"]
        for folder in (tmp_path / "alone", member.directory)
    )
    every_norm = dict(enumerate((norm for row in alone for norm in row), start=1))
    kept = [[i for i in range(n * every + 1, (n + 1) * every + 1) if i % stride == 0] for n in range(2)]
    assert len(every_norm) == 2 * every and max(map(len, kept)) <= 20
    for steps, norms in zip(kept, own, strict=True):
        assert norms == pytest.approx([every_norm[i] for i in steps], rel=2e-3)


def test_results_depend_neither_on_the_processes_nor_on_the_other_members(tmp_path: Path) -> None:
    config = a_config({"SOLVER.MAX_ITER": 60, "TRAIN.EVAL_ITERS": 30, "CLASSIFIER.LAYERS": PICTURE})
    values = [{"RNG_SEED": seed, "SOLVER.BASE_LR": 0.02 * (seed + 1)} for seed in range(3)]
    shared = train_population(config, values, output_dir=tmp_path / "two", workers=2, log=silent)
    turned = train_population(config, values[::-1], output_dir=tmp_path / "one", workers=0, log=silent)[::-1]
    for a, b in zip(shared, turned, strict=True):
        assert load_weights(a.weights)[0].keys() == load_weights(b.weights)[0].keys()
        assert largest_difference(load_weights(a.weights)[0], load_weights(b.weights)[0]) == 0
        assert a.metrics == b.metrics and a.values == b.values
        assert [row["iteration"] for row in a.curve] == [30, 60]
    assert largest_difference(load_weights(shared[0].weights)[0], load_weights(shared[1].weights)[0]) > 0.01


def test_a_member_that_diverges_stops_alone_where_the_plain_trainer_stops(tmp_path: Path) -> None:
    wild = {"SOLVER.BASE_LR": 1e38, "CLASSIFIER.LAYERS": ["dense 20", "relu", "softmax 10"]}
    tame = wild | {"SOLVER.BASE_LR": 0.1}
    with pytest.raises(NonFiniteLossError) as stopped:
        train(a_config(wild), output_dir=tmp_path / "alone", log=silent)
    config = a_config(tame | {"TRAIN.EVAL_ITERS": 50})
    values = [{"SOLVER.BASE_LR": rate} for rate in (0.1, 1e38)]
    good, bad = train_population(config, values, output_dir=tmp_path, workers=0, log=silent)
    assert good.diverged_at is None and len(good.curve) == 2
    assert good.metrics["classification/accuracy"] > 0.5
    assert bad.curve == [] and f"iteration {bad.diverged_at}," in str(stopped.value)
    weights, _ = load_weights(bad.weights)
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_goes_on_after_the_last_interval_with_equal_numbers(tmp_path: Path) -> None:
    config = a_config({"TRAIN.EVAL_ITERS": 40, "SOLVER.MOMENTUM": 0.9, "SOLVER.EMA_DECAY": 0.9})
    values = [{"RNG_SEED": 1}, {"RNG_SEED": 2}]
    whole = train_population(config, values, output_dir=tmp_path / "whole", workers=0, log=silent)
    folders = [tmp_path / "parts" / "members" / f"{k:04d}" for k in range(2)]
    configs = [config.with_overrides(value) for value in values]
    for member, folder in zip(configs, folders, strict=True):
        a_config_file(member, folder)
    with pytest.raises(KeyboardInterrupt):  # after the first member's second interval
        train_block(configs, folders, log=interrupted_after(3))
    parts = train_population(config, values, output_dir=tmp_path / "parts", workers=0, log=silent)
    for a, b in zip(whole, parts, strict=True):
        assert largest_difference(load_weights(a.weights)[0], load_weights(b.weights)[0]) == 0
        assert without_seconds(a.curve) == without_seconds(b.curve)


def test_another_configuration_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    config = a_config({"SOLVER.MAX_ITER": 2})
    train_population(config, [{"RNG_SEED": 1}], output_dir=tmp_path, workers=0, log=silent)
    with pytest.raises(UserError, match="trained with another configuration"):
        train_population(config, [{"RNG_SEED": 2}], output_dir=tmp_path, workers=0, log=silent)


@pytest.mark.parametrize(
    ("changes", "values", "message"),
    [
        ({"MODEL.TYPE": "generalized_rcnn"}, [{}], "MODEL.TYPE is 'generalized_rcnn'"),
        ({}, [], "at least one member"),
        ({"SOLVER.ACCUMULATE": 2}, [{}], "SOLVER.ACCUMULATE=2"),
        ({}, [{"SOLVER.OPTIMIZER": "adam"}, {"SOLVER.OPTIMIZER": "sgd"}], "share SOLVER.OPTIMIZER"),
        ({}, [{}, {"CLASSIFIER.LAYERS": ["dense 30", "sigmoid", "softmax 10"]}], "CLASSIFIER.LAYERS"),
    ],
    ids=["detector", "none", "key", "shared", "architecture"],
)
def test_what_is_no_population_is_said_before_anything_is_trained(
    changes: dict[str, Any], values: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train_population(a_config(changes), values, output_dir=tmp_path, log=silent)
    assert not list(tmp_path.iterdir())


def test_members_may_differ_in_dropout(tmp_path: Path) -> None:
    config = a_config({"SOLVER.MAX_ITER": 20})
    layers = [["dense 20", "sigmoid", f"dropout {rate}", "softmax 10"] for rate in (0.1, 0.6)]
    values = [{"CLASSIFIER.LAYERS": each} for each in layers]
    results = train_population(config, values, output_dir=tmp_path, workers=0, log=silent)
    for result, value in zip(results, values, strict=True):
        alone = a_member(config.with_overrides(value))
        alone.advance(20)
        assert largest_difference(load_weights(result.weights)[0], alone.model.state_dict()) == 0


def test_a_failing_process_is_told(tmp_path: Path) -> None:
    config = a_config({"SOLVER.MAX_ITER": 2})
    folder = tmp_path / "members" / "0000"
    (folder / "checkpoints" / "iter_0000001.pt").mkdir(parents=True)  # cannot be read as a file
    with pytest.raises(RuntimeError, match="IsADirectoryError"):
        train_population(config, [{}], output_dir=tmp_path, workers=1, log=silent)


def test_a_member_is_a_run_directory(tmp_path: Path) -> None:
    config = a_config({"SOLVER.MAX_ITER": 20, "TRAIN.EVAL_ITERS": 10})
    (result,) = train_population(config, [{"RNG_SEED": 8}], output_dir=tmp_path, workers=0, log=silent)
    rows = [json.loads(line) for line in (result.directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["train", "evaluation"] * 2
    _, metadata = load_weights(result.weights)
    assert "RNG_SEED: 8" in metadata["config"] and json.loads(metadata["input_shape"]) == [1, 8, 8]


def a_config(changes: dict[str, Any]) -> Config:
    return Config().with_overrides(BASE | changes)


def a_config_file(config: Config, folder: Path) -> None:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml())


def a_member(config: Config) -> Member:
    data: LabelledImages
    data, tests = load_data(config)
    return Member(config, data=data, tests=tests)


def interrupted_after(count: int) -> Callable[[str], None]:
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        if len(lines) == count:
            raise KeyboardInterrupt

    return log


def without_seconds(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in curve]


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def silent(_: str) -> None:
    """Progress is not what is tested."""


def test_differences_are_seen() -> None:
    assert largest_difference({"w": torch.zeros(2)}, {"w": torch.tensor([0.0, 0.5])}) == 0.5
