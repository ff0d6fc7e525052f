"""What a study found about one knob, as text: its best value, how much it matters, how results lie over its values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from detectune.errors import UserError

if TYPE_CHECKING:
    from detectune.report.study import SearchedKnob, StudyRecord, StudyTrial

BINS = 6
TABLE = 46  # columns that the table needs
FEW = 3  # trials below which a stretch says little


def study_lines(key: str, folder: Path, *, width: int) -> list[str]:
    """Lines of at most `width` columns where words allow it.

    Raises:
        UserError: if the folder holds no study, or one that did not search the knob.
    """
    from detectune.cli.knobs import wrap
    from detectune.report.study import read_study

    study = read_study(folder)
    knob = next((knob for knob in study.knobs if knob.key == key), None)
    if knob is None:
        searched = ", ".join(knob.key for knob in study.knobs)
        raise UserError(f"The study in {folder} did not search {key}; it searched {searched}.")
    objective = study.objectives[0]
    measured = [trial for trial in study.complete if key in trial.params]
    ends = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in study.counts.items())
    lines = wrap(f"In the study {study.name} ({ends or 'no trials'}), by {objective.metric}:", width, "")
    facts = [*_best(study, knob, measured), *_importance(study, key, folder)]
    for name, text in facts:
        lines += wrap(text, width, " " * 16, first=f"  {name:<14}")
    if measured:
        lines += ["", *_table(stretches(knob, measured, maximize=objective.maximize), width)]
    lost = [trial for trial in study.trials if key in trial.params and trial.state == "infeasible"]
    if lost:
        values = sorted({_show(trial.params[key]) for trial in lost})
        lines += ["", *wrap(f"Infeasible: {len(lost)} trials, at {', '.join(values[:6])}.", width, "  ")]
    return [*lines, *_halves(key, folder, width)]


def stretches(
    knob: SearchedKnob, trials: Sequence[StudyTrial], *, maximize: bool
) -> list[tuple[str, int, float | None, float | None]]:
    """(values, trials, best, median) of each choice, or of equal stretches of the interval on its scale."""
    rows: list[tuple[str, int, float | None, float | None]] = []
    for name, own in _groups(knob, trials):
        values = [trial.values[0] for trial in own if trial.values]
        best = (max(values) if maximize else min(values)) if values else None
        rows.append((name, len(values), best, median(values) if values else None))
    return rows


def _groups(knob: SearchedKnob, trials: Sequence[StudyTrial]) -> Iterator[tuple[str, list[StudyTrial]]]:
    if knob.low is None or knob.high is None:
        for choice in knob.choices:
            yield _show(choice), [trial for trial in trials if trial.params[knob.key] == choice]
        return
    low, high = _placed(knob, knob.low), _placed(knob, knob.high)
    edges = [low + (high - low) * i / BINS for i in range(BINS + 1)]
    for i in range(BINS):
        last = i == BINS - 1
        own = [
            trial
            for trial in trials
            if edges[i] <= (place := _placed(knob, trial.params[knob.key])) < edges[i + 1]
            or (last and place >= edges[-1])
            or (i == 0 and place < edges[0])
        ]
        yield f"{_show(_value(knob, edges[i]))} to {_show(_value(knob, edges[i + 1]))}", own


def _placed(knob: SearchedKnob, value: float) -> float:
    if knob.scale == "log":
        return math.log(value)
    return -math.log(max(1 - value, 1e-12)) if knob.scale == "one_minus_log" else value


def _value(knob: SearchedKnob, place: float) -> float:
    if knob.scale == "log":
        return math.exp(place)
    return 1 - math.exp(-place) if knob.scale == "one_minus_log" else place


def _best(
    study: StudyRecord, knob: SearchedKnob, measured: Sequence[StudyTrial]
) -> Iterator[tuple[str, str]]:
    base = study.base.get(knob.key)
    best = study.best
    if best is None or not best.values:
        yield "Best", "no trial is complete"
    elif knob.key in best.params:
        yield "Best", f"{_show(best.params[knob.key])} (trial {best.number}, {_show(best.values[0])})"
    else:
        yield "Best", f"not set in the best trial ({best.number}): {_show(base)}, as in the base"
    yield "Base", _show(base)
    span = f"{_show(knob.low)} to {_show(knob.high)}, {knob.scale} scale"
    yield "Searched", ", ".join(map(_show, knob.choices)) if knob.choices else span


def _importance(study: StudyRecord, key: str, folder: Path) -> Iterator[tuple[str, str]]:
    content = study.importance or _computed(folder)
    objectives = content.get("objectives") or []
    rows = objectives[0]["knobs"] if objectives else []
    row = next((row for row in rows if row["key"] == key), None)
    if row is None:
        yield "Importance", str(content.get("note") or "not known")
        return
    rank = [other["key"] for other in rows].index(key) + 1
    yield (
        "Importance",
        f"{row['importance']:.2f} (90 % interval {row['low']:.2f} to {row['high']:.2f}), number {rank} of {len(rows)}",
    )


def _computed(folder: Path) -> Mapping[str, Any]:
    """The importances of a study that has not written them."""
    import optuna

    from detectune.tuner.history import from_json
    from detectune.tuner.importance import importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return importances(from_json(json.loads((folder / "trials.json").read_text())))


def _table(rows: Sequence[tuple[str, int, float | None, float | None]], width: int) -> list[str]:
    from detectune.cli.knobs import wrap

    longest = max(len(row[0]) for row in rows)
    few = [f"* fewer than {FEW} trials: says little"] if any(0 < row[1] < FEW for row in rows) else []
    if width < longest + TABLE - 20:
        lines = []
        for name, count, best, middle in rows:
            said = f"{count} trials, best {_metric(best)}, median {_metric(middle)}" if count else "no trials"
            lines += wrap(f"{name}: {said}{'*' * (0 < count < FEW)}", width, "    ", first="  ")
        return lines + [line for text in few for line in wrap(text, width, "  ", first="  ")]
    lines = [f"  {'value':<{longest}}{'trials':>8}{'best':>9}{'median':>9}"]
    for name, count, best, middle in rows:
        mark = "*" if 0 < count < FEW else " "
        lines.append(f"  {name:<{longest}}{count:>7}{mark}{_metric(best):>9}{_metric(middle):>9}".rstrip())
    return lines + [f"  {text}" for text in few]


def _halves(key: str, folder: Path, width: int) -> list[str]:
    """Of a study of inference knobs: the knob alone, on both halves of the images."""
    from detectune.cli.knobs import wrap

    try:
        verdict = json.loads((folder / "verdict.json").read_text())
    except (OSError, ValueError):
        return []  # a running study has none yet
    sweep = next((sweep for sweep in verdict.get("sweeps") or [] if sweep["key"] == key), None)
    if sweep is None:
        return []
    lines = ["", *wrap("Alone, the others as found (reporting half, tuning half):", width, "  ", first="  ")]
    for value, report, tune in zip(sweep["values"], sweep["report"], sweep["tune"], strict=True):
        mark = "  found" if value == sweep["chosen"] else ""
        lines += wrap(f"{_show(value)}: {_metric(report)}, {_metric(tune)}{mark}", width, "    ", first="  ")
    deviation = verdict["halves"]["report"]["deviation"]
    if deviation is not None:
        lines += wrap(
            f"A difference below {2 * deviation:.4f} on the reporting half is noise.", width, "  ", first="  "
        )
    return lines


def _metric(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _show(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_show, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
