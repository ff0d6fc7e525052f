"""Some operations have two routes with equal results: one of fixed shapes, which a device can run without waiting and
a compiler can record, and one that looks at the values and skips what they make unnecessary."""

from __future__ import annotations

import torch
from torch import Tensor


def static_by_default(tensor: Tensor) -> bool:
    """Whether to take the route of fixed shapes: everywhere but in ordinary execution on a CPU."""
    return tensor.device.type != "cpu" or torch.compiler.is_compiling()
