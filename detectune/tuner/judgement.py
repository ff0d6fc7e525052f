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

from detectune.config.load import load_config
from detectune.engine.run_directory import write_text
from detectune.tuner.commands import Where, next_command, options_of
from detectune.tuner.confirm import FILE as CONFIRMED
from detectune.tuner.confirm import newer_best
from detectune.tuner.curves import read_curves
from detectune.tuner.gates import Gate, best_trials, judge
from detectune.tuner.history import History, dimension_as_json, from_json
from detectune.tuner.spec import read_spec
from detectune.tuner.study import BASE, SPEC, TRIALS, VERDICT
from detectune.tuner.verdict import make_verdict

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
    confirmed = with_news(read_confirmed(folder), history, folder)
    gates = judge(history, read_curves(folder, history), confirmed)
    # A history may lie alone, brought from elsewhere.
    known = (folder / SPEC).is_file() and (folder / BASE).is_file()
    options = options_of(read_spec(folder / SPEC), load_config(folder / BASE)) if known else ""
    verdict |= describe(gates, history, Where(folder, options=options))
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


def with_news(confirmed: dict[str, Any] | None, history: History, folder: Path) -> dict[str, Any] | None:
    """What `confirm.json` holds, and under `newer` the trial that has become the best since, if one has."""
    best = None if confirmed is None else newer_best(history, confirmed)
    if confirmed is None or best is None:
        return confirmed
    before = [row["name"] for row in confirmed["candidates"] if row["trial"] is not None]
    newer = {
        "trial": best.trial,
        "before": ", ".join(before),
        "command": f"detectune tune {shlex.quote(str(folder))} --confirm {max(1, len(before))} --seeds "
        f"{len(confirmed['seeds'])}",
    }
    return confirmed | {"newer": newer}


def describe(gates: Sequence[Gate], history: History, where: Where, *, first: int = 0) -> dict[str, Any]:
    """{"judged", "gates", "conclusion", "next"}; the first gate that is not passed says what to do next.

    `first` is the number that the history's first trial has for the reader, who may see several rounds as one.
    """
    rows = [as_row(gate, history, where, first=first) for gate in gates]
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


def as_row(gate: Gate, history: History, where: Where, *, first: int = 0) -> dict[str, Any]:
    """A gate as verdict.json has it: with its command and the numbers of the trials that it calls the best."""
    best = [first + trial.number for trial in best_trials(history)]
    row = asdict(gate) | {"command": next_command(gate, history, where), "best": best}
    return row | {"keys": list(gate.keys), "number": gate.number if math.isfinite(gate.number) else None}
