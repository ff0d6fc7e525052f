"""docs/postprocessing.md says what the code does: examples run, defaults are the defaults, the picture is current."""

from __future__ import annotations

import doctest
import importlib.util
import re
from pathlib import Path

import pytest
import torch

from detectune.config.tree import Config
from detectune.models.retinanet_loss import FocalRule


@pytest.fixture
def page(root: Path) -> Path:
    return root / "docs" / "postprocessing.md"


def test_examples(page: Path) -> None:
    failed, tried = doctest.testfile(str(page), module_relative=False)
    torch.set_printoptions(profile="default")
    assert tried >= 25 and failed == 0


def test_defaults(page: Path) -> None:
    rows = re.findall(r"^\| `([A-Z_.]+)` \| ([\d.]+) \|$", page.read_text(), flags=re.MULTILINE)
    values = Config().flat()
    assert len(rows) == 11
    for key, value in rows:
        assert values[key] == float(value), key
    assert (FocalRule().gamma, FocalRule().alpha) == (2, 0.25)
    assert (values["RETINANET.LOSS_GAMMA"], values["RETINANET.LOSS_ALPHA"]) == (2, 0.25)


def test_picture(page: Path) -> None:
    spec = importlib.util.spec_from_file_location("plot_soft_nms", page.with_name("plot_soft_nms.py"))
    assert spec is not None and spec.loader is not None
    plot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plot)
    assert page.with_name("soft_nms.svg").read_text() == plot.render()
    assert [plot.factor(0.6, method) for method in ("hard", "linear")] == pytest.approx([0.0, 0.4])
    assert plot.factor(0.4, "linear") == 1.0
    assert plot.factor(0.4, "gaussian") == pytest.approx(0.726149)
