"""`detectune lab batch` and `optimisers`, at the smallest size: what they print, leave, and do the second time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detectune.lab import optimisers
from detectune.lab.optimisers import Budget


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if "seconds" not in key}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def test_batch_repeats_itself_and_fits_sixty_columns(
    call: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("detectune.cli.lab._family", lambda: "digits")
    found = []
    for name in ("a", "b"):
        assert call("lab", "batch", "--images", "100", "--seed", "3", "--output", tmp_path / name) == 0
        found.append(json.loads((tmp_path / name / "batch.json").read_text()))
    assert without_seconds(found[0]) == without_seconds(found[1])
    said = capsys.readouterr().out.splitlines()
    assert "100 images of digits_train (scikit-learn's digits, 8 x 8 pixels, not MNIST)." in said
    assert max(len(line) for line in said if not line.startswith(("Page", "100 images"))) <= 60
    assert found[0]["noise_exponent"] == pytest.approx(-0.5, abs=0.1)
    page = (tmp_path / "a" / "batch.html").read_text()
    assert "://" not in page and page.count("<svg") == 3 and "mini-batch" in page


def test_optimisers_goes_on_and_says_which_to_choose(
    call: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny = Budget(trials=1, rates_each_side=1, seeds=1, epochs=1, batch=64, data="digits")
    monkeypatch.setattr(optimisers, "budget_for", lambda **_: tiny)
    assert call("lab", "optimisers", "--quick", "--output", tmp_path) == 0
    said = capsys.readouterr().out
    assert "Choose " in said and all(optimiser.name in said for optimiser in optimisers.OPTIMISERS)
    assert max(len(line) for line in said.splitlines() if not line.startswith(("Page", "digits"))) <= 60
    folder = tmp_path / "quick"
    trained = (folder / "trainings.jsonl").read_text()
    first = json.loads((folder / "optimisers.json").read_text())
    (folder / "optimisers.json").unlink()
    assert call("lab", "optimisers", "--quick", "--output", tmp_path) == 0
    assert (folder / "trainings.jsonl").read_text() == trained
    assert json.loads((folder / "optimisers.json").read_text()) == first
    assert "Which optimiser should I choose?" in (folder / "optimisers.html").read_text()


def test_a_place_that_cannot_be_written_is_a_clear_mistake(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert call("lab", "batch", "--output", tmp_path / "file" / "below") == 2
    said = capsys.readouterr().err
    assert "cannot be written" in said and "Traceback" not in said
