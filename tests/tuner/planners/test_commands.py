"""The planners as commands, on digits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., str]


def test_a_run_keeps_its_norms_and_says_what_they_and_its_curve_advise(
    digits: Path, command: Command
) -> None:
    command("train", digits, "--output", "run", "TRAIN.EVAL_ITERS=10")
    found = [json.loads(line) for line in (digits.parent / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in found if row["kind"] == "train"]
    assert [len(row["gradient_norms"]) for row in trained] == [30, 30]
    for row in trained:
        assert sum(row["gradient_norms"]) / 30 == pytest.approx(row["gradient_norm"], rel=1e-3)
    said = command("gradients", "run")
    assert "Norms of 60 updates" in said and "SOLVER.CLIP_GRADIENT_NORM=" in said
    assert "over 6 evaluations" in command("steps", "run")
    assert "no config.yaml" in command("steps", "nowhere", code=2)
    assert "no evaluation with bbox/AP" in command("steps", "run", "--metric", "bbox/AP", code=2)


def test_rates_are_found_for_a_network(digits: Path, command: Command) -> None:
    said = command("lr-find", digits, "--steps", 20, "--low", "1e-4", "--high", 100)
    assert "the loss no longer falls" in said
    start = float(said.split("Start from ")[1].split()[0])
    assert 0.005 <= start <= 1.0
    assert "--knobs SOLVER.BASE_LR=" in said
    assert sorted(file.name for file in digits.parent.iterdir()) == ["digits.yaml"]
    assert "--low must be above 0" in command("lr-find", digits, "--low", 0, code=2)


def test_a_batch_is_found_below_a_limit_that_is_set(digits: Path, command: Command) -> None:
    said = command("batch-find", digits, "--most", 8, "--steps", 2)
    assert "The largest batch that fits" in said and said.count("images/s") == 4
    assert "Not even the smallest batch fits" in command("batch-find", digits, "--memory", 0.001)


def test_scaling_prints_arithmetic_and_a_command(digits: Path, command: Command) -> None:
    said = command("scale", digits, "--batch", 80)
    assert "SOLVER.BASE_LR: 0.1 x 80 / 20 = 0.4" in said and "SOLVER.MAX_ITER: 60 x 20 / 80 = 15" in said
    assert "TRAIN.IMS_PER_BATCH=80 SOLVER.BASE_LR=0.4" in said and "STEP_SIZE" not in said
    assert "nothing changes" in command("scale", digits, "--batch", 20)
