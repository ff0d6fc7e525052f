"""Counts over a whole batch, for losses that are no sum over its images.

Most losses are: several processes that hold parts of a batch can put them together afterwards. A loss that depends on
a count of the batch in another way (a moving average, a least number) needs that count while it is computed.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class WholeBatch(nn.Module):
    """From a count over the images at hand to that over the whole batch. A model alone sees whole batches.

    In evaluation mode the images at hand are all there are: one process may compute losses while the others wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_parts = 1
        self._add: Callable[[Tensor], Tensor] | None = None

    def join(self, add: Callable[[Tensor], Tensor], *, num_parts: int) -> None:
        """From now on each batch is one of `num_parts` parts; `add` sums a tensor over them, and is called for all."""
        self._add, self.num_parts = add, num_parts

    def forward(self, count: Tensor) -> Tensor:
        """The sum over the parts of the batch, without waiting for it."""
        return count if self._add is None or not self.training else self._add(count)

    def extra_repr(self) -> str:
        return f"num_parts={self.num_parts}"
