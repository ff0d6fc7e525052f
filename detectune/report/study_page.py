"""`write_study_report`: the page of a study directory, one file with everything inside.

The template writes the words and tables; `study_*.js` draws the charts from one JSON block and links them: a trial
pointed at in one is marked in all. `live` is how `detectune watch` serves the same page, which then asks for itself
again and takes over what changed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from detectune.config.nesting import nested
from detectune.engine.run_directory import output_errors, write_text
from detectune.errors import OutputError, UserError
from detectune.report.charts import significant, thin
from detectune.report.page import TEMPLATES, make_environment, show_duration, show_value, write_report
from detectune.report.study import StudyRecord, StudyTrial, read_study
from detectune.report.study_statistics import best_of_n, best_so_far, pareto_front, value_limits
from detectune.report.verdict_view import tie_band, verdict_view

STATE_NAMES = {
    "complete": "complete",
    "pruned": "pruned",
    "infeasible": "infeasible",
    "failed": "failed",
    "timed_out": "timed out",
    "running": "running",
    "waiting": "waiting",
}
STATE_WORDS = {
    "complete": "trained to the end",
    "pruned": "stopped early, behind the others",
    "infeasible": "diverged, or out of memory",
    "failed": "ended by an error",
    "timed_out": "ran out of its time",
    "running": "training now",
    "waiting": "saved, or not started yet",
}
SCRIPTS = ("study_scales.js", "study_charts.js", "study_page.js", "live.js")
CURVE_POINTS = 40  # of one trial's curve on the page


def write_study_report(study_dir: Path) -> Path:
    """Write `report.html` into a study directory, and first into the run of each ended trial; return the study's.

    Raises:
        UserError: if the directory holds no study, or cannot be written to.
    """
    study_dir = Path(study_dir)
    study = read_study(study_dir)
    write_run_pages(study)
    target = study_dir / "report.html"
    with output_errors(target):
        write_text(target, render_study(study))
    return target


def write_run_pages(study: StudyRecord) -> None:
    """Write the page of each trial that has ended and whose page is older than its numbers, or missing.

    What keeps a run from having one is said on the study's page.
    """
    for trial in study.trials:
        run = study.path / trial.run
        numbers, page = run / "metrics.jsonl", run / "report.html"
        if not trial.run or trial.state in ("running", "waiting") or not numbers.is_file():
            continue
        if page.is_file() and page.stat().st_mtime_ns >= numbers.stat().st_mtime_ns:
            continue
        try:
            write_report(run)
        except OutputError:
            raise
        except UserError as error:
            study.problems.append(str(error))


def render_study(study: StudyRecord, *, live: bool = False) -> str:
    """The page as text."""
    front = pareto_front(study.trials, study.objectives) if len(study.objectives) > 1 else []
    shown = front or ([study.best] if study.best else [])
    return (
        make_environment()
        .get_template("study.html")
        .render(
            study=study,
            title=study.name,
            status=status(study),
            facts=facts(study),
            tiles=tiles(study),
            verdict=verdict_view(study),
            bests=[best_view(study, trial) for trial in shown],
            front=front,
            states=[(s, STATE_NAMES[s], n, STATE_WORDS[s]) for s, n in study.counts.items()],
            rows=[row_view(study, trial) for trial in study.trials],
            importance=importance_view(study),
            data=Markup(json.dumps(page_data(study, front), separators=(",", ":")).replace("<", "\\u003c")),
            live=live,
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            style=Markup((TEMPLATES / "page.css").read_text() + (TEMPLATES / "study.css").read_text()),
            script=Markup("".join((TEMPLATES / name).read_text() for name in SCRIPTS)),
        )
    )


def status(study: StudyRecord) -> tuple[str, str]:
    """(kind, words) of the pill beside the title."""
    counts = study.counts
    if counts.get("running"):
        return "warn", f"{counts['running']} running"
    if counts.get("waiting"):
        return "warn", f"stopped; {counts['waiting']} trial{'s' * (counts['waiting'] != 1)} waiting"
    return ("good", "finished") if study.trials else ("warn", "no trial yet")


def facts(study: StudyRecord) -> list[tuple[str, str]]:
    """The first lines: question, trials, time."""
    goals = ", ".join(f"{'highest' if o.maximize else 'lowest'} {o.metric}" for o in study.objectives)
    scientific = [k.key for k in study.knobs if k.role != "nuisance"]
    nuisance = [k.key for k in study.knobs if k.role == "nuisance"]
    lines = [("Goal", goals), ("Knobs", ", ".join(scientific or nuisance))]
    if scientific and nuisance:
        lines.append(("Nuisance", f"{', '.join(nuisance)}: tuned so that the comparison is fair"))
    ends = ", ".join(f"{n} {STATE_NAMES[state]}" for state, n in study.counts.items())
    lines.append(("Trials", f"{len(study.trials)}: {ends}" if ends else "none yet"))
    seconds = [trial.seconds for trial in study.trials if trial.seconds]
    if seconds:
        workers = len({trial.worker for trial in study.trials if trial.worker})
        lines.append(
            ("Time", f"{show_duration(sum(seconds))} of trials on {workers} worker{'s' * (workers != 1)}")
        )
    return lines


def tiles(study: StudyRecord) -> list[tuple[str, str, str]]:
    """(name, value, remark) of the numbers in large type."""
    found: list[tuple[str, str, str]] = []
    for index, objective in enumerate(study.objectives):
        best = study.best_in(index)
        if best is not None and best.values:
            found.append(
                (f"Best {objective.metric}", show_metric(best.values[index]), f"trial {best.number}")
            )
    if study.complete:
        middle = sorted(t.values[0] for t in study.complete if t.values)[len(study.complete) // 2]
        found.append(("Median", show_metric(middle), f"of {len(study.complete)} complete"))
    lost = sum(study.counts.get(state, 0) for state in ("infeasible", "failed", "timed_out"))
    if study.trials:
        found.append(("Pruned", str(study.counts.get("pruned", 0)), f"of {len(study.trials)} trials"))
        found.append(("Without a result", str(lost), "infeasible, failed, timed out"))
    return found


def best_view(study: StudyRecord, trial: StudyTrial) -> dict[str, Any]:
    """A configuration as a diff from the base, and as YAML to copy."""
    changes = [
        {
            "key": key,
            "value": show_value(value),
            "base": show_value(study.base[key]) if key in study.base else None,
            "same": key in study.base and study.base[key] == value,
        }
        for key, value in trial.params.items()
    ]
    values = zip(study.objectives, trial.values or (), strict=True)
    return {
        "trial": trial,
        "values": [(o.metric, show_metric(value)) for o, value in values],
        "changes": changes,
        "yaml": as_yaml(trial.params),
        "page": run_page(study, trial),
    }


def as_yaml(params: Mapping[str, Any]) -> str:
    """Dotted keys as the nested YAML that a configuration file holds."""
    from ruamel.yaml import YAML

    text = io.StringIO()
    YAML().dump(nested(params), text)
    return text.getvalue()


def row_view(study: StudyRecord, trial: StudyTrial) -> dict[str, Any]:
    """A line of the table of trials."""
    return {
        "trial": trial,
        "state": STATE_NAMES[trial.state],
        "values": [show_metric(v) for v in trial.values] if trial.values else [""] * len(study.objectives),
        "order": [repr(v) for v in trial.values] if trial.values else [""] * len(study.objectives),
        "params": [
            (show_value(trial.params[k.key]), k.key) if k.key in trial.params else ("", k.key)
            for k in study.knobs
        ],
        "duration": show_duration(trial.seconds) if trial.seconds else "",
        "memory": f"{trial.peak_memory / 2**20:.0f} MB" if trial.peak_memory else "",
        "page": run_page(study, trial),
    }


def run_page(study: StudyRecord, trial: StudyTrial) -> str | None:
    """Where the trial's own page, or else its folder, lies, relative to the study's page."""
    if not trial.run or not (study.path / trial.run).is_dir():
        return None
    page = f"{trial.run}/report.html"
    return page if (study.path / page).is_file() else f"{trial.run}/"


def importance_view(study: StudyRecord) -> dict[str, Any]:
    """What `importance.json` says of each objective, or why it says nothing."""
    content = study.importance
    found = [o for o in content.get("objectives") or () if o.get("knobs")]
    return {
        "note": str(content.get("note") or ""),
        "method": str(content.get("method") or ""),
        "objectives": [{"metric": o["metric"], "knobs": o["knobs"]} for o in found],
    }


def page_data(study: StudyRecord, front: list[StudyTrial]) -> dict[str, Any]:
    """What the charts need, with four significant digits."""
    starts = [trial.started for trial in study.trials if trial.started]
    zero = min(starts, default=None)
    ended = [t for t in study.trials if t.state not in ("running", "waiting")]
    first = study.objectives[0]
    return {
        "objectives": [
            {"metric": o.metric, "maximize": o.maximize, "limits": value_limits(study, i)}
            for i, o in enumerate(study.objectives)
        ],
        "knobs": [
            {"key": k.key, "low": k.low, "high": k.high, "scale": k.scale,
             "choices": [show_value(c) for c in k.choices],
             "base": _plain(study.base.get(k.key), bool(k.choices))}
            for k in study.knobs
        ],
        "trials": [_trial_data(trial, study, zero) for trial in study.trials],
        "tieBand": tie_band(study),
        "bestSoFar": best_so_far(study),
        "bestOfN": best_of_n([t.values[0] if t.values else None for t in ended], maximize=first.maximize)
        if study.complete
        else [],
        "front": [trial.number for trial in front],
        "importance": importance_view(study)["objectives"],
    }  # fmt: skip


def _trial_data(trial: StudyTrial, study: StudyRecord, zero: datetime | None) -> dict[str, Any]:
    choices = {k.key for k in study.knobs if k.choices}
    start = (trial.started - zero).total_seconds() if trial.started and zero else None
    end = (trial.ended - zero).total_seconds() if trial.ended and zero else None
    if start is not None and end is None and trial.seconds is not None:
        end = start + trial.seconds
    return {
        "number": trial.number,
        "state": trial.state,
        "reason": trial.reason,
        "values": [float(f"{v:.6g}") for v in trial.values] if trial.values else None,
        "last": trial.last,
        "params": {key: _plain(value, key in choices) for key, value in trial.params.items()},
        "start": start,
        "end": end,
        "worker": trial.worker,
        "curve": [[x, significant(y)] for x, y in thin(trial.curve, CURVE_POINTS)],
        "loss": [[round(x), significant(y)] for x, y in thin(trial.loss, CURVE_POINTS)],
        "page": run_page(study, trial),
    }


def _plain(value: Any, choice: bool) -> Any:
    """A number as it is, a choice as the text that the axis shows."""
    return show_value(value) if choice and value is not None else value


def show_metric(value: float) -> str:
    """Four significant digits: differences between trials are small."""
    return f"{value:.4g}"
