"""Adaptive rates on sparse features: Adagrad's claim, on words that are rare and on the same problem made dense.

A document is a bag of words, 0 or 1 for each of `words`; word j = 1, 2, ... occurs with probability 2 / j, at most one
half (Zipf's law), so that most words are rare. Every word has a true weight of the same spread, and labels are drawn
from the logistic model. In the dense problem the features are normal numbers of equal variance instead. One pass, R
rates at once, logistic loss; what counts is the loss on unseen documents at each rule's best rate.
Adagrad does two things: it gives each feature its own rate, and it lowers all rates as 1 / sqrt(t). `CONTROL` is
gradient descent with the second alone.

Shapes: features [N, words], weights [R, 1, words], float64. muon sees a matrix of one row: its step is its momentum
over that one's length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detectune.lab.update_rules import RULES, State, Value, update_all

NUM_RATES = 17  # over four decades
CONTROL = "gradient descent, lr / sqrt(t)"


@dataclass(frozen=True)
class Problem:
    """Documents for training and testing, and the loss of the true weights, below which nobody gets."""

    name: str
    features: Tensor  # float64 [N, words]
    labels: Tensor  # float64 [N], 0 or 1
    test_features: Tensor
    test_labels: Tensor
    floor: float


def make_problem(name: str, *, words: int = 500, documents: int = 10_000, seed: int = 0) -> Problem:
    """`sparse`, words by Zipf's law, or `dense`, normal features."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(count: int) -> Tensor:
        if name == "dense":
            return torch.randn(count, words, generator=generator, dtype=torch.float64) / math.sqrt(words / 10)
        chance = (2 / torch.arange(1, words + 1, dtype=torch.float64)).clamp(max=0.5)
        return (torch.rand(count, words, generator=generator, dtype=torch.float64) < chance).double()

    true = torch.randn(words, generator=generator, dtype=torch.float64)
    features = drawn(documents + 4000)
    scores = features @ true
    scores = scores - scores.mean()
    labels = (torch.rand(len(scores), generator=generator, dtype=torch.float64) < scores.sigmoid()).double()
    floor = torch.nn.functional.binary_cross_entropy_with_logits(scores[documents:], labels[documents:])
    return Problem(
        name, features[:documents], labels[:documents], features[documents:], labels[documents:], float(floor)
    )


def losses_by_rate(problem: Problem, rule: str, rates: Tensor, *, batch: int = 10) -> Tensor:
    """The loss on unseen documents after one pass, for each rate [R]; not a number where it diverged."""
    weights = [torch.zeros(len(rates), 1, problem.features.shape[1], dtype=torch.float64)]
    states = [State()]
    name = "gradient descent" if rule == CONTROL else rule
    for step, start in enumerate(range(0, len(problem.labels), batch), start=1):
        x, y = problem.features[start : start + batch], problem.labels[start : start + batch]
        error = (weights[0][:, 0] @ x.T).sigmoid() - y  # [R, B]
        gradient = (error @ x / len(y))[:, None]
        hyper: dict[str, Value] = {
            "lr": rates / math.sqrt(step) if rule == CONTROL else rates,
            "weight_decay": 0.0,
        }
        weights, states = update_all(name, weights, [gradient], states, hyper=hyper, member_axes=1)
    scores = weights[0][:, 0] @ problem.test_features.T
    targets = problem.test_labels.expand_as(scores)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    return losses.mean(1)


def measure_sparse(*, words: int = 500, documents: int = 10_000, seed: int = 0) -> list[dict[str, Any]]:
    """For each rule its best loss above the floor on both problems, and the rate that gave it."""
    problems = [
        make_problem(name, words=words, documents=documents, seed=seed) for name in ("sparse", "dense")
    ]
    rows = []
    for rule in (CONTROL, *(rule for rule in RULES if rule != "adamw")):  # which is adam without weight decay
        row: dict[str, Any] = {"optimiser": rule}
        for problem in problems:
            high = 2.0 if rule in ("gradient descent", CONTROL, "adadelta") else 1.0
            rates = 10 ** torch.linspace(high - 4, high, NUM_RATES, dtype=torch.float64)
            losses = losses_by_rate(problem, rule, rates).nan_to_num(math.inf)
            best = int(losses.argmin())
            row[problem.name] = float(losses[best]) - problem.floor
            row[f"{problem.name}_rate"] = float(rates[best])
        rows.append(row)
    return rows
