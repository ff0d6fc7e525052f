"""Muon (Jordan 2024, kellerjordan.github.io/posts/muon) for whole networks.

Matrices, and filters as matrices [out, in * height * width], take the momentum with all its singular values made
nearly 1, times 0.2 sqrt(max(rows, columns)): as long as a step of Adam (Liu et al. 2025, arXiv:2502.16982, section
2.2). Biases and scales, which are no matrices, can so follow AdamW at the same rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from detectune.ops.orthogonal import orthogonal


class Muon(Optimizer):
    """Groups may set `lr`, `momentum`, `weight_decay`, and the `betas` and `eps` of AdamW's part."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = dict(lr=lr, momentum=momentum, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(params, defaults)

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
            for param in params:
                if param.dim() >= 2:
                    self._update_matrix(param, group)
            self._update_rest([p for p in params if p.dim() < 2], group)
        return loss

    def _update_matrix(self, param: Tensor, group: dict[str, Any]) -> None:
        grad, state, momentum = param.grad, self.state[param], group["momentum"]
        assert grad is not None
        if not state:
            state["mean"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        mean: Tensor = state["mean"]
        mean.lerp_(grad, 1 - momentum)
        matrix = grad.lerp(mean, momentum).flatten(1)  # Nesterov's look ahead
        # Jordan iterates in bfloat16; most processors compute that in float32, and slower.
        direction = (
            orthogonal(matrix.bfloat16() if matrix.is_cuda else matrix).to(param.dtype).view(param.shape)
        )
        param.mul_(1 - group["lr"] * group["weight_decay"])
        param.sub_(direction, alpha=group["lr"] * 0.2 * max(matrix.shape) ** 0.5)

    def _update_rest(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2)."""
        if not params:
            return
        for param in params:
            if not self.state[param]:
                self.state[param].update(
                    mean=torch.zeros_like(param), squares=torch.zeros_like(param), updates=0
                )
            self.state[param]["updates"] += 1
        states = [self.state[param] for param in params]
        grads = [param.grad for param in params if param.grad is not None]
        means, squares = [s["mean"] for s in states], [s["squares"] for s in states]
        lr, (beta1, beta2) = group["lr"], group["betas"]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - beta2)
        divisors = torch._foreach_sqrt(squares)
        torch._foreach_div_(divisors, [(1 - beta2 ** s["updates"]) ** 0.5 for s in states])
        torch._foreach_add_(divisors, group["eps"])
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_addcdiv_(params, means, divisors, [-lr / (1 - beta1 ** s["updates"]) for s in states])
