"""The command that follows from a gate: text that the command line understands. Pure."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from detectune.config.best_metric import best_metric
from detectune.config.tree import Config
from detectune.tuner import thresholds as at
from detectune.tuner.gates import Gate, best_trials
from detectune.tuner.history import Dimension, History
from detectune.tuner.spec import Spec, usual_direction
from detectune.tuner.study import BASE

CONFIRM = 3  # trials that a command proposes to run again ...
SEEDS = 3  # ... with so many seeds


class Where:
    """Where a history lies.

    Args:
        folder: of its runs.
        study: what commands name, if that is another: the folder of all rounds.
        rounds, trials: of the whole study, if it has rounds.
        options: what else the study was asked, as `options_of` writes it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        study: Path | None = None,
        rounds: int = 0,
        trials: int = 0,
        options: str = "",
    ) -> None:
        self.folder, self.study = folder, study or folder
        self.rounds, self.trials, self.options = rounds, trials, options


def options_of(spec: Spec, base: Config) -> str:
    """The options of a study that the next one needs, too, to ask the same question of other ranges."""
    asked = [
        o.metric if o.direction == usual_direction(o.metric) else f"{o.metric}={o.direction}"
        for o in spec.objectives
    ]
    options = [] if asked == [best_metric(base)] else ["--objective", ",".join(asked)]
    options += ["--population", str(spec.population)] if spec.population else []
    return shlex.join(options)


def next_command(gate: Gate, history: History, where: Where) -> str:
    """What to type next; empty for a gate that is passed."""
    if gate.level == "PASS":
        return ""
    place, best = shlex.quote(str(where.study)), best_trials(history)
    run = shlex.quote(str(where.folder / best[0].run)) if best else ""
    match gate.name:
        case "boundary":
            wider = {edge["key"]: (edge["low"], edge["high"]) for edge in gate.data["edges"]}
            return _tune(history, where, "wider", wider)
        case "infeasible" if gate.keys:
            dimension = history.space[gate.keys[0]]
            ends = (
                (dimension.low, gate.data["cut"])
                if gate.data["above"]
                else (gate.data["cut"], dimension.high)
            )
            return _tune(history, where, "feasible", {dimension.key: ends})
        case "enough points" if where.rounds:
            return _tune(history, where, "more", {}, times=2)
        case "enough points":
            return f"detectune tune {place} --trials {max(2 * len(history.trials), at.GOOD_ENOUGH * 2)}"
        case "instability" if better := [r["rate"] for r in gate.data["above"] if r.get("better")]:
            (key,), ends = gate.keys, (min(better) / 10, 2 * max(better))
            more = () if key in history.space.keys else (f"{key}={ends[0]:.4g}:{ends[1]:.4g}:log",)
            return _tune(history, where, "higher", {key: ends}, more=more)
        case "optimisation" | "instability" if run:
            return f"detectune gradients {run}"
        case "length" if run:
            return f"detectune steps {run}"
        case "overfitting":
            return _tune(history, where, "regularised", {}, more=("SOLVER.WEIGHT_DECAY",))
        case "saturation" if run:
            return f"detectune steps {run}"
        case "question" if "again" in gate.data:
            return str(gate.data["again"])
        case "question" if "confirmed" not in gate.data and best:
            return f"detectune tune {place} --confirm {CONFIRM} --seeds {SEEDS}"
    return f"detectune report {place}"


def _tune(
    history: History,
    where: Where,
    name: str,
    ranges: dict[str, Any],
    *,
    more: tuple[str, ...] = (),
    times: int = 1,
) -> str:
    """A study beside this one, with other ranges, perhaps more knobs, and `times` its trials."""
    words = [_word(dimension, ranges.get(dimension.key)) for dimension in history.space]
    words += [key for key in more if key not in history.space.keys]
    trials = times * (where.trials or len(history.trials))
    how = f" --rounds {where.rounds}" if where.rounds else ""
    how += f" {where.options}" if where.options else ""
    return (
        f"detectune tune {shlex.quote(str(where.study / BASE))} --knobs {shlex.quote(','.join(words))} "
        f"--trials {trials}{how} "
        f"--output {shlex.quote(f'{where.study}-{name}')}"
    )


def _word(dimension: Dimension, ends: tuple[float, float] | None) -> str:
    """KEY, or KEY=LOW:HIGH:SCALE as --knobs takes it."""
    if dimension.choices is not None:
        return dimension.key
    low, high = ends or (dimension.low, dimension.high)
    return f"{dimension.key}={low:.4g}:{high:.4g}:{dimension.scale}"
