"""Makes the tables beside the tests importable, and the trainer's stand-ins; prints how many keys are covered."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "engine")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from rows import OBSOLETE, ROWS

    passed, others = (
        sum("::test_a_key_changes_something[" in r.nodeid for r in reports)
        for reports in (
            terminalreporter.getreports("passed"),
            [r for kind in ("failed", "xfailed", "error") for r in terminalreporter.getreports(kind)],
        )
    )
    if passed + others:
        terminalreporter.write_line(
            f"no dead knob: {passed} of {len(ROWS)} keys with a row were seen to change something; "
            f"{len(OBSOLETE)} more are obsolete and say so"
        )
