"""Is the best trial really better? The best few and the base run again with seeds that the search has not seen.

The value with which a trial won is left out: it was chosen for being high. A tie that as many seeds again promise to
settle gets them, once. Each comparison carries an interval, made wider for as many candidates and looks as there are,
so that the luckiest of several equals wins no more often than one alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from detectune.engine.run_directory import RunDirectory, write_text
from detectune.tuner import thresholds as at
from detectune.tuner.curves import rises
from detectune.tuner.gates import ranked
from detectune.tuner.history import History
from detectune.tuner.ledger import trial_seed
from detectune.tuner.noise import difference, more_seeds, pooled_sd, seeds_needed, t_value
from detectune.tuner.outcomes import Outcome
from detectune.tuner.repeats import Repeat, run_repeats, value_of
from detectune.tuner.study import BASE
from detectune.tuner.time_limit import TimeLimit, counted
from detectune.tuner.trial_program import read_outcome
from detectune.tuner.workers import Pool

FORMAT = 1
FILE = "confirm.json"
FOLDER = "confirm"
FIRST_SEED = 1_000_000  # seeds of a study's trials count from 0
RATE = "SOLVER.BASE_LR"


@dataclass(frozen=True)
class Candidate:
    """A configuration over seeds: `params` on top of the base; values in the order of the seeds, None for a run that
    did not come to its end. The base itself has no `trial`.
    """

    name: str
    trial: int | None
    params: Mapping[str, Any]
    values: tuple[float | None, ...] = ()


def choose(history: History, count: int) -> list[Candidate]:
    """The base, then the best `count` trials that differ from it and from one another."""
    chosen = [Candidate("base", None, {})]
    seen = [dict(history.base)]
    for trial in ranked(history):
        settings = {**history.base, **trial.params}
        if settings not in seen and len(chosen) <= count:
            seen.append(settings)
            chosen.append(Candidate(f"trial {trial.number}", trial.number, dict(trial.params)))
    return chosen


def with_earlier(
    candidates: Sequence[Candidate],
    folder: Path,
    confirmed: Mapping[str, Any] | None,
    *,
    seeds: Sequence[int],
) -> list[Candidate]:
    """The candidates, and those of an earlier confirmation that cost nothing more or must not be forgotten.

    A trial that is no longer among the best stays if it ran with all `seeds`, or if it won by more than noise.
    """
    found = list(candidates)
    for row in (confirmed or {}).get("candidates", ()):
        known = any(dict(row["params"]) == dict(c.params) for c in found)
        won = bool(confirmed and confirmed["change"] and confirmed["winner"] == row["name"])
        if not known and (won or all(read_outcome(_place(folder, row["name"], seed)) for seed in seeds)):
            found.append(Candidate(row["name"], row["trial"], row["params"]))
    return found


def newer_best(history: History, confirmed: Mapping[str, Any]) -> Candidate | None:
    """The best trial, if it is none of those that were confirmed: it came later. None if all is as it was."""
    best = choose(history, 1)[1:]
    known = [dict(row["params"]) for row in confirmed["candidates"]]
    return next((one for one in best if dict(one.params) not in known), None)


def new_seeds(study_seed: int, count: int) -> list[int]:
    """The first `count` seeds of a confirmation, the same in every call."""
    return [trial_seed(study_seed, FIRST_SEED + i) for i in range(count)]


def confirm(
    folder: Path,
    candidates: Sequence[Candidate],
    *,
    metric: str,
    maximize: bool,
    seeds: int,
    study_seed: int,
    pool: Pool,
    workers: int,
    log: Callable[[str], None],
    factors: Sequence[float] = (),
    base_rate: float | None = None,
    limit: TimeLimit | None = None,
) -> dict[str, Any]:
    """Run what is missing below `folder`/confirm, judge, and write `confirm.json`; what it holds.

    Args:
        folder: with the base configuration; what was run before counts.
        factors: of the winner's learning rate, which is `base_rate` unless the winner has its own: a run at each.
        limit: when no further run begins. What is missing then is said under `unfinished`, and nothing is concluded.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    with counted(folder / FOLDER):
        content = _confirmed(
            folder, candidates, metric=metric, maximize=maximize, seeds=seeds, study_seed=study_seed, pool=pool,
            workers=workers, log=log, factors=factors, base_rate=base_rate, limit=limit,
        )  # fmt: skip
    write_text(folder / FILE, json.dumps(content, indent=1) + "\n")
    return content


