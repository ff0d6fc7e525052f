"""What the terminal shows of a study: a line when a trial ends, a table of all at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detectune.tuner.history import History, Trial

SHOWN = 24  # trials in the table; the page has all


def describe_end(trial: Trial, history: History) -> str:
    """`Trial 7: complete, bbox/AP 0.412 (12 s)  SOLVER.BASE_LR=0.003`."""
    measured = values_text(trial, history)
    why = f": {_short(trial.reason)}" if trial.reason else ""
    params = "  ".join(f"{key}={show(value)}" for key, value in trial.params.items())
    seconds = "" if trial.seconds is None else f" ({trial.seconds:.0f} s)"
    return f"Trial {trial.number}: {trial.state}{measured and ', ' + measured}{why}{seconds}  {params}"


def print_study(history: History, folder: Path) -> None:
    """The trials, best first, and where everything is."""
    from rich.console import Console
    from rich.table import Table

    from detectune.tuner.verdict import count_ends

    table = Table(title=f"{history.name}: {_counts(count_ends(history))}", title_justify="left")
    for name in ("trial", *(o.metric for o in history.objectives), "end", *history.space.keys):
        table.add_column(name, overflow="fold")
    ranked = rank(history)
    for trial in ranked[:SHOWN]:
        values = trial.values or ("",) * len(history.objectives)
        shown = [show(value) for value in values]
        reason = f"{trial.state}{': ' + _short(trial.reason, 60) if trial.reason else ''}"
        params = [show(trial.params.get(key, "")) for key in history.space.keys]
        table.add_row(str(trial.number), *shown, reason, *params)
    Console().print(table)
    if len(ranked) > SHOWN:
        print(f"{len(ranked) - SHOWN} more are in {folder / 'trials.json'}.")
    best = history.best()
    if best is None:
        print(f"No trial is complete; {folder / 'verdict.json'} says how each ended.")
        return
    if len(history.objectives) > 1:
        front = ", ".join(str(trial.number) for trial in history.pareto_front())
        print(f"Pareto front: trials {front}.")
    print(f"Best: trial {best.number}, {values_text(best, history)}.")
    print(f"Its configuration: {folder / 'best.yaml'}; all of it: {folder / 'verdict.json'}.")


def rank(history: History) -> list[Trial]:
    """Complete trials from the best to the worst, then the others by number."""
    measured = [trial for trial in history.complete if trial.values is not None]
    upwards = history.objectives[0].direction == "minimize"
    measured.sort(key=lambda trial: (trial.values or (0.0,))[0], reverse=not upwards)
    return measured + [trial for trial in history.trials if trial not in measured]


def values_text(trial: Trial, history: History) -> str:
    """`bbox/AP 0.412`, empty where nothing was measured."""
    if trial.values is None:
        return ""
    return ", ".join(
        f"{o.metric} {show(value)}" for o, value in zip(history.objectives, trial.values, strict=True)
    )


def show(value: Any) -> str:
    """A value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _short(text: str, length: int = 120) -> str:
    first = text.splitlines()[0]
    return first if len(first) <= length else first[: length - 3] + "..."


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in counts.items()) or "no trials"
