"""The page of `detectune lab surfaces`: paths of optimisers over a surface, played, stopped, pointed at.

Reads `surfaces.json` of a folder and writes `surfaces.html` beside it: one file, no network. Without scripts the tables
remain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from detectune.engine.run_directory import output_errors, write_text
from detectune.errors import UserError
from detectune.report.page import TEMPLATES, make_environment

SHOWN_FIRST = ("gradient descent", "momentum", "nesterov", "adagrad", "rmsprop", "adam")
NEVER = "\u2013"  # en dash


def read_surfaces(directory: Path) -> dict[str, Any]:
    """The numbers that `detectune lab surfaces` left in a folder."""
    file = directory / "surfaces.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); `detectune lab surfaces` writes it.") from error
    return found


def write_surfaces_page(directory: Path) -> Path:
    """Write `surfaces.html` and return its path."""
    measured = read_surfaces(directory)
    environment = make_environment()
    environment.filters |= {"count": show_count, "rate": lambda rate: f"{rate:.2g}"}
    names = [run["optimiser"] for run in measured["surfaces"][0]["runs"]]
    page = environment.get_template("surfaces.html").render(
        measured=measured,
        descents=[surface for surface in measured["surfaces"] if surface["minimum"]],
        saddles=[surface for surface in measured["surfaces"] if not surface["minimum"]],
        optimisers=[(slot, name, name in SHOWN_FIRST) for slot, name in enumerate(names, start=1)],
        data=Markup(json.dumps(drawn(measured), separators=(",", ":")).replace("<", "\\u003c")),
        style=Markup((TEMPLATES / "page.css").read_text() + (TEMPLATES / "surfaces.css").read_text()),
        script=Markup((TEMPLATES / "surfaces.js").read_text()),
    )
    target = directory / "surfaces.html"
    with output_errors(target):
        write_text(target, page)
    return target


def drawn(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the page's script needs of each surface."""
    return [
        {
            "name": surface["name"],
            "formula": surface["formula"],
            "domain": surface["domain"],
            "minimum": surface["minimum"],
            "heights": surface["heights"],
            "runs": [
                {
                    "name": run["optimiser"],
                    "path": run["path"],
                    "stride": run["stride"],
                    "steps": run["steps"],
                }
                for run in surface["runs"]
            ],
        }
        for surface in measured["surfaces"]
    ]


def show_count(steps: int | None) -> str:
    """1,458, or a dash for never."""
    return NEVER if steps is None else f"{steps:,}"
