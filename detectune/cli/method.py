"""What `detectune tune` does around a search: rounds, the best run again with new seeds, the verdict in words."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectune.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from detectune.config.load import Config
    from detectune.tuner.history import History
    from detectune.tuner.rounds import Plan
    from detectune.tuner.spec import Spec
    from detectune.tuner.workers import Pool

SIGNS = {"PASS": "ok  ", "WARN": "WARN", "FAIL": "FAIL"}


def make_plan(
    *, rounds: int | None, short: float | None, finalists: int | None, seeds: int | None, instability: bool
) -> Plan | None:
    """What the options ask for; None for a search alone.

    Raises:
        UserError: for values out of range, or options that need another one.
    """
    from detectune.tuner.rounds import Plan
    from detectune.tuner.thresholds import RATE_FACTORS

    if rounds is None and finalists is None:
        options = {"--short": short, "--seeds": seeds, "--instability": instability or None}
        other = next((name for name, value in options.items() if value is not None), None)
        if other is not None:
            raise UserError(f"{other} needs --rounds or --confirm.")
        return None
    default = Plan()
    plan = Plan(
        rounds=0 if rounds is None else rounds,
        short=default.short if short is None else short,
        finalists=default.finalists if finalists is None else finalists,
        seeds=default.seeds if seeds is None else seeds,
        factors=RATE_FACTORS if instability else (),
    )
    for name, value, allowed, least in (
        ("--rounds", rounds, plan.rounds >= 1, "at least 1"),
        ("--short", short, 0 < plan.short <= 1, "above 0 and at most 1"),
        ("--confirm", finalists, plan.finalists >= 1, "at least 1"),
        ("--seeds", seeds, plan.seeds >= 2, "at least 2: one run says nothing about its noise"),
    ):
        if value is not None and not allowed:
            raise UserError(f"{name} must be {least}, not {value}.")
    if short is not None and rounds is None:
        raise UserError("--short needs --rounds.")
    return plan


def stored_plan(folder: Path) -> Plan | None:
    """The plan of the rounds in a folder, if it holds rounds."""
    import json

    from detectune.tuner.rounds import PLAN, Plan

    try:
        content = json.loads((folder / PLAN).read_text())["rounds"]
    except FileNotFoundError:
        return None
    return Plan(**{**content, "factors": tuple(content["factors"])})


def follow_plan(
    spec: Spec,
    base: Config,
    folder: Path,
    *,
    plan: Plan,
    workers: int,
    pool: Pool,
    log: Callable[[str], None],
    changed: Callable[[History], None],
    minutes: float | None = None,
) -> None:
    """Rounds, or a search and its confirmation, in one pool; then the pages and the verdict.

    `minutes` are what this call gives the whole study: a confirmation that is asked for after a search with a limit is
    not bound by that one.
    """
    from detectune.cli.report import read_verdict, write_page
    from detectune.cli.study_table import print_study
    from detectune.tuner.rounds import run_rounds
    from detectune.tuner.session import run_study

    if plan.rounds:
        verdict = run_rounds(
            spec, base, folder, plan=plan, workers=workers, log=log, pool=pool, changed=changed
        )
        for part in verdict["rounds"]:
            write_page(folder / part["folder"])  # to which the page of them all links
        print(f"Report: {write_page(folder)}", flush=True)
        print_verdict(verdict, folder)
        return
    history = run_study(
        spec, base, folder, workers=workers, log=log, make_pool=lambda: nullcontext(pool), changed=changed
    )
    print_study(history, folder)
    confirm_study(folder, spec, history, base, plan, workers=workers, pool=pool, log=log, minutes=minutes)
    print(f"Report: {write_page(folder)}", flush=True)
    print_verdict(read_verdict(folder), folder)


def confirm_study(
    folder: Path,
    spec: Spec,
    history: History,
    base: Config,
    plan: Plan,
    *,
    workers: int,
    pool: Pool,
    log: Callable[[str], None],
    minutes: float | None = None,
) -> None:
    """Run the best of a finished study and its base again, with new seeds; none begins after `minutes` of the study."""
    from detectune.tuner.confirm import FOLDER, choose, confirm, new_seeds, with_earlier
    from detectune.tuner.judgement import read_confirmed
    from detectune.tuner.session import seconds_spent
    from detectune.tuner.time_limit import TimeLimit, seconds_in, usual_seconds

    candidates = choose(history, plan.finalists)
    if len(candidates) == 1:
        log("There is no complete trial to run again.")
        return
    log(f"Confirmation: the best {len(candidates) - 1} and the base, {plan.seeds} new seeds each")
    seeds = new_seeds(spec.seed, plan.seeds)
    candidates = with_earlier(candidates, folder, read_confirmed(folder), seeds=seeds)
    objective = spec.objectives[0]
    limit = None
    if minutes is not None:
        # The search has had its time: where it was cut short, going on must not search again.
        cut = f"--trials {len(history.trials)} " if len(history.trials) < spec.trials else ""
        limit = TimeLimit(
            folder, minutes, seconds_spent(folder) + seconds_in(folder / FOLDER), usual_seconds(history),
            f"{cut}--confirm {plan.finalists} --seeds {plan.seeds}" + " --instability" * bool(plan.factors),
        )  # fmt: skip
    confirm(
        folder, candidates, metric=objective.metric, maximize=objective.direction == "maximize",
        seeds=plan.seeds, study_seed=spec.seed, pool=pool, workers=workers, log=log, factors=plan.factors,
        base_rate=base.SOLVER.BASE_LR, limit=limit,
    )  # fmt: skip


def print_verdict(verdict: dict[str, Any], folder: Path) -> None:
    """The gates in their order, the conclusion, and what to type next."""
    print()
    for gate in verdict.get("gates", ()):
        print(f"  {SIGNS[gate['level']]}  {gate['name']}: {gate['text']}")
        if gate["level"] != "PASS":
            print(f"        {gate['advice']}")
            if gate.get("data", {}).get("again"):
                print(f"        {gate['command']}")
    print(f"Verdict: {verdict.get('conclusion', '')}")
    winner = verdict.get("winner")
    if winner:
        print(f"The configuration: {folder / winner['file']}")
    following = verdict.get("next")
    if following:
        print(f"Next ({following['gate']}): {following['command']}")
