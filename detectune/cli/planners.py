"""`detectune lr-find`, `batch-find`, `scale`, `steps`, `gradients`: one question each, before and between runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detectune.errors import UserError

if TYPE_CHECKING:
    from detectune.config.load import Config

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a packaged configuration.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings that replace those of the file.", show_default=False),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or a study's trial.")]


def lr_find(
    config: ConfigArgument,
    overrides: Overrides = None,
    low: Annotated[float, typer.Option(help="Lowest rate.")] = 1e-5,
    high: Annotated[float, typer.Option(help="Highest rate.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Updates at each rate.")] = 50,
) -> None:
    """Find the highest learning rate that still learns, and one to start from.

    Every rate trains a few updates from the same weights on the same batches, so none is blamed for another.
    """
    import tempfile

    from detectune.cli.loading import load_for_command
    from detectune.tuner.planners.rate_probe import make_probe
    from detectune.tuner.planners.rates import Probed, find_rate

    settings = load_for_command(
        config, overrides, options=("--low", "--high", "--steps", "--debug", "--help")
    )
    if not 0 < low < high:
        raise UserError(f"--low must be above 0 and below --high, but they are {low:g} and {high:g}.")
    if steps < 1:
        raise UserError(f"--steps must be at least 1, not {steps}.")

    def tell(probed: Probed) -> None:
        after = "not finite" if probed.after is None else f"{probed.after:.4g}"
        print(f"  rate {probed.rate:<9.3g} loss {probed.before:.4g} -> {after}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        probe = make_probe(settings, steps=steps, folder=Path(folder), log=lambda _: None)
        advice = find_rate(probe, low=low, high=high, told=tell)
    print(advice.text)
    if advice.start is not None:
        span = f"{advice.start / 10:.2g}:{min(advice.start * 10, advice.critical or 1e9):.2g}"
        print(f"Next: detectune tune {config} --knobs SOLVER.BASE_LR={span}")


def batch_find(
    config: ConfigArgument,
    overrides: Overrides = None,
    memory: Annotated[
        float | None, typer.Option(help="GiB that may be used. Default: what is free.", show_default=False)
    ] = None,
    most: Annotated[int, typer.Option(help="Largest batch to try.")] = 1024,
    steps: Annotated[int, typer.Option(help="Updates that are timed at each batch.")] = 5,
) -> None:
    """Measure throughput and memory against the batch, and say which batch to take.

    Each batch is tried in a process of its own; several GPUs: per GPU.
    """
    import tempfile

    from detectune.cli.loading import load_for_command
    from detectune.tuner.planners.batch_probe import free_memory, measure_batch
    from detectune.tuner.planners.batches import Measured, find_batch

    options = ("--memory", "--most", "--steps", "--debug", "--help")
    settings = load_for_command(config, overrides, options=options)
    if memory is not None and not memory > 0:
        raise UserError(f"--memory must be above 0 GiB, not {memory:g}.")
    if most < 1 or steps < 1:
        raise UserError(f"--most and --steps must be at least 1, not {most} and {steps}.")
    limit = int(memory * 2**30) if memory is not None else free_memory(settings.MODEL.DEVICE)

    def tell(found: Measured) -> None:
        used = "" if found.memory is None else f", {found.memory / 2**30:.2f} GiB"
        speed = found.images_per_second
        said = "does not fit" if speed is None else f"{speed:.3g} images/s"
        print(f"  batch {found.batch:<5} {said}{used}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(settings.to_yaml())
        advice = find_batch(
            lambda batch: measure_batch(file, batch, steps=steps), most=most, limit=limit, told=tell
        )
    print(advice.text)
    now = settings.TRAIN.IMS_PER_BATCH
    if advice.take is not None and advice.take != now:
        print(f"The rate for it, from {now}: detectune scale {config} --batch {advice.take}; then tune it.")


def scale(
    config: ConfigArgument,
    batch: Annotated[int, typer.Option(help="Images of an update, over all GPUs and accumulated batches.")],
    overrides: Overrides = None,
    reference: Annotated[
        int | None,
        typer.Option(
            "--from", help="The batch that CONFIG was made for. Default: its own.", show_default=False
        ),
    ] = None,
) -> None:
    """Show what the linear scaling rule makes of CONFIG for another batch, with its arithmetic."""
    from detectune.cli.loading import load_for_command
    from detectune.engine.solver import POLICY_USES, schedule_of
    from detectune.tuner.planners.scaling import scale as scale_schedule

    settings = load_for_command(config, overrides, options=("--batch", "--from", "--debug", "--help"))
    own = settings.TRAIN.IMS_PER_BATCH * settings.NUM_GPUS * settings.SOLVER.ACCUMULATE
    reference = own if reference is None else reference
    if batch < 1 or reference < 1:
        raise UserError(f"A batch has at least 1 image, not {min(batch, reference)}.")
    if batch == reference:
        print(f"{config} is for {reference} images an update: nothing changes.")
        return
    solver = settings.SOLVER
    unread = {key for key, readers in POLICY_USES.items() if solver.LR_POLICY not in readers}
    unread |= {"SOLVER.MAX_ITER"} if solver.MAX_EPOCHS else set()
    advice = scale_schedule(
        schedule_of(settings), optimizer=solver.OPTIMIZER, reference=reference, batch=batch, unread=unread
    )
    print(f"From {reference} to {batch} images an update:")
    for line in advice.lines:
        print(f"  {line}")
    words = " ".join(f"{key}={_word(value)}" for key, value in advice.values.items())
    print(
        f"detectune train {config} TRAIN.IMS_PER_BATCH={batch // (settings.NUM_GPUS * solver.ACCUMULATE)} {words}"
    )
    print(
        "A rule of thumb: it holds while the batch is small beside the data, and with a warm-up. Tune the rate anew."
    )


def steps(
    run: RunArgument,
    metric: Annotated[
        str | None,
        typer.Option(
            help="What the curve shows. Default: by what the run chooses its best weights.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say from a run's curve whether it was too long or too short, and how many iterations to take."""
    from detectune.config.best_metric import best_metric
    from detectune.tuner.curves import metric_curve
    from detectune.tuner.planners.steps import advise_steps
    from detectune.tuner.spec import usual_direction

    settings, rows = _read_run(run)
    wanted = metric or best_metric(settings)
    curve = metric_curve(rows, wanted)
    if not curve:
        raise UserError(f"{run} has no evaluation with {wanted}; name another metric with --metric.")
    advice = advise_steps(curve, maximize=usual_direction(wanted) == "maximize")
    print(f"{wanted} over {len(curve)} evaluations: {advice.word}. {advice.text}")
    if advice.word != "right":
        print(
            f"Next: detectune train {run / 'config.yaml'} SOLVER.MAX_ITER={advice.steps} SOLVER.MAX_EPOCHS=0 "
            "--output NEW"
        )


