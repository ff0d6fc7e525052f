"""docs/flow.svg and docs/flow.md are what docs/draw_flow.py makes of the code as it is, and the picture is sound."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest


@pytest.fixture(scope="module")
def drawing(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_flow", root / "docs/draw_flow.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw_flow"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def contents(drawing: ModuleType) -> dict[str, str]:
    return drawing.contents()


def test_the_files_are_current(root: Path, contents: dict[str, str]) -> None:
    assert set(contents) == {"flow.svg", "flow.md"}
    for name, text in contents.items():
        assert (root / "docs" / name).read_text() == text, (
            f"docs/{name} is out of date; run python docs/draw_flow.py"
        )


def test_every_named_place_exists(root: Path, drawing: ModuleType) -> None:
    for step in drawing.steps():
        file, name = drawing.place_of(step.code)
        last = name.rpartition(".")[2]
        source = (root / "detectune" / file).read_text()
        assert f"def {last}(" in source or f"class {last}" in source, (file, name)


def test_boxes_lie_inside_the_picture_and_apart(contents: dict[str, str]) -> None:
    svg = ElementTree.fromstring(contents["flow.svg"])
    width, height = (float(svg.attrib[side]) for side in ("width", "height"))
    space = "{http://www.w3.org/2000/svg}"
    boxes = [
        tuple(float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        for rect in svg.findall(f"{space}rect")
        if "stroke" in rect.attrib
    ]
    assert len(boxes) > 20
    for i, (x, y, w, h) in enumerate(boxes):
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        for x2, y2, w2, h2 in boxes[:i]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def test_a_text_too_long_for_its_box_is_refused(drawing: ModuleType) -> None:
    step = drawing.Step("training", "a title " * 20, drawing.read_coco, "x", "x")
    with pytest.raises(ValueError, match="too long"):
        drawing.draw([step])
