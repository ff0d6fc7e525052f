"""`detectune train`: train, test, draw and report a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from detectune.config.load import Config
    from detectune.engine.trainer import TrainResult

OPTIONS = ("--output", "--debug", "--help")


def train(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG",
            help="A YAML file, or the name of a packaged one such as getting_started/shapes.",
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings that replace those of the file; KEY VALUE works too.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Run directory. Default: OUTPUT_DIR if the configuration sets it, else runs/<CONFIG>."
        ),
    ] = None,
) -> None:
    """Train CONFIG, test it, draw, and write report.html.

    The same command again goes on where an interrupted run stopped.
    """
    from detectune.cli.loading import load_for_command
    from detectune.cli.places import choose_run_directory

    settings = load_for_command(config, overrides, options=OPTIONS)
    directory = choose_run_directory(settings, output=output, name=config)
    train_and_report(settings, directory, config_name=config)


def train_and_report(settings: Config, directory: Path, *, config_name: str) -> TrainResult:
    """Train into `directory`, write the report, and say where everything is and what to try next.

    With NUM_GPUS above 1 this process starts those that train, of which the first does all that, and waits.
    """
    from detectune.cli.processes import config_name_of, launches, run_in_processes, speaks
    from detectune.cli.results import ap_table, describe_files, next_steps
    from detectune.engine.trainer import result_of
    from detectune.engine.trainer import train as train_run
    from detectune.report.page import write_report

    if launches(settings):
        run_in_processes(settings, ["train"], ["--output", str(directory)], name=config_name)
        return result_of(directory)
    config_name = config_name_of(config_name)
    if speaks():
        print(f"Run directory: {directory}", flush=True)
    result = train_run(settings, output_dir=directory, log=_log)
    if not speaks():
        return result
    write_report(result.run_dir)
    if result.stopped:
        print(f"Stopped early: {result.stopped}.")
    for table in ap_table(result.run_dir):
        print("\n" + table)
    print("\n" + describe_files(result.run_dir))
    print("\n" + next_steps(result.run_dir, config_name=config_name), flush=True)
    return result


def _log(message: str) -> None:
    print(message, flush=True)
