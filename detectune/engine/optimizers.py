"""Detectron's momentum SGD, and the table of optimisers that SOLVER.OPTIMIZER names.

Detectron keeps the velocity in units of weights, V = momentum * V + lr * g and w -= V, where torch keeps it
in units of gradients. The two agree while the rate is constant. When it changes, V carries steps made at
the old rate; `scale_momentum` turns them into steps at the new one (Goyal et al., "Accurate, Large
Minibatch SGD", section 3: momentum correction). Nesterov's form is Caffe2's: w -= lr * g + momentum * V,
with the new V.

Knows nothing about configuration or models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from detectune.engine.lion import Lion
from detectune.engine.muon import Muon


class DetectronSGD(Optimizer):
    """SGD whose velocity holds weight updates. Groups may set `lr`, `momentum`, `weight_decay`, `nesterov`."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient; gradients are left as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update()
        return loss

    @torch.no_grad()
    def update(self) -> None:
        """`step` without a closure."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            # CUDA wants few launches; a CPU that goes over a tensor several times wants it while it is in the cache.
            at_once = group["momentum"] == 0 or (params and params[0].is_cuda)
            for part in [params] if at_once else [[p] for p in params]:
                if part:
                    self._update(part, group)

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        grads = [p.grad for p in params if p.grad is not None]
        if momentum == 0:  # nothing is carried on, so there is no velocity to keep
            if group["weight_decay"] != 0:
                torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
            torch._foreach_add_(params, grads, alpha=-lr)
            return
        velocities = [self._velocity(p) for p in params]
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, grads, alpha=lr)
        if group["weight_decay"] != 0:
            torch._foreach_add_(velocities, params, alpha=lr * group["weight_decay"])
        if not group["nesterov"]:
            torch._foreach_sub_(params, velocities)
            return
        if group["weight_decay"] != 0:  # before the weights move: the decay is part of the gradient
            decay = torch._foreach_mul(params, lr * group["weight_decay"])
            torch._foreach_sub_(params, decay)
        torch._foreach_sub_(params, grads, alpha=lr)
        torch._foreach_sub_(params, velocities, alpha=momentum)

    def _velocity(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        velocity: Tensor = state["velocity"]
        return velocity

    @torch.no_grad()
    def scale_momentum(self, factor: float) -> None:
        """Multiply every velocity by `factor`, the new learning rate over the old."""
        velocities = [state["velocity"] for state in self.state.values() if "velocity" in state]
        if velocities:
            torch._foreach_mul_(velocities, factor)


def make_optimizer(
    name: str,
    groups: list[dict[str, Any]],
    *,
    momentum: float,
    nesterov: bool,
    betas: tuple[float, float],
    eps: float,
    rho: float,
    alpha: float,
) -> Optimizer:
    """The optimiser of SOLVER.OPTIMIZER over parameter groups that bring their own `lr` and `weight_decay`."""
    makers: dict[str, Callable[[], Optimizer]] = {
        "sgd": lambda: DetectronSGD(groups, momentum=momentum, nesterov=nesterov),
        "adagrad": lambda: torch.optim.Adagrad(groups, eps=eps),
        "adadelta": lambda: torch.optim.Adadelta(groups, rho=rho, eps=eps),
        "rmsprop": lambda: torch.optim.RMSprop(groups, alpha=alpha, eps=eps),
        "adam": lambda: torch.optim.Adam(groups, betas=betas, eps=eps, fused=True),
        "adamw": lambda: torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True),
        "nadam": lambda: torch.optim.NAdam(groups, betas=betas, eps=eps),
        "lion": lambda: Lion(groups, betas=betas),
        "muon": lambda: Muon(groups, momentum=momentum, betas=betas, eps=eps),
    }
    if name not in makers:
        raise ValueError(f"SOLVER.OPTIMIZER={name!r} is unknown; choose one of: {', '.join(sorted(makers))}.")
    return makers[name]()


USED_BY: dict[str, tuple[str, ...]] = {
    "SOLVER.MOMENTUM": ("sgd", "muon"),
    "SOLVER.NESTEROV": ("sgd",),
    "SOLVER.SCALE_MOMENTUM": ("sgd",),
    "SOLVER.SCALE_MOMENTUM_THRESHOLD": ("sgd",),
    "SOLVER.BETAS": ("adam", "adamw", "nadam", "lion", "muon"),
    "SOLVER.EPS": ("adagrad", "adadelta", "rmsprop", "adam", "adamw", "nadam", "muon"),
    "SOLVER.RHO": ("adadelta",),
    "SOLVER.ALPHA": ("rmsprop",),
}
"""Which optimisers read a key; for the others a changed value is a mistake worth a notice."""
