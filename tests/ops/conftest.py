"""Fixtures of the tests of ops: random boxes, and a proof of fixed shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx


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
