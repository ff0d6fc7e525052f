"""`detectune report`: the page of a run or a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    """Write the page of a study or run directory, with the importance of a study's knobs brought up to date."""
    from detectune.report.page import write_report
    from detectune.report.study import is_study
    from detectune.report.study_page import write_study_report

    return write_study_report(directory) if is_study(directory) else write_report(directory)
