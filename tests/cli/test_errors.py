"""What ends a command: a mistake is 2, a failure 1, Ctrl-C 130; one message, and a traceback only on request."""

from __future__ import annotations

from pathlib import Path

import pytest

from detectune.cli import main, report
from detectune.errors import OutputError, UserError


def call(*words: str) -> int:
    try:
        main.main(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch):
    """Let the report command end with an exception."""

    def use(error: BaseException) -> None:
        def write_report(directory: Path) -> Path:
            raise error

        monkeypatch.setattr("detectune.report.page.write_report", write_report)

    return use


class Interrupted(KeyboardInterrupt):
    exit_code = 143


@pytest.mark.parametrize(
    "error, code, message",
    [
        (UserError("x.yaml:3: no such key"), 2, "x.yaml:3: no such key"),
        (OutputError("the disk is full"), 2, "the disk is full"),
        (ZeroDivisionError("division by zero"), 1, "Failure: ZeroDivisionError: division by zero"),
        (RuntimeError(), 1, "Failure: RuntimeError: no message"),
        (KeyboardInterrupt(), 130, "Stopped."),
        (Interrupted("saved; give the same command again"), 143, "saved; give the same command again"),
    ],
)
def test_exit_codes_and_messages(raising, capsys, error: BaseException, code: int, message: str) -> None:
    raising(error)
    assert call("report", "anywhere") == code
    shown = capsys.readouterr()
    assert shown.err.startswith(message) and "Traceback" not in shown.err and shown.out == ""
    assert ("--debug" in shown.err) == (code == 1)


@pytest.mark.parametrize("words", [("--debug", "report", "anywhere"), ("report", "anywhere", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(raising, capsys, words: tuple[str, ...]) -> None:
    raising(UserError("a mistake"))
    assert call(*words) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown and shown.rstrip().endswith("a mistake")


def test_a_mistake_in_usage_is_two(capsys) -> None:
    assert call("report") == 2
    assert "DIR" in capsys.readouterr().err


def test_commands_keep_their_names() -> None:
    assert report.report.__name__ == "report"


@pytest.mark.parametrize(
    "words, named",
    [
        (["SOLVER.BASE_LRR=1"], ["SOLVER.BASE_LRR", "SOLVER.BASE_LR"]),
        (["SOLVER.BASE_LR=fast"], ["SOLVER.BASE_LR", "fast"]),
        (["SOLVER.BASE_LR", "-1"], ["SOLVER.BASE_LR", "-1"]),
        (["SOLVER.BASE_LR"], ["SOLVER.BASE_LR"]),
        (["--num-gpus", "2"], ["--num-gpus"]),
    ],
)
def test_wrong_settings_are_mistakes_that_name_key_and_value(
    capsys, words: list[str], named: list[str]
) -> None:
    assert call("train", "getting_started/shapes", *words) == 2
    shown = capsys.readouterr().err
    assert all(word in shown for word in named), shown
    assert "Traceback" not in shown


def test_several_mistakes_in_a_file_come_with_their_lines(tmp_path: Path, capsys) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("SOLVER:\n  BASE_LRR: 0.1\n  MOMENTUM: 7\n")
    assert call("train", str(file)) == 2
    shown = capsys.readouterr().err
    assert "bad.yaml:2" in shown and "bad.yaml:3" in shown
