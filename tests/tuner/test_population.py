"""Trials that are trained together, as members of a population: they end as ordinary trials do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launching import descendants, ends, kill_tree, wait_for

from detectune.cli.main import main
from detectune.cli.population_pool import check_population
from detectune.cli.population_program import run_block
from detectune.config.load import load_config
from detectune.engine import solver
from detectune.engine.trainer import train
from detectune.errors import UserError
from detectune.tuner.history import History
from detectune.tuner.outcomes import Halt, Outcome
from detectune.tuner.space import Entry, make_space
from detectune.tuner.spec import Request, as_document, complete, differences, from_document
from detectune.tuner.trial_job import Job

KNOBS = "SOLVER.BASE_LR,SOLVER.MOMENTUM"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found through /proc")
def test_a_population_is_killed_whole_and_in_part_and_accounts_for_every_trial(
    digits: Path, tune: Callable[..., str], history_of: Callable[[Path], History]
) -> None:
    folder = digits.parent / "study"
    words = [
        "digits.yaml", "--knobs", KNOBS, "--population", "4", "--workers", "2", "--trials", "6", "--output", "study",
        "SOLVER.MAX_ITER=8000", "TRAIN.EVAL_ITERS=500",
    ]  # fmt: skip
    command = [sys.executable, "-m", "detectune", "tune", *words]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: checkpoints(folder, range(4)) >= 4)
    kill_tree(first.pid)
    first.wait()
    assert not ends(folder), "the moment was too late"

    second = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: len(descendants(second.pid)) == 2)
    os.kill(descendants(second.pid)[0], signal.SIGKILL)
    said = second.communicate()[0]
    assert second.returncode == 0, said
    assert said.count("was lost: its process was ended by the system with SIGKILL") == 2, said

    history = history_of(folder)
    assert [trial.state for trial in history.trials] == ["complete"] * 6, said
    assert sorted(trial.attempts for trial in history.trials) == [1, 1, 2, 2, 3, 3]
    for trial in history.trials:
        run = folder / trial.run
        flat = load_config(run / "config.yaml").flat()
        assert {key: flat[key] for key in trial.params} == trial.params and flat["RNG_SEED"] == trial.seed
        arrived = json.loads((run / "arrived.json").read_text())
        assert {key: found["how"] for key, found in arrived.items()} == dict.fromkeys(trial.params, "object")
        assert (run / "model_final.safetensors").is_file() and (run / "environment.json").is_file()
        assert trial.steps == 8000
    # The member that was interrupted twice is the network that its configuration gives, trained alone.
    twice = next(trial for trial in history.trials if trial.attempts == 3)
    alone = train(
        load_config(folder / twice.run / "config.yaml"), output_dir=digits.parent / "alone", log=quiet
    )
    assert twice.values == pytest.approx((alone.metrics["classification/accuracy"],), abs=0.004)

    before = ends(folder)
    assert "6 trials have ended" in tune(*words[:8], "7", *words[9:])
    after = ends(folder)
    assert {number: after[number] for number in before} == before and len(after) == 7


def test_rounds_in_populations_end_as_rounds_do(
    digits: Path, history_of: Callable[[Path], History], capsys: pytest.CaptureFixture[str]
) -> None:
    """Both rounds, the best again and the comparison at full length, and what `gradients` says of a member."""
    words = [
        "tune", "digits.yaml", "--knobs", "SOLVER.BASE_LR", "--rounds", "2", "--trials", "9", "--short", "0.5",
        "--confirm", "1", "--seeds", "3", "--population", "5", "--workers", "1", "--output", "study",
        "SOLVER.BASE_LR=0.0005",
    ]  # fmt: skip
    assert called(*words) == 0
    said, folder = capsys.readouterr().out, digits.parent / "study"
    for number, count in ((1, 4), (2, 5)):
        history = history_of(folder / f"round_{number}")
        assert [trial.state for trial in history.trials] == ["complete"] * count
        for trial in history.trials:
            run = folder / f"round_{number}" / trial.run
            short = load_config(run / "config.yaml")
            assert short.SOLVER.MAX_ITER == 30 and trial.params["SOLVER.BASE_LR"] == short.SOLVER.BASE_LR
            assert (run / "model_final.safetensors").is_file() and (run / "arrived.json").is_file()
    lines = [line for line in said.splitlines() if line.startswith("Trial ")]
    assert [int(line.split()[1].strip(":")) for line in lines] == [*range(4), *range(5)]
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["winner"] is not None and "Verdict: Change: trial" in said
    assert len(verdict["trials"]) == 9 and verdict["confirmed"]["short"]["change"]
    assert load_config(folder / "winner.yaml").SOLVER.MAX_ITER == 60
    whole = folder / "final/confirm/base" / str(verdict["confirmed"]["seeds"][0])
    assert load_config(whole / "config.yaml").SOLVER.MAX_ITER == 60
    assert called("gradients", str(folder / "round_1/trials/0002")) == 0
    assert "Norms of 30 updates" in capsys.readouterr().out


def called(*words: str) -> int:
    """The exit code of a command, run in this process."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return int(end.value.code or 0)


