"""`detectune test`: AP of weights on the test data of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detectune.errors import UserError

if TYPE_CHECKING:
    from detectune.config.load import Config
    from detectune.evaluation.expected import Expectation

OPTIONS = ("--weights", "--output", "--debug", "--help")


def test(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A YAML file or the name of a packaged one.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings that replace those of the file; KEY VALUE works too.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Weights of any program, or the name of public ones. Default: TEST.WEIGHTS, else "
            "model_final.safetensors of the run.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where evaluation/ is written. Default: the run directory of CONFIG."),
    ] = None,
) -> None:
    """Measure box and mask AP on TEST.DATASETS and print the table; fails where EXPECTED_RESULTS are not reached."""
    from detectune.cli.loading import load_for_command
    from detectune.cli.places import choose_run_directory
    from detectune.cli.processes import launches, run_in_processes, speaks, with_processes_for_test
    from detectune.cli.results import ap_table
    from detectune.engine.testing import test as test_run
    from detectune.evaluation.expected import read_expectations
    from detectune.report.page import write_report

    settings = load_for_command(config, overrides, options=OPTIONS)
    if not settings.TEST.DATASETS:
        raise UserError(
            "TEST.DATASETS is empty, so there is nothing to test on; name a data set, for example "
            "TEST.DATASETS='[shapes_val]'."
        )
    expectations = read_expectations(settings.EXPECTED_RESULTS)
    directory = choose_run_directory(settings, output=output, name=config)
    chosen = choose_weights(
        settings, weights, run_directory=choose_run_directory(settings, output=None, name=config)
    )
    settings = with_processes_for_test(settings)
    if launches(settings):
        run_in_processes(
            settings, ["test"], ["--weights", str(chosen), "--output", str(directory)], name=config
        )
        return
    if speaks():
        print(f"Weights: {chosen}", flush=True)
    test_run(settings, chosen, output_dir=directory)
    if not speaks():
        return
    report = write_report(directory)
    for table in ap_table(directory, names=tuple(settings.TEST.DATASETS)):
        print("\n" + table)
    print(f"\nDetections and metrics: {directory / 'evaluation'}\nReport: {report}")
    if expectations and not meets_expectations(settings, expectations, directory):
        raise typer.Exit(1)


def meets_expectations(settings: Config, expectations: list[Expectation], directory: Path) -> bool:
    """Whether the evaluations in a run directory reach EXPECTED_RESULTS; prints the table that says where not."""
    from detectune.evaluation.expected import judge, verdict_table
    from detectune.report.run import read_run

    verdicts = judge(
        expectations,
        {
            e.dataset: e.metrics
            for e in read_run(directory).evaluations
            if e.dataset in settings.TEST.DATASETS
        },
        rtol=settings.EXPECTED_RESULTS_RTOL,
        atol=settings.EXPECTED_RESULTS_ATOL,
        sigma_tol=settings.EXPECTED_RESULTS_SIGMA_TOL,
    )
    print("\n" + verdict_table(verdicts))
    return all(verdict.passed for verdict in verdicts)


def choose_weights(settings: Config, weights: str | None, *, run_directory: Path) -> Path:
    """--weights; else TEST.WEIGHTS; else the final weights of the run that the configuration names."""
    from detectune.weights.downloads import local_weights

    given = weights or settings.TEST.WEIGHTS
    named = local_weights(given, download_cache=settings.DOWNLOAD_CACHE) if given else None
    chosen = named or run_directory / "model_final.safetensors"
    if chosen.is_file():
        return chosen
    if named is not None:
        raise UserError(f"There is no weights file {chosen}.")
    raise UserError(
        f"There are no weights: neither --weights nor TEST.WEIGHTS is given, and {chosen} does not exist. "
        "Train first, or give --weights FILE."
    )
