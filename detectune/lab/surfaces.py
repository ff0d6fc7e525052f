"""Update rules on surfaces of two variables, where every step can be seen: Beale, Rosenbrock, a ravine and a saddle.

Two questions, two measures. *How soon is the minimum reached?* Every rule gets the best of the same number of rates,
and counts its steps until it is within `TOLERANCE` of the minimum for good. *How soon is the saddle left?* Every rule
gets the rate with which its first step is `FIRST_STEP` long, and counts its steps until it is 1 away from the ridge,
starting ever closer to it.

Shapes: R rates or starts are tried at once, positions are [R, 1, 2], float64. The position counts as a matrix of one
row, so that muon's step is its momentum of length one (times 0.2 sqrt(2) and the rate). adamw is left out: without
weight decay it is adam, and with it the minimum is elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detectune.lab.update_rules import RULES, State, Value

TOLERANCE = 0.01
FIRST_STEP = 0.02
OFFSETS = (1e-2, 1e-4, 1e-6, 1e-8)
OPTIMISERS = tuple(name for name in RULES if name != "adamw")
MOST_POINTS = 300  # of a path in the result; longer ones are thinned

COS, SIN = math.cos(math.pi / 6), math.sin(math.pi / 6)

Height = Callable[[Tensor, Tensor], Tensor]
Slope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Surface:
    """A function of (x, y) with its two partial derivatives; without a minimum it is a saddle.

    `domain` is what is drawn: (x low, x high, y low, y high).
    """

    name: str
    formula: str
    height: Height
    slope: Slope
    start: tuple[float, float]
    minimum: tuple[float, float] | None
    domain: tuple[float, float, float, float]
    steps: int


def _ravine_axes(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(u, v): along and across a ravine that is turned by 30 degrees, as rules that scale x and y love axes."""
    return COS * x + SIN * y, COS * y - SIN * x


def _ravine(x: Tensor, y: Tensor) -> Tensor:
    u, v = _ravine_axes(x, y)
    return u**2 / 20 + 5 * v**2


