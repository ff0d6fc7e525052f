"""Fixtures of the tests of ops: Detectron's unit goldens, random boxes, and a proof of fixed shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx


@dataclass(frozen=True)
class Case:
    """One case of golden/detectron/units (see its README)."""

    name: str
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    meta: dict[str, Any]

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.inputs[name])

    @property
    def params(self) -> dict[str, Any]:
        return self.meta.get("params", {})

    @property
    def cfg(self) -> dict[str, Any]:
        return self.meta.get("cfg", {})


@pytest.fixture(scope="session")
def golden(shared: Path) -> Callable[[str, str], list[Case]]:
    """golden(group, function): the cases of one original function; at least one, or a test would prove nothing."""
    folder = shared / "golden" / "detectron" / "units"

    def cases(group: str, function: str) -> list[Case]:
        rows = [r for r in json.loads((folder / f"{group}.json").read_text()) if r["function"] == function]
        assert rows, f"no golden for {function}"
        with np.load(folder / f"{group}.npz") as arrays:
            return [
                Case(
                    row["case"],
                    {a: arrays[f"{row['case']}/in/{a}"] for a in row.get("in_arrays", [])},
                    {a: arrays[f"{row['case']}/out/{a}"] for a in row.get("out_arrays", [])},
                    row,
                )
                for row in rows
            ]

    return cases


@pytest.fixture
def random_boxes() -> Callable[..., Tensor]:
    """random_boxes(*shape, seed, extent, side): float32 [*shape, 4]."""

    def make(*shape: int, seed: int = 0, extent: float = 100.0, side: float = 40.0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        centre = torch.rand(*shape, 2, generator=generator) * extent
        half = torch.rand(*shape, 2, generator=generator) * side / 2 + 0.5
        return torch.cat((centre - half, centre + half), dim=-1)

    return make


@pytest.fixture
def traced_without_values() -> Callable[..., Any]:
    """traced(f, *args): f's results by a graph recorded from fake tensors, which have no values to look at.

    Anything that waits for a value or has a shape that depends on one raises while recording.
    """

    def run(f: Callable[..., Any], *args: Tensor) -> Any:
        return make_fx(f, tracing_mode="fake")(*args)(*args)

    return run


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))
