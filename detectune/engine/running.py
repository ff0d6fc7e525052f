"""A run in progress: what `train` puts together, what hooks see, and what a checkpoint holds.

Nothing here depends on how often a run was stopped and continued: batches come from (RNG_SEED, position), the
random numbers inside a step from (RNG_SEED, iteration), the learning rate from the iteration.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detectune.config.tree import Config
from detectune.data.loader import Loader
from detectune.engine.ema import WeightAverage
from detectune.engine.finite import FiniteGuard
from detectune.engine.precision import Compute
from detectune.engine.run_directory import RunDirectory
from detectune.engine.solver import Solver
from detectune.structures import ClassInfo


@dataclass
class Run:
    """Everything a hook may look at. `iteration` counts finished updates."""

    config: Config
    directory: RunDirectory
    log: Callable[[str], None]
    model: nn.Module  # moved, compiled if asked; parameters are the trained ones, not the average
    compute: Compute
    solver: Solver
    average: WeightAverage | None
    loader: Loader
    class_info: ClassInfo
    max_iter: int
    iteration: int = 0
    outputs: dict[str, Tensor] = field(default_factory=dict)  # loss_*, stat_* of the last step, on the device
    data_seconds: float = 0.0  # how long the last step waited for its images
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation
    stop_reason: str | None = None
    finite: FiniteGuard = field(default_factory=FiniteGuard)
    exits: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # closes what hooks opened

    @property
    def batch(self) -> int:
        """Images of one update."""
        return int(self.config.TRAIN.IMS_PER_BATCH * self.config.SOLVER.ACCUMULATE)

    @property
    def epoch(self) -> float:
        """How often every image was seen, on average."""
        return self.iteration * self.batch / max(1, len(self.loader.records))

    def request_stop(self, reason: str) -> None:
        """End the run after this step, normally: it is evaluated and saved. The first reason counts."""
        self.stop_reason = self.stop_reason or reason

    def evaluated_weights(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the model has the weights that are evaluated and published: the average if there is one."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()


def step_generator(seed: int, iteration: int, part: int, device: torch.device) -> torch.Generator:
    """The source of every random number of one forward pass: a function of its arguments alone."""
    mixed = np.random.SeedSequence([seed, iteration, part]).generate_state(1, np.uint64)[0]
    where = device if device.type == "cuda" else torch.device("cpu")
    return torch.Generator(where).manual_seed(int(mixed >> np.uint64(1)))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's own random numbers start from `seed`; afterwards they go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def random_states() -> dict[str, Any]:
    """The global generators. No step of ours draws from them; a hook or a dropout layer may."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # type: ignore[misc]  # legacy tuple form
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(internal), gauss],
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
    }


def restore_random_states(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
