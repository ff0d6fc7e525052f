"""`write_ladder_page`: the page of a ladder's folder. Reads ladder.json and the run directories beside it.

One file, no network: styles, script, charts and pictures are inside.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from detectune.data.labelled import load_labelled
from detectune.engine.run_directory import output_errors, write_text
from detectune.report.charts import Chart, Series, line_chart
from detectune.report.digits import first_filters, read_mistakes
from detectune.report.page import TEMPLATES, make_environment
from detectune.report.run import read_run

ACCURACY, LOSS = "classification/accuracy", "classification/loss"


def write_ladder_page(folder: Path) -> Path:
    """Write ladder.html into the folder of a ladder and return its path."""
    target = folder / "ladder.html"
    with output_errors(target):
        write_text(target, render(folder))
    return target


def render(folder: Path) -> str:
    """The page as text."""
    table = json.loads((folder / "ladder.json").read_text())
    environment = make_environment()
    environment.filters["percent"] = show_percent
    best = max(table["rungs"], key=lambda row: row["mean"])
    cache = read_run(folder / best["runs"][0]).config.get("DOWNLOAD_CACHE", "")
    data = load_labelled(table["test"], {}, download_cache=str(cache))
    mistakes, num_mistakes = read_mistakes(folder / best["runs"][0] / "evaluation" / table["test"], data)
    return environment.get_template("ladder.html").render(
        table=table,
        best=best,
        charts=[chart for chart in curves(folder, table) if chart is not None],
        mistakes=mistakes,
        num_mistakes=num_mistakes,
        filters=[
            (row, pictures)
            for row in table["rungs"]
            if (pictures := first_filters(folder / row["runs"][0] / "model_final.safetensors"))
        ],
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup((TEMPLATES / "page.css").read_text() + (TEMPLATES / "ladder.css").read_text()),
        script=Markup((TEMPLATES / "page.js").read_text()),
    )


def show_percent(value: float | None, digits: int = 2) -> str:
    """0.97712 -> 97.71; a dash for what is not known."""
    return "\u2013" if value is None else f"{100 * value:.{digits}f}"


def curves(folder: Path, table: dict[str, Any]) -> list[Chart | None]:
    """Error on the validation images and training loss over epochs, seed 1 of each rung."""
    errors: list[Series] = []
    losses: list[Series] = []
    for slot, row in enumerate(table["rungs"][:8], start=1):
        run = read_run(folder / row["runs"][0])
        name = f"rung {row['number']}"
        tests = [line for line in run.evaluation_rows if line.get("dataset") == table["validation"]]
        errors.append(
            Series(name, [(n, 100 * (1 - r[ACCURACY])) for n, r in enumerate(tests, start=1)], slot)
        )
        losses.append(Series(name, [(r["epoch"], r["loss"]) for r in run.train_rows], slot))
    return [
        line_chart("Error on the validation images, percent", errors, x_name="epoch"),
        line_chart("Training loss", losses, x_name="epoch"),
    ]
