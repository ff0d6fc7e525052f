"""`detectune compare` on digits: the same seeds for both, runs that are there count, trials do not, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from detectune.config.load import load_config
from detectune.errors import UserError
from detectune.tuner.compare import choose_seeds, read_side


def test_a_bad_rate_is_told_from_a_good_one_and_equals_are_a_tie(
    digits: Path, command: Callable[..., str]
) -> None:
    text = digits.read_text()
    slow = digits.with_name("slow.yaml")
    slow.write_text(text.replace("BASE_LR: 0.1", "BASE_LR: 0.001"))
    command("train", slow, "--output", "runs/slow", "RNG_SEED=7")
    said = command("compare", "runs/slow", digits, "--seeds", 3, "--workers", 2)
    assert "Adopt" in said and "95% interval" in said
    found = json.loads(Path("comparisons/slow_digits.json").read_text())
    assert found["seeds"] == [7, 1, 2] and found["interval"]["low"] > 0.2
    own = json.loads(Path("runs/slow/evaluation/digits_val/metrics.json").read_text())["metrics"]
    assert found["sides"][0]["values"][0] == pytest.approx(own["classification/accuracy"])
    folders = sorted(folder.name for folder in Path("runs/slow/seeds").iterdir())
    assert folders == ["0001", "0002"]
    files = [*Path().glob("**/seeds/*/model_final.safetensors")]
    stamps = [file.stat().st_mtime_ns for file in files]
    assert len(files) == 5
    again = command("compare", "runs/slow", digits, "--seeds", 3)
    assert "Adopt" in again and [file.stat().st_mtime_ns for file in files] == stamps
    slow.write_text(text.replace("BASE_LR: 0.1", "BASE_LR: 0.002"))
    Path("comparisons/slow").mkdir()
    Path("comparisons/slow/seeds").symlink_to(Path("runs/slow/seeds").resolve())
    refused = command("compare", slow, digits, "--seeds", 3, code=2)
    assert "SOLVER.BASE_LR=0.001 instead of 0.002" in refused


def test_seeds_that_are_there_come_first(digits: Path, tmp_path: Path) -> None:
    side = read_side(digits, output=tmp_path / "out", metric=None)
    assert side.own is None and load_config(side.file).flat() == load_config(digits).flat()
    assert choose_seeds([side, side], 3) == [1, 2, 3]
    from dataclasses import replace

    seen = replace(side, own=(2, 0.5))
    assert choose_seeds([seen, side], 3) == [2, 1, 3] and choose_seeds([seen, seen], 2) == [2, 1]


def test_an_unfinished_run_and_a_trial_do_not_count(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(digits.read_text())
    assert "not finished" in read_side(run, output=tmp_path, metric=None).notice
    (run / "outcome.json").write_text("{}")
    side = read_side(run, output=tmp_path, metric=None)
    assert side.own is None and "chosen for its value" in side.notice
    with pytest.raises(UserError, match=r"no config.yaml"):
        read_side(tmp_path, output=tmp_path, metric=None)
