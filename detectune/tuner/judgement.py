"""What a study's files say, judged: the gates with their commands, the conclusion and what to do next, in verdict.json.

May be called at any moment, of a running study too: everything is read from the study's folder.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detectune.engine.run_directory import write_text
from detectune.tuner import thresholds as at
from detectune.tuner.confirm import FILE as CONFIRMED
from detectune.tuner.curves import read_curves
from detectune.tuner.gates import Gate, best_trials, judge
from detectune.tuner.history import Dimension, History, dimension_as_json, from_json
from detectune.tuner.study import BASE, TRIALS, VERDICT
from detectune.tuner.verdict import make_verdict

CONFIRM = 3  # trials that a command proposes to run again ...
SEEDS = 3  # ... with so many seeds
ROUNDS = "rounds.json"


def write_judgement(folder: Path) -> dict[str, Any]:
    """Judge the study in `folder` and write the gates into its verdict.json; what that holds.

    A study in rounds was judged after each of them, and stays as it is.
    """
    file = folder / VERDICT
    history = from_json(json.loads((folder / TRIALS).read_text()))
    verdict: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else make_verdict(history)
    if (folder / ROUNDS).is_file():
        return verdict
    confirmed = read_confirmed(folder)
    verdict |= describe(judge(history, read_curves(folder, history), confirmed), history, folder)
    verdict["confirmed"] = confirmed
    write_text(file, json.dumps(verdict, indent=2) + "\n")
    return verdict


def read_confirmed(folder: Path) -> dict[str, Any] | None:
    """What `confirm.json` holds, if it is there."""
    try:
        content: dict[str, Any] = json.loads((folder / CONFIRMED).read_text())
    except FileNotFoundError:
        return None
    return content


def describe(gates: Sequence[Gate], history: History, folder: Path, *, first: int = 0) -> dict[str, Any]:
    """{"judged", "gates", "conclusion", "next"}; the first gate that is not passed says what to do next.

    `first` is the number that the history's first trial has for the reader, who may see several rounds as one.
    """
    rows = [as_row(gate, history, folder, first=first) for gate in gates]
    return {
        "judged": about(history, first=first),
        "gates": rows,
        "conclusion": rows[-1]["text"],
        "next": what_next(rows),
    }


def what_next(rows: Sequence[dict[str, Any]]) -> dict[str, str] | None:
    """Of the first gate that is not passed: the questions after it have no answer before it has."""
    first = next((row for row in rows if row["level"] != "PASS"), None)
    return first and {"gate": first["name"], "advice": first["advice"], "command": first["command"]}


def about(history: History, *, first: int = 0) -> dict[str, Any]:
    """What was judged: trials `first` and on, in this space, when there were `total`."""
    count = len(history.trials)
    space = [dimension_as_json(dimension) for dimension in history.space]
    return {"first": first, "count": count, "total": first + count, "space": space}


def as_row(gate: Gate, history: History, folder: Path, *, first: int = 0) -> dict[str, Any]:
    """A gate as verdict.json has it: with its command and the numbers of the trials that it calls the best."""
    best = [first + trial.number for trial in best_trials(history)]
    row = asdict(gate) | {"command": next_command(gate, history, folder), "best": best}
    return row | {"keys": list(gate.keys), "number": gate.number if math.isfinite(gate.number) else None}


def next_command(gate: Gate, history: History, folder: Path) -> str:
    """What to type next; empty for a gate that is passed."""
    if gate.level == "PASS":
        return ""
    place, best = shlex.quote(str(folder)), best_trials(history)
    run = shlex.quote(str(folder / best[0].run)) if best else ""
    match gate.name:
        case "boundary":
            wider = {edge["key"]: (edge["low"], edge["high"]) for edge in gate.data["edges"]}
            return _tune(history, folder, "wider", wider)
        case "infeasible" if gate.keys:
            dimension = history.space[gate.keys[0]]
            ends = (
                (dimension.low, gate.data["cut"])
                if gate.data["above"]
                else (gate.data["cut"], dimension.high)
            )
            return _tune(history, folder, "feasible", {dimension.key: ends})
        case "enough points":
            return f"detectune tune {place} --trials {max(2 * len(history.trials), at.GOOD_ENOUGH * 2)}"
        case "instability" if better := [r["rate"] for r in gate.data["above"] if r.get("better")]:
            (key,), ends = gate.keys, (min(better) / 10, 2 * max(better))
            more = () if key in history.space.keys else (f"{key}={ends[0]:.4g}:{ends[1]:.4g}:log",)
            return _tune(history, folder, "higher", {key: ends}, more=more)
        case "optimisation" | "instability" if run:
            return f"detectune gradients {run}"
        case "length" if run:
            return f"detectune steps {run}"
        case "overfitting":
            return _tune(history, folder, "regularised", {}, more=("SOLVER.WEIGHT_DECAY",))
        case "saturation" if run:
            return f"detectune steps {run}"
        case "question" if "confirmed" not in gate.data and best:
            return f"detectune tune {place} --confirm {CONFIRM} --seeds {SEEDS}"
    return f"detectune report {place}"


def _tune(
    history: History, folder: Path, name: str, ranges: dict[str, Any], more: tuple[str, ...] = ()
) -> str:
    """A study beside this one, with other ranges and perhaps more knobs."""
    words = [_word(dimension, ranges.get(dimension.key)) for dimension in history.space]
    words += [key for key in more if key not in history.space.keys]
    base = shlex.quote(str(folder / BASE))
    return (
        f"detectune tune {base} --knobs {shlex.quote(','.join(words))} --trials {len(history.trials)} "
        f"--output {shlex.quote(f'{folder}-{name}')}"
    )


def _word(dimension: Dimension, ends: tuple[float, float] | None) -> str:
    """KEY, or KEY=LOW:HIGH:SCALE as --knobs takes it."""
    if dimension.choices is not None:
        return dimension.key
    low, high = ends or (dimension.low, dimension.high)
    return f"{dimension.key}={low:.4g}:{high:.4g}:{dimension.scale}"
