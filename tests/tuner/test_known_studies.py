"""bench/gates.py in small: on studies with a known answer the right thing is said, with seeds of their own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


def load_bench() -> Any:
    spec = importlib.util.spec_from_file_location(
        "known_studies", Path(__file__).resolve().parents[2] / "bench" / "gates.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


BENCH = load_bench()


@pytest.mark.parametrize("case", BENCH.CASES)
def test_the_right_thing_is_said(case: str) -> None:
    assert BENCH.count(case, 10, first=1000) >= 9
