"""`detectune report`: the page of a run or a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def report(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run or study directory, finished or not.")
    ],
) -> None:
    """Write report.html of a run (curves, AP, pictures, settings) or of a study (knobs, trials, best configuration).

    Works on finished and interrupted ones, and on folders with an evaluation only.
    """
    directory = directory.expanduser()
    print(f"Report: {write_page(directory)}")


def write_page(directory: Path) -> Path:
    """Write the page of a study or run directory and return its path; a study's importances are computed anew."""
    from detectune.report.page import write_report
    from detectune.report.posthoc_page import is_inference_study, write_inference_report
    from detectune.report.study import is_study
    from detectune.report.study_page import write_study_report
    from detectune.tuner.judgement import write_judgement

    if not is_study(directory):
        return write_report(directory)
    if is_inference_study(directory):
        return write_inference_report(directory)
    write_importance(directory)
    write_judgement(directory)
    return write_study_report(directory)


def write_importance(study_dir: Path) -> None:
    """Write `importance.json` from `trials.json`, where there is one: the page reads it and computes nothing."""
    import optuna

    from detectune.engine.run_directory import output_errors, write_text
    from detectune.report.study import read_study
    from detectune.tuner.history import from_json
    from detectune.tuner.importance import importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would name every resampling
    read_study(study_dir)  # what is wrong with the file is said here, by name
    target = study_dir / "importance.json"
    history = from_json(json.loads((study_dir / "trials.json").read_text()))
    with output_errors(target):
        write_text(target, json.dumps(importances(history), indent=1) + "\n")


def read_verdict(study_dir: Path) -> dict[str, Any]:
    """What a study's verdict.json holds."""
    from detectune.tuner.study import VERDICT

    content: dict[str, Any] = json.loads((study_dir / VERDICT).read_text())
    return content