def _ravine_slope(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    u, v = _ravine_axes(x, y)
    return COS * u / 10 - SIN * 10 * v, SIN * u / 10 + COS * 10 * v


def _beale_parts(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3


def _beale(x: Tensor, y: Tensor) -> Tensor:
    a, b, c = _beale_parts(x, y)
    return a**2 + b**2 + c**2


def _beale_slope(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    a, b, c = _beale_parts(x, y)
    along_x = 2 * (a * (y - 1) + b * (y**2 - 1) + c * (y**3 - 1))
    return along_x, 2 * x * (a + 2 * y * b + 3 * y**2 * c)


def _rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _rosenbrock_slope(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    above = y - x**2
    return 2 * (x - 1) - 400 * x * above, 200 * above


SURFACES = (
    Surface(
        "ravine",
        "u²/20 + 5v², turned by 30°: a hundred times steeper across than along",
        _ravine,
        _ravine_slope,
        start=(-8.3, -3.6),
        minimum=(0.0, 0.0),
        domain=(-9.5, 2.5, -6.0, 2.0),
        steps=600,
    ),
    Surface(
        "beale",
        "(1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)²: plateaus between steep walls",
        _beale,
        _beale_slope,
        start=(1.0, 1.5),
        minimum=(3.0, 0.5),
        domain=(-0.5, 4.5, -1.0, 2.0),
        steps=1500,
    ),
    Surface(
        "rosenbrock",
        "(1 - x)² + 100 (y - x²)²: a curved, nearly flat valley",
        _rosenbrock,
        _rosenbrock_slope,
        start=(-1.2, 1.0),
        minimum=(1.0, 1.0),
        domain=(-1.8, 1.8, -0.6, 2.0),
        steps=3000,
    ),
    Surface(
        "saddle",
        "x² - y²: a minimum along x, a maximum along y",
        lambda x, y: x**2 - y**2,
        lambda x, y: (2 * x, -2 * y),
        start=(1.0, OFFSETS[0]),
        minimum=None,
        domain=(-1.2, 1.2, -1.2, 1.2),
        steps=1500,
    ),
)


def gradient(surface: Surface, position: Tensor) -> Tensor:
    """The slope at each position [R, 1, 2]."""
    return torch.stack(surface.slope(position[..., 0], position[..., 1]), dim=-1)


def rates_to_try(optimiser: str, *, per_decade: int = 8) -> Tensor:
    """Five decades, float64: 1e-4 to 10, and for adadelta, whose natural rate is 1, a hundred times more."""
    low = -2.0 if optimiser == "adadelta" else -4.0
    return 10 ** torch.linspace(low, low + 5, 5 * per_decade + 1, dtype=torch.float64)


def steps_to_minimum(surface: Surface, optimiser: str, rates: Tensor) -> Tensor:
    """Steps until the distance to the minimum stays below `TOLERANCE`, for each rate [R]; inf where it never does.

    It has to stay for a tenth of the steps allowed, at least: what comes by at the end has not arrived.
    """
    assert surface.minimum is not None
    goal = torch.tensor(surface.minimum, dtype=torch.float64)
    update, state = RULES[optimiser], State()
    position = torch.tensor(surface.start, dtype=torch.float64).expand(len(rates), 1, 2)
    last_outside = torch.zeros(len(rates), dtype=torch.float64)
    for step in range(1, surface.steps + 1):
        slope = gradient(surface, position)
        position, state = update(position, slope, state, lr=rates[:, None, None], **_no_decay(optimiser))
        inside = (position - goal).norm(dim=-1)[
            :, 0
        ] < TOLERANCE  # false for a position that is no number any more
        last_outside = torch.where(inside, last_outside, float(step))
    return torch.where(last_outside < 0.9 * surface.steps, last_outside + 1, math.inf)


def rate_of_first_step(surface: Surface, optimiser: str, length: float = FIRST_STEP) -> float:
    """The rate with which the first step from the start is `length` long: the steps of all rules are linear in it."""
    start = torch.tensor(surface.start, dtype=torch.float64).view(1, 1, 2)
    moved, _ = RULES[optimiser](start, gradient(surface, start), State(), lr=1.0, **_no_decay(optimiser))
    return length / float((moved - start).norm())


def steps_to_escape(
    surface: Surface, optimiser: str, rate: float, starts: Tensor, *, noise: float = 0.0, seed: int = 0
) -> Tensor:
    """Steps until |y| >= 1 from each of `starts` [R, 2]; inf where `surface.steps` do not suffice.

    Args:
        noise: standard deviation of what a generator seeded with `seed` adds to each component of the gradient.
    """
    generator = torch.Generator().manual_seed(seed)
    update, state = RULES[optimiser], State()
    position = starts.to(torch.float64)[:, None]  # [R, 1, 2]
    escaped = torch.full((len(starts),), math.inf, dtype=torch.float64)
    for step in range(1, surface.steps + 1):
        drawn = torch.randn(position.shape, generator=generator, dtype=torch.float64) if noise else None
        slope = gradient(surface, position) + (0 if drawn is None else noise * drawn)
        position, state = update(position, slope, state, lr=rate, **_no_decay(optimiser))
        outside = position[:, 0, 1].abs() >= 1
        escaped = torch.where(outside & escaped.isinf(), float(step), escaped)
        if not escaped.isinf().any():
            break
    return escaped


def path(surface: Surface, optimiser: str, rate: float, steps: int) -> list[tuple[float, float]]:
    """Positions after 0, 1, ..., `steps` steps; it ends where the surface's domain is left by its own width."""
    update, state = RULES[optimiser], State()
    position = torch.tensor(surface.start, dtype=torch.float64).view(1, 1, 2)
    points = [surface.start]
    low_x, high_x, low_y, high_y = surface.domain
    for _ in range(steps):
        slope = gradient(surface, position)
        position, state = update(position, slope, state, lr=rate, **_no_decay(optimiser))
        x, y = position.flatten().tolist()
        points.append((x, y))
        if not (abs(x - low_x) < 2 * (high_x - low_x) and abs(y - low_y) < 2 * (high_y - low_y)):
            break
    return points


def measure_surfaces(
    surfaces: Sequence[Surface] = SURFACES, *, seed: int = 0, log: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Everything `detectune lab surfaces` shows, as plain values (see the functions of its parts)."""
    measured = []
    for surface in surfaces:
        runs = []
        for optimiser in OPTIMISERS:
            log(f"{surface.name}: {optimiser}")
            run = _descent(surface, optimiser) if surface.minimum else _escape(surface, optimiser, seed=seed)
            runs.append({"optimiser": optimiser, **run})
        measured.append(
            {
                "name": surface.name,
                "formula": surface.formula,
                "start": surface.start,
                "minimum": surface.minimum,
                "domain": surface.domain,
                "steps_allowed": surface.steps,
                "heights": heights(surface),
                "runs": runs,
            }
        )
    return {"tolerance": TOLERANCE, "first_step": FIRST_STEP, "seed": seed, "surfaces": measured}


def heights(surface: Surface, size: int = 96) -> list[list[float]]:
    """The surface as size x size values in 0..1, rows from low y to high y, on a scale that shows its valleys.

    log(1 + 10 (height - lowest)) for a surface with a minimum, linear for the saddle.
    """
    low_x, high_x, low_y, high_y = surface.domain
    x = torch.linspace(low_x, high_x, size, dtype=torch.float64)[None, :]
    y = torch.linspace(low_y, high_y, size, dtype=torch.float64)[:, None]
    z = surface.height(x.expand(size, size), y.expand(size, size))
    z = z - z.min()
    z = torch.log1p(10 * z) if surface.minimum else z
    return [[round(value, 3) for value in row] for row in (z / z.max()).tolist()]


def _descent(surface: Surface, optimiser: str) -> dict[str, Any]:
    """The best rate (the lower of equals), its steps and path, and how wide the range of rates within twice is."""
    rates = rates_to_try(optimiser)
    steps = steps_to_minimum(surface, optimiser, rates)
    best = int(steps.argmin())
    fewest = float(steps[best])
    spacing = float((rates[1] / rates[0]).log10())
    reached = math.isfinite(fewest)
    shown = min(surface.steps, int(1.2 * fewest) + 20) if reached else surface.steps
    points, stride = _thinned(path(surface, optimiser, float(rates[best]), shown))
    return {
        "rate": float(rates[best]),
        "steps": int(fewest) if reached else None,
        "forgiving_decades": round(spacing * int((steps <= 2 * fewest).sum()), 3) if reached else 0.0,
        "path": points,
        "stride": stride,
    }


def _escape(surface: Surface, optimiser: str, *, seed: int, num_noisy: int = 100) -> dict[str, Any]:
    """Steps from each offset of `OFFSETS`; from the ridge itself without noise and, the median, with it."""
    rate = rate_of_first_step(surface, optimiser)
    starts = torch.tensor([(surface.start[0], offset) for offset in (*OFFSETS, 0.0)], dtype=torch.float64)
    steps = [_count(value) for value in steps_to_escape(surface, optimiser, rate, starts).tolist()]
    on_ridge = torch.tensor([(surface.start[0], 0.0)], dtype=torch.float64).expand(num_noisy, 2)
    noisy = steps_to_escape(surface, optimiser, rate, on_ridge, noise=0.01, seed=seed)
    shown = steps[0] or surface.steps
    points, stride = _thinned(path(surface, optimiser, rate, min(surface.steps, int(1.05 * shown) + 5)))
    return {
        "rate": rate,
        "steps": steps[0],
        "steps_from": {f"{offset:g}": count for offset, count in zip(OFFSETS, steps, strict=False)},
        "steps_from_the_ridge": steps[-1],
        "steps_from_the_ridge_with_noise": _count(float(noisy.median())),
        "path": points,
        "stride": stride,
    }


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[list[tuple[float, float]], int]:
    """Every `stride`-th point, at most `MOST_POINTS`, to four digits after the point."""
    stride = math.ceil(len(points) / MOST_POINTS)
    return [(round(x, 4), round(y, 4)) for x, y in points[::stride]], stride


def _count(steps: float) -> int | None:
    return int(steps) if math.isfinite(steps) else None


def _no_decay(optimiser: str) -> dict[str, Value]:
    extra: dict[str, Value] = {"member_axes": 1} if optimiser == "muon" else {}
    return {"weight_decay": 0.0, **extra}
