"""What to type next: the command of each gate says what its advice says, and the tuner understands it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detectune.cli.places import find_config
from detectune.config.load import load_config
from detectune.tuner.commands import Where, next_command, options_of
from detectune.tuner.confirm import conclude
from detectune.tuner.gates import Gate, infeasible, instability, question
from detectune.tuner.history import Dimension, History, Objective, Space, Trial
from detectune.tuner.judgement import describe, write_judgement
from detectune.tuner.space import read_entry
from detectune.tuner.spec import Request, complete
from detectune.tuner.verdict import make_verdict

RATE = Dimension("SOLVER.BASE_LR", "float", 1e-4, 1.0, "log")
KIND = Dimension("SOLVER.OPTIMIZER", "choice", choices=("sgd", "adamw"))
FOLDER = Where(Path("studies/my cells"))


def study(*dimensions: Dimension, trials: int = 12) -> History:
    params = [{"SOLVER.BASE_LR": 1e-4 * 2**n, "SOLVER.OPTIMIZER": "sgd"} for n in range(trials)]
    rows = tuple(
        Trial(
            n,
            {d.key: values[d.key] for d in dimensions},
            "complete",
            values=(n / 100,),
            run=f"trials/{n:04d}",
        )
        for n, values in enumerate(params)
    )
    return History("s", (Objective("m", "maximize"),), Space(dimensions), {}, rows)


def knobs_of(command: str) -> dict[str, dict[str, Any]]:
    """What the --knobs of a command say."""
    words = command.split("--knobs ")[1].split()[0].strip("'").split(",")
    return {entry.key: dict(entry.content) for entry in map(read_entry, words)}


def above(*unstable: bool, better: int = -1) -> list[dict[str, Any]]:
    return [
        {
            "factor": f,
            "rate": 0.1 * f,
            "state": "complete",
            "value": 0.5,
            "unstable": u,
            "better": i == better,
        }
        for i, (f, u) in enumerate(zip((2.0, 5.0, 10.0), unstable, strict=True))
    ]


def test_a_wider_range_keeps_the_other_knobs_and_can_be_read_back() -> None:
    edges = [{"key": "SOLVER.BASE_LR", "end": "upper", "low": 1e-4, "high": 100.0}]
    gate = Gate("boundary", "FAIL", 1.0, "", "Widen.", ("SOLVER.BASE_LR",), {"edges": edges})
    command = next_command(gate, study(RATE, KIND), FOLDER)
    assert knobs_of(command) == {
        "SOLVER.BASE_LR": {"low": 1e-4, "high": 100, "scale": "log"}, "SOLVER.OPTIMIZER": {}
    }  # fmt: skip
    assert command.startswith("detectune tune 'studies/my cells/base.yaml'")
    assert command.endswith("--trials 12 --output 'studies/my cells-wider'")


def test_what_diverges_is_left_out() -> None:
    history = study(RATE)
    trials = tuple(Trial(t.number, t.params, "infeasible") if t.number > 5 else t for t in history.trials)
    history = History("s", history.objectives, history.space, {}, trials)
    gate = infeasible(history)
    assert knobs_of(next_command(gate, history, FOLDER))["SOLVER.BASE_LR"]["high"] == pytest.approx(
        1e-4 * 2**6
    )


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("enough points", "detectune tune 'studies/my cells' --trials 24"),
        ("optimisation", "detectune gradients 'studies/my cells/trials/0011'"),
        ("length", "detectune steps 'studies/my cells/trials/0011'"),
        ("question", "detectune tune 'studies/my cells' --confirm 3 --seeds 3"),
    ],
)
def test_the_commands_of_the_others(name: str, command: str) -> None:
    assert next_command(Gate(name, "WARN", 0.0, "", "Do it."), study(RATE), FOLDER) == command
    assert next_command(Gate(name, "PASS", 0.0, ""), study(RATE), FOLDER) == ""


def test_of_rounds_the_whole_study_is_named_and_its_base(tmp_path: Path) -> None:
    where = Where(Path("s/round_3"), study=Path("s"), rounds=3, trials=42)
    gate = Gate("enough points", "FAIL", 1.0, "", "Run more.")
    command = next_command(gate, study(RATE), where)
    assert command.startswith(
        "detectune tune s/base.yaml --knobs SOLVER.BASE_LR=0.0001:1:log --trials 84 --rounds 3"
    )
    assert (
        next_command(Gate("length", "WARN", 1.0, "", "a"), study(RATE), where)
        == "detectune steps s/round_3/trials/0011"
    )


def test_the_next_study_asks_what_this_one_asked() -> None:
    base = load_config(find_config("mnist/1_fully_connected"))
    spec = complete(
        Request(knobs=[read_entry("SOLVER.BASE_LR")], objectives=["classification/loss"], population=8), base,
        default_name="s", default_metric="classification/accuracy",
    )  # fmt: skip
    assert options_of(spec, base) == "--objective classification/loss --population 8"
    usual = replace(spec, objectives=(Objective("classification/accuracy", "maximize"),), population=0)
    assert options_of(usual, base) == ""
    turned = replace(spec, objectives=(Objective("classification/accuracy", "minimize"),), population=0)
    assert options_of(turned, base) == "--objective classification/accuracy=minimize"
    where = Where(Path("s"), options=options_of(spec, base))
    edges = [{"key": "SOLVER.BASE_LR", "end": "upper", "low": 1e-4, "high": 100.0}]
    command = next_command(
        Gate("boundary", "FAIL", 1.0, "", "", ("SOLVER.BASE_LR",), {"edges": edges}), study(RATE), where
    )
    assert command.endswith("--trials 12 --objective classification/loss --population 8 --output s-wider")


def test_instability_at_twice_the_rate_warns_and_higher_up_does_not() -> None:
    assert instability(above(False, False, True)).level == "PASS"
    close = instability(above(True, True, True))
    assert close.level == "WARN" and close.number == 2 and "warm-up" in close.advice
    assert instability(above(False, False, False)).level == "PASS"


@pytest.mark.parametrize("space", [(RATE,), (KIND,)])
def test_a_higher_rate_that_does_better_asks_for_its_range(space: tuple[Dimension, ...]) -> None:
    gate = instability(above(False, False, True, better=1))
    assert gate.level == "WARN" and "5 times" in gate.text
    knobs = knobs_of(next_command(gate, study(*space), FOLDER))
    assert knobs["SOLVER.BASE_LR"] == {"low": 0.05, "high": 1, "scale": "log"}


def test_the_first_question_that_is_open_says_what_comes_next() -> None:
    gates = [
        Gate("boundary", "PASS", 0.0, ""),
        Gate("length", "WARN", 1.0, "a", "b"),
        Gate("question", "WARN", 0.0, "c", "d"),
    ]
    found = describe(gates, study(RATE), FOLDER, first=30)
    assert found["next"]["gate"] == "length" and found["conclusion"] == "c"
    assert found["judged"]["first"] == 30 and found["gates"][0]["best"] == [41, 40, 39, 38]
    assert describe(gates[:1], study(RATE), FOLDER)["next"] is None


def test_a_question_is_settled_only_by_new_seeds() -> None:
    history = study(RATE)
    assert question(history, None).level == "WARN"
    assert question(History("s", history.objectives, history.space, {}, ()), None).level == "FAIL"
    from detectune.tuner.confirm import Candidate

    base, best = Candidate("base", None, {}, (0.1, 0.11)), Candidate("trial 3", 3, {}, (0.9, 0.91))
    assert question(history, conclude([base, best], maximize=True)).level == "PASS"
    assert (
        question(history, conclude([base, Candidate("trial 3", 3, {}, (0.1, 0.12))], maximize=True)).level
        == "WARN"
    )


def test_a_running_study_is_judged_too_and_the_verdict_keeps_what_it_had(tmp_path: Path) -> None:
    from detectune.tuner.history import as_json

    history = study(RATE)
    (tmp_path / "trials.json").write_text(json.dumps(as_json(history)))
    first = write_judgement(tmp_path)
    assert first["ends"] == {"complete": 12} and first["gates"][-1]["name"] == "question"
    (tmp_path / "verdict.json").write_text(json.dumps(make_verdict(history) | {"kept": 1}))
    assert write_judgement(tmp_path)["kept"] == 1
    (tmp_path / "rounds.json").write_text("{}")
    (tmp_path / "verdict.json").write_text(json.dumps({"conclusion": "of the rounds"}))
    assert write_judgement(tmp_path) == {"conclusion": "of the rounds"}
