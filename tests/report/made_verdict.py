"""A judged study, made up: a made study with its gates, and with its best run again where that is asked for."""

from __future__ import annotations

import json
import random
from pathlib import Path

from made_study import quality, write_study

from detectune.tuner.confirm import Candidate, choose, conclude
from detectune.tuner.history import from_json
from detectune.tuner.judgement import write_judgement

ABOVE = [
    {"factor": 2.0, "rate": 0.1, "state": "complete", "reason": "", "value": 0.4, "unstable": True},
    {"factor": 5.0, "rate": 0.25, "state": "infeasible", "reason": "Diverged.", "value": None, "unstable": True},
]  # fmt: skip


def write_judged(folder: Path, *, trials: int = 40, confirmed: bool = True, tie: bool = False) -> Path:
    """A study in `folder`; with `tie` the base is as good as the best."""
    write_study(folder, trials=trials)
    content = json.loads((folder / "trials.json").read_text())
    history = from_json(content)
    if confirmed:
        draws = random.Random(1)
        chosen = choose(history, 3)
        best = {**history.base, **chosen[1].params}
        measured = [
            Candidate(c.name, c.trial, c.params, tuple(
                quality(best if tie else {**history.base, **c.params}) + draws.gauss(0, 0.006) for _ in range(3)
            ))
            for c in chosen
        ]  # fmt: skip
        row = conclude(measured, maximize=True)
        row |= {"metric": "bbox/AP", "maximize": True, "seeds": [11, 12, 13], "above": ABOVE}
        (folder / "confirm.json").write_text(json.dumps(row))
    write_judgement(folder)
    return folder


def write_rounds(folder: Path) -> Path:
    """The same as if it were two rounds, the second of them trials 20 and on."""
    write_judged(folder)
    file = folder / "verdict.json"
    verdict = json.loads(file.read_text())
    change = {
        "key": "SOLVER.BASE_LR",
        "text": "SOLVER.BASE_LR: 0.0001 to 1 becomes 0.001 to 1, as <b>they</b> lie there.",
    }
    verdict["rounds"] = [
        {"round": n, "folder": f"round_{n}", "trials": 20, "length": 0.25, "gates": verdict["gates"][:4],
         "changes": [change] if n == 1 else []}
        for n in (1, 2)
    ]  # fmt: skip
    verdict["judged"] |= {"first": 20, "count": 20}
    verdict["winner"] = {"file": "winner.yaml", "params": {}, "mean": 0.4, "sd": 0.01}
    file.write_text(json.dumps(verdict))
    return folder