def _place(folder: Path, name: str, seed: int) -> Path:
    return folder / FOLDER / name.replace(" ", "_") / str(seed)


def _confirmed(
    folder: Path,
    candidates: Sequence[Candidate],
    *,
    metric: str,
    maximize: bool,
    seeds: int,
    study_seed: int,
    pool: Pool,
    workers: int,
    log: Callable[[str], None],
    factors: Sequence[float],
    base_rate: float | None,
    limit: TimeLimit | None,
) -> dict[str, Any]:
    numbers = new_seeds(study_seed, at.LOOKS * seeds)
    over = limit.over if limit is not None else (lambda: False)

    def repeat(name: str, params: Mapping[str, Any], seed: int) -> Repeat:
        return Repeat(name, _place(folder, name, seed), folder / BASE, params, seed)

    def measure(who: Sequence[Candidate], with_seeds: Sequence[int]) -> tuple[list[Candidate], int]:
        """The candidates with one value more for each seed, and how many runs are missing."""
        repeats = [repeat(c.name, c.params, seed) for seed in with_seeds for c in who]
        ends = run_repeats(repeats, metric=metric, pool=pool, workers=workers, log=log, over=over)
        longer = [
            replace(c, values=(*c.values, *map(value_of, ends[i :: len(who)]))) for i, c in enumerate(who)
        ]
        return longer, sum(end is None for end in ends)

    measured, missing = measure([replace(c, values=()) for c in candidates], numbers[:seeds])
    content = conclude(measured, maximize=maximize)
    again = [] if missing else worth_a_second_look(content, measured)
    more = numbers[seeds:] if again else []
    if again:
        log(f"A tie that {len(more)} more seeds may settle: the base and {content['winner']} run again")
        again, missing = measure(again, more)
        longer = {c.name: c for c in again}
        measured = [longer.get(c.name, c) for c in measured]
        content = conclude(measured, maximize=maximize)
    content |= {"metric": metric, "maximize": maximize, "seeds": numbers[:seeds], "more_seeds": more}
    if limit is not None and missing:
        total = sum(len(c.values) for c in measured)
        said = (
            f"Not confirmed yet: the study's {limit.minutes:g} minutes are over, and {missing} of the "
            f"{total} runs with new seeds are missing."
        )
        return content | unfinished(limit, said, missing=missing, total=total, workers=workers)
    winner = next((c for c in measured if c.name == content["winner"]), measured[0])
    rate = winner.params.get(RATE, base_rate)
    if factors and rate is not None:
        above = [
            repeat(f"{winner.name} x{factor:g}", {**winner.params, RATE: rate * factor}, numbers[0])
            for factor in factors
        ]
        ends = run_repeats(above, metric=metric, pool=pool, workers=workers, log=log, over=over)
        if limit is not None and None in ends:
            missing = sum(end is None for end in ends)
            said = f"{missing} of {len(above)} runs at higher rates are missing"
            command = limit.command(missing, workers=workers)
            log(f"The study's {limit.minutes:g} minutes are over; {said}. They go on with: {command}")
        sign = 1.0 if maximize else -1.0
        bar = fmean(_known(winner)) * sign + (content["reach"] or 0.0) if _known(winner) else math.inf
        content["above"] = [
            _above(run, end, factor, rate, better=lambda value: sign * value > bar)
            for run, end, factor in zip(above, ends, factors, strict=True)
            if end is not None
        ]
    return content


def unfinished(limit: TimeLimit, said: str, *, missing: int, total: int, workers: int) -> dict[str, Any]:
    """What is known before every run has ended: nothing, which is `said`, but for how to go on."""
    return {
        "winner": None, "change": False, "gain": None, "ties": [],
        "unfinished": {
            "missing": missing, "total": total, "command": limit.command(missing, workers=workers),
        },
        "conclusion": said,
    }  # fmt: skip


def worth_a_second_look(content: Mapping[str, Any], candidates: Sequence[Candidate]) -> list[Candidate]:
    """The base and the winner, if what `conclude` found of the candidates is a tie that as many seeds again may well
    settle; else none.
    """
    gain, needed, seeds = content["gain"], content["needed"], len(candidates[0].values)
    if not gain or gain["word"] != "tie" or gain["mean"] <= 0 or not needed or needed > at.LOOKS * seeds:
        return []
    return [candidates[0], next(c for c in candidates if c.name == content["winner"])]


