"""`detectune knobs KEY --study DIR`: best value, importance and the table, in wide and narrow terminals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detectune.cli.main import main
from detectune.tuner.history import Dimension, History, Objective, Space, Trial, as_json


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty trials: AP is best at a rate of 0.01, the decay does not matter; rates above 0.3 diverge."""
    folder = tmp_path_factory.mktemp("study")
    rng, trials = np.random.default_rng(0), []
    for number in range(40):
        params = {
            "SOLVER.BASE_LR": float(10 ** rng.uniform(-4, 0)),
            "SOLVER.OPTIMIZER": ["sgd", "adamw"][number % 2],
        }
        params["SOLVER.WEIGHT_DECAY"] = float(10 ** rng.uniform(-6, -2))
        if params["SOLVER.BASE_LR"] > 0.3:
            trials.append(Trial(number, params, "infeasible", "Diverged"))
            continue
        value = 0.5 - 0.1 * (np.log10(params["SOLVER.BASE_LR"]) + 2) ** 2 + 0.002 * rng.normal()
        trials.append(Trial(number, params, "complete", values=(float(value),)))
    space = Space(
        (
            Dimension("SOLVER.BASE_LR", "float", 1e-4, 1.0, "log"),
            Dimension("SOLVER.WEIGHT_DECAY", "float", 1e-6, 1e-2, "log"),
            Dimension("SOLVER.OPTIMIZER", "choice", choices=("sgd", "adamw")),
        )
    )
    base = {"SOLVER.BASE_LR": 0.002, "SOLVER.WEIGHT_DECAY": 1e-4, "SOLVER.OPTIMIZER": "sgd"}
    history = History("rates", (Objective("bbox/AP", "maximize"),), space, base, tuple(trials))
    (folder / "trials.json").write_text(json.dumps(as_json(history)))
    return folder


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return int(end.value.code or 0)


def test_what_a_study_found(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("knobs", "SOLVER.BASE_LR", "--study", str(study)) == 0
    lines = capsys.readouterr().out.splitlines()
    best = next(line for line in lines if line.startswith("  Best "))
    assert 0.005 < float(best.split()[1]) < 0.02
    importance = next(line for line in lines if line.startswith("  Importance "))
    assert "interval" in importance and "number 1 of 3" in importance
    rows = [
        line.split() for line in lines if " to " in line and line[2:3].isdigit() and len(line.split()) == 6
    ]
    assert len(rows) == 6 and sum(int(row[3].rstrip("*")) for row in rows) == sum(
        "complete" in t for t in ends(study)
    )
    peak = max(rows, key=lambda row: float(row[4]) if row[4] != "-" else 0)
    assert float(peak[0]) <= 0.012 and float(peak[2]) >= 0.008  # the stretch with 0.01 in it
    assert any(line.startswith("Infeasible") or "Infeasible:" in line for line in lines)


def ends(study: Path) -> list[str]:
    return [trial["state"] for trial in json.loads((study / "trials.json").read_text())["trials"]]


@pytest.mark.parametrize("columns", [24, 40, 80])
def test_it_fits_the_terminal(
    study: Path, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for key in ("SOLVER.WEIGHT_DECAY", "SOLVER.OPTIMIZER"):
        assert call("knobs", key, "--study", str(study)) == 0
        said = capsys.readouterr().out
        assert max(len(line) for line in said.splitlines()) <= columns
        assert "adamw" in said or key == "SOLVER.WEIGHT_DECAY"


def test_mistakes(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in [
        (
            ["SOLVER.MOMENTUM", "--study", str(study)],
            "did not search SOLVER.MOMENTUM; it searched SOLVER.BASE_LR",
        ),
        (["SOLVER", "--study", str(study)], "needs one full key"),
        (["SOLVER.BASE_LR", "--study", str(tmp_path)], "holds no study"),
    ]:
        assert call("knobs", *words) == 2
        assert message in capsys.readouterr().err


def test_an_inference_study_shows_both_halves(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trials.json").write_text((study / "trials.json").read_text())
    sweep = {
        "key": "SOLVER.BASE_LR",
        "values": [0.1, 0.2],
        "report": [0.5, 0.6],
        "tune": [0.55, 0.65],
        "chosen": 0.2,
    }
    verdict = {"sweeps": [sweep], "halves": {"report": {"deviation": 0.01}}}
    (tmp_path / "verdict.json").write_text(json.dumps(verdict))
    assert call("knobs", "SOLVER.BASE_LR", "--study", str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "0.2: 0.6, 0.65  found" in said and "below 0.0200 on the reporting half is noise" in said
