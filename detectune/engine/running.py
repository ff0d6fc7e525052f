"""A run in progress: what `train` puts together, what hooks see, and what a checkpoint holds.

Nothing here depends on how often a run was stopped and continued: batches come from (RNG_SEED, position), the
random numbers inside a step from (RNG_SEED, iteration), the learning rate from the iteration.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detectune.config.tree import Config
from detectune.data.labelled_loader import LabelledLoader
from detectune.data.loader import Loader
from detectune.engine.distributed import ALONE, Team
from detectune.engine.ema import WeightAverage
from detectune.engine.finite import FiniteGuard
from detectune.engine.precision import Compute
from detectune.engine.run_directory import RunDirectory
from detectune.engine.solver import Solver
from detectune.models.backprop import Backprop
from detectune.ops.draws import part_generator
from detectune.structures import ClassInfo


class Trained(Protocol):
    """What a weights file is written from: a run, or a member of a population."""

    @property
    def config(self) -> Config: ...
    @property
    def model(self) -> nn.Module: ...
    @property
    def class_info(self) -> ClassInfo: ...
    @property
    def iteration(self) -> int: ...


@dataclass
class Run:
    """Everything a hook may look at. `iteration` counts finished updates."""

    config: Config
    directory: RunDirectory
    log: Callable[[str], None]
    record: Callable[[dict[str, Any]], None]  # adds a row to metrics.jsonl and TensorBoard
    model: nn.Module  # moved, compiled if asked; parameters are the trained ones, not the average
    compute: Compute
    solver: Solver
    average: WeightAverage | None
    loader: Loader | LabelledLoader
    data: dict[str, Any]  # what identifies the training data, see `resume.data_fingerprint`
    class_info: ClassInfo
    max_iter: int
    iteration: int = 0
    outputs: dict[str, Tensor] = field(default_factory=dict)  # loss_*, stat_* of the last step, on the device
    data_seconds: float = 0.0  # how long the last step waited for its images
    row: dict[str, Any] | None = None  # the metrics row that the last step completed, if it did
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation
    stop_reason: str | None = None
    finite: FiniteGuard = field(default_factory=FiniteGuard)
    by_hand: Backprop | None = None  # computes outputs and gradients in the place of model and autograd
    team: Team = ALONE  # the processes that train together
    exits: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # closes what hooks opened
    said: set[str] = field(default_factory=set)  # by `log_once`
    tested: object = None  # a `testing.InTest`: what the last evaluation of a detector was done with

    @property
    def batch(self) -> int:
        """Images of one update, of all processes together."""
        return int(self.config.TRAIN.IMS_PER_BATCH * self.team.size * self.config.SOLVER.ACCUMULATE)

    @property
    def epoch(self) -> float:
        """How often every image was seen, on average."""
        return self.iteration * self.batch / max(1, self.loader.num_images)

    def log_once(self, line: str) -> None:
        """Log what every evaluation of the run would say again."""
        if line not in self.said:
            self.said.add(line)
            self.log(line)

    def note_test(self, tested: object) -> None:
        """Keep what an evaluation is done with, for hooks that look at it."""
        self.tested = tested

    def request_stop(self, reason: str) -> None:
        """End the run after this step, normally: it is evaluated and saved. The first reason counts."""
        self.stop_reason = self.stop_reason or reason

    def evaluated_weights(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the model has the weights that are evaluated and published: the average if there is one."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()


def step_generator(
    seed: int, iteration: int, part: int, device: torch.device, *, team: Team = ALONE, num_images: int = 0
) -> torch.Generator:
    """The source of every random number of one forward pass: a function of its arguments alone.

    Of several processes, each with `num_images` images of the batch, all get the same one; see `ops/draws.py`.
    """
    mixed = np.random.SeedSequence([seed, iteration, part]).generate_state(1, np.uint64)[0]
    where = device if device.type == "cuda" else torch.device("cpu")
    start = int(mixed >> np.uint64(1))
    if team.size > 1:
        return part_generator(where, start, first=team.rank * num_images, total=team.size * num_images)
    return torch.Generator(where).manual_seed(start)


def seed_globals(seed: int) -> None:
    """Start the global generators, from which only hooks and dropout layers draw, at `seed`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """The state of the global generators."""
    version, internal, gauss = random.getstate()
    legacy: dict[str, Any] = dict(np.random.get_state(legacy=False))
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(internal), gauss],
        "numpy": legacy | {"state": {"key": legacy["state"]["key"].tolist(), "pos": legacy["state"]["pos"]}},
    }


def restore_random_states(state: dict[str, Any]) -> None:
    """Put back what `random_states` returned, as far as the machine has the same devices."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(state["numpy"])
