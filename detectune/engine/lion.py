"""Lion (Chen et al. 2023, arXiv:2302.06675, algorithm 2): every weight moves by the learning rate, up or down."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    """w <- (1 - lr decay) w - lr sign(b1 m + (1 - b1) g);  m <- b2 m + (1 - b2) g, with m = 0 at first.

    Groups may set `lr`, `betas`, `weight_decay`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient; gradients are left as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            for param in params:
                if not self.state[param]:
                    self.state[param]["mean"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            means = [self.state[param]["mean"] for param in params]
            beta1, beta2 = group["betas"]
            steps = torch._foreach_lerp(means, grads, 1 - beta1)
            torch._foreach_sign_(steps)
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_sub_(params, steps, alpha=group["lr"])
            torch._foreach_lerp_(means, grads, 1 - beta2)
        return loss
