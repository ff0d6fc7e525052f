"""Fixtures shared by all tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # as many workers as cores: more threads would only wait for each other
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the programs that tests start

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the test data sets and goldens, or a skip that says where it was looked for."""
    named = os.environ.get("DETECTUNE_SHARED")
    folder = Path(named) if named else ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data at {folder}; set DETECTUNE_SHARED to the folder with data/ and golden/")
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


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
