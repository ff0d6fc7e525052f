"""Training: `train` is the whole run, `train_step` one update. Nothing else changes a weight.

One update: wait for a batch, set the rate, forward with random numbers that depend on (RNG_SEED, iteration)
alone, sum the `loss_*`, backward, check that all is finite, clip, step, average. Everything around it is
hooks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detectune.config.tree import Config
from detectune.engine.hooks import HookLike
from detectune.engine.interrupt import TrainingInterruptedError, catch_interrupts
from detectune.engine.resume import CheckpointHook, find_checkpoint, resume
from detectune.engine.run_directory import RunDirectory
from detectune.engine.running import Run, step_generator
from detectune.engine.starting import order_hooks, start_run
from detectune.errors import DataError
from detectune.structures import Batch


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves."""

    run_dir: Path
    weights: Path
    metrics: dict[str, float]  # of the last evaluation, on the first of TEST.DATASETS
    iterations: int
    stopped: str | None  # why the run ended before SOLVER.MAX_ITER, if it did


def train(
    config: Config,
    *,
    hooks: Sequence[HookLike] = (),
    output_dir: Path | str | None = None,
    log: Callable[[str], None] = print,
    report: Callable[[Path], object] | None = None,
) -> TrainResult:
    """Train what `config` describes, or go on with it, in `output_dir` (OUTPUT_DIR if not given).

    `hooks` run after each row of metrics and may stop the run. `report` is called with the run directory at
    the end.

    Raises:
        UserError: for everything a person can mend; what was saved before is intact.
        NonFiniteLossError: before the weights are touched.
        TrainingInterruptedError: after Ctrl-C or SIGTERM, with a checkpoint written.
    """
    folder = Path(output_dir or config.OUTPUT_DIR)
    with RunDirectory(folder).held() as directory, catch_interrupts() as interrupt:
        found = find_checkpoint(directory, auto_resume=config.TRAIN.AUTO_RESUME, log=log)
        run = start_run(config, directory, log=log, found=None if found is None else found[1])
        checkpoint = CheckpointHook(
            snapshot_iters=config.TRAIN.SNAPSHOT_ITERS, keep_last=config.TRAIN.KEEP_LAST
        )
        with run.exits:
            checkpoint.hooks = order_hooks(run, hooks, checkpoint)
            if found is not None:
                resume(run, checkpoint.hooks, found)
            for hook in checkpoint.hooks:
                hook.before_train(run)
            try:
                train_steps(run, checkpoint.hooks, interrupt.pending)
            except DataError:  # a broken image costs no finished work
                checkpoint.save(run)
                raise
            for hook in checkpoint.hooks:
                if interrupt.pending():
                    raise TrainingInterruptedError(interrupt.number, run.iteration, checkpoint.save(run))
                hook.after_train(run)
        say_what_was_skipped(run)
    if report is not None:
        report(directory.path)
    return TrainResult(directory.path, directory.final_weights, run.metrics, run.iteration, run.stop_reason)


def say_what_was_skipped(run: Run) -> None:
    """With TRAIN.SKIP_BROKEN_IMAGES: how many images could not be read, and the first few of them."""
    names = sorted(run.loader.left_out)
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        count = "1 image" if len(names) == 1 else f"{len(names)} images"
        run.log(f"{count} could not be read and left out: {', '.join(names[:5])}{more}.")


def train_steps(run: Run, hooks: Sequence[HookLike], interrupted: Callable[[], bool]) -> None:
    """Update until MAX_ITER, until a hook asks to stop, or until a signal came in."""
    if run.iteration >= run.max_iter or run.stop_reason is not None:
        return
    batches = iter(run.loader)
    run.model.train()
    while run.iteration < run.max_iter and run.stop_reason is None and not interrupted():
        for hook in hooks:
            hook.before_step(run)
        train_step(run, batches)
        for hook in hooks:
            hook.after_step(run)


def train_step(run: Run, batches: Iterator[Batch]) -> None:
    """One update of the weights from SOLVER.ACCUMULATE batches; `run.outputs` are the means of what they
    gave.
    """
    parts, iteration = run.config.SOLVER.ACCUMULATE, run.iteration
    lr = run.solver.set_lr(iteration)
    outputs: dict[str, Tensor] = {}
    run.data_seconds = 0.0
    for part in range(parts):
        waiting = time.perf_counter()
        batch = next(batches)
        run.data_seconds += time.perf_counter() - waiting
        batch = batch.to(run.compute.device, non_blocking=True)
        generator = step_generator(run.config.RNG_SEED, iteration, part, run.compute.device)
        with run.compute.autocast():
            returned = run.model(batch, generator)
        losses = {name: value for name, value in returned.items() if name.startswith("loss_")}
        loss = torch.stack([value.float() for value in losses.values()]).sum()
        run.finite.watch_losses(losses, batch.images.infos, iteration=iteration, lr=lr)
        run.solver.backward(loss / parts)
        for name, value in (returned | {"loss": loss}).items():
            outputs[name] = outputs.get(name, 0.0) + value.detach() / parts
    run.finite.check_losses()
    norm = run.solver.gradient_norm()
    if run.solver.scaler is None:
        run.finite.check_gradient(norm, iteration=iteration, lr=lr)
    run.solver.step(norm)
    if run.average is not None:
        run.average.update(iteration)
    run.outputs = outputs | {"gradient_norm": norm}
    run.iteration += 1
