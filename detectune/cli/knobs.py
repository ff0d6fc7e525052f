"""`detectune knobs`: list the configuration's keys, or explain one."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detectune.errors import UserError

if TYPE_CHECKING:
    from detectune.config.knob import Knob, Search

INDENT = " " * 16
WIDE = 100  # columns from which a table is more readable than a list
STAGES = {
    "nothing": "nothing has to be redone",
    "inference": "test again, the weights stay",
    "training": "train again",
    "architecture": "train again; weights of the old value do not fit",
}


def knobs(
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATTERN]",
            help="Part of a key, a pattern such as 'TRAIN.RPN_*', or a full key to have it explained.",
            show_default=False,
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="A JSON list with everything known.")] = False,
    study: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With a full key: what the study in this folder found about it."),
    ] = None,
) -> None:
    """List the settings, or explain one."""
    from detectune.config.catalogue import KNOBS, as_record, find_knobs

    found = find_knobs(pattern)
    if not found:
        raise UserError(_nothing_found(str(pattern)))
    if study is not None:
        if len(found) != 1 or pattern is None or pattern.upper() not in KNOBS or json_output:
            raise UserError(
                "--study needs one full key and no --json, as `knobs SOLVER.BASE_LR --study DIR`."
            )
        from detectune.cli.knob_study import study_lines

        width = min(_width() or WIDE, WIDE)
        lines = study_lines(found[0].key, study.expanduser(), width=width)
        print("\n".join([*explain(found[0], width=width), "", *lines]))
    elif json_output:
        print(json.dumps([as_record(knob) for knob in found], indent=2, allow_nan=False))
    elif len(found) == 1 and pattern is not None and pattern.upper() in KNOBS:
        print("\n".join(explain(found[0], width=min(_width() or WIDE, WIDE))))
    else:
        _list(found, _width())


def _nothing_found(pattern: str) -> str:
    from detectune.config.catalogue import nearest_keys

    near = nearest_keys(pattern, count=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`detectune knobs` lists all keys."
    return f"No key matches {pattern}; {hint}"


def _width() -> int | None:
    """Columns to fill; None when the output goes into a pipe, where one line for each key serves best."""
    if os.environ.get("COLUMNS", "").isdigit() or sys.stdout.isatty():
        return max(shutil.get_terminal_size().columns, 20)
    return None


def _list(found: Sequence[Knob], width: int | None) -> None:
    if width is None:
        for knob in found:
            print(f"{knob.key} = {_value(knob.default)}  {_first_sentence(knob)}")
    elif width >= WIDE:
        _table(found, width)
    else:
        for knob in found:
            print("\n".join(wrap(f"{knob.key} = {_value(knob.default)}", width, "      ")))
            print("\n".join(wrap(_first_sentence(knob), width, "    ", first="    ")))
    if width is not None:
        closing = f"{len(found)} keys. `detectune knobs KEY` explains one."
        print("\n" + "\n".join(wrap(closing, width, "")))


def _table(found: Sequence[Knob], width: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Key", no_wrap=True)
    table.add_column("Default", max_width=24, overflow="fold")
    table.add_column("What it does")
    for knob in found:
        table.add_row(Text(knob.key, "cyan"), Text(_value(knob.default)), Text(_first_sentence(knob)))
    Console(width=width, highlight=False).print(table)


def explain(knob: Knob, *, width: int) -> list[str]:
    """Everything known about one knob, as lines of at most `width` columns where words allow it."""
    lines = [knob.key, "", *wrap(knob.doc, width, "  ", first="  "), ""]
    if knob.obsolete:
        lines += [*wrap(f"Obsolete: {knob.obsolete}", width, "  ", first="  "), ""]
    for name, text in _facts(knob):
        lines += wrap(text, width, INDENT, first=f"  {name:<14}")
    *sections, last = knob.key.split(".")
    example = "".join(f"{section}: {{" for section in sections)
    lines += [
        "",
        *wrap(
            f"{example}{last}: {_value(knob.default)}{'}' * len(sections)}",
            width,
            INDENT,
            first="  In YAML       ",
        ),
    ]
    return lines


def _facts(knob: Knob) -> Iterator[tuple[str, str]]:
    yield "Default", _value(knob.default)
    yield "Type", f"{knob.type} of {knob.element}" if knob.element else knob.type
    if knob.range is not None:
        yield "Range", str(knob.range)
    if knob.choices is not None:
        yield "Choices", ", ".join(map(_value, knob.choices))
    if knob.unit is not None:
        yield "Unit", knob.unit
    yield "Kind", knob.kind
    yield "On change", STAGES[knob.stage]
    if knob.search is not None:
        yield "Worth trying", _search(knob.search)
    yield "Source", knob.source


def _search(search: Search) -> str:
    if search.choices is not None:
        return ", ".join(map(_value, search.choices))
    scale = {
        "linear": "linear scale",
        "log": "logarithmic scale",
        "one_minus_log": "logarithmic in 1 - value",
    }
    return f"{search.low:g} to {search.high:g}, {scale[search.scale]}"


def _value(value: Any) -> str:
    """A value as YAML would have it on one line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value) if value != "" else "''"
    return f"{value:.10g}"


def _first_sentence(knob: Knob) -> str:
    sentence = knob.doc.partition(". ")[0].removesuffix(".") + "."
    return f"(obsolete) {sentence}" if knob.obsolete else sentence


def wrap(text: str, width: int, indent: str, *, first: str = "") -> list[str]:
    """Lines of at most `width` columns; `indent` begins all but the first."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=True,
    )
