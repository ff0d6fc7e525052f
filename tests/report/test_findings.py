"""Remarks come when their cause is there, and only then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detectune.report.findings import find, found_counts, main_metric
from detectune.report.run import Evaluation, RunRecord

HEALTHY = Evaluation(
    "val", 200, 900,
    {"bbox/AP": 0.6, "bbox/AP50": 0.8, "bbox/AP75": 0.65, "bbox/APs": 0.5, "bbox/APl": 0.7},
    {"a": {"bbox/AP": 0.6, "num_objects": 80}, "b": {"bbox/AP": 0.6, "num_objects": 90}}, 0.1, {}, [], [],
)  # fmt: skip


def record(losses: list[float] | None = None, finished: bool = True, **rows: Any) -> RunRecord:
    losses = [1.0] * 40 if losses is None else losses
    train = [
        {"iteration": 10 * (i + 1), "loss": loss, "images_per_second": 10.0, "data_seconds": 0.001, **rows}
        for i, loss in enumerate(losses)
    ]
    return RunRecord(Path("x"), train_rows=train, evaluations=[HEALTHY], finished=finished)


def evaluations(*values: float, name: str = "bbox/AP") -> list[dict[str, Any]]:
    return [{"dataset": "val", "iteration": 100 * (i + 1), name: value} for i, value in enumerate(values)]


def texts(run: RunRecord) -> str:
    return "\n".join(finding.text for finding in find(run))


def test_a_healthy_run_gets_no_remark() -> None:
    run = replace(record(), evaluation_rows=evaluations(0.4, 0.5, 0.6))
    assert texts(run) == ""


def test_a_falling_loss_asks_for_a_longer_run() -> None:
    run = record([2.0 - 0.04 * i for i in range(40)])
    assert "still falling" in texts(run) and find(run)[0].keys == ("SOLVER.MAX_ITER",)
    assert "still falling" not in texts(record([2.0 - 0.04 * i for i in range(40)], finished=False))


def test_an_unfinished_run_says_how_far_it_came_first() -> None:
    first = find(record(finished=False))[0]
    assert first.warning and "400 of 400" in first.text


def test_a_metric_that_fell_again_points_to_the_best_weights() -> None:
    assert "best at iteration 200 (0.600)" in texts(
        replace(record(), evaluation_rows=evaluations(0.3, 0.6, 0.5))
    )


def test_a_rising_validation_loss_is_called_overfitting() -> None:
    rows = evaluations(1.0, 0.8, 0.9, name="val/loss")
    assert "overfitting" in texts(replace(record(), evaluation_rows=rows))
    assert "overfitting" not in texts(
        replace(record(), evaluation_rows=evaluations(1.0, 0.8, 0.81, name="val/loss"))
    )


def test_waiting_for_images_is_a_share_of_the_step() -> None:
    run = replace(record(data_seconds=0.05))  # a step takes 0.1 s: batch 1 at 10 images/s
    assert "50% of the training time" in texts(run)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"metrics": HEALTHY.metrics | {"bbox/AP75": 0.3}}, "boxes fit loosely"),
        ({"metrics": HEALTHY.metrics | {"segm/AP50": 0.9, "segm/AP75": 0.5}}, "masks fit loosely"),
        ({"metrics": HEALTHY.metrics | {"bbox/APs": 0.1}}, "Small objects"),
        (
            {"per_class": HEALTHY.per_class | {"c": {"bbox/AP": 0.1, "num_objects": 50}}},
            "Weakest classes by box AP: c 0.10",
        ),
        (
            {"per_class": HEALTHY.per_class | {"c": {"bbox/AP": 0.6, "num_objects": 3}}},
            "Fewer than 20 test objects of c",
        ),
        ({"num_images": 12}, "12 images only"),
        ({"images": [{"true_positives": 3, "missed": 1, "false_positives": 2}]}, "3 of 4 objects"),
    ],
)
def test_remarks_on_the_evaluation(change: dict[str, Any], words: str) -> None:
    assert words in texts(replace(record(), evaluations=[replace(HEALTHY, **change)]))


def test_nothing_is_said_about_undefined_numbers() -> None:
    empty = Evaluation(
        "val", 200, 0, {"bbox/AP": None, "bbox/APs": None}, {"a": {"bbox/AP": -1}}, None, {}, [], []
    )
    assert texts(replace(record(), evaluations=[empty])) == ""
    assert found_counts(empty) is None


def test_masks_stand_for_a_run_that_has_them() -> None:
    assert main_metric(["bbox/AP", "segm/AP"]) == "segm/AP"
    assert main_metric(["bbox/AP"]) == "bbox/AP" and main_metric([]) is None
