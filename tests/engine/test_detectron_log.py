"""Log lines as Detectron wrote them: its own records, and a run's losses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_engine import install, tiny_config

from detectune.engine.detectron_log import DetectronLog, SmoothedValue, json_stats_line
from detectune.engine.trainer import train


def test_golden_smoothed_values(golden) -> None:
    cases = golden("training_stats", "logging.SmoothedValue")
    assert len({case.params["window_size"] for case in cases}) > 1
    for case in cases:
        value = SmoothedValue(case.params["window_size"])
        for given, want in zip(
            case.inputs["values"], case.outputs["median_average_global_after_each"], strict=True
        ):
            value.add(float(given))
            np.testing.assert_allclose([value.median, value.mean, value.overall_mean], want, rtol=1e-12)


def test_golden_lines(golden) -> None:
    for case in golden("training_stats", "logging.log_json_stats"):
        line = json_stats_line(case.meta["in_json"]["stats"])
        assert line + "\n" == case.meta["out_json"]["line"]


def lines_of(folder: Path, **changes: object) -> list[dict[str, str]]:
    said: list[str] = []
    hook = DetectronLog(log_iters=5, log=said.append)
    train(tiny_config(**changes), hooks=[hook], output_dir=folder, log=lambda _: None)
    assert all(line.startswith("json_stats: ") for line in said)
    return [json.loads(line.removeprefix("json_stats: ")) for line in said]


def test_a_runs_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    lines = lines_of(tmp_path, TRAIN__LOG_ITERS=1)
    assert [line["iter"] for line in lines] == [4, 9, 11]
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss_cls"] for row in rows if row["kind"] == "train"]
    for line in lines:
        assert line["loss_cls"] == f"{np.median(losses[: line['iter'] + 1]):.6f}"
        assert {"lr", "time", "eta", "mem", "loss", "rpn_num_fg"} <= set(line)


def test_medians_go_on_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    whole = lines_of(tmp_path / "whole")
    lines_of(tmp_path / "parts", SOLVER__MAX_ITER=8)
    parts = lines_of(tmp_path / "parts")
    assert [line["loss_cls"] for line in parts] == [line["loss_cls"] for line in whole[1:]]
