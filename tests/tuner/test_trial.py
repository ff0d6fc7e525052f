"""One trial: the values arrive or are missed, and every error becomes the right kind of end."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detectune.config.load import load_config
from detectune.engine import solver, starting
from detectune.engine.finite import NonFiniteLossError
from detectune.errors import DataError, OutputError, UserError
from detectune.tuner.outcomes import Fault, Halt, Outcome, outcome_of_error, outcome_of_run
from detectune.tuner.trial_job import Job
from detectune.tuner.trial_program import run_trial


def trial(digits: Path, metrics: tuple[str, ...] = ("classification/accuracy",), **sampled: Any) -> Any:
    """Run one of a few steps in this process; keys as SOLVER__BASE_LR."""
    folder = digits.parent / "trial"
    base = digits.parent / "base.yaml"
    base.write_text(load_config(digits, {"SOLVER.MAX_ITER": 4, "TRAIN.EVAL_ITERS": 2}).to_yaml())
    job = Job(
        number=0, run=str(folder), base=str(base),
        sampled={key.replace("__", "."): value for key, value in sampled.items()},
        settings={"RNG_SEED": 5, "OUTPUT_DIR": str(folder)}, metrics=metrics, asks=False,
    )  # fmt: skip
    heard: list[tuple[int, bool]] = []
    end = run_trial(
        job,
        started=lambda: None,
        evaluated=lambda step, metrics, over: heard.append((step, over)),
        log=lambda _: None,
    )
    if isinstance(end, Outcome) and end.state == "complete":
        assert heard == [(2, False), (4, True)]
    return end


def arrived(digits: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((digits.parent / "trial" / "arrived.json").read_text())
    return content


def test_values_are_found_where_they_are_used(digits: Path) -> None:
    end = trial(
        digits, SOLVER__BASE_LR=0.03, SOLVER__WEIGHT_DECAY=0.002, SOLVER__MOMENTUM=0.8, TRAIN__IMS_PER_BATCH=30,
        CLASSIFIER__SHIFT=1, CLASSIFIER__LABEL_SMOOTHING=0.1, TEST__IMS_PER_BATCH=100, CLASSIFIER__INIT="xavier",
    )  # fmt: skip
    assert end.state == "complete", end
    found = arrived(digits)
    assert found["SOLVER.WEIGHT_DECAY"]["found"] == "solver.optimizer.param_groups[weight].weight_decay"
    assert found["CLASSIFIER.SHIFT"] == {"value": 1, "found": "loader.warp.shift", "how": "object"}
    assert found["TRAIN.IMS_PER_BATCH"]["how"] == "object"
    assert found["CLASSIFIER.LABEL_SMOOTHING"]["found"] == "model.label_smoothing"
    assert found["TEST.IMS_PER_BATCH"]["how"] == "read"
    assert found["CLASSIFIER.INIT"]["found"] == "detectune.models.build_classifier:build_classifier"


def test_latency_is_an_objective(digits: Path) -> None:
    end = trial(digits, metrics=("classification/accuracy", "seconds_per_image"), SOLVER__BASE_LR=0.03)
    assert end.state == "complete" and 0 < end.values[1] < 1


def test_a_disconnected_knob_with_a_place_is_caught(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = solver.parameter_groups

    def forgets(model: Any, **given: Any) -> Any:
        return real(model, **(given | {"weight_decay": 0.0001}))

    monkeypatch.setattr(solver, "parameter_groups", forgets)
    end = trial(digits, SOLVER__WEIGHT_DECAY=0.002, SOLVER__BASE_LR=0.05)
    assert end.state == "failed" and end.steps == 0
    assert "SOLVER.WEIGHT_DECAY=0.002 did not arrive" in end.reason
    assert "weight_decay is 0.0001" in end.reason


def test_a_disconnected_knob_without_a_place_is_caught(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = starting.build_classifier

    def forgets(config: Any, **given: Any) -> Any:
        return real(load_config(digits), **given)  # builds from something else than what was sampled

    monkeypatch.setattr(starting, "build_classifier", forgets)
    end = trial(digits, CLASSIFIER__INIT="xavier")
    assert (
        end.state == "failed" and "CLASSIFIER.INIT=xavier did not arrive: nothing has read it" in end.reason
    )


def test_a_knob_that_other_settings_switch_off_is_caught(digits: Path) -> None:
    """GAMMA with a cosine schedule lies in the schedule, but a detector's knob is read by nothing here."""
    end = trial(digits, TRAIN__RPN_POSITIVE_OVERLAP=0.6)
    assert end.state == "failed" and "nothing has read it" in end.reason