def checkpoints(folder: Path, trials: range) -> int:
    """How many of the trials have saved."""
    return sum(any((folder / f"trials/{n:04d}/checkpoints").glob("*.pt")) for n in trials)


def quiet(_: str) -> None:
    return


def block(digits: Path, *sampled: dict[str, Any]) -> dict[int, Any]:
    """How trials with these values end, as one block in this process."""
    return block_in(digits.parent, digits, *sampled)


def block_in(folder: Path, digits: Path, *sampled: dict[str, Any]) -> dict[int, Any]:
    """The same in a folder."""
    base = folder / "base.yaml"
    base.write_text(load_config(digits).to_yaml())
    jobs = [
        Job(n, str(folder / "trials" / f"{n:04d}"), str(base), values, {"RNG_SEED": n},
            ("classification/accuracy",), asks=False)
        for n, values in enumerate(sampled)
    ]  # fmt: skip
    found: dict[int, Any] = {}
    run_block(jobs, ended=lambda job, end: found.update({job.number: end}), log=quiet)
    assert len(found) == len(jobs)
    return found


def test_each_member_has_its_own_end(digits: Path) -> None:
    layers = ["dense 16", "relu", "dropout 1.5", "softmax 10"]
    found = block(
        digits, {"SOLVER.BASE_LR": 0.05}, {"SOLVER.BASE_LR": 1e38}, {"CLASSIFIER.LAYERS": layers},
        {"CLASSIFIER.LABEL_SMOOTHING": 0.1},
    )  # fmt: skip
    assert [found[n].state for n in range(4)] == ["complete", "infeasible", "infeasible", "complete"]
    assert found[1].reason.startswith("Diverged: the loss was not finite in update") and found[1].steps < 60
    assert found[2].reason.startswith("Refused: ") and "dropout" in found[2].reason
    smoothing = json.loads((digits.parent / "trials/0003/arrived.json").read_text())
    assert smoothing["CLASSIFIER.LABEL_SMOOTHING"]["value"] == 0.1
    stamps = ends(digits.parent)
    assert block(digits, {"SOLVER.BASE_LR": 0.05}) == {0: found[0]} and ends(digits.parent) == stamps


def test_runs_that_differ_in_more_than_numbers_are_populations_of_their_own(digits: Path) -> None:
    found = block(
        digits, {"SOLVER.BASE_LR": 0.05}, {"SOLVER.OPTIMIZER": "adam", "SOLVER.BASE_LR": 0.01},
        {"TRAIN.IMS_PER_BATCH": 40}, {"SOLVER.BASE_LR": 0.02},
    )  # fmt: skip
    assert {end.state for end in found.values()} == {"complete"}
    again = digits.parent / "again"
    again.mkdir()
    alone = block_in(again, digits, {"SOLVER.BASE_LR": 0.05})
    assert alone[0].values == found[0].values


