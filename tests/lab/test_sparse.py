"""Rare features: how rare they are, and that Adagrad's claim needs them."""

from __future__ import annotations

import math

import pytest
import torch

from detectune.lab.sparse import CONTROL, losses_by_rate, make_problem
from detectune.lab.update_rules import RULES, State


def test_words_follow_zipfs_law() -> None:
    problem = make_problem("sparse", words=200, documents=6000)
    share = problem.features.mean(0)
    for number in (10, 50, 200):
        assert share[number - 1].item() == pytest.approx(2 / number, rel=0.25)
    assert set(problem.features.unique().tolist()) == {0.0, 1.0}


def test_all_rates_at_once_are_each_alone() -> None:
    problem = make_problem("sparse", words=30, documents=200)
    rates = torch.tensor([0.1, 1.0], dtype=torch.float64)
    together = losses_by_rate(problem, "adagrad", rates)
    for lr, loss in zip(rates.tolist(), together.tolist(), strict=True):
        w, state = torch.zeros(30, dtype=torch.float64), State()
        for x, y in zip(problem.features.split(10), problem.labels.split(10), strict=True):
            slope = ((x @ w).sigmoid() - y) @ x / len(y)
            w, state = RULES["adagrad"](w, slope, state, lr=lr)
        scores = problem.test_features @ w
        expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, problem.test_labels)
        assert loss == pytest.approx(float(expected), rel=1e-12)


def test_adagrad_gains_on_rare_features_what_a_falling_rate_alone_does_not() -> None:
    """Excess loss over that of the true weights; on dense features the falling rate alone is as good."""
    excess = {}
    for name in ("sparse", "dense"):
        problem = make_problem(name, words=300, documents=5000)
        for rule, high in (("adagrad", 0.5), (CONTROL, 1.5), ("gradient descent", 0.5)):
            rates = 10 ** torch.linspace(high - 2, high, 9, dtype=torch.float64)
            losses = losses_by_rate(problem, rule, rates).nan_to_num(math.inf)
            excess[rule, name] = float(losses.min()) - problem.floor
    assert excess["adagrad", "sparse"] < 0.85 * excess[CONTROL, "sparse"]
    assert excess["adagrad", "sparse"] < 0.8 * excess["gradient descent", "sparse"]
    assert excess["adagrad", "dense"] > 0.9 * excess[CONTROL, "dense"]
