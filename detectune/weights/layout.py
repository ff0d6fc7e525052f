"""Differences of layout between systems that names do not show: colour order, where the background class stands.

Pure functions on single tensors; `rows` is the first dimension of a predictor's weight or bias.
"""

from __future__ import annotations

import torch
from torch import Tensor


def swap_colours(weight: Tensor) -> Tensor:
    """The first convolution [C, 3, k, k] for images whose colours come in the opposite order."""
    return weight.flip(1).contiguous()


def background_first(rows: Tensor) -> Tensor:
    """From background last to background first."""
    return torch.cat((rows[-1:], rows[:-1]))


def background_last(rows: Tensor) -> Tensor:
    """From background first to background last."""
    return torch.cat((rows[1:], rows[:1]))


def add_background(rows: Tensor, per_class: int = 1) -> Tensor:
    """Zeros for a background class that the source does not predict, in front; `per_class` rows each."""
    return torch.cat((rows.new_zeros((per_class, *rows.shape[1:])), rows))


def drop_background(rows: Tensor, per_class: int = 1) -> Tensor:
    """Without the background's rows."""
    return rows[per_class:].contiguous()
