"""The exponential moving average of the weights (Polyak & Juditsky; SOLVER.EMA_DECAY).

Early averages would be dominated by the initial weights, so the decay of update t is min(decay, (1 + t) /
(10 + t)), a pure function of the iteration. Buffers (running statistics) are copied, not averaged. Knows no
configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """A shadow of a model's trainable parameters."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.live: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.shadow = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Move the average towards the weights after update `iteration` (from 0)."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(self.shadow, self.live, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model's parameters are the averaged ones; the trained ones come back at the end."""
        trained = [p.detach().clone() for p in self.live]
        self._write(self.shadow)
        try:
            yield
        finally:
            self._write(trained)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self.live, values)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.shadow, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a saved average; the names must be the model's trainable parameters."""
        if list(state) != self.names:
            raise ValueError("the saved weight average is of other parameters than the model trains")
        torch._foreach_copy_(
            self.shadow, [state[name].to(s.device) for name, s in zip(self.names, self.shadow, strict=True)]
        )
