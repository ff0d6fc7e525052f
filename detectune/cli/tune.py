"""`detectune tune`: search over knobs, in trials that are ordinary runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detectune.errors import UserError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from detectune.config.load import Config
    from detectune.tuner.history import History
    from detectune.tuner.spec import Request, Spec
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
            metavar="METRIC", help="What is compared, as bbox/AP; several with commas: a Pareto front."
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
        int | None, typer.Option(help="New seeds of --confirm and --rounds. [default: 3]")
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
    from detectune.cli.report import read_verdict, write_page
    from detectune.cli.study_table import print_study
    from detectune.report.study import is_study
    from detectune.tuner.spec import Request

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
        _tune_inference(study, overrides, knobs, asked, weights, operating_point, output)
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
        spec, base, request = (_go_on if is_study(Path(study)) else _prepare)(study, overrides, knobs, asked)
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
    if is_study(folder):  # a machine that joined may hold nothing of the study itself
        print(f"Report: {write_page(folder)}", flush=True)
        print_verdict(read_verdict(folder), folder)


def _prepare(
    study: str, words: list[str] | None, knobs: str | None, asked: Request
) -> tuple[Spec, Config, Request]:
    """(study, base configuration, request) from a study file or a configuration, with the options on top."""
    from detectune.cli.overrides import check_words
    from detectune.config.best_metric import best_metric
    from detectune.tuner.spec import base_config, complete

    request, config_file, default_name = _read_request(study, knobs, asked)
    if not request.knobs and not request.place:
        raise UserError(f"{study} is a configuration: name what to search, as --knobs SOLVER.BASE_LR.")
    base = base_config(request, config_file, check_words(words, options=OPTIONS))
    _tell_notices(base)
    if request.workers is not None and request.workers < 1:
        raise UserError(f"workers must be at least 1, not {request.workers}.")
    spec = complete(request, base, default_name=default_name, default_metric=best_metric(base))
    if spec.population:
        from detectune.cli.population_pool import check_population

        check_population(spec.space, base)
    return spec, base, request


def _read_request(study: str, knobs: str | None, asked: Request) -> tuple[Request, Path, str]:
    """(request, file of the configuration, name) from a study file or a configuration, with the options on top."""
    from dataclasses import fields

    from detectune.cli.places import find_config
    from detectune.tuner.space import read_entry
    from detectune.tuner.spec import Request, is_study_file, read_study_file

    file = find_config(study)
    request, config_file = Request(), file
    if is_study_file(file):
        request = read_study_file(file)
        if request.config is None:
            raise UserError(f"{file}: config is missing: the configuration around which is searched.")
        beside = file.parent / request.config
        config_file = beside if beside.is_file() else find_config(request.config)
    for option in fields(Request):
        value = getattr(asked, option.name)
        if value is not None and option.name not in ("overrides", "knobs", "place", "config"):
            setattr(request, option.name, value)
    if knobs:
        request.knobs = [read_entry(word.strip()) for word in knobs.split(",") if word.strip()]
    return request, config_file, file.stem


def _tune_inference(
    study: str,
    words: list[str] | None,
    knobs: str | None,
    asked: Request,
    weights: str | None,
    goal: str | None,
    output: Path | None,
) -> None:
    from detectune.cli.overrides import check_words
    from detectune.cli.tune_inference import tune_inference
    from detectune.tuner.spec import base_config

    request, config_file, name = _read_request(study, knobs, asked)
    base = base_config(request, config_file, check_words(words, options=OPTIONS))
    _tell_notices(base)
    tune_inference(request, base, name=name, weights=weights, goal=goal, output=output)


def _tell_notices(base: Config) -> None:
    for notice in dict.fromkeys(base.notices):
        print(f"Notice: {notice}", file=sys.stderr)


def _go_on(
    study: str, words: list[str] | None, knobs: str | None, asked: Request
) -> tuple[Spec, Config, Request]:
    """(study, base configuration, request) of a study's folder: what it asks, but for how far it goes."""
    from dataclasses import replace

    from detectune.config.load import load_config
    from detectune.report.posthoc_page import is_inference_study
    from detectune.tuner.spec import MAY_CHANGE, read_spec
    from detectune.tuner.study import BASE, SPEC

    folder = Path(study)
    if is_inference_study(folder):
        raise UserError(
            f"{study} is a study of inference knobs; give its command again, with the configuration, --stage inference "
            "and --output, and it goes on from its raw outputs."
        )
    if words or knobs:
        raise UserError(
            f"{study} is a study's folder: what it asks stays; leave out {(words or ['--knobs'])[0]}."
        )
    given = {name: getattr(asked, name) for name in MAY_CHANGE if getattr(asked, name) is not None}
    spec = replace(read_spec(folder / SPEC), **given)
    return spec, load_config(folder / BASE), asked


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
