"""The page of a study of inference knobs (`detectune tune --stage inference`): reads its `verdict.json`, nothing else.

The verdict comes first, with both halves' figures and the noise of the difference; then the knobs that change, each
knob alone, the per-class thresholds of an operating point, and where the raw outputs are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from detectune.errors import UserError
from detectune.report.charts import Chart, Series, line_chart, short
from detectune.report.lab_page import Section, write_lab_page

HALVES = {"report": "reporting half", "tune": "tuning half"}
WIDTH, ROW, LEFT = 360, 44, 10
CLASS_THRESHOLDS = "TEST.SCORE_THRESH_PER_CLASS"
WITHOUT_THRESHOLDS = f"{CLASS_THRESHOLDS}='{{}}'"


def is_inference_study(folder: Path) -> bool:
    """Whether a folder is that of a study of inference knobs."""
    try:
        content = json.loads((folder / "verdict.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("stage") == "inference"


def write_inference_report(folder: Path) -> Path:
    """Write `report.html` and return its path; a `UserError` if the verdict cannot be understood."""
    file = folder / "verdict.json"
    try:
        verdict = json.loads(file.read_text())
        sections = [
            _verdict(verdict, folder), _changes(verdict), _measures(verdict), _alone(verdict), _points(verdict),
            _outputs(verdict, folder),
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read as a verdict: {type(error).__name__} {error}.") from error
    return write_lab_page(
        folder / "report.html",
        title=f"{verdict['name']}: inference knobs",
        lead=verdict["sentence"],
        sections=[section for section in sections if section is not None],
        brand="Detectune",
    )


def _verdict(verdict: Mapping[str, Any], folder: Path) -> Section:
    rows = []
    for half, name in HALVES.items():
        d = verdict["halves"][half]
        rows.append(
            [name, str(d["images"]), _show(d["before"]), _show(d["after"]), _signed(_gain(d)),
             f"{_signed(d['low'])} to {_signed(d['high'])}"]
        )  # fmt: skip
    weights = verdict.get("weights", "WEIGHTS")
    # AP was measured without the thresholds that best.yaml has.
    without = f" {WITHOUT_THRESHOLDS}" if verdict.get("operating_point") else ""
    return Section(
        "Adopt" if verdict["decision"] == "adopt" else "Keep what you have",
        f"{verdict['settings']} settings were tried in {verdict['seconds']:.0f} s on one half of the images. The other "
        "half had no say in the choice: its figure is the one to believe.",
        ["images that", "number", f"{verdict['metric']} before", "after", "difference", "95 % interval"],
        rows,
        [gains_chart(verdict["metric"], verdict["halves"])],
        "Intervals by drawing images with replacement (bootstrap), before and after on the same draws. The tuning "
        "half's difference is too good by construction.",
        f"detectune test {folder / 'best.yaml'}{without} --weights {weights}",
    )


def _changes(verdict: Mapping[str, Any]) -> Section | None:
    changes = verdict["changes"]
    if not changes:
        return None
    adopted = verdict["decision"] == "adopt"
    lead = "As YAML in diff.yaml; best.yaml is the whole configuration with it."
    if not adopted:
        lead = (
            "The best of the tuning half, which the reporting half does not confirm: best.yaml leaves it out."
        )
    rows = [[key, _value(before), _value(after)] for key, (before, after) in changes.items()]
    return Section(
        "What changes" if adopted else "What was not confirmed", lead, ["key", "was", "best"], rows
    )


def _measures(verdict: Mapping[str, Any]) -> Section:
    rows = [
        [row["metric"], *(_show(value) for value in row["report"]), *(_show(value) for value in row["tune"])]
        for row in verdict["measures"]
    ]
    heads = ["metric", "reporting, before", "after", "tuning, before", "after"]
    return Section("Other metrics", "Before and after on both halves.", heads, rows)


def _alone(verdict: Mapping[str, Any]) -> Section | None:
    charts = [sweep_chart(sweep, verdict["halves"]["report"]["deviation"]) for sweep in verdict["sweeps"]]
    rows = [
        [f"{sweep['key']} {_value(value)}", _show(report), _show(tune)]
        for sweep in verdict["sweeps"]
        if sweep["scale"] == "choice"
        for value, report, tune in zip(sweep["values"], sweep["report"], sweep["tune"], strict=True)
    ]
    if not rows and not any(charts):
        return None
    return Section(
        "Each knob alone",
        f"{verdict['metric']} over one knob, the others as found. Differences within the dashed band are noise.",
        ["choice", "reporting half", "tuning half"] if rows else [],
        rows,
        charts,
    )


def _points(verdict: Mapping[str, Any]) -> Section | None:
    point = verdict.get("operating_point")
    if point is None:
        return None
    rows = []
    for row in point["classes"]:
        cells = [row["class"], "\u2013" if row["threshold"] is None else f"{row['threshold']:.3f}"]
        for half in HALVES:
            counts = row[half]
            names = ("precision", "recall", "f")
            cells += ["\u2013"] * 3 if counts is None else [f"{counts[name]:.3f}" for name in names]
        rows.append(cells)
    heads = [
        "class",
        "threshold",
        "precision (reporting)",
        "recall",
        "F",
        "precision (tuning)",
        "recall",
        "F",
    ]
    return Section(
        f"Score thresholds for {point['goal']}",
        "For each class the score from which on its detections count, chosen on the tuning half; right is an overlap "
        f"of 0.5 with an object of the class. best.yaml has them as {CLASS_THRESHOLDS}: `detectune infer` and `test` "
        "leave out what is below.",
        heads,
        rows,
    )


def _outputs(verdict: Mapping[str, Any], folder: Path) -> Section:
    cache = verdict["cache"]
    return Section(
        "Raw outputs",
        f"{cache['candidates']} candidates of {cache['images']} images of {verdict['dataset']}, "
        f"{cache['bytes'] / 2**20:.1f} MiB in {folder / 'cache'}; a setting took "
        f"{1000 * verdict['seconds_per_setting']:.1f} ms. The same command goes on from them; delete the "
        "folder to free the room.",
    )


def gains_chart(metric: str, halves: Mapping[str, Mapping[str, Any]]) -> Chart | None:
    """Difference and interval of each half, as dots with whiskers around zero."""
    shown = [(name, halves[half]) for half, name in HALVES.items() if halves[half]["low"] is not None]
    if not shown:
        return None
    ends = [
        0.0,
        *(float(d[edge]) for _, d in shown for edge in ("low", "high")),
        *(_gain(d) for _, d in shown),
    ]
    low, high = min(ends), max(ends)
    room = (high - low) * 0.08 or 0.01

    def x(value: float) -> float:
        return round(LEFT + (value - low + room) / (high - low + 2 * room) * (WIDTH - 2 * LEFT), 1)

    height = ROW * len(shown) + 24
    parts = [f'<text x="{x(0)}" y="{height - 6}" text-anchor="middle">0</text>']
    for i, (name, d) in enumerate(shown):
        y = ROW * i + 30
        slot = i + 1
        parts.append(f'<line class="axis" x1="{x(0)}" x2="{x(0)}" y1="{y - 8}" y2="{y + 8}"/>')
        parts.append(f'<text x="{LEFT}" y="{y - 14}">{escape(name)} {_signed(_gain(d))}</text>')
        parts.append(f'<line class="line s{slot}" x1="{x(d["low"])}" x2="{x(d["high"])}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot s{slot}" cx="{x(_gain(d))}" cy="{y}" r="4"/>')
    summary = f"Difference of {metric}: " + "; ".join(
        f"{name} {_signed(_gain(d))}, {_signed(d['low'])} to {_signed(d['high'])}" for name, d in shown
    )
    svg = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(summary)}">{"".join(parts)}</svg>'
    return Chart(f"Difference of {metric}", Markup(svg), summary, [])


def sweep_chart(sweep: Mapping[str, Any], deviation: float | None) -> Chart | None:
    """A metric over one knob on both halves, with a band of two deviations around what was found."""
    if sweep["scale"] == "choice":
        return None
    logarithmic = sweep["scale"] == "log"
    points = [
        (math.log10(value) if logarithmic else float(value), report, tune)
        for value, report, tune in zip(sweep["values"], sweep["report"], sweep["tune"], strict=True)
        if report is not None and tune is not None
    ]
    if not points:
        return None
    at = dict(zip(sweep["values"], sweep["report"], strict=True)).get(sweep["chosen"])
    noise = 2 * (deviation or 0.0)
    ends = [(points[0][0], 0), (points[-1][0], 0)]
    band = [
        Series(name, [(x, at + shift) for x, _ in ends], 8, dashed=True)
        for name, shift in (("noise, above", noise), ("below", -noise))
        if at is not None and noise
    ]
    ys = [y for _, report, tune in points for y in (report, tune)] + [y for s in band for _, y in s.points]
    room = (max(ys) - min(ys)) * 0.05 or 0.01
    key = sweep["key"]
    return line_chart(
        key,
        [
            Series("reporting half", [(x, report) for x, report, _ in points], 1),
            Series("tuning half", [(x, tune) for x, _, tune in points], 2),
            *band,
        ],
        x_name=f"log10 {key}" if logarithmic else key,
        y_limits=(max(0.0, min(ys) - room), max(ys) + room),
        x_limits=(points[0][0], points[-1][0]),
        note=f"Found: {_value(sweep['chosen'])}."
        + (" The axis is the decimal logarithm." if logarithmic else ""),
    )


def _gain(d: Mapping[str, Any]) -> float:
    return float((d["after"] or 0.0) - (d["before"] or 0.0))


def _show(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:+.4f}"


def _value(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_value, value))
    return short(value) if isinstance(value, float) else str(value)
