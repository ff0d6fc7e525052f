"""The command line itself: help, commands, exit codes, packaged configurations, the restart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detectune.cli import allocator, main
from detectune.cli.overrides import check_words
from detectune.cli.places import find_config, packaged_configs
from detectune.errors import UserError

COMMANDS = [
    "train",
    "test",
    "infer",
    "demo",
    "knobs",
    "config",
    "schema",
    "data",
    "report",
    "doctor",
    "tune",
    "compare",
]
COMMANDS += ["lr-find", "batch-find", "scale", "steps", "gradients"]


def run(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m detectune ...` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "detectune", *words],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | {"COLUMNS": "60"} | (environment or {}),
    )


def call(*words: str) -> int:
    """`main` in this process; its exit code."""
    try:
        main.main(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_help_names_every_command_and_fits_sixty_columns() -> None:
    shown = run("--help")
    assert shown.returncode == 0 and shown.stderr == ""
    listed = [line.split()[0] for line in shown.stdout.splitlines() if line.startswith("  ") and line.strip()]
    assert set(COMMANDS) <= set(listed)
    assert max(map(len, shown.stdout.splitlines())) <= 60


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_imports_nothing_heavy(command: str) -> None:
    program = (
        "import sys; from detectune.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code or 0\n"
        "heavy = {'torch', 'pydantic', 'numpy', 'rich', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    shown = subprocess.run([sys.executable, "-c", program, command, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "Usage: detectune" in shown.stdout


@pytest.mark.parametrize(
    "words", [("data", "check", "-h"), ("train", "x.yaml", "SOLVER.BASE_LR=1", "--help")]
)
def test_help_is_found_anywhere_and_at_any_depth(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert call(*words) == 0
    assert capsys.readouterr().out.startswith(
        f"Usage: detectune {'data check' if 'data' in words else 'train'} [OPTIONS]"
    )


def test_version_is_the_packages() -> None:
    from detectune import __version__

    assert run("--version").stdout.strip() == f"detectune {__version__}"


def test_a_misspelt_command_or_option_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("trian") == 2
    assert "train" in capsys.readouterr().err
    assert call("report", "--dubug") == 2
    assert "--dubug" in capsys.readouterr().err


def test_no_command_shows_help_and_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 2
    shown = capsys.readouterr()
    assert "Commands:" in shown.out + shown.err


@pytest.mark.parametrize("words", [["SOLVER.BASE_LR", "-1"], ["SOLVER.BASE_LR=-1e-3"], ["A.B", "-.5"], []])
def test_negative_numbers_are_values(words: list[str]) -> None:
    assert check_words(words, options=("--output",)) == words


def test_a_misspelt_option_among_overrides_is_named_with_its_neighbour() -> None:
    with pytest.raises(UserError, match=r"--outptu.*did you mean --output"):
        check_words(["SOLVER.BASE_LR", "1", "--outptu"], options=("--output", "--debug"))


@pytest.mark.parametrize(
    "name", ["getting_started/shapes", "getting_started/shapes.yaml", "configs/getting_started/shapes"]
)
def test_packaged_configurations_are_found_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # away from the checkout, where configs/ would be found as a path
    assert find_config(name) == packaged_configs()["getting_started/shapes"]


def test_a_file_of_ones_own_goes_before_a_packaged_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("{}")
    assert find_config("mine.yaml") == Path("mine.yaml")


@pytest.mark.parametrize(
    "name, hint", [("miine.yaml", "mine.yaml"), ("getting_startd/shapes", "getting_started/shapes")]
)
def test_a_missing_configuration_names_the_nearest(
    name: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("{}")
    with pytest.raises(UserError, match=f"Did you mean {hint}"):
        find_config(name)


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "inside.yaml").write_text("{}")
    with pytest.raises(UserError, match=r"is a folder.*inside\.yaml"):
        find_config(str(tmp_path))


def test_only_computing_commands_restart_and_only_once() -> None:
    tuned = allocator.tuned_environment(["train", "x.yaml"], {"HOME": "/h", "MALLOC_TOP_PAD_": "1"})
    assert tuned is not None and tuned["HOME"] == "/h"
    assert tuned["MALLOC_TOP_PAD_"] == "1"  # the user's own value stays
    assert tuned["MALLOC_MMAP_THRESHOLD_"] == "4294967296"
    assert allocator.tuned_environment(["train", "x.yaml"], tuned) is None
    assert allocator.tuned_environment(["knobs"], {}) is None
    assert allocator.tuned_environment(["train", "--help"], {}) is None
    assert allocator.tuned_environment(["demo"], {"DETECTUNE_NO_REEXEC": "1"}) is None
    assert allocator.tuned_environment(["demo"], dict(allocator.SETTINGS)) is None


@pytest.mark.skipif(not allocator.uses_glibc(), reason="only glibc reads the settings")
def test_the_restarted_process_has_the_settings_and_the_same_words(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "from detectune.cli.allocator import restart_with_tuned_allocator\n"
        "print('begin', flush=True)\n"
        "restart_with_tuned_allocator(sys.argv[1:])\n"
        "print(os.environ['MALLOC_TRIM_THRESHOLD_'], *sys.argv[1:], sys.flags.optimize)\n"
    )
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in {*allocator.SETTINGS, allocator.GUARD}
    }
    shown = subprocess.run(
        [sys.executable, "-O", str(program), "train", "a b", "K=1"],
        capture_output=True, text=True, cwd=tmp_path,
        env=clean | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    assert shown.stdout.split("\n")[:3] == ["begin", "begin", "17179869184 train a b K=1 1"], shown.stderr
