"""Rounds: explore, change the space by what was found, look closer, confirm, and say what to do.

    round_1 ... round_R   studies of their own, in short trials; the last exploits, the others cover the space evenly
    round_R/confirm       the best of the last round and the base, with new seeds
    final/confirm         the winner and the base at full length, if the trials were shorter
    rounds.json           each round's space, gates and what it changed
    trials.json verdict.json winner.yaml      of all rounds together

Every decision is a function of what the rounds before left in their folders, so the same call goes on wherever it was
interrupted. The order of questions is the Deep Learning Tuning Playbook's.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from detectune.config.load import dump_diff
from detectune.config.tree import Config
from detectune.engine.run_directory import write_text
from detectune.errors import UserError
from detectune.tuner import thresholds as at
from detectune.tuner.commands import Where, options_of
from detectune.tuner.confirm import FOLDER as CONFIRMED
from detectune.tuner.confirm import Candidate, choose, confirm, unfinished
from detectune.tuner.curves import read_curves
from detectune.tuner.gates import judge, question
from detectune.tuner.history import ENDS, Dimension, History, Space, Trial, as_json
from detectune.tuner.judgement import ROUNDS, about, as_row, describe, what_next
from detectune.tuner.lengths import shortened
from detectune.tuner.narrowing import next_space
from detectune.tuner.session import held, run_study, seconds_spent
from detectune.tuner.spec import Spec, as_document, to_yaml
from detectune.tuner.study import BASE, SPEC, TRIALS, VERDICT
from detectune.tuner.time_limit import TimeLimit, seconds_in, usual_seconds
from detectune.tuner.verdict import make_verdict
from detectune.tuner.workers import Pool

FORMAT = 1
WINNER = "winner.yaml"
FINAL = "final"
PLAN = "plan.json"
MAY_CHANGE = ("minutes", "trial_minutes")


@dataclass(frozen=True)
class Plan:
    """How the rounds go.

    Attributes:
        short: length of a trial, as part of a full run; the last round's are twice as long where runs were too short.
        finalists: trials of the last round that run again with new seeds, beside the base.
        seeds: of each of them, and of the final comparison at full length.
        factors: of the winner's learning rate, at which training is looked at, too.
    """

    rounds: int = 3
    short: float = 0.25
    finalists: int = 3
    seeds: int = 3
    factors: tuple[float, ...] = ()

    def trials_of(self, total: int) -> list[int]:
        """Of `total` trials, those of each round: the first explores the whole space and gets most.

        Raises:
            UserError: if a round would have too few.
        """
        first = total if self.rounds == 1 else max(1, round(at.FIRST_ROUND * total))
        rest = total - first
        later = [rest // (self.rounds - 1) + (i < rest % (self.rounds - 1)) for i in range(self.rounds - 1)]
        if min([first, *later]) < at.ROUND_LEAST:
            raise UserError(
                f"{total} trials are too few for {self.rounds} rounds, which need {at.ROUND_LEAST} each; raise "
                "--trials or lower --rounds."
            )
        return [first, *later]


def run_rounds(
    spec: Spec,
    base: Config,
    folder: Path,
    *,
    plan: Plan,
    workers: int,
    log: Callable[[str], None],
    pool: Pool,
    changed: Callable[[History], None] = lambda _: None,
) -> dict[str, Any]:
    """All rounds of a study in `folder`; what verdict.json holds.

    Raises:
        UserError: if the folder holds other rounds, or for what stops every trial.
        StudyInterruptedError: after Ctrl-C.
    """
    counts = plan.trials_of(spec.trials)
    with held(folder):
        _keep_question(folder, spec, plan)
        write_text(folder / BASE, base.to_yaml())
        space, short = spec.space, plan.short
        done: list[Done] = []
        records: list[dict[str, Any]] = []
        for number, count in enumerate(counts, start=1):
            last = number == plan.rounds
            place = folder / f"round_{number}"
            log(f"Round {number} of {plan.rounds}: {count} trials of {short:.0%} of a run in {place}")
            history = run_study(
                replace(
                    spec, name=f"{spec.name}, round {number}", space=space, trials=count, seed=spec.seed + number - 1,
                    sampler=spec.sampler if last else "sobol", minutes=_left(spec, folder, number),
                ),
                shortened(base, short, searched=space.keys), place, workers=workers, log=log,
                make_pool=lambda: contextlib.nullcontext(pool), changed=changed,
            )  # fmt: skip
            whole = len(history.ended(*ENDS)) == count  # else the minutes were over
            earlier = sum(len(part.history.trials) for part in done)
            gates = judge(history, read_curves(place, history))[:-1]  # the question comes last, once
            where = _where(place, folder, spec, base, rounds=plan.rounds)
            done.append(Done(place.name, history, short))
            space, changes = next_space(history)
            if last or not whole:
                changes = []
            records.append(
                {
                    "round": number, "folder": place.name, "trials": count, "length": short,
                    "space": as_document(replace(spec, space=history.space))["space"],
                    "gates": [as_row(gate, history, where, first=earlier) for gate in gates],
                    "changes": [asdict(change) | {"text": str(change)} for change in changes],
                }
            )  # fmt: skip
            for gate in gates:
                log(f"  {gate.level} {gate.name}: {gate.text} {gate.advice}".rstrip())
            if not whole:
                # What follows is a function of whole rounds, so that more minutes can finish this one.
                cut = _cut_short(spec, folder, done, counts, workers=workers)
                log(f"  {cut['conclusion']} It goes on with: {cut['unfinished']['command']}")
                return _finish(folder, spec, base, done, records, cut, rounds=plan.rounds)
            for change in changes:
                log(f"  {change}")
            too_short = any(gate.name == "length" and gate.level == "WARN" for gate in gates)
            if number == plan.rounds - 1 and too_short:
                short = min(1.0, 2 * short)
            _write(folder, spec, base, done, records)
        confirmed = _confirm(spec, base, folder, done, plan, workers=workers, log=log, pool=pool)
        return _finish(folder, spec, base, done, records, confirmed, rounds=plan.rounds)


@dataclass(frozen=True)
class Done:
    """A round that is over, and the part of a full run that its trials had."""

    folder: str
    history: History
    length: float


def _confirm(
    spec: Spec,
    base: Config,
    folder: Path,
    done: list[Done],
    plan: Plan,
    *,
    workers: int,
    log: Callable[[str], None],
    pool: Pool,
) -> dict[str, Any] | None:
    """Run the best again, and at full length the winner; None if there is no trial to run again."""
    objective, last = spec.objectives[0], done[-1]
    # Trials of another length are no match for the last round's.
    alike = tuple(f"{part.folder}/" for part in done if part.length == last.length)
    history = merged(spec, base, done)
    trials = tuple(trial for trial in history.trials if trial.run.startswith(alike))
    candidates = choose(replace(history, trials=trials), plan.finalists)
    if len(candidates) == 1:
        return None
    log(f"Confirmation: the best {len(candidates) - 1} and the base, {plan.seeds} new seeds each")
    found = confirm(
        folder / last.folder, candidates, metric=objective.metric, maximize=objective.direction == "maximize",
        seeds=plan.seeds, study_seed=spec.seed, pool=pool, workers=workers, log=log, factors=plan.factors,
        base_rate=base.SOLVER.BASE_LR, limit=_limit(spec, folder, done, length=last.length),
    )  # fmt: skip
    log(f"  {found['conclusion']}")
    if last.length >= 1 or not found["change"]:
        return found
    winner = next(c for c in found["candidates"] if c["name"] == found["winner"])
    final = folder / FINAL
    final.mkdir(exist_ok=True)
    write_text(final / BASE, base.to_yaml())
    log(f"At full length: {winner['name']} and the base, {plan.seeds} seeds each")
    whole = confirm(
        final, [candidates[0], Candidate(winner["name"], winner["trial"], winner["params"])],
        metric=objective.metric, maximize=objective.direction == "maximize", seeds=plan.seeds,
        study_seed=spec.seed + plan.rounds, pool=pool, workers=workers, log=log,
        limit=_limit(spec, folder, done, length=1.0),
    )  # fmt: skip
    log(f"  {whole['conclusion']}")
    return whole | ({"above": found["above"]} if "above" in found else {}) | {"short": found}


def _where(place: Path, folder: Path, spec: Spec, base: Config, *, rounds: int) -> Where:
    """The round in `place`, for commands that name the whole study in `folder`."""
    return Where(place, study=folder, rounds=rounds, trials=spec.trials, options=options_of(spec, base))


def _cut_short(
    spec: Spec, folder: Path, done: list[Done], counts: list[int], *, workers: int
) -> dict[str, Any]:
    """In the place of a confirmation: nothing is concluded before the last round, and how to get there."""
    limit = _limit(spec, folder, done, length=done[-1].length)
    assert limit is not None
    missing = sum(counts) - sum(len(part.history.ended(*ENDS)) for part in done)
    said = (
        f"Not finished: the study's {limit.minutes:g} minutes are over in round {len(done)} of {len(counts)}, and "
        f"{missing} of its {sum(counts)} trials are missing."
    )
    objective = spec.objectives[0]
    nothing = {
        "metric": objective.metric, "maximize": objective.direction == "maximize", "seeds": [], "candidates": [],
        "noise": None,
    }  # fmt: skip
    return nothing | unfinished(limit, said, missing=missing, total=sum(counts), workers=workers)


def _limit(spec: Spec, folder: Path, done: list[Done], *, length: float) -> TimeLimit | None:
    """What the rounds and earlier confirmations have left, for runs of a `length`, as part of a full one."""
    if spec.minutes is None:
        return None
    last = done[-1]
    spent = sum(seconds_spent(folder / part.folder) for part in done)
    spent += sum(seconds_in(folder / place / CONFIRMED) for place in (last.folder, FINAL))
    return TimeLimit(folder, spec.minutes, spent, usual_seconds(last.history) * length / last.length)


def merged(spec: Spec, base: Config, done: list[Done]) -> History:
    """All rounds as one history: trials numbered on, ranges that hold those of every round."""
    trials: list[Trial] = []
    for part in done:
        trials += [
            replace(trial, number=len(trials) + i, run=f"{part.folder}/{trial.run}" if trial.run else "")
            for i, trial in enumerate(part.history.trials)
        ]
    dimensions = [
        _around([part.history.space[dimension.key] for part in done]) for dimension in done[-1].history.space
    ]
    settings = base.flat()
    keys = {dimension.key: settings[dimension.key] for dimension in dimensions}
    return History(spec.name, spec.objectives, Space(tuple(dimensions)), keys, tuple(trials))


def _around(dimensions: list[Dimension]) -> Dimension:
    lows = [d.low for d in dimensions if d.low is not None]
    highs = [d.high for d in dimensions if d.high is not None]
    return replace(dimensions[0], low=min(lows), high=max(highs)) if lows else dimensions[0]


def _finish(
    folder: Path,
    spec: Spec,
    base: Config,
    done: list[Done],
    records: list[dict[str, Any]],
    confirmed: dict[str, Any] | None,
    *,
    rounds: int,
) -> dict[str, Any]:
    """The verdict of all rounds; winner.yaml if there is something to change."""
    history = merged(spec, base, done)
    last = done[-1]
    gates = judge(last.history, read_curves(folder / last.folder, last.history), confirmed)[:-1]
    first = len(history.trials) - len(last.history.trials)
    where = _where(folder / last.folder, folder, spec, base, rounds=rounds)
    rows = describe([*gates, question(history, confirmed)], last.history, where, first=first)
    if last.length < 1:  # that short trials are short is no news: the comparison was made at full length
        rows["next"] = what_next([row for row in rows["gates"] if row["name"] != "length"])
    verdict = _write(folder, spec, base, done, records) | rows
    verdict |= {"rounds": records, "confirmed": confirmed}
    target = folder / WINNER
    if confirmed is not None and confirmed["change"]:
        winner = next(c for c in confirmed["candidates"] if c["name"] == confirmed["winner"])
        write_text(target, winner_yaml(base, winner["params"], confirmed))
        verdict["winner"] = {
            "file": WINNER,
            "params": winner["params"],
            "mean": winner["mean"],
            "sd": winner["sd"],
        }
    else:
        target.unlink(missing_ok=True)
        verdict["winner"] = None
    write_text(folder / VERDICT, json.dumps(verdict, indent=2) + "\n")
    return verdict


def winner_yaml(base: Config, params: Mapping[str, Any], confirmed: Mapping[str, Any]) -> str:
    """A configuration file: what differs from the base, and what that gained, in its first lines."""
    before = base.flat()
    changed = [
        f"#   {key}: {before[key]} -> {value}" for key, value in params.items() if before[key] != value
    ]
    measured = [row for row in confirmed["candidates"] if row["mean"] is not None]
    lines = [
        f"# {confirmed['conclusion']}",
        f"# {confirmed['metric']}, mean \u00b1 standard deviation:",
        *(
            f"#   {row['name']}: {row['mean']:.5g} \u00b1 {row['sd'] or 0.0:.2g} over {len(row['values'])} seeds"
            for row in measured
        ),
        "# What differs from the base:",
        *changed,
    ]
    return "\n".join(lines) + "\n\n" + dump_diff(base.with_overrides(dict(params)))


def _write(
    folder: Path, spec: Spec, base: Config, done: list[Done], records: list[dict[str, Any]]
) -> dict[str, Any]:
    """The files of all rounds so far; the verdict without its conclusion."""
    history = merged(spec, base, done)
    seconds = sum(seconds_spent(folder / part.folder) for part in done)
    write_text(
        folder / TRIALS, json.dumps(as_json(history) | {"seconds": round(seconds, 1)}, indent=1) + "\n"
    )
    write_text(folder / ROUNDS, json.dumps({"format": FORMAT, "rounds": records}, indent=1) + "\n")
    verdict = make_verdict(history)
    gates = records[-1]["gates"]
    last = done[-1].history
    judged = about(last, first=len(history.trials) - len(last.trials))
    verdict |= {"judged": judged, "gates": gates, "next": what_next(gates), "rounds": records}
    write_text(folder / VERDICT, json.dumps(verdict, indent=2) + "\n")
    return verdict


def _keep_question(folder: Path, spec: Spec, plan: Plan) -> None:
    """Write what is asked, or refuse if the folder holds rounds that ask something else."""
    asked = as_document(spec) | {"rounds": json.loads(json.dumps(asdict(plan)))}
    file = folder / PLAN
    if file.is_file():
        before = json.loads(file.read_text())
        other = next((key for key in asked if key not in MAY_CHANGE and before.get(key) != asked[key]), None)
        if other is not None:
            raise UserError(
                f"{folder} holds rounds that ask something else: {other} was {before.get(other)!r}, is "
                f"{asked[other]!r}. Give another --output; only minutes, trial_minutes and workers may change."
            )
    elif (folder / TRIALS).is_file():
        raise UserError(f"{folder} holds a study without rounds; give another --output.")
    write_text(file, json.dumps(asked, indent=1) + "\n")
    write_text(folder / SPEC, to_yaml(asked))


def _left(spec: Spec, folder: Path, number: int) -> float | None:
    """Minutes that the rounds before have left for this one."""
    if spec.minutes is None:
        return None
    spent = sum(seconds_spent(folder / f"round_{i}") for i in range(1, number))
    return max(spec.minutes - spent / 60, 0.0)
