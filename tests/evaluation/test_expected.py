"""Expected results: tolerances as Detectron's documentation has them, at their very borders."""

from __future__ import annotations

from typing import Any

import pytest

from detectune.errors import UserError
from detectune.evaluation.expected import judge, read_expectations, verdict_table

TOLERANCES = {"rtol": 0.1, "atol": 0.005, "sigma_tol": 4}


def passed(row: list[Any], actual: float | None, **changes: float) -> bool:
    measured = {"val": {"bbox/AP": actual, "segm/AP": 0.1}}
    return judge(read_expectations([row]), measured, **{**TOLERANCES, **changes})[0].passed


@pytest.mark.parametrize(
    ("actual", "want"), [(0.4, True), (0.444, True), (0.446, False), (0.356, True), (0.354, False), (0.0, False)]
)  # fmt: skip
def test_a_value_may_be_off_by_both_tolerances_together(actual: float, want: bool) -> None:
    assert passed(["val", "box", "AP", 0.4], actual) is want


def test_each_tolerance_has_its_effect() -> None:
    row = ["val", "box", "AP", 0.4]
    assert passed(row, 0.444) and not passed(row, 0.444, rtol=0.09)
    assert not passed(row, 0.441, atol=0.0) and passed(row, 0.441, atol=0.002)
    assert passed([*row, 0.01], 0.439) and not passed([*row, 0.01], 0.439, sigma_tol=3)


def test_detectrons_way_to_write_a_spread() -> None:
    for row in (["val", "box", "AP", 0.4, 0.01], ["val", "box", "AP", [0.4, 0.01]]):
        assert passed(row, 0.361) and passed(row, 0.439) and not passed(row, 0.359) and not passed(row, 0.441)


def test_a_spread_of_zero_asks_for_the_very_number() -> None:
    assert passed(["val", "box", "AP", 0.5, 0.0], 0.5) and not passed(["val", "box", "AP", 0.5, 0.0], 0.5001)


def test_what_was_not_measured_fails_and_the_table_says_so() -> None:
    rows = [["val", "box", "AP", 0.4], ["val", "segm", "AP", 0.5], ["other", "keypoint", "AP", 0.4]]
    verdicts = judge(read_expectations(rows), {"val": {"bbox/AP": 0.41, "segm/AP": 0.1}}, **TOLERANCES)
    assert [v.passed for v in verdicts] == [True, False, False]
    table = verdict_table(verdicts).splitlines()
    assert table[1].startswith("val bbox/AP") and table[1].endswith("0.3550..0.4450  PASS")
    assert table[2].endswith("FAIL") and "0.1000" in table[2]
    assert table[3].startswith("other keypoints/AP") and table[3].endswith("FAIL: not measured")
    assert table[4] == "1 of 3 expected results were reached."


def test_an_undefined_metric_fails() -> None:
    assert not passed(["val", "box", "AP", 0.0], None)


@pytest.mark.parametrize(
    "row",
    [["val", "box", "AP"], ["val", "box", "AP", "high"], ["val", "box", "AP", True], ["val", "box", 50, 0.4],
     ["val", "box", "AP", [0.4]], ["val", "box", "AP", [0.4, 0.1], 0.2], ["val", "box", "AP", 0.4, 0.1, 0.2], []],
)  # fmt: skip
def test_a_row_that_cannot_be_understood_is_named(row: list[Any]) -> None:
    with pytest.raises(UserError, match="EXPECTED_RESULTS has the row"):
        read_expectations([["val", "box", "AP", 0.4], row])
