"""A page of the lab: sections with tables and charts in one file, no network. Its callers read an experiment's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup

from detectune.engine.run_directory import output_errors, write_text
from detectune.report.charts import Chart
from detectune.report.page import TEMPLATES, make_environment


@dataclass(frozen=True)
class Section:
    """A heading, a few sentences, charts, and a table whose first column names its rows."""

    title: str
    lead: str
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    charts: Sequence[Chart | None] = field(default_factory=tuple)
    note: str = ""


def write_lab_page(target: Path, *, title: str, lead: str, sections: Sequence[Section]) -> Path:
    """Write the page and return its path."""
    template = make_environment().get_template("lab.html")
    page = template.render(
        title=title,
        lead=lead,
        sections=sections,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup((TEMPLATES / "page.css").read_text() + ".scroll th[scope=row] { white-space: nowrap; }"),
        script=Markup((TEMPLATES / "page.js").read_text()),
    )
    with output_errors(target):
        write_text(target, page)
    return target