def gradients(run: RunArgument) -> None:
    """Say from a run's gradient norms where to clip, whether the rate is too high, and how long to warm up."""
    from detectune.tuner.planners.gradients import advise_gradients, norms_of

    settings, rows = _read_run(run)
    run = run.expanduser()
    norms = norms_of(rows)
    if not norms:
        raise UserError(
            f"{run} has no gradient norms of single updates: it was trained by an earlier version, or ended before its "
            "first row of metrics."
        )
    solver = settings.SOLVER
    advice = advise_gradients(
        norms, clip=solver.CLIP_GRADIENT_NORM, warm_up=solver.WARM_UP_ITERS, rate=solver.BASE_LR
    )
    print(advice.text)
    if advice.settings:
        words = " ".join(f"{key}={_word(value)}" for key, value in advice.settings.items())
        print(
            f"Next: detectune train {run / 'config.yaml'} {words} --output NEW, then detectune compare {run} NEW"
        )


def _read_run(run: Path) -> tuple[Config, list[dict[str, Any]]]:
    from detectune.config.load import load_config
    from detectune.engine.run_directory import RunDirectory

    run = run.expanduser()
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is no run directory: there is no config.yaml in it.")
    return load_config(run / "config.yaml"), RunDirectory(run).read_metrics()


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_word, value)) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
