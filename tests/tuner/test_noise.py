"""Differences with a known answer: intervals that hold what they should as often as they say, ties that are ties."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_rel

from detectune.errors import UserError
from detectune.tuner.compare import judge
from detectune.tuner.noise import difference, pooled_sd, seeds_needed

A, B = [0.50, 0.53, 0.49, 0.52], [0.58, 0.55, 0.60, 0.57]


@pytest.mark.parametrize(("method", "reference"), [("welch", ttest_ind), ("paired", ttest_rel)])
def test_the_interval_is_scipys(method, reference) -> None:
    found = difference(A, B, method=method)
    options = {"equal_var": False} if method == "welch" else {}
    expected = reference(B, A, **options).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.word == "better"
    assert difference(A, B, method=method, maximize=False).word == "worse"


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draws = np.random.default_rng(9)
    held = sum(
        (d := difference(draws.normal(0, 1, 5).tolist(), draws.normal(0.7, 2, 5).tolist())).low
        <= 0.7
        <= d.high
        for _ in range(1000)
    )
    assert 930 <= held <= 975


def test_without_noise_any_difference_counts_and_none_is_a_tie() -> None:
    assert difference([1, 1], [2, 2]).word == "better"
    assert difference([1, 1], [1, 1]).word == "tie"


def test_one_value_or_uneven_pairs_are_refused() -> None:
    with pytest.raises(UserError, match="two seeds"):
        difference([1], [2, 3])
    with pytest.raises(UserError, match="2 and 3"):
        difference([1, 2], [2, 3, 4], method="paired")


def test_spread_is_pooled_around_own_means() -> None:
    assert pooled_sd([[1, 3], [11, 13, 15]]) == pytest.approx(((2 + 8) / 3) ** 0.5)
    assert pooled_sd([[1], [2]]) is None


def test_as_many_seeds_as_are_needed_show_the_difference() -> None:
    spread = np.array([-1, 1]) / 2**0.5  # standard deviation 1
    count = seeds_needed(spread.tolist(), (spread + 1).tolist())
    assert count is not None
    draws = np.random.default_rng(3)
    won = sum(
        difference(draws.normal(0, 1, count).tolist(), draws.normal(1, 1, count).tolist()).word == "better"
        for _ in range(400)
    )
    assert 160 <= won <= 280  # a gain equal to the interval's reach is seen about every other time
    assert seeds_needed([0, 1], [0.0001, 1]) is None


@pytest.mark.parametrize(
    ("samples", "adopt", "said"),
    [
        ([A, B], True, "Adopt b: its gain in bbox/AP over 4 seeds is \\+0.065"),
        ([B, A], False, "Keep a: b is worse"),
        ([A, [0.49, 0.55, 0.50, 0.53]], False, "A tie: keep a. .* holds 0; about \\d+ seeds"),
        ([A, [0.9, None, 0.9, 0.9]], False, "Keep a: b did not come to its end with seed 2"),
        ([[0.9, None, 0.9, 0.9], A], True, "Adopt b: a did not come to its end with seed 2"),
    ],
)
def test_a_comparison_says_adopt_or_not(samples, adopt: bool, said: str) -> None:
    found = judge(("a", "b"), samples, seeds=[1, 2, 3, 4], metric="bbox/AP", maximize=True)
    assert found["adopt"] is adopt
    assert re.search(said, found["conclusion"])


def test_equal_configurations_are_adopted_one_time_in_forty() -> None:
    draws = np.random.default_rng(5)
    adopted = sum(
        judge(
            ("a", "b"), draws.normal(0, 1, (2, 5)).tolist(), seeds=[1, 2, 3, 4, 5], metric="m", maximize=True
        )["adopt"]
        for _ in range(1000)
    )
    assert adopted <= 40
