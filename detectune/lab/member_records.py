"""What a member of a population leaves in its folder: rows of metrics, a checkpoint, weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from detectune.engine.checkpoint import checkpoint_path, prune_checkpoints, save_checkpoint
from detectune.engine.publishing import published_metadata
from detectune.engine.run_directory import RunDirectory, output_errors
from detectune.engine.running import Trained
from detectune.weights.native import save_weights

KEPT = 2  # checkpoints: members of a stack go on together, from one that all have


class InTraining(Trained, Protocol):
    """A network of a population, trained by itself or in a stack."""

    @property
    def max_iter(self) -> int: ...
    @property
    def epoch(self) -> float: ...
    @property
    def seconds(self) -> float: ...
    @property
    def lr(self) -> float: ...
    @property
    def gradient_norms(self) -> Sequence[float]: ...
    @property
    def diverged_at(self) -> int | None: ...
    @property
    def tests(self) -> Iterable[str]: ...
    def evaluate(self, dataset: str) -> dict[str, float]: ...
    def evaluated_weights(self) -> contextlib.AbstractContextManager[None]: ...
    def state_dict(self) -> dict[str, Any]: ...


def nothing_to_look_at(number: int, member: InTraining) -> None:
    """What a caller does with a member that has been built, where it wants nothing of it."""


def record_interval(
    member: InTraining, directory: RunDirectory, *, loss: float, log: Callable[[str], None]
) -> None:
    """After an evaluation interval with the mean loss `loss`: measure, add rows to metrics.jsonl, save."""
    where: dict[str, Any] = {"iteration": member.iteration, "epoch": member.epoch, "seconds": member.seconds}
    norms = [float(f"{norm:.4g}") for norm in member.gradient_norms]
    rows: list[dict[str, Any]] = [
        {"kind": "train", **where, "lr": member.lr, "loss": loss, "gradient_norms": norms}
    ]
    if member.diverged_at is not None:
        rows = [{"kind": "diverged", **where, "iteration": member.diverged_at}]
        log(f"{directory.path.name}: the loss was not finite in update {member.diverged_at}; it stops here.")
    else:
        for name in member.tests:
            rows.append({"kind": "evaluation", **where, "dataset": name, **member.evaluate(name)})
            shown = "  ".join(f"{key} {value:.4f}" for key, value in rows[-1].items() if "/" in key)
            log(
                f"{directory.path.name}: {member.iteration}/{member.max_iter}  loss {loss:.4f}  {name} {shown}"
            )
    for row in rows:
        directory.append_metrics(row)
    save(member, directory)


def save(member: InTraining, directory: RunDirectory) -> None:
    """Write a checkpoint that knows how many rows of metrics.jsonl belong to it."""
    state = member.state_dict() | {"rows": len(directory.read_metrics())}
    save_checkpoint(checkpoint_path(directory.checkpoints, member.iteration), state)
    prune_checkpoints(directory.checkpoints, keep=KEPT)


def publish(member: InTraining, directory: RunDirectory) -> None:
    """Write model_final.safetensors, which `detectune test` and `detectune infer` read."""
    with member.evaluated_weights(), output_errors(directory.final_weights):
        save_weights(directory.final_weights, member.model.state_dict(), published_metadata(member))


def next_stop(iteration: int, *, every: int, max_iter: int) -> int:
    """Where the interval ends that begins after `iteration` updates: the next multiple of TRAIN.EVAL_ITERS."""
    return min(max_iter, (iteration // every + 1) * every) if every else max_iter
