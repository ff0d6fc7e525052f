"""`detectune report`: the page of a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory, finished or not.")],
) -> None:
    """Write report.html of a run: curves, AP, pictures, settings.

    Works on finished and interrupted runs, and on folders with an evaluation only.
    """
    from detectune.report.page import write_report

    print(f"Report: {write_report(directory.expanduser())}")
