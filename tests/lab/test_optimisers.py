"""The comparison of optimisers: equal budgets, honest widths, an answer that follows, and going on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detectune.engine.trainer import train
from detectune.lab.member import Member, load_data
from detectune.lab.optimisers import (
    OPTIMISERS,
    RATES_PER_DECADE,
    Budget,
    Trainings,
    answer,
    network,
    points,
    study,
    summary,
    width_in_decades,
)
from detectune.lab.update_rules import RULES
from detectune.weights.native import load_weights

TINY = Budget(trials=2, rates_each_side=1, seeds=2, epochs=1, batch=64, data="digits")


def test_every_rule_of_the_lab_is_compared_over_three_decades_of_rates() -> None:
    assert [optimiser.name for optimiser in OPTIMISERS] == list(RULES)
    for optimiser in OPTIMISERS:
        rate = optimiser.space[0]
        assert rate.key == "SOLVER.BASE_LR" and rate.high / rate.low == pytest.approx(1000)
        tried = points(optimiser, 4)
        assert tried == points(optimiser, 4) and len({str(point) for point in tried}) == 4
        for point in tried:
            config = network(TINY).with_overrides(point)
            assert rate.low <= config.SOLVER.BASE_LR <= rate.high


def test_a_network_of_the_comparison_is_the_plain_trainers(tmp_path: Path) -> None:
    config = network(TINY).with_overrides({**points(OPTIMISERS[6], 1)[0], "RNG_SEED": 4})
    data, tests = load_data(config)
    training = Member(config, data=data, tests=tests)
    training.advance(training.max_iter)
    result = train(config, output_dir=tmp_path, log=lambda _: None)
    plain = load_weights(tmp_path / "model_final.safetensors")[0]
    for name, value in training.model.state_dict().items():
        assert abs(value - plain[name]).max() < 1e-5, name
    assert training.evaluate("digits_val")["classification/accuracy"] == pytest.approx(
        result.metrics["classification/accuracy"]
    )


def test_what_was_trained_is_not_trained_again(tmp_path: Path) -> None:
    said: list[str] = []
    first = study(Trainings(tmp_path, TINY, log=said.append), OPTIMISERS[0], TINY)
    trained, lines = len(said), (tmp_path / "trainings.jsonl").read_text()
    (tmp_path / "trainings.jsonl").write_text(lines + '{"key": "half a li')
    again = study(Trainings(tmp_path, TINY, log=said.append), OPTIMISERS[0], TINY)
    assert len(said) == trained == len(lines.splitlines())
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(again))


def test_a_diverged_network_is_counted_and_the_others_go_on(tmp_path: Path) -> None:
    trainings = Trainings(tmp_path, TINY, log=lambda _: None)
    row = trainings.train({"SOLVER.BASE_LR": 1e30}, seed=1, evaluations=1, label="too fast")
    assert row["diverged_at"] is not None and row["accuracy"] == 0 and row["test_accuracy"] is None
    fine = trainings.train({"SOLVER.BASE_LR": 0.01}, seed=1, evaluations=1, label="fine")
    assert summary([row, fine])["diverged"] == 1


def test_the_width_is_that_of_neighbours_of_the_best() -> None:
    by_rate = [(1.0, 0.90), (2.0, 0.979), (3.0, 0.98), (4.0, 0.9785), (5.0, 0.95), (6.0, 0.979)]
    assert width_in_decades(by_rate, tolerance=0.002) == 3 / RATES_PER_DECADE


def row_of(name: str, accuracy: float | None, width: float, cost: float = 1.0) -> dict[str, Any]:
    return {
        "optimiser": name, "test_accuracy": accuracy, "width_decades": width, "seconds_per_update": cost,
        "overrides": {"SOLVER.BASE_LR": 0.01},
    }  # fmt: skip


def test_the_answer_is_the_most_forgiving_of_the_best() -> None:
    rows = [
        row_of("best", 0.980, 0.5),
        row_of("wide", 0.979, 1.5),
        row_of("wider", 0.97, 3.0),
        row_of("gone", None, 0),
    ]
    said = answer(rows, images=10_000)
    assert said.startswith("Choose wide: 97.90 %") and "best are as good" in said and "wider" not in said
    assert "diverged" in answer([row_of("gone", None, 0)], images=10)