def test_a_disconnected_knob_is_caught(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = solver.parameter_groups
    monkeypatch.setattr(
        solver, "parameter_groups", lambda model, **given: real(model, **given | {"weight_decay": 0.5})
    )
    found = block(digits, {"SOLVER.WEIGHT_DECAY": 0.001}, {"SOLVER.WEIGHT_DECAY": 0.002})
    assert {end.state for end in found.values()} == {"failed"}
    assert "SOLVER.WEIGHT_DECAY=0.001 did not arrive" in found[0].reason


def test_too_little_memory_ends_no_trial(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr("detectune.lab.member_records.save", full)
    found = block(digits, {"SOLVER.BASE_LR": 0.05})
    assert isinstance(found[0], Halt) and "smaller --population" in found[0].message
    monkeypatch.undo()
    assert isinstance(block(digits, {"SOLVER.BASE_LR": 0.05})[0], Outcome)


@pytest.mark.parametrize(
    ("entry", "changes", "message"),
    [
        (Entry("TRAIN.IMS_PER_BATCH", {}, ""), {}, "TRAIN.IMS_PER_BATCH cannot be searched with --population"),
        (Entry("SOLVER.OPTIMIZER", {}, ""), {}, "SOLVER.OPTIMIZER cannot be searched with --population"),
        (
            Entry("CLASSIFIER.LAYERS", {"choices": [["dense 9", "softmax 10"], ["dense 8", "softmax 10"]]}, ""),
            {},
            "CLASSIFIER.LAYERS cannot be searched",
        ),
        (Entry("SOLVER.BASE_LR", {}, ""), {"MODEL.TYPE": "generalized_rcnn"}, "train detectors one by one"),
        (Entry("SOLVER.BASE_LR", {}, ""), {"SOLVER.ACCUMULATE": 2}, "SOLVER.ACCUMULATE=2"),
    ],
    ids=["batch", "optimiser", "architecture", "detector", "setting"],
)  # fmt: skip
def test_what_is_no_population_is_said_before_anything_is_trained(
    digits: Path, entry: Entry, changes: dict[str, Any], message: str
) -> None:
    base = load_config(digits, changes)
    with pytest.raises(UserError, match=message):
        check_population(make_space([entry], base), base)


def test_knobs_of_a_population_pass(digits: Path) -> None:
    base = load_config(digits)
    dropout = [["dense 16", f"dropout {rate}", "softmax 10"] for rate in (0.1, 0.4)]
    base = base.with_overrides({"CLASSIFIER.LAYERS": dropout[0]})
    keys = ("SOLVER.BASE_LR", "SOLVER.MOMENTUM", "SOLVER.WEIGHT_DECAY", "CLASSIFIER.LABEL_SMOOTHING")
    entries = [Entry(key, {}, "") for key in keys] + [Entry("CLASSIFIER.LAYERS", {"choices": dropout}, "")]
    check_population(make_space(entries, base), base)


def test_a_study_of_populations_stays_one(digits: Path) -> None:
    base = load_config(digits)
    shared: dict[str, Any] = {"default_name": "s", "default_metric": "classification/accuracy"}
    spec = complete(Request(knobs=[Entry("SOLVER.BASE_LR", {}, "")], population=4), base, **shared)
    assert from_document(as_document(spec)) == spec
    assert differences(spec, replace(spec, population=8)) == []  # the checkpoints are still those of members
    assert differences(spec, replace(spec, population=0)) == ["population was 4, is 0"]
    with pytest.raises(UserError, match="take the pruner none"):
        complete(
            Request(knobs=[Entry("SOLVER.BASE_LR", {}, "")], population=4, pruner="asha"), base, **shared
        )
