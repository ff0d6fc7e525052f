"""What `detectune watch` shows of a directory: the page of its study or run, rendered anew only when a file changed.

Several viewers share one rendering. Knows nothing about HTTP (`server.py`).
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from detectune.errors import UserError
from detectune.report.page import TEMPLATES, make_environment, render
from detectune.report.run import read_run
from detectune.report.study import is_study, read_study
from detectune.report.study_page import render_study

WATCHED = (
    "study.yaml", "trials.json", "verdict.json", "importance.json", "trials/*/metrics.jsonl", "trials/*/report.html",
    "config.yaml", "metrics.jsonl", "metrics.json", "evaluation/*/*.json", "model_final.safetensors",
)  # fmt: skip


@dataclass(frozen=True)
class Rendered:
    """A page as bytes, and its tag, which changes with it."""

    body: bytes
    tag: str


class LivePages:
    """The pages of directories, by what their files were when they were rendered."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, Rendered]] = {}
        self._lock = threading.Lock()

    def page(self, directory: Path) -> Rendered:
        """The page of a directory now; one that says what is missing where there is nothing to show."""
        with self._lock:
            state = _state(directory)
            known = self._known.get(directory)
            if known is None or known[0] != state:
                body = _render(directory).encode()
                known = (state, Rendered(body, f'"{hashlib.sha256(body).hexdigest()[:20]}"'))
                self._known[directory] = known
            return known[1]


def _state(directory: Path) -> object:
    """Changes whenever a watched file does."""
    found = []
    for pattern in WATCHED:
        for file in sorted(directory.glob(pattern)):
            try:
                status = file.stat()
            except FileNotFoundError:  # replaced or removed between the listing and now
                continue
            found.append((str(file), status.st_mtime_ns, status.st_size, status.st_ino))
    return directory.is_dir(), found


def _render(directory: Path) -> str:
    try:
        if is_study(directory):
            return render_study(read_study(directory), live=True)
        return render(read_run(directory), live=True)
    except UserError as error:
        there = directory.is_dir()
        return _waiting(directory, str(error) if there else f"{directory} is not there yet.")


def _waiting(directory: Path, reason: str) -> str:
    return (
        make_environment()
        .get_template("waiting.html")
        .render(
            title=directory.resolve().name,
            reason=reason,
            style=Markup((TEMPLATES / "page.css").read_text() + (TEMPLATES / "study.css").read_text()),
            script=Markup((TEMPLATES / "live.js").read_text()),
        )
    )
