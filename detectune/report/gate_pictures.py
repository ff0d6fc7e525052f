"""The picture of each gate of a study: small SVGs, 360 wide, that show what was compared with what.

Strips for where trials lie, curves for how they went, intervals for what was run again. Colours are CSS variables;
every picture has a sentence for those who do not see it. Reads the rows of `verdict.json` and the study's record;
knows nothing about how gates judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, stdev
from typing import Any

from markupsafe import Markup, escape

from detectune.report.charts import short
from detectune.report.study import Curve, SearchedKnob, StudyTrial

WIDTH = 360
LEFT, RIGHT = 14, 14
ROW = 54  # height of a strip with its label
CURVES = (48, 12, 150, 24)  # left, top, height of the plot, room below
MOST_STRIPS = 4
MOST_CURVES = 8


@dataclass
class Canvas:
    """An SVG in the making."""

    height: float
    parts: list[str] = field(default_factory=list)

    def add(self, name: str, text: str = "", **attributes: Any) -> None:
        words = " ".join(
            f'{key.replace("_", "-").rstrip("-")}="{_show(value)}"' for key, value in attributes.items()
        )
        self.parts.append(f"<{name} {words}>{escape(text)}</{name}>" if text else f"<{name} {words}/>")

    def finish(self, label: str) -> Markup:
        return Markup(
            f'<svg class="gate-picture" viewBox="0 0 {WIDTH} {self.height:g}" role="img" '
            f'aria-label="{escape(label)}">{"".join(self.parts)}</svg>'
        )


def picture(
    gate: Mapping[str, Any], trials: Sequence[StudyTrial], knobs: Sequence[SearchedKnob], *, maximize: bool,
    confirmed: Mapping[str, Any] | None,
) -> Markup | None:  # fmt: skip
    """The picture of a row of `gates`, of the trials and the space that it judged; None if there is nothing to draw."""
    best = [trial for number in gate["best"] for trial in trials if trial.number == number]
    match gate["name"]:
        case "boundary":
            return strips(gate, trials, knobs, edges=True)
        case "enough points":
            return values(trials, maximize=maximize, close=gate["data"])
        case "infeasible":
            return strips(gate, trials, knobs, edges=False)
        case "optimisation":
            return curves([t.loss for t in best], "training loss of the best trials")
        case "instability":
            return multiples(gate["data"]["above"])
        case "length":
            bands = [(begin, end) for begin, end in gate["data"].get("bands", ())]
            return curves([t.curve for t in best], "the best trials over their run", bands=bands)
        case "overfitting":
            return curves([t.curve for t in best], "the best trials over their run")
        case "saturation":
            place = gate["number"]
            bands = [] if place is None or place >= 1 else [(float(place), 1.0)]
            return curves([t.curve for t in best], "the best trials; shaded: nothing is gained", bands=bands)
        case "question":
            return intervals(confirmed) if confirmed else values(trials, maximize=maximize)
    return None


def strips(
    gate: Mapping[str, Any], trials: Sequence[StudyTrial], knobs: Sequence[SearchedKnob], *, edges: bool
) -> Markup | None:
    """Where trials lie in the ranges of the knobs that matter to the gate; with `edges` the edges and the best."""
    numbers = [knob for knob in knobs if not knob.choices and knob.low is not None and knob.high is not None]
    numbers.sort(key=lambda knob: knob.key not in gate["keys"])  # stable: those that it is about come first
    shown = [k for k in numbers if k.key in gate["keys"] or edges or not gate["keys"]][:MOST_STRIPS]
    if not shown or not trials:
        return None
    canvas = Canvas(ROW * len(shown) + 4)
    best = set(gate["best"])
    for row, knob in enumerate(shown):
        y = ROW * row + 30
        about = knob.key in gate["keys"]
        canvas.add("text", knob.key, x=LEFT, y=y - 16, class_="name strong" if about else "name")
        canvas.add("text", short(knob.low or 0), x=LEFT, y=y + 21)
        canvas.add("text", short(knob.high or 0), x=WIDTH - RIGHT, y=y + 21, text_anchor="end")
        if edges:
            edge = gate["data"].get("edge", 0.0)
            for low, high in ((0.0, edge), (1 - edge, 1.0)):
                canvas.add(
                    "rect", x=_x(low), y=y - 9, width=_x(high) - _x(low), height=18, class_="zone-edge"
                )
        canvas.add("line", x1=_x(0), x2=_x(1), y1=y, y2=y, class_="axis")
        cut = gate["data"].get("cut") if gate["data"].get("key") == knob.key else None
        if cut is not None:
            at = _x(place(knob, cut))
            canvas.add("line", x1=at, x2=at, y1=y - 11, y2=y + 11, class_="cut")
            canvas.add("text", short(cut), x=at, y=y + 21, text_anchor="middle", class_="name strong")
        for trial in trials:
            if knob.key not in trial.params:
                continue
            x = _x(place(knob, trial.params[knob.key]))
            if trial.state == "infeasible":
                canvas.add("path", d=f"M{x - 3:.1f} {y - 3}l6 6m0 -6l-6 6", class_="lost")
            elif trial.values:
                chosen = edges and trial.number in best
                canvas.add(
                    "circle", cx=x, cy=y, r=4.2 if chosen else 3, class_="best-dot" if chosen else "dot-all"
                )
    what = "the best stand out, edges are shaded" if edges else "crosses could not work"
    return canvas.finish(f"Where the trials lie in {', '.join(k.key for k in shown)}; {what}.")


def values(
    trials: Sequence[StudyTrial], *, maximize: bool, close: Mapping[str, Any] | None = None
) -> Markup | None:
    """The values of all complete trials on one line; `close` has the `best` and the `reach` that is shaded."""
    found = [trial.values[0] for trial in trials if trial.values]
    if len(found) < 2 or min(found) == max(found):
        return None
    best, middle = max(found) if maximize else min(found), median(found)
    # Far below the median nothing is compared, and a hopeless trial would squeeze the others together.
    worst = max(min(found), 3 * middle - 2 * best) if maximize else min(max(found), 3 * middle - 2 * best)
    low, high = min(best, worst), max(best, worst)
    canvas = Canvas(48)

    def at(value: float) -> float:
        return _x(min(max((value - low) / (high - low), 0), 1))

    if close and "reach" in close:
        end = close["best"] - close["reach"] if maximize else close["best"] + close["reach"]
        left, right = sorted((at(close["best"]), at(end)))
        canvas.add("rect", x=left, y=8, width=right - left, height=20, class_="good-region")
    canvas.add("line", x1=_x(0), x2=_x(1), y1=18, y2=18, class_="axis")
    for value in found:
        canvas.add("circle", cx=at(value), cy=18, r=3.4, class_="dot-all")
    canvas.add("text", short(low), x=LEFT, y=42)
    canvas.add("text", short(high), x=WIDTH - RIGHT, y=42, text_anchor="end")
    span = f"{short(min(found))} to {short(max(found))}"
    return canvas.finish(f"{len(found)} values from {span}; close to the best is shaded.")


def curves(lines: Sequence[Curve], label: str, *, bands: Sequence[tuple[float, float]] = ()) -> Markup | None:
    """Curves over the part of the run; `bands` shade parts of it."""
    shown = [line for line in lines if len(line) > 1][:MOST_CURVES]
    if not shown:
        return None
    left, top, height, below = CURVES
    ys = sorted(y for line in shown for _, y in line)
    low, high = ys[int(0.02 * (len(ys) - 1))], ys[math.ceil(0.98 * (len(ys) - 1))]
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    canvas = Canvas(top + height + below)
    width = WIDTH - left - RIGHT
    for begin, end in bands:
        canvas.add(
            "rect",
            x=left + begin * width,
            y=top,
            width=(end - begin) * width,
            height=height,
            class_="zone-edge",
        )
    for part in (0.0, 0.5, 1.0):
        y = top + (1 - part) * height
        canvas.add("line", x1=left, x2=left + width, y1=y, y2=y, class_="grid")
        canvas.add("text", short(low + part * (high - low)), x=left - 6, y=y + 4, text_anchor="end")
        canvas.add("text", f"{part:.0%}", x=left + part * width, y=top + height + 16,
                   text_anchor="end" if part == 1 else "middle")  # fmt: skip
    for number, line in enumerate(shown):
        points = " ".join(
            f"{left + x / line[-1][0] * width:.1f},"
            f"{top + (1 - min(max((y - low) / (high - low), -0.05), 1.05)) * height:.1f}"
            for x, y in line
        )
        canvas.add("polyline", points=points, class_=f"line s{number % 8 + 1}")
    return canvas.finish(f"{len(shown)} curves: {label}.")


def multiples(above: Sequence[Mapping[str, Any]]) -> Markup:
    """Whether training held at multiples of the best rate."""
    canvas = Canvas(52)
    for i, run in enumerate(above):
        x = _x((i + 0.5) / len(above))
        if run["unstable"]:
            canvas.add("path", d=f"M{x - 6:.1f} 10l12 12m0 -12l-12 12", class_="lost")
        else:
            canvas.add("circle", cx=x, cy=16, r=6, class_="best-dot")
        canvas.add("text", f"{run['factor']:g}x: {short(run['rate'])}", x=x, y=40, text_anchor="middle")
    said = ", ".join(f"{r['factor']:g} times {'unstable' if r['unstable'] else 'steady'}" for r in above)
    return canvas.finish(f"At multiples of the best learning rate: {said}.")


def intervals(confirmed: Mapping[str, Any]) -> Markup | None:
    """Every candidate's values over seeds, its mean and standard deviation; the base's mean runs through all rows."""
    rows = [(c, [v for v in c["values"] if v is not None]) for c in confirmed["candidates"]]
    known = [v for _, found in rows for v in found]
    if not known:
        return None
    spans = [(fmean(f) - stdev(f), fmean(f) + stdev(f)) for _, f in rows if len(f) > 1]
    low, high = min([*known, *(a for a, _ in spans)]), max([*known, *(b for _, b in spans)])
    margin = 0.04 * (high - low) or 0.5
    low, high = low - margin, high + margin
    canvas = Canvas(30 * len(rows) + 26)
    name_width = 78

    def at(value: float) -> float:
        return float(name_width + (value - low) / (high - low) * (WIDTH - RIGHT - name_width))

    bottom = 30 * len(rows) + 6
    base = rows[0][1]
    if base:
        x = at(fmean(base))
        canvas.add("line", x1=x, x2=x, y1=4, y2=bottom, class_="base")
    for i, (candidate, found) in enumerate(rows):
        y = 30 * i + 18
        wins = candidate["name"] == confirmed["winner"]
        canvas.add("text", candidate["name"], x=4, y=y + 4, class_="name strong" if wins else "name")
        for value in found:
            canvas.add("circle", cx=at(value), cy=y, r=3, class_="dot-all")
        if len(found) > 1:
            mean, sd = fmean(found), stdev(found)
            canvas.add("line", x1=at(mean - sd), x2=at(mean + sd), y1=y, y2=y, class_="whisker")
            canvas.add(
                "line", x1=at(mean), x2=at(mean), y1=y - 8, y2=y + 8, class_="mean winner" if wins else "mean"
            )
        if len(found) < len(candidate["values"]):
            lost = len(candidate["values"]) - len(found)
            canvas.add(
                "text", f"{lost} without a value", x=WIDTH - RIGHT, y=y + 4, text_anchor="end", class_="name"
            )
    for part, anchor in ((low + margin, "start"), (high - margin, "end")):
        canvas.add("text", short(part), x=at(part), y=bottom + 16, text_anchor=anchor)
    said = "; ".join(f"{c['name']} {short(fmean(f))}" for c, f in rows if f)
    return canvas.finish(f"Means over seeds with one standard deviation: {said}.")


def place(knob: SearchedKnob, value: float) -> float:
    """Where a value lies in the range of its knob, 0 to 1, on the knob's scale."""
    low, high = float(knob.low or 0), float(knob.high or 0)
    if knob.scale == "log":
        low, high, value = math.log(low), math.log(high), math.log(value)
    elif knob.scale == "one_minus_log":
        low, high, value = -math.log(1 - low), -math.log(1 - high), -math.log(1 - value)
    return min(max((float(value) - low) / (high - low), 0.0), 1.0)


def _x(part: float) -> float:
    return LEFT + part * (WIDTH - LEFT - RIGHT)


def _show(value: Any) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(escape(str(value)))