def conclude(candidates: Sequence[Candidate], *, maximize: bool) -> dict[str, Any]:
    """Who wins, who ties with the winner, and whether it beats the base, the first of `candidates`, beyond noise."""
    base, others = candidates[0], [c for c in candidates[1:] if None not in c.values]
    content: dict[str, Any] = {
        "format": FORMAT,
        "candidates": [_described(c) for c in candidates],
        "winner": None, "change": False, "gain": None, "needed": None, "ties": [],
    }  # fmt: skip
    if not others:
        return (
            content
            | _noise_of(candidates)
            | {"conclusion": "Keep what you have: no candidate came to its end with every seed."}
        )
    sign = 1.0 if maximize else -1.0
    winner = max(others, key=lambda c: sign * fmean(_known(c)))
    content["winner"] = winner.name
    tied = [
        c
        for c in candidates
        if c is not winner
        and None not in c.values
        and difference(_known(c), _known(winner), maximize=maximize).word == "tie"
    ]
    # Of the best: a configuration far from them may vary much more, or less.
    content |= {"ties": [c.name for c in tied]} | _noise_of([winner, *tied])
    mean = f"{_text(winner)} over {len(winner.values)} seeds"
    if None in base.values:
        return content | {
            "change": True,
            "conclusion": f"Change: {winner.name} reaches {mean}; the base does not come to its end with every seed.",
        }
    # Bonferroni: one of several equals is the luckiest, and one of two looks the happier.
    confidence = 1 - (1 - at.CONFIDENCE) / max(1, len(candidates) - 1) / at.LOOKS
    gain = difference(_known(base), _known(winner), maximize=maximize, confidence=confidence)
    content |= {"gain": asdict(gain) | {"word": gain.word}, "change": gain.word == "better"}
    interval = f"{gain.mean:+.3g} ({confidence:.1%} interval {gain.low:+.3g} to {gain.high:+.3g})"
    if gain.word == "better":
        also = ", ".join(c.name for c in tied if c is not base)
        said = f"Change: {winner.name} reaches {mean}, the base {_text(base)}: {interval}, more than noise."
        said += f" It ties with {also}." if also else ""
    elif gain.word == "worse":
        said = f"Keep what you have: the base reaches {_text(base)}, the best candidate {_text(winner)}: {interval}."
    else:
        needed = content["needed"] = seeds_needed(_known(base), _known(winner), confidence=confidence)
        said = f"Keep what you have: {winner.name} reaches {mean}, the base {_text(base)}. A tie: {interval} holds 0"
        said += f"; {more_seeds(needed, len(winner.values))}." if gain.mean > 0 else "."
    return content | {"conclusion": said}


def _noise_of(candidates: Sequence[Candidate]) -> dict[str, float | None]:
    """The standard deviation of one run, and the reach: two single runs of one configuration differ by less than it,
    19 times of 20.
    """
    noise = pooled_sd([_known(c) for c in candidates])
    freedom = sum(max(0, len(_known(c)) - 1) for c in candidates)
    reach = None if noise is None else t_value(at.CONFIDENCE, freedom) * noise * math.sqrt(2)
    return {"noise": noise, "reach": reach}


def _known(candidate: Candidate) -> list[float]:
    return [value for value in candidate.values if value is not None]


def _text(candidate: Candidate) -> str:
    values = _known(candidate)
    return f"{fmean(values):.4g} \u00b1 {stdev(values):.2g}" if len(values) > 1 else f"{values[0]:.4g}"


def _described(candidate: Candidate) -> dict[str, Any]:
    values = _known(candidate)
    return {
        "name": candidate.name, "trial": candidate.trial, "params": dict(candidate.params),
        "values": list(candidate.values),
        "mean": fmean(values) if values else None,
        "sd": stdev(values) if len(values) > 1 else None,
    }  # fmt: skip


def _above(
    run: Repeat, end: Outcome, factor: float, rate: float, *, better: Callable[[float], bool]
) -> dict[str, Any]:
    """How training went at a multiple of the winner's rate; `better` says whether a value beats the winner's."""
    value = value_of(end)
    rows = [row for row in RunDirectory(run.folder).read_metrics() if row.get("kind") == "train"]
    loss = [(float(row["iteration"]), float(row["loss"])) for row in rows if row.get("loss") is not None]
    return {
        "factor": factor, "rate": rate * factor, "state": end.state, "reason": end.reason, "value": value,
        "better": value is not None and better(value),
        "unstable": end.state != "complete" or len(rises(loss)) >= at.RISES,
    }  # fmt: skip
