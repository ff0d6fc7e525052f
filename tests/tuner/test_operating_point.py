"""Thresholds with known answers, and a gain that is claimed only where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from detectune.errors import UserError
from detectune.evaluation.average_precision import Matched
from detectune.tuner.operating_point import choose_threshold, counts_at, operating_points, read_goal
from detectune.tuner.paired import compare
from detectune.tuner.posthoc_verdict import Halves


def of_class(scores: list[float], right: list[int], wanted: int) -> Matched:
    hits = np.array([right], dtype=bool)
    ones = np.ones(len(scores), dtype=np.int64)
    return Matched(0 * ones, ones, np.array(scores), hits, ~hits, np.array([[wanted]]))


LADDER = of_class([0.9, 0.8, 0.7, 0.6, 0.5], [1, 1, 0, 1, 0], wanted=4)


@pytest.mark.parametrize(
    ("goal", "kept"),
    [
        ("f1", 4),  # F1 after 1..5: .4, .67, .57, .75, .67
        ("f0.5", 2),  # .63, .83, .63, .75, .63
        ("precision@recall=0.5", 2),  # recall .25, .5, .5, .75, .75
        ("precision@recall=0.6", 4),
        ("precision@recall=1", 4),  # never reached: as far as it goes, with as few wrong as that takes
        ("recall@precision=0.7", 4),  # precision 1, 1, .67, .75, .6
        ("recall@precision=1", 2),
        ("cost=1,0.5", 2),  # wrong + missed / 2: 2 at none, 1.5, 1, 2, 1.5, 2.5
        ("cost=1,10", 4),
        ("cost=1,0", 0),
    ],
)
def test_thresholds_of_known_detections(goal: str, kept: int) -> None:
    weights = np.ones(1)
    threshold = choose_threshold(LADDER, 1, read_goal(goal), weights)
    assert threshold is not None
    counts = counts_at(LADDER, 1, threshold, weights)
    assert counts.right + counts.wrong == kept
    assert not 0 < kept < 5 or LADDER.score[kept] < threshold < LADDER.score[kept - 1]


def test_equal_scores_stand_or_fall_together() -> None:
    tied = of_class([0.9, 0.5, 0.5], [1, 1, 0], wanted=2)
    threshold = choose_threshold(tied, 1, read_goal("recall@precision=1"), np.ones(1))
    assert threshold == pytest.approx(0.7)


def test_a_class_without_objects_has_no_threshold() -> None:
    nothing = of_class([0.9], [0], wanted=0)
    (row,) = operating_points(
        nothing, ("cat",), read_goal("f1"), tuning=np.ones(1), reporting=np.zeros(1)
    )  # fmt: skip
    assert row == {"class": "cat", "threshold": None, "tune": None, "report": None}


@pytest.mark.parametrize("text", ["f", "f0", "best", "precision@recall=2", "precision@recall=0", "cost=1"])
def test_other_goals_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="is none of f1"):
        read_goal(text)


def claims(effect: float, *, repetitions: int = 100, images: int = 60, settings: int = 60) -> int:
    """How often a gain is claimed where the best of many settings is `effect` better and all else is noise."""
    claimed = 0
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        values = rng.normal(0, 0.1, (settings + 1, images))  # of each setting in each image
        values[1] += effect
        halves = Halves.of(images, seed=seed)
        best = 1 + int(np.argmax(values[1:, halves.tune].mean(1)))

        def of(row: np.ndarray):
            return lambda weights: float(weights @ row / weights.sum())

        found = compare(
            of(values[0]), of(values[best]), halves.report, num_images=images, seed=seed, draws=200
        )
        claimed += found.beyond_noise
    return claimed


def test_noise_is_no_gain() -> None:
    """The tuning half always sees one: the best of sixty. The reporting half claims one in at most 5 of 100."""
    assert claims(0.0) <= 5


def test_a_large_gain_is_found() -> None:
    assert claims(0.15) >= 95


def test_the_interval_covers_the_truth() -> None:
    inside = 0
    for seed in range(200):
        rng = np.random.default_rng([7, seed])
        before, after = rng.normal(0, 0.1, (2, 40))
        after = after + before + 0.05
        found = compare(
            lambda w, row=before: float(w @ row / w.sum()), lambda w, row=after: float(w @ row / w.sum()),
            list(range(40)), num_images=40, seed=seed, draws=200,
        )  # fmt: skip
        inside += found.low <= 0.05 <= found.high
    assert 180 <= inside <= 198
