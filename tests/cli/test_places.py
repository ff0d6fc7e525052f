"""Where a run goes and which weights are taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from detectune.cli.places import choose_run_directory
from detectune.cli.test import choose_weights
from detectune.config.load import Config, load_config
from detectune.errors import UserError


@pytest.mark.parametrize(
    "overrides, output, expected",
    [
        ({}, None, "runs/shapes"),
        ({"OUTPUT_DIR": "elsewhere"}, None, "elsewhere"),
        ({"OUTPUT_DIR": "elsewhere"}, Path("given"), "given"),
    ],
)
def test_the_run_directory(overrides: dict[str, str], output: Path | None, expected: str) -> None:
    config = load_config(None, overrides)
    assert choose_run_directory(config, output=output, name="a/b/shapes.yaml") == Path(expected)


def test_weights_given_come_before_the_configurations_before_the_runs(tmp_path: Path) -> None:
    given, configured, run = tmp_path / "given", tmp_path / "configured", tmp_path / "run"
    run.mkdir()
    for file in (given, configured, run / "model_final.safetensors"):
        file.write_bytes(b"")
    config = load_config(None, {"TEST.WEIGHTS": str(configured)})
    assert choose_weights(config, given, run_directory=run) == given
    assert choose_weights(config, None, run_directory=run) == configured
    assert choose_weights(Config(), None, run_directory=run) == run / "model_final.safetensors"


@pytest.mark.parametrize("named", [True, False])
def test_absent_weights_are_named(tmp_path: Path, named: bool) -> None:
    wanted = tmp_path / "absent.safetensors" if named else None
    with pytest.raises(UserError, match=r"absent\.safetensors" if named else "--weights"):
        choose_weights(Config(), wanted, run_directory=tmp_path)
