"""`detectune tune`: search over knobs, in trials that are ordinary runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detectune.errors import UserError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from detectune.tuner.history import History
    from detectune.tuner.spec import Spec
    from detectune.tuner.workers import Pool

OPTIONS = (
    "--knobs", "--trials", "--minutes", "--trial-minutes", "--workers", "--output", "--sampler", "--pruner",
    "--objective", "--seed", "--name", "--join", "--ray", "--rounds", "--short", "--population", "--confirm",
    "--seeds", "--instability", "--stage", "--weights", "--operating-point", "--debug", "--help",
)  # fmt: skip


def tune(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY.yaml | CONFIG | DIR",
            help="A study file, a configuration around which --knobs are searched, or a study's folder to go on with.",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Settings of every trial; KEY VALUE works too.", show_default=False
        ),
    ] = None,
    knobs: Annotated[
        str | None,
        typer.Option(
            metavar="KEY,KEY",
            help="What is searched, in its suggested range, or KEY=LOW:HIGH or KEY=LOW:HIGH:log.",
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Trials in all. [default: 24]")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Time for the whole study, new seeds of the best included.")
    ] = None,
    trial_minutes: Annotated[float | None, typer.Option(help="Time for one trial.")] = None,
    workers: Annotated[int | None, typer.Option(help="Trials at a time. [default: 1]")] = None,
    output: Annotated[Path | None, typer.Option(help="Study directory. Default: studies/<name>.")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="auto, sobol, gp, tpe, cmaes, grid or random. [default: auto]")
    ] = None,
    pruner: Annotated[
        str | None, typer.Option(help="none, asha, hyperband or median. [default: none]")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            help="What is compared, as bbox/AP, or METRIC=minimize; several with commas: a Pareto front.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides what is proposed. [default: 1]")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    join: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A PostgreSQL database through which machines share a study."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Ray cluster for the workers: its address, auto, or local."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            metavar="R", help="Explore, change the space, exploit, confirm: the trials in R rounds."
        ),
    ] = None,
    short: Annotated[
        float | None, typer.Option(help="Length of the rounds' trials, as part of a run. [default: 0.25]")
    ] = None,
    confirm: Annotated[
        int | None, typer.Option(metavar="K", help="Run the best K and the base again with new seeds.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="New seeds of --confirm and --rounds; twice as many for a promising tie. [default: 3]"
        ),
    ] = None,
    instability: Annotated[
        bool, typer.Option("--instability", help="Look at 2, 5 and 10 times the best learning rate, too.")
    ] = False,
    population: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Train N trials at a time as one program: small classifiers whose knobs are numbers. --workers is how "
            "many processes share them. [default: a process for each core]",
        ),
    ] = None,
    stage: Annotated[
        str,
        typer.Option(
            metavar="STAGE",
            help="training, or inference: the network of --weights runs once, then thousands of settings of its "
            "thresholds and suppression are tried in seconds.",
        ),
    ] = "training",
    weights: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="With --stage inference: as for `detectune test`."),
    ] = None,
    operating_point: Annotated[
        str | None,
        typer.Option(
            metavar="GOAL",
            help="With --stage inference: score thresholds of each class for f1, precision@recall=0.9, "
            "recall@precision=0.9 or cost=WRONG,MISSED.",
        ),
    ] = None,
) -> None:
    """Search over knobs: proposes settings, trains each in its own run directory, compares, says which is best.

    The same command again goes on where an interrupted study stopped; --trials is the total.
    """
    from detectune.cli.method import follow_plan, make_plan, print_verdict, stored_plan
    from detectune.cli.overrides import check_words
    from detectune.cli.report import read_verdict, write_page
    from detectune.cli.study_table import print_study
    from detectune.cli.tune_request import go_on, prepare, prepare_inference
    from detectune.report.study import is_study
    from detectune.tuner.spec import Request

    words = check_words(overrides, options=OPTIONS)
    if stage not in ("training", "inference"):
        raise UserError(f"--stage {stage} is unknown; it is training or inference.")
    if stage == "training" and (weights or operating_point):
        raise UserError(
            "--weights and --operating-point need --stage inference; training begins at TRAIN.WEIGHTS."
        )
    asked = Request(
        name=name, sampler=sampler, pruner=pruner, trials=trials, minutes=minutes,
        trial_minutes=trial_minutes, workers=workers, seed=seed, population=population,
        objectives=objective.split(",") if objective else None,
    )  # fmt: skip
    if stage == "inference":
        plans = (rounds, short, confirm, seeds, population, instability or None)
        if study is None or join or ray or trial_minutes or any(option is not None for option in plans):
            raise UserError(
                "--stage inference needs a CONFIG and trains nothing: leave out --join, --ray, --trial-minutes, "
                "--rounds, --short, --confirm, --seeds, --population and --instability."
            )
        from detectune.cli.tune_inference import tune_inference

        question, around, default_name = prepare_inference(study, words, knobs, asked)
        tune_inference(
            question, around, name=default_name, weights=weights, goal=operating_point, output=output
        )
        return
    plan = make_plan(rounds=rounds, short=short, finalists=confirm, seeds=seeds, instability=instability)
    if plan is not None and (join is not None or ray is not None):
        raise UserError("--rounds and --confirm run on this machine; leave out --join and --ray.")
    if study is None:
        if join is None:
            raise UserError(
                "Give a study file, or a configuration with --knobs; `detectune tune --help` says how."
            )
        spec, base, request = None, None, asked
    else:
        spec, base, request = (go_on if is_study(Path(study)) else prepare)(study, words, knobs, asked)
        if is_study(Path(study)):
            output, plan = output or Path(study), plan or stored_plan(Path(study))
    if ray is not None and request.population:
        raise UserError("A population is trained on this machine; leave out --ray or --population.")
    folder = (output or Path("studies") / (spec.name if spec else name or "joined")).expanduser()
    from detectune.tuner.session import run_study

    size = request.population or (spec.population if spec else 0)
    workers = size or request.workers or 1
    device = base.MODEL.DEVICE if base else "auto"

    def make_pool() -> AbstractContextManager[Pool]:
        if size:
            from detectune.cli.population_pool import make_population_pool

            return make_population_pool(size, processes=request.workers, device=device)
        if ray is None:
            from detectune.tuner.workers import LocalPool

            return LocalPool(request.workers or 1)
        from detectune.tuner.ray_pool import RayPool

        return RayPool(ray, request.workers or 1)

    print(f"Study directory: {folder}", flush=True)
    if plan is not None and spec is not None and base is not None:  # there is no --join
        if plan.rounds:
            plan.trials_of(spec.trials)  # too few are refused before a worker starts
        with make_pool() as pool:
            follow_plan(
                spec, base, folder, plan=plan, workers=workers, pool=pool, log=_log, changed=_Progress(),
                minutes=request.minutes,
            )  # fmt: skip
        return
    history = run_study(
        spec, base, folder, workers=workers, url=join, log=_log, make_pool=make_pool, changed=_Progress()
    )
    print_study(history, folder)
    _tell_what_follows(history, spec, folder, workers=workers)
    if is_study(folder):  # a machine that joined may hold nothing of the study itself
        print(f"Report: {write_page(folder)}", flush=True)
        print_verdict(read_verdict(folder), folder)


def _tell_what_follows(history: History, spec: Spec | None, folder: Path, *, workers: int) -> None:
    """More minutes for a study that they cut; new seeds for the best of one that is whole."""
    from detectune.tuner.history import ENDS
    from detectune.tuner.session import seconds_spent
    from detectune.tuner.time_limit import TimeLimit, usual_seconds

    if spec and spec.minutes is not None and (missing := spec.trials - len(history.ended(*ENDS))):
        limit = TimeLimit(folder, spec.minutes, seconds_spent(folder), usual_seconds(history))
        print(
            f"Not finished: the study's {spec.minutes:g} minutes are over, and {missing} of its {spec.trials} trials "
            f"are missing. It goes on with: {limit.command(missing, workers=workers)}",
            flush=True,
        )
    elif history.best() is not None:
        print(f"Better, or luckier? Run the best again with new seeds: detectune tune {folder} --confirm 3")


class _Progress:
    """A line for each trial that has ended since the last call; of rounds, whose trials each count from 0, by round."""

    def __init__(self) -> None:
        self.told: dict[str, set[int]] = {}

    def __call__(self, history: History) -> None:
        from detectune.cli.study_table import describe_end
        from detectune.tuner.history import ENDS

        ended = {trial.number: trial for trial in history.ended(*ENDS)}
        if history.name not in self.told:
            self.told[history.name] = set(ended)
            if ended:
                print(f"Going on: {len(ended)} trials have ended.", flush=True)
        told = self.told[history.name]
        for number in sorted(set(ended) - told):
            print(describe_end(ended[number], history), flush=True)
        told |= set(ended)


def _log(message: str) -> None:
    print(message, flush=True)
