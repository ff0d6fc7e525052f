"""A probe of learning rates for a configuration: a few updates at a constant rate, always from the same weights, on
the same batches; the loss is measured before and after on the first of these batches.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from detectune.config.tree import Config
from detectune.engine.distributed import share_outputs
from detectune.engine.finite import NonFiniteLossError
from detectune.engine.run_directory import RunDirectory
from detectune.engine.running import Run
from detectune.engine.solver import build_solver
from detectune.engine.starting import start_run
from detectune.engine.trainer import AnyBatch, draw_from, next_batch, total, train_step
from detectune.tuner.planners.rates import Probe

MEASURED = 8  # batches on which the loss is measured
HOPELESS = 100.0  # times the loss before: stops early


def make_probe(config: Config, *, steps: int, folder: Path, log: Callable[[str], None]) -> Probe:
    """The probe of `config`; `folder` takes the files that a run writes when it is put together."""
    config = config.with_overrides({"SOLVER.EMA_DECAY": 0.0, "SOLVER.LR_POLICY": "step"})
    directory = RunDirectory(folder)
    with directory.held():
        run = start_run(config, directory, log=log, found=None)
    weights = copy.deepcopy(run.model.state_dict())
    before = _loss(run)

    def probe(rate: float) -> tuple[float, float | None]:
        run.model.load_state_dict(weights)
        schedule = replace(
            run.solver.schedule,
            lr_policy="step",
            base_lr=rate,
            step_size=10**9,
            warm_up_iters=0,
            max_iter=steps,
        )
        run.solver = build_solver(
            config, run.model, schedule=schedule, loss_scaling=run.compute.needs_loss_scaling()
        )
        run.iteration = 0
        run.model.train()
        batches = _batches(run)
        try:
            for _ in range(steps):
                train_step(run, batches)
                if float(run.outputs["loss"]) > HOPELESS * max(before, 1e-6):
                    return before, None
            run.finite.settle()
        except NonFiniteLossError:
            run.finite.losses, run.finite.gradient = [], None
            return before, None
        after = _loss(run)
        return before, after if math.isfinite(after) else None

    return probe


def _batches(run: Run) -> Iterator[AnyBatch]:
    """The training batches from the first one on."""
    run.loader.position = 0
    return iter(run.loader)


@torch.no_grad()
def _loss(run: Run) -> float:
    """Mean training loss over the first batches, with the random numbers of the first update."""
    run.iteration = 0
    run.model.train()
    batches = _batches(run)
    found = []
    for _ in range(MEASURED):
        batch = next_batch(run, batches)
        with run.compute.autocast():
            returned = run.model(batch, draw_from(run, 0, num_images=len(batch)))
        losses, _ = share_outputs(returned, run.team)
        found.append(float(total(list(losses.values()))))
    return sum(found) / len(found)
