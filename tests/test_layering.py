"""Imports point one way: a file imports only from a lower rank, or from its own folder."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "detectune"
RANKS = {
    "errors": 0, "downloads": 0, "pickles": 0, "pickle_machine": 0, "structures": 0, "config": 0,
    "ops": 1,
    "models": 2, "data": 2, "evaluation": 2, "weights": 2,
    "engine": 3,
    "tuner": 4, "lab": 4, "report": 4,
    "cli": 5,
}  # fmt: skip


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    """The folders of detectune that a source text imports, at any depth of nesting."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = (
                [node.module] if node.module != "detectune" else [f"detectune.{a.name}" for a in node.names]
            )
        rooms.update(name.split(".")[1] for name in names if name.startswith("detectune."))
    return rooms


def violations(room: str, source: str) -> list[str]:
    own = RANKS[room]
    return [
        f"{room} imports {other}"
        for other in sorted(imported_rooms(source))
        if other != room and (other not in RANKS or RANKS[other] > own or (RANKS[other] == own and own >= 2))
    ]


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if room_of(p) not in ("__init__", "__main__"))


@pytest.mark.parametrize("file", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(file: Path) -> None:
    assert not violations(room_of(file), file.read_text())


def test_relative_imports_are_not_used() -> None:
    relative = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}"
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert not relative, "the layering check reads absolute imports only"


def test_upward_and_sideways_imports_are_caught() -> None:
    assert violations("ops", "from detectune.models.build import build_detector")
    assert violations("data", "def f():\n    import detectune.models.fpn")
    assert violations("engine", "from detectune import report")
    assert not violations("engine", "from detectune.ops import boxes\nfrom detectune.data import coco")


@pytest.mark.parametrize(
    "module",
    ["detectune.config.load", "detectune.config.catalogue", "detectune.pickles", "detectune.cli.main"],
)
def test_light_modules_do_not_import_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent).returncode == 0


def test_only_builders_read_the_configuration() -> None:
    """Configuration stops at the builders (DESIGN.md): elsewhere values arrive as explicit arguments."""
    allowed = {
        "data/loader.py",
        "data/labelled_loader.py",
        "engine/solver.py",
        "engine/trainer.py",
        "engine/starting.py",  # the first half of `train`: from a configuration to a run
        "engine/running.py",  # carries the configuration for hooks
        "engine/resume.py",  # compares it with the checkpoint's
        "engine/inference.py",
        "engine/testing.py",
        "engine/dialect.py",  # what it leaves open, the weights say
        "engine/export.py",  # from a configuration to a program
        "engine/classification.py",
        "engine/build_augmentation.py",
        "engine/converting.py",  # the configuration inside a weights file
    }
    readers = {
        str(file.relative_to(PACKAGE))
        for file in SOURCES
        if room_of(file) in ("ops", "models", "data", "evaluation", "weights", "engine")
        and "config" in imported_rooms(file.read_text())
    }
    builders = {f"models/{file.name}" for file in (PACKAGE / "models").glob("build*.py")}
    assert readers <= allowed | builders
