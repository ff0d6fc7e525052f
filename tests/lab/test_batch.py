"""Batch sizes: noise that falls as theory says, on scikit-learn's digits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from detectune.data.labelled import LabelledImages, load_labelled
from detectune.lab.batch import (
    Kind,
    Network,
    descend,
    exponent,
    first_images,
    gradient_noise,
    oscillation,
    reaching,
)


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    return first_images(load_labelled("digits_train", {}), 300)


def test_the_noise_of_the_gradient_is_that_of_a_mean(data: LabelledImages) -> None:
    """The variance of one example's gradient, divided by the size of the batch; reference: every example's own."""
    network = Network(data, seed=0)
    each = torch.stack(
        [torch.cat([g.flatten() for g in network.gradient(slice(n, n + 1))]) for n in range(len(data))]
    )
    variance = (each - each.mean(0)).square().sum(1).mean()
    for size in (1, 16):
        expected = math.sqrt(float(variance) / size)
        assert gradient_noise(network, size, seed=1, batches=200) == pytest.approx(expected, rel=0.1)


def test_small_batches_swing_and_the_whole_set_does_not(data: LabelledImages) -> None:
    network = Network(data, seed=0)
    before = network.weights()
    whole = oscillation(network, 5000, lr=0.05, seed=0, updates=20)
    single = oscillation(network, 1, lr=0.05, seed=0, updates=20)
    assert whole["rising"] == 0 and whole["path_over_descent"] == pytest.approx(1)
    assert single["rising"] > 0.1 and single["spread_of_steps"] > 3 * whole["spread_of_steps"]
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters, strict=True))


def test_a_descent_counts_updates_and_examples_and_repeats_itself(data: LabelledImages) -> None:
    kind = Kind("mini-batch", 32, 4, (0.3,))
    curve, again = (descend(data, kind, 0.3, seed=5, points=10) for _ in range(2))
    assert [(p["updates"], p["loss"]) for p in curve] == [(p["updates"], p["loss"]) for p in again]
    assert curve[-1]["updates"] == 4 * (300 // 32) and curve[-1]["examples"] == 32 * curve[-1]["updates"]
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]
    half: Any = reaching(curve, curve[0]["loss"] / 2)
    assert half["loss"] <= curve[0]["loss"] / 2 and reaching(curve, 0.0) is None


def test_a_rate_that_diverges_ends_the_curve(data: LabelledImages) -> None:
    curve = descend(data, Kind("stochastic", 1, 1, (1e38,)), 1e38, seed=0)
    assert len(curve) < 10 and all(math.isfinite(point["loss"]) for point in curve)


def test_the_exponent_of_a_power_law_is_found() -> None:
    assert exponent([1, 4, 16], [3.0, 1.5, 0.75]) == pytest.approx(-0.5)
