"""A page of sections with tables and charts in one file, no network. Its callers read an experiment's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup

from detectune.engine.run_directory import output_errors, write_text
from detectune.report.charts import Chart
from detectune.report.page import TEMPLATES, make_environment

STYLE = (
    ".scroll th[scope=row] { white-space: nowrap; }"
    "pre { font: .87em/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-x: auto; margin: 0;"
    " background: var(--page); border: 1px solid var(--line); border-radius: 6px; padding: 10px 12px; }"
)


@dataclass(frozen=True)
class Section:
    """A heading, a few sentences, charts, and a table whose first column names its rows."""

    title: str
    lead: str
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    charts: Sequence[Chart | None] = field(default_factory=tuple)
    note: str = ""
    code: str = ""  # shown as it is, to copy


def write_lab_page(
    target: Path, *, title: str, lead: str, sections: Sequence[Section], brand: str = "Detectune lab"
) -> Path:
    """Write the page and return its path; `brand` says which part of Detectune it is of."""
    template = make_environment().get_template("lab.html")
    page = template.render(
        title=title,
        lead=lead,
        brand=brand,
        sections=sections,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup((TEMPLATES / "page.css").read_text() + STYLE),
        script=Markup((TEMPLATES / "page.js").read_text()),
    )
    with output_errors(target):
        write_text(target, page)
    return target
