"""Training: `train` is the whole run, `train_step` one update. Nothing else changes a weight.

One update: wait for a batch, set the rate, forward with random numbers that depend on (RNG_SEED, iteration)
alone, sum the `loss_*`, backward, check that all is finite, clip, step, average. Everything around it is
hooks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detectune.config.tree import Config
from detectune.engine.checkpoint import newest_valid
from detectune.engine.dialect import in_dialect_of, in_dialect_of_run
from detectune.engine.distributed import common_shape, joined, share_outputs, to_common_shape
from detectune.engine.hooks import HookLike
from detectune.engine.interrupt import SIGNALS, Interrupts, TrainingInterruptedError, catch_interrupts
from detectune.engine.resume import CheckpointHook, find_checkpoint, resume
from detectune.engine.run_directory import RunDirectory
from detectune.engine.running import Run, step_generator
from detectune.engine.starting import order_hooks, start_run
from detectune.errors import DataError
from detectune.structures import Batch, LabelledBatch

AnyBatch = Batch | LabelledBatch


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
    the end. Started as one of several processes (torchrun, `detectune train` with NUM_GPUS), each takes its part of
    every batch of NUM_GPUS * TRAIN.IMS_PER_BATCH images; hooks run in all of them, `log` and `report` in the first.

    Raises:
        UserError: for everything a person can mend; what was saved before is intact.
        NonFiniteLossError: before the weights are touched.
        TrainingInterruptedError: after Ctrl-C or SIGTERM, with a checkpoint written.
    """
    directory = RunDirectory(Path(output_dir or config.OUTPUT_DIR))
    with contextlib.ExitStack() as stack:
        team = stack.enter_context(joined(device=config.MODEL.DEVICE, num_processes=config.NUM_GPUS))
        if team.size != config.NUM_GPUS:
            config = config.with_overrides({"NUM_GPUS": team.size})
        log = log if team.first else _say_nothing
        with team.together():
            if team.first:
                stack.enter_context(directory.held())
        # Several processes get SIGTERM also when one of them has failed.
        says = SIGNALS if team.size == 1 else SIGNALS[:1] if team.first else ()
        interrupt = stack.enter_context(catch_interrupts(says=says))
        with team.together():
            found = (
                find_checkpoint(directory, auto_resume=config.TRAIN.AUTO_RESUME, log=log)
                if team.first
                else None
            )
        found = team.from_first(found)
        with team.together():
            if found is None:
                config = in_dialect_of(config.TRAIN.WEIGHTS, config, log=log)
            else:
                config = in_dialect_of_run(found[1], config)
        run = start_run(config, directory, log=log, found=None if found is None else found[1], team=team)
        checkpoint = CheckpointHook(
            snapshot_iters=max(1, config.TRAIN.SNAPSHOT_ITERS // team.size), keep_last=config.TRAIN.KEEP_LAST
        )
        with run.exits:
            with team.together():
                checkpoint.hooks = order_hooks(run, hooks, checkpoint)
                if found is not None:
                    resume(run, checkpoint.hooks, found)
            for hook in checkpoint.hooks:
                hook.before_train(run)
            try:
                train_steps(run, checkpoint.hooks, interrupt)
            except DataError:  # a broken image costs no finished work
                checkpoint.save(run)
                raise
            for hook in checkpoint.hooks:
                if agree_to_stop(run, interrupt) and interrupt.pending():
                    raise TrainingInterruptedError(interrupt.number, run.iteration, checkpoint.save(run))
                hook.after_train(run)
        say_what_was_skipped(run)
    if report is not None and team.first:
        report(directory.path)
    return TrainResult(directory.path, directory.final_weights, run.metrics, run.iteration, run.stop_reason)


def result_of(run_dir: Path) -> TrainResult:
    """What a run that ended in other processes has left in `run_dir`."""
    directory = RunDirectory(run_dir)
    rows = [row for row in directory.read_metrics() if row["kind"] == "evaluation"]
    last = [row for row in rows if row["iteration"] == rows[-1]["iteration"]]
    measured = last[0] if last else {}
    metrics = {name: value for name, value in measured.items() if "/" in name and value is not None}
    found = newest_valid(directory.checkpoints, log=_say_nothing)
    iteration, stopped = (0, None) if found is None else (found[1]["iteration"], found[1]["stop_reason"])
    return TrainResult(run_dir, directory.final_weights, metrics, iteration, stopped)


def say_what_was_skipped(run: Run) -> None:
    """With TRAIN.SKIP_BROKEN_IMAGES: how many images could not be read, and the first few of them."""
    names = sorted(set().union(*run.team.gather(list(run.loader.left_out))))
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        count = "1 image" if len(names) == 1 else f"{len(names)} images"
        run.log(f"{count} could not be read and left out: {', '.join(names[:5])}{more}.")


def agree_to_stop(run: Run, interrupt: Interrupts) -> bool:
    """Whether a signal or a hook in any process ends the run; all processes then know the signal and the reason."""
    if run.team.size > 1:
        interrupt.number, asked = run.team.largest([interrupt.number, run.stop_reason is not None])
        if asked:
            reasons = run.team.gather(run.stop_reason)
            run.stop_reason = next(reason for reason in reasons if reason is not None)
    return run.stop_reason is not None or interrupt.pending()


def train_steps(run: Run, hooks: Sequence[HookLike], interrupt: Interrupts) -> None:
    """Update until MAX_ITER, until a hook asks to stop, or until a signal came in."""
    if run.iteration >= run.max_iter or run.stop_reason is not None:
        return  # no loader is started for nothing
    batches: Iterator[AnyBatch] = iter(run.loader)
    run.model.train()
    while run.iteration < run.max_iter and not agree_to_stop(run, interrupt):
        for hook in hooks:
            hook.before_step(run)
        train_step(run, batches)
        for hook in hooks:
            hook.after_step(run)


def next_batch(run: Run, batches: Iterator[AnyBatch]) -> AnyBatch:
    """This process's part of the next batch, on its device, in the shape of the whole batch."""
    waiting = time.perf_counter()
    with run.team.together():
        batch = next(batches)
    run.data_seconds += time.perf_counter() - waiting
    moved = batch.to(run.compute.device, non_blocking=True)
    if isinstance(moved, LabelledBatch):
        return moved
    return to_common_shape(moved, *common_shape(moved, run.team))


def draw_from(run: Run, part: int, *, num_images: int) -> torch.Generator | None:
    """The generator of one forward pass; None for a model that says that it draws nothing (`draws`)."""
    if not getattr(run.model, "draws", True):
        return None
    return step_generator(
        run.config.RNG_SEED, run.iteration, part, run.compute.device, team=run.team, num_images=num_images
    )


def train_step(run: Run, batches: Iterator[AnyBatch]) -> None:
    """One update of the weights from SOLVER.ACCUMULATE batches; `run.outputs` are the means of what they
    gave.
    """
    parts, iteration = run.config.SOLVER.ACCUMULATE, run.iteration
    lr = run.solver.set_lr(iteration)
    outputs: dict[str, Tensor] = {}
    run.data_seconds = 0.0
    for part in range(parts):
        batch = next_batch(run, batches)
        generator = draw_from(run, part, num_images=len(batch))
        if run.by_hand is not None and isinstance(batch, LabelledBatch):
            returned = run.by_hand(batch, generator)
        else:
            with run.compute.autocast():
                returned = run.model(batch, generator)
        losses, values = share_outputs(returned, run.team)
        loss = total(list(losses.values()))
        run.finite.watch_losses(losses, batch, iteration=iteration, lr=lr)
        if run.by_hand is None:
            run.solver.backward(loss if parts == 1 else loss / parts)
        values["loss"] = total([values[name] for name in losses])
        if parts > 1:
            values = {name: outputs.get(name, 0.0) + value / parts for name, value in values.items()}
        outputs |= values
    run.finite.check_losses()
    run.team.average_gradients(run.solver.parameters)
    norm = run.solver.gradient_norm()
    if run.solver.scaler is None:
        run.finite.check_gradient(norm, iteration=iteration, lr=lr)
    run.solver.step(norm)
    if run.average is not None:
        run.average.update(iteration)
    run.outputs = outputs | {"gradient_norm": norm}
    run.iteration += 1


def total(losses: Sequence[Tensor]) -> Tensor:
    """The sum of the losses. One loss is its own: a small network's step would notice the operations."""
    return losses[0] if len(losses) == 1 else torch.stack(list(losses)).sum()


def _say_nothing(_: str) -> None:
    """What processes other than the first have to say has been said."""
