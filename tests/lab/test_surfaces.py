"""Surfaces: slopes, and what theory says about steps down a ravine and off a saddle."""

from __future__ import annotations

import math

import pytest
import torch

from detectune.lab.surfaces import (
    FIRST_STEP,
    OFFSETS,
    OPTIMISERS,
    SURFACES,
    TOLERANCE,
    Surface,
    gradient,
    heights,
    path,
    rate_of_first_step,
    rates_to_try,
    steps_to_escape,
    steps_to_minimum,
)

BY_NAME = {surface.name: surface for surface in SURFACES}
SADDLE, RAVINE = BY_NAME["saddle"], BY_NAME["ravine"]


@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: s.name)
def test_the_slope_is_the_derivative_of_the_height(surface: Surface) -> None:
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(50, 1, 2, generator=generator, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(surface.height(position[..., 0], position[..., 1]).sum(), position)
    torch.testing.assert_close(gradient(surface, position.detach()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("surface", [s for s in SURFACES if s.minimum], ids=lambda s: s.name)
def test_the_minimum_is_flat_and_lower_than_all_around(surface: Surface) -> None:
    x, y = (torch.tensor(value, dtype=torch.float64) for value in surface.minimum or ())
    assert surface.height(x, y) == pytest.approx(0, abs=1e-24)
    for dx, dy in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert surface.height(x + dx, y + dy) > 0


def test_gradient_descent_needs_the_steps_that_theory_says() -> None:
    """Along the ravine the slope is u / 10, so u shrinks by 1 - lr / 10 a step as long as lr < 2 / 10."""
    for lr in (0.05, 0.15):
        along = math.cos(math.pi / 6) * RAVINE.start[0] + math.sin(math.pi / 6) * RAVINE.start[1]
        expected = math.ceil(math.log(TOLERANCE / abs(along)) / math.log(1 - lr / 10))
        long = Surface(**{**vars(RAVINE), "steps": 2 * expected})
        (steps,) = steps_to_minimum(
            long, "gradient descent", torch.tensor([lr], dtype=torch.float64)
        ).tolist()
        assert abs(steps - expected) <= 1


def test_a_rate_beyond_the_limit_of_stability_never_arrives() -> None:
    rates = torch.tensor([0.19, 0.21], dtype=torch.float64)
    assert steps_to_minimum(RAVINE, "gradient descent", rates).isinf().tolist() == [False, True]


def test_momentum_beats_gradient_descent_in_the_ravine_by_the_root_of_the_condition() -> None:
    """Condition 100: about ten times fewer steps per digit with the best momentum, some three with 0.9."""
    steps = {
        name: float(steps_to_minimum(RAVINE, name, rates_to_try(name, per_decade=4)).min())
        for name in ("gradient descent", "momentum", "nesterov")
    }
    assert steps["momentum"] < steps["gradient descent"] / 2.5
    assert steps["nesterov"] < steps["gradient descent"] / 2.5


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_every_first_step_on_the_saddle_is_equally_long(optimiser: str) -> None:
    rate = rate_of_first_step(SADDLE, optimiser)
    (start, then) = path(SADDLE, optimiser, rate, 1)
    assert math.dist(start, then) == pytest.approx(FIRST_STEP, rel=1e-9)


def escape(optimiser: str, offset: float, noise: float = 0.0) -> float:
    starts = torch.tensor([(1.0, offset)], dtype=torch.float64)
    rate = rate_of_first_step(SADDLE, optimiser)
    return float(steps_to_escape(SADDLE, optimiser, rate, starts, noise=noise)[0])


def test_gradient_descent_leaves_the_saddle_as_slowly_as_theory_says() -> None:
    """y grows by 1 + 2 lr a step: a hundred times closer to the ridge costs log(100) / log(1 + 2 lr) steps more."""
    rate = rate_of_first_step(SADDLE, "gradient descent")
    for offset in OFFSETS:
        expected = math.log(1 / offset) / math.log(1 + 2 * rate)
        assert escape("gradient descent", offset) == math.ceil(expected)


@pytest.mark.parametrize("optimiser", ["adagrad", "rmsprop", "adam", "nadam", "lion"])
def test_rules_that_divide_by_the_size_of_the_slope_do_not_notice(optimiser: str) -> None:
    near, far = escape(optimiser, 1e-8), escape(optimiser, 1e-2)
    assert abs(near - far) <= 1 and far < 1000


def test_on_the_ridge_only_noise_leads_away() -> None:
    assert all(math.isinf(escape(name, 0.0)) for name in ("gradient descent", "momentum", "adam"))
    assert escape("gradient descent", 0.0, noise=0.01) < 1000


def test_heights_are_a_grid_from_low_to_high_between_0_and_1() -> None:
    grid = heights(RAVINE, size=9)
    assert len(grid) == 9 and all(len(row) == 9 for row in grid)
    values = [value for row in grid for value in row]
    assert min(values) == 0 and max(values) == 1
