"""Line charts as inline SVG, drawn for 360 pixels so that they read 1:1 on a phone; colours are CSS variables.

Each chart carries its numbers as JSON, for the pointer read-out of `page.js`, and a sentence for screen readers.
Series take the fixed colour slots 1..8 of `page.css` in the order given; the mark is a 2-pixel line.
Knows nothing about runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 24  # margins around the plot, pixels
MAX_POINTS = 240  # a point every 1.3 pixels

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A named line; `slot` is its colour, 1..8."""

    name: str
    points: list[Point]
    slot: int = 1
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart ready for the page."""

    title: str
    svg: Markup
    summary: str  # one sentence: what the lines do
    legend: list[tuple[int, str, str]]  # colour slot, name, last value
    note: str = ""


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_name: str = "iteration",
    form: Callable[[float], str] | None = None,
    y_limits: tuple[float, float] | None = None,
    x_limits: tuple[float, float] | None = None,
    legend_values: Sequence[str] | None = None,
    note: str = "",
) -> Chart | None:
    """A chart of `series` over x; None if there is no point. Without `y_limits` it starts at 0.

    The legend shows each line's last value, or `legend_values`, one per member of `series`.
    """
    said = dict(zip((s.name for s in series), legend_values or (), strict=bool(legend_values)))
    shown = [Series(s.name, thin(s.points), s.slot, s.dashed) for s in series if s.points]
    if not shown:
        return None
    form = form or short
    low_y, high_y = y_limits or (0.0, upper_limit([y for s in shown for _, y in s.points]))
    xs = [x for s in shown for x, _ in s.points]
    low_x, high_x = x_limits or (0.0 if min(xs) >= 0 else min(xs), max(xs))
    high_x = high_x if high_x > low_x else low_x + 1

    def place(point: Point) -> Point:
        x = LEFT + (point[0] - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - low_y) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(min(max(y, TOP - 4.0), HEIGHT - BOTTOM), 1)

    summary = f"{title}: " + "; ".join(_describe(s, x_name, form) for s in shown) + "."
    data = {
        "x": [LEFT, WIDTH - RIGHT, low_x, high_x],
        "name": x_name,
        "series": [
            {"name": s.name, "slot": s.slot, "points": [[*map(significant, p), *place(p)] for p in s.points]}
            for s in shown
        ],
    }
    parts = [
        _axes(low_x, high_x, low_y, high_y, place, form),
        *(_line(s, [place(p) for p in s.points]) for s in shown),
        '<line class="cross" y1="8" y2="176" x1="0" x2="0"/>',
    ]
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(summary)}" '
        f'data-chart="{escape(json.dumps(data, separators=(",", ":")))}">{"".join(parts)}</svg>'
    )
    legend = [(s.slot, s.name, said.get(s.name) or form(s.points[-1][1])) for s in shown]
    return Chart(title, Markup(svg), summary, legend, note)


def sparkline(ys: Sequence[float | None], *, label: str) -> Markup:
    """A small line over equal steps, y in 0..1; gaps where a value is missing."""
    width, height = 72, 22
    points = [
        f"{1 + i * (width - 2) / max(1, len(ys) - 1):.1f},{height - 1 - y * (height - 2):.1f}"
        for i, y in enumerate(ys)
        if y is not None and i % 2 == 0
    ]
    return Markup(
        f'<svg class="spark" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f'<polyline points="{" ".join(points)}"/></svg>'
    )


def thin(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """At most `most` points: means of equally long stretches, and the last point as it is."""
    if len(points) <= most:
        return list(points)
    step = math.ceil(len(points) / (most - 1))
    groups = [points[i : i + step] for i in range(0, len(points) - 1, step)]
    means = [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
    return [*means, points[-1]]


def upper_limit(ys: Sequence[float]) -> float:
    """A little above the highest value, or above the 98th percentile where a few early values tower over it."""
    ordered = sorted(ys)
    most = ordered[math.ceil(0.98 * (len(ordered) - 1))]
    top = ordered[-1] if ordered[-1] < 2 * most else 1.2 * most
    return 1.05 * top if top > 0 else 1.0


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers in low..high, about `count` of them."""
    span = (high - low) / count
    power = 10 ** math.floor(math.log10(span))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= span * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """Three significant digits, thousands as k: 0.00125, 1.25, 125, 12.5k."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size >= 1000:
        return f"{value:.0f}"
    if 0 < size < 1e-3:
        return f"{value:.2e}".replace("e-0", "e-")
    return f"{value:.3g}"


def significant(value: float) -> float:
    """Four significant digits: enough for a read-out."""
    return float(f"{value:.4g}") if abs(value) < 1e4 else float(round(value))


def _describe(series: Series, x_name: str, form: Callable[[float], str]) -> str:
    if len(series.points) == 1:
        return f"{series.name} {form(series.points[0][1])}"
    (first_x, first), (last_x, last) = series.points[0], series.points[-1]
    return f"{series.name} from {form(first)} at {x_name} {short(first_x)} to {form(last)} at {short(last_x)}"


def _line(series: Series, placed: list[Point]) -> str:
    kind = f"line s{series.slot}" + (" dashed" if series.dashed else "")
    if len(placed) == 1:
        x, y = placed[0]
        return f'<circle class="dot s{series.slot}" cx="{x}" cy="{y}" r="4"/>'
    points = " ".join(f"{x:g},{y:g}" for x, y in placed)
    dots = [f'<circle class="dot s{series.slot}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in placed]
    return f'<polyline class="{kind}" points="{points}"/>' + ("".join(dots) if len(placed) <= 12 else "")


def _axes(
    low_x: float,
    high_x: float,
    low_y: float,
    high_y: float,
    place: Callable[[Point], Point],
    form: Callable[[float], str],
) -> str:
    parts: list[str] = []
    for value in ticks(low_y, high_y):
        y = place((low_x, value))[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{form(value)}</text>')
    marks = ticks(low_x, high_x)
    for value in marks:
        x = place((value, low_y))[0]
        anchor = "end" if x > WIDTH - RIGHT - 14 else "middle"
        parts.append(f'<text x="{x}" y="{HEIGHT - 7}" text-anchor="{anchor}">{short(value)}</text>')
    assert all(a < b for a, b in pairwise(marks))
    base = HEIGHT - BOTTOM
    return "".join(parts) + f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>'
