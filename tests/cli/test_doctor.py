"""The doctor reports, survives a broken part, and says what is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from detectune.cli import doctor


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTUNE_CACHE", str(tmp_path))


def test_facts_are_this_machines() -> None:
    facts = doctor.examine()
    assert facts["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert facts["torch"]["threads"] == torch.get_num_threads()
    assert facts["cpu"]["usable"] >= 1 and facts["disk"]["free"][str(Path.cwd())] > 0
    assert any("precision" in line for line in facts["acceleration"])
    assert facts["processes"].startswith("NUM_GPUS ") and "gloo" in facts["processes"]
    assert not [problem for problem in facts["missing"] if problem["required"]]


def test_json_is_json_and_text_fits_a_narrow_terminal(monkeypatch, capsys) -> None:
    doctor.doctor(as_json=True)
    facts = json.loads(capsys.readouterr().out)
    monkeypatch.setenv("COLUMNS", "60")
    shown = doctor.describe(facts)
    assert facts["python"]["version"] in shown
    too_long = [line for line in shown.splitlines() if len(line) > 60 and " " in line[14:].strip()]
    assert not too_long


def test_a_torch_that_does_not_work_is_named_and_ends_with_one(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if it could not be imported
    with pytest.raises(SystemExit) as end:
        from detectune.cli.main import main

        main(["doctor"])
    assert end.value.code == 1
    assert "torch or torchvision does not work" in " ".join(capsys.readouterr().out.split())


def test_a_missing_package_and_compiler_are_named(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    problems = doctor.examine()["missing"]
    assert [problem["required"] for problem in problems if "no-such-package" in problem["what"]] == [True]
    assert [problem["required"] for problem in problems if "compiler" in problem["what"]] == [False]


@pytest.mark.parametrize(
    "environment, state",
    [
        ({}, "automatic"),
        ({"DETECTUNE_NO_REEXEC": "1"}, "off"),
        ({"MALLOC_MMAP_THRESHOLD_": "1", "MALLOC_TRIM_THRESHOLD_": "1", "MALLOC_TOP_PAD_": "1"}, "active"),
    ],
)
def test_the_allocators_state(monkeypatch, environment: dict[str, str], state: str) -> None:
    from detectune.cli import allocator

    for name in (*allocator.SETTINGS, allocator.OPT_OUT):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(allocator, "uses_glibc", lambda: True)
    assert doctor._allocator()["state"] == state
    monkeypatch.setattr(allocator, "uses_glibc", lambda: False)
    assert doctor._allocator()["state"] == "unavailable"
