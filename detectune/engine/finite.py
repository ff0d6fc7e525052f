"""Stops a run whose loss or gradient is not a finite number, before the optimiser uses it.

On the CPU losses and gradient are looked at before each update. On CUDA the losses travel to the host
behind the forward pass, and the host waits for that copy only after it has queued the backward pass: the
device still has that work, so it never idles, and the update is not queued before the losses are known to
be finite. A gradient that overflowed although its loss was finite is seen one update later, and always
before anything is saved. With fp16 the loss scaler answers for the gradient: it skips the update and lowers
the scale. Of several processes all stop at the loss of one; their gradients are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from detectune.engine.distributed import ALONE, Team, tell_elsewhere
from detectune.structures import Batch, LabelledBatch

ADVICE = "Lower SOLVER.BASE_LR, lengthen SOLVER.WARM_UP_ITERS or set SOLVER.CLIP_GRADIENT_NORM."


class NonFiniteLossError(RuntimeError):
    """Training cannot go on: a loss or the gradient became NaN or infinite. The message says which and
    where.
    """


@dataclass
class _Watched:
    names: list[str]
    values: (
        Tensor | list[float]
    )  # on the host, one for each name; a tensor is filled when `ready` has happened
    ready: torch.cuda.Event | None
    where: Callable[[], str]  # asked only if something is wrong


class FiniteGuard:
    """Remembers what is on its way to the host, and raises when something not finite arrives."""

    def __init__(self, team: Team = ALONE) -> None:
        self.team = team
        self.losses: list[_Watched] = []
        self.gradient: _Watched | None = None

    def watch_losses(
        self, losses: dict[str, Tensor], batch: Batch | LabelledBatch, *, iteration: int, lr: float
    ) -> None:
        """Start bringing the losses of one batch to the host."""
        self.losses.append(
            _fetch(losses, lambda: f"iteration {iteration + 1}, learning rate {lr:g}, images: {batch.names}")
        )

    def check_losses(self) -> None:
        """Raise unless all losses watched since the last call, by any process, are finite."""
        watched, self.losses = self.losses, []
        errors = [error for batch in watched if (error := _error_unless_finite(batch, "The loss"))]
        self.team.stop_on(errors[0] if errors else None)

    def check_gradient(self, norm: Tensor, *, iteration: int, lr: float) -> None:
        """Raise unless the gradient is finite; on CUDA it is the previous update's gradient that is looked
        at.
        """
        self.settle()
        self.gradient = _fetch({"norm": norm}, lambda: f"iteration {iteration + 1}, learning rate {lr:g}")
        if self.gradient.ready is None:
            self.settle()

    def settle(self) -> None:
        """Look at a gradient still on its way; called before anything is saved."""
        watched, self.gradient = self.gradient, None
        error = None if watched is None else _error_unless_finite(watched, "The gradient")
        if error is not None:
            if not self.team.first:
                tell_elsewhere(error)  # the gradient is the same everywhere
            raise error


def _fetch(scalars: dict[str, Tensor], where: Callable[[], str]) -> _Watched:
    if not any(value.is_cuda for value in scalars.values()):
        return _Watched(list(scalars), [value.item() for value in scalars.values()], None, where)
    stacked = torch.stack([value.detach().float() for value in scalars.values()])
    host = torch.empty(len(scalars), dtype=torch.float32, pin_memory=True)
    host.copy_(stacked, non_blocking=True)
    ready = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    ready.record()
    return _Watched(list(scalars), host, ready, where)


def _error_unless_finite(watched: _Watched, what: str) -> NonFiniteLossError | None:
    if watched.ready is not None:
        watched.ready.synchronize()
    values = watched.values if isinstance(watched.values, list) else watched.values.tolist()
    if all(math.isfinite(value) for value in values):
        return None
    pairs = [f"{name}={value:g}" for name, value in zip(watched.names, values, strict=True)]
    bad = [pair for pair, value in zip(pairs, values, strict=True) if not math.isfinite(value)]
    good = [pair for pair in pairs if pair not in bad]
    rest = f"; finite: {', '.join(good)}" if good else ""
    return NonFiniteLossError(
        f"{what} is not finite: {', '.join(bad)}{rest} at {watched.where()}. Training stopped before these weights "
        f"were updated; checkpoints written before are good. {ADVICE}"
    )