def test_a_trial_that_has_ended_is_not_run_again(digits: Path) -> None:
    first = trial(digits, SOLVER__BASE_LR=0.03)
    file = digits.parent / "trial" / "metrics.jsonl"
    file.unlink()
    assert trial_again(digits) == first and not file.exists()


def trial_again(digits: Path) -> Any:
    folder = digits.parent / "trial"
    job = Job(0, str(folder), "nowhere.yaml", {}, {}, ("classification/accuracy",), False)
    return run_trial(job, started=lambda: None, evaluated=lambda *_: None, log=lambda _: None)


def test_divergence_is_infeasible(digits: Path) -> None:
    end = trial(digits, SOLVER__BASE_LR=1e30)
    assert end.state == "infeasible" and end.reason.startswith("Diverged: ")


def test_settings_that_contradict_each_other_are_infeasible(digits: Path) -> None:
    end = trial(digits, CLASSIFIER__LAYERS=["dense 16", "conv 20 5x5", "softmax 10"])
    assert end.state == "infeasible" and end.reason.startswith("Refused: ")


def test_a_metric_that_is_not_measured_fails_by_name(digits: Path) -> None:
    end = trial(digits, metrics=("bbox/AP",), SOLVER__BASE_LR=0.03)
    assert end.state == "failed" and "bbox/AP was not measured" in end.reason


@pytest.mark.parametrize(
    ("error", "kind", "part"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "infeasible", "peak of 3.00 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "infeasible", "Out of memory"),
        (MemoryError(), "infeasible", "Out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "infeasible", "Out of memory"),
        (NonFiniteLossError("The loss is not finite"), "infeasible", "Diverged: The loss"),
        (UserError("TRAIN.FREEZE_AT is too high"), "infeasible", "Refused: TRAIN.FREEZE_AT"),
        (KeyError("x"), "failed", "KeyError: 'x'"),
    ],
)  # fmt: skip
def test_errors_of_the_trial_end_it(error: Exception, kind: str, part: str) -> None:
    end = outcome_of_error(error, steps=7, peak_memory=3 * 2**30)
    assert isinstance(end, Outcome) and (end.state, end.steps) == (kind, 7) and part in end.reason


def test_errors_of_the_machine_end_no_trial() -> None:
    assert isinstance(outcome_of_error(OutputError("the disk is full"), steps=1, peak_memory=0), Halt)
    assert isinstance(outcome_of_error(DataError("a.json is missing"), steps=1, peak_memory=0), Halt)
    in_use = OutputError("in use")
    in_use.__cause__ = BlockingIOError()
    assert isinstance(outcome_of_error(in_use, steps=1, peak_memory=0), Fault)


def test_an_objective_that_is_no_number_is_infeasible() -> None:
    end = outcome_of_run({"val/loss": float("nan")}, ("val/loss",), steps=3, stopped=None)
    assert end.state == "infeasible"
    assert outcome_of_run({"val/loss": 1.0}, ("val/loss",), steps=3, stopped="pruned: x").state == "pruned"
    assert outcome_of_run({"val/loss": 1.0}, ("val/loss",), steps=3, stopped="no better").values == (1.0,)
