"""The command line: `detectune train`, `detectune knobs`, ... and `python -m detectune`, which is the same.

This file knows the commands, the exit codes and nothing else. Command modules import torch and the configuration
inside their functions, so that `--help` answers at once.

Exit codes: 0 done; 2 a mistake that the user can mend (one message, no traceback); 1 a failure of ours or of the
machine; 130 after Ctrl-C (128 + the signal's number).
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from detectune.cli import (
    compare,
    config,
    demo,
    doctor,
    errors,
    export,
    infer,
    knobs,
    planners,
    report,
    test,
    train,
    tune,
    watch,
)
from detectune.cli.allocator import restart_with_tuned_allocator
from detectune.cli.data import app as data_app
from detectune.cli.lab import app as lab_app
from detectune.cli.processes import failure_of_processes, is_told, speaks
from detectune.cli.weights import app as weights_app
from detectune.errors import UserError

EPILOG = (
    "Start with `detectune demo`. `--version` prints the version. A mistake of yours ends with exit code 2 and one "
    "message, a failure with 1; `--debug`, before or after the command, shows the traceback."
)


class Commands(TyperGroup):
    """Ctrl-C becomes an exit code here, before typer would call it an abort."""

    def invoke(self, ctx):  # type: ignore[no-untyped-def]  # the type of ctx is click's or typer's own, by version
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            if speaks():
                _say(str(interruption) or "Stopped.")
            raise SystemExit(getattr(interruption, "exit_code", 130)) from interruption


app = typer.Typer(
    cls=Commands,
    help="Train, measure and tune vision models.",
    epilog=EPILOG,
    rich_markup_mode=None,  # plain help: it needs a third of the time and wraps well in a narrow window
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# A value may be negative (`SOLVER.BASE_LR -1`), so what looks like an unknown option is left to the command,
# which tells numbers from misspelt options (`overrides.py`).
TAKES_OVERRIDES = {"ignore_unknown_options": True}
# The short help stands in the list of commands, where a narrow terminal leaves it 45 columns.
app.command("demo", short_help="Try it: train on generated shapes", context_settings=TAKES_OVERRIDES)(
    demo.demo
)
app.command("train", short_help="Train, test and report", context_settings=TAKES_OVERRIDES)(train.train)
app.command("tune", short_help="Search for better settings", context_settings=TAKES_OVERRIDES)(tune.tune)
app.command("compare", short_help="Say whether a run is better, or luckier")(compare.compare)
app.command("test", short_help="Measure AP of weights", context_settings=TAKES_OVERRIDES)(test.test)
app.command("errors", short_help="Say where AP is lost, and the knobs")(errors.errors)
app.command("infer", short_help="Find objects in images and draw them")(infer.infer)
app.command("export", short_help="Write ONNX or torch.export", context_settings=TAKES_OVERRIDES)(
    export.export
)
app.command("report", short_help="Write the page of a run or study")(report.report)
app.command("watch", short_help="Show a run or study live")(watch.watch)
app.command("lr-find", short_help="Find a learning rate", context_settings=TAKES_OVERRIDES)(planners.lr_find)
app.command("batch-find", short_help="Find a batch that is fast and fits", context_settings=TAKES_OVERRIDES)(
    planners.batch_find
)
app.command("scale", short_help="Scale the rate to another batch", context_settings=TAKES_OVERRIDES)(
    planners.scale
)
app.command("steps", short_help="Say how many iterations a run needs")(planners.steps)
app.command("gradients", short_help="Advise clipping and warm-up")(planners.gradients)
app.command("knobs", short_help="Say what the settings mean")(knobs.knobs)
app.command("config", short_help="Show a configuration, resolved", context_settings=TAKES_OVERRIDES)(
    config.config
)
app.command("schema", short_help="Write the schema for editors")(config.schema)
app.add_typer(
    data_app, name="data", help="Check data sets and look at them.", short_help="Check and show data sets"
)
app.add_typer(
    lab_app,
    name="lab",
    help="Experiments for those who learn to tune.",
    short_help="Experiments to learn tuning",
)
app.add_typer(
    weights_app,
    name="weights",
    help="Say what weights files are, and convert them.",
    short_help="Show and convert weights files",
)
app.command("doctor", short_help="Show machine, speed, what is missing")(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word != "--debug"]
    debug = len(words) < len(given)
    if words == ["--version"]:
        import detectune

        print(f"detectune {detectune.__version__}")
        sys.exit(0)
    if arguments is None:
        restart_with_tuned_allocator(words)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # a replaced stream may not be reconfigurable
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a name outside the terminal's charset
    command, rest, name = _innermost_for_help(words)
    try:
        command(rest, prog_name=name)  # leaves with its exit code
    except UserError as error:
        code, message = 2, str(error)
        trace, told = traceback.format_exc(), is_told(error)
    except Exception as error:
        code, message = 1, f"Failure: {type(error).__name__}: {str(error).strip() or 'no message'}"
        trace, told = traceback.format_exc(), is_told(error)
        if not debug:
            message += "\nRun again with --debug for the traceback."
        code, message = failure_of_processes(error) or (code, message)
    if debug or (message and not told):
        _say(trace + message if debug else message)
    sys.exit(code)


def _innermost_for_help(words: list[str]) -> tuple[Callable[..., object], list[str], str]:
    """(what to call, its words, its name): the whole application, or for help the very command asked about.

    On the way down typer would check the parents' options first, for which it loads pydantic: twice the time.
    """
    command: Any = typer.main.get_command(app)
    name = "detectune"
    if not {"-h", "--help"} & set(words):
        return command, words, name
    for word in words:
        inner = getattr(command, "commands", {}).get(word)
        if inner is None:
            break
        command, name = inner, f"{name} {word}"
    return command, words if name == "detectune" else ["--help"], name


def _say(message: str) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr)
