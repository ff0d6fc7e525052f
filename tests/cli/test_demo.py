"""What the demo says about itself."""

from __future__ import annotations

import pytest

from detectune.cli.demo import BARS, passed, verdict

GOOD = {"bbox/AP": 0.70, "segm/AP": 0.60}


def test_the_bars_are_those_of_the_issue() -> None:
    assert BARS == {"bbox/AP": 0.60, "segm/AP": 0.55}


@pytest.mark.parametrize(
    "metrics", [{}, GOOD | {"bbox/AP": 0.59}, GOOD | {"segm/AP": 0.54}, GOOD | {"segm/AP": float("nan")}]
)
def test_one_low_or_missing_number_fails(metrics: dict[str, float]) -> None:
    assert not passed(metrics)
    assert verdict(metrics, changed=[]).startswith("BELOW THE BAR")


def test_reaching_both_bars_passes_and_gives_the_numbers() -> None:
    assert passed(GOOD)
    said = verdict(GOOD, changed=[])
    assert said.startswith("PASSED") and "0.700" in said and "0.600" in said


def test_with_changed_settings_the_bars_do_not_apply() -> None:
    said = verdict({"bbox/AP": 0.1}, changed=["SOLVER.MAX_ITER"])
    assert "does not apply" in said and "SOLVER.MAX_ITER" in said
    assert "PASSED" not in said and "BELOW" not in said
