"""How a detector runs when nothing is learnt: folded norms, fused kernels, precision, compilation.

In fp32 nothing changes but rounding: frozen affines and batch norms are folded into their convolutions. bf16 and fp16
are used where TEST.PRECISION asks for them, or where it is `auto` and this machine was measured to be faster for it.
TEST.COMPILE compiles the dense part (backbone and pyramid, and the head of RetinaNet), with weights frozen into the
program. Knows nothing about configuration.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import torch
from torch import nn

from detectune.engine.precision import DTYPES, Compute
from detectune.models.layers import fuse_for_inference
from detectune.models.rcnn import RCNN
from detectune.models.retinanet import RetinaNet


def accelerate(
    model: nn.Module, compute: Compute, *, compiled: bool = False, log: Callable[[str], None] = print
) -> nn.Module:
    """A copy of `model` on the device, ready for `predict`; the original stays as it is.

    Without a C++ compiler `compiled` has no effect, and the log says so.
    """
    compiled = compiled and _can_compile(compute.device, log)
    dtype = DTYPES[compute.precision]
    fused = fuse_for_inference(compute.place(model), dtype=dtype, one_pass=False if compiled else None)
    if compute.memory_format == "channels_last" or compiled:
        fused.to(memory_format=torch.channels_last)
    if compiled:
        for part in _dense_parts(fused):
            part.forward = torch.compile(  # one program in place of many modules
                part.forward, dynamic=True, options={"freezing": compute.device.type == "cpu"}
            )
    return fused


def _dense_parts(model: nn.Module) -> list[nn.Module]:
    """What computes the same for every image of a size."""
    if isinstance(model, RetinaNet):
        return [model.backbone, model.head]
    return [model.backbone] if isinstance(model, RCNN) else []


def _can_compile(device: torch.device, log: Callable[[str], None]) -> bool:
    if device.type == "cpu" and not any(
        shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")
    ):
        log("TEST.COMPILE=True has no effect: torch.compile needs a C++ compiler (g++ or clang++) on a CPU.")
        return False
    return True
