"""Where numbers of a run go: metrics.jsonl, TensorBoard, the progress bar or plain lines.

Rows: {"kind": "train", "iteration", "epoch", "lr", "loss", "loss_*", "stat_*", "gradient_norm",
"images_per_second", "data_seconds", "memory_mb", "eta_seconds"}, the means over the last LOG_ITERS steps, with
"gradient_norms": the norms of single steps among them before clipping, for `detectune gradients`; and
{"kind": "evaluation", "iteration", "dataset", "bbox/AP", ..., "val/loss", ...}.
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import time
from datetime import timedelta
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from detectune.engine.hooks import Hook
from detectune.engine.run_directory import RunDirectory, output_errors
from detectune.engine.running import Run
from detectune.engine.schedule import lr_at
from detectune.engine.solver import lr_change_ratio

NORMS_IN_A_ROW = 100  # at most; a percentile needs no more, and rows of a thousand steps stay short


class Recorder:
    """Writes rows to metrics.jsonl, and to TensorBoard from the first row on."""

    def __init__(self, directory: RunDirectory, exits: contextlib.ExitStack) -> None:
        self.directory = directory
        self.exits = exits
        self.writer: Any = None

    def __call__(self, row: dict[str, Any]) -> None:
        self.directory.append_metrics(row)
        with output_errors(self.directory.tensorboard):
            writer = self._writer(row["iteration"])
            folder = "train" if row["kind"] == "train" else row["dataset"]
            for name, value in row.items():
                if isinstance(value, float) and name not in ("eta_seconds", "memory_mb"):
                    writer.add_scalar(f"{folder}/{name}", value, row["iteration"])

    def _writer(self, iteration: int) -> Any:
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter  # half a second that short tools need not pay

            # Rows of an earlier process from here on are of steps that are done again.
            self.writer = SummaryWriter(str(self.directory.tensorboard), purge_step=iteration)
            self.exits.callback(self.writer.close)
        return self.writer


class MetricsHook(Hook):
    """Averages what steps return, on their device, and records a row every `log_iters` steps."""

    def __init__(self, log_iters: int) -> None:
        self.log_iters = max(1, log_iters)
        self.sums: dict[str, Tensor] = {}
        self.norms: list[Tensor] = []  # of the gradient in every `norm_stride`th step, scalars on the device
        self.norm_stride = math.ceil(self.log_iters / NORMS_IN_A_ROW)
        self.count = 0
        self.data_seconds = 0.0
        self.since = time.perf_counter()
        self.steps_timed = 0

    def before_train(self, run: Run) -> None:
        self.since = time.perf_counter()

    def after_step(self, run: Run) -> None:
        for name, value in run.outputs.items():
            self.sums[name] = value if name not in self.sums else self.sums[name] + value
        if run.iteration % self.norm_stride == 0:
            self.norms.append(run.outputs["gradient_norm"])
        self.count += 1
        self.steps_timed += 1
        self.data_seconds += run.data_seconds
        due = run.iteration % self.log_iters == 0 or run.iteration == run.max_iter
        run.row = self._row(run) if due else None
        if run.row is not None:
            run.record(run.row)

    def _row(self, run: Run) -> dict[str, Any]:
        names = sorted(self.sums)
        scalars = torch.stack(
            [*(self.sums[name].float() / self.count for name in names), *(n.float() for n in self.norms)]
        )
        numbers = scalars.tolist()  # one way from the device for all
        means, norms = numbers[: len(names)], [float(f"{norm:.4g}") for norm in numbers[len(names) :]]
        for left_out in run.team.gather(dict(run.loader.left_out)):
            run.loader.left_out.update(left_out)
        now = time.perf_counter()
        seconds = (now - self.since) / self.steps_timed
        row: dict[str, Any] = {
            "kind": "train",
            "iteration": run.iteration,
            "epoch": run.epoch,
            "lr": run.solver.lr,
            **dict(zip(names, means, strict=True)),
            "gradient_norms": norms,
            "images_per_second": run.batch / max(seconds, 1e-9),
            "data_seconds": self.data_seconds / self.steps_timed,
            "memory_mb": peak_memory_mb(run.compute.device),
            "eta_seconds": seconds * (run.max_iter - run.iteration),
            **({"skipped_images": run.loader.skipped} if run.loader.skipped else {}),
        }
        self.sums, self.norms, self.count, self.data_seconds = {}, [], 0, 0.0
        self.since, self.steps_timed = now, 0
        return row

    def state_dict(self) -> dict[str, Any]:
        # Without the running sums the first row after a restart would average other steps.
        norms = torch.stack(self.norms).cpu() if self.norms else torch.zeros(0)
        sums = {name: value.cpu() for name, value in self.sums.items()}
        return {"sums": sums, "norms": norms, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.count = dict(state["sums"]), state["count"]
        self.norms = list(state.get("norms", ()))  # absent from checkpoints of earlier versions


class ProgressHook(Hook):
    """Shows where the run is: a bar on a terminal, one line per metrics row elsewhere."""

    def __init__(self, *, lr_change_threshold: float, console: Console | None = None) -> None:
        self.lr_change_threshold = lr_change_threshold
        self.console = console or Console(file=sys.stderr)
        self.bar: Progress | None = None
        self.lr: float | None = None  # of the step before

    def before_train(self, run: Run) -> None:
        if self.console.is_terminal:
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self.bar = run.exits.enter_context(Progress(*columns, console=self.console))
            self.task = self.bar.add_task("starting", total=run.max_iter, completed=run.iteration)

    def after_step(self, run: Run) -> None:
        if run.iteration > 1:
            old = lr_at(run.solver.schedule, run.iteration - 2) if self.lr is None else self.lr
            new = self.lr = run.solver.lr
            if old != new and lr_change_ratio(old, new) > self.lr_change_threshold:
                run.log(f"Learning rate {old:.6g} -> {new:.6g} at iteration {run.iteration}")
        if self.bar is not None:
            self.bar.update(self.task, completed=run.iteration)
            if run.row is not None:
                self.bar.update(self.task, description=describe_row(run.row))
        elif run.row is not None:
            left = timedelta(seconds=round(run.row["eta_seconds"]))
            run.log(f"{run.iteration}/{run.max_iter}  {describe_row(run.row)}  {left} left")


def describe_row(row: dict[str, Any]) -> str:
    """A training row on one line: rate, losses, speed."""
    losses = "  ".join(f"{name[5:]} {row[name]:.3f}" for name in row if name.startswith("loss_"))
    return f"lr {row['lr']:.3g}  loss {row['loss']:.3f}  ({losses})  {row['images_per_second']:.3g} images/s"


def peak_memory_mb(device: torch.device) -> float:
    """The most memory that was in use: the device's, or on a CPU this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
