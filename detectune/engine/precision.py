"""Device, precision and memory format: what a run asks for, what the machine offers, and who decides.

fp32 means fp32: TF32 is off, and the memory format is the plain one unless asked for, so that a result in
fp32 does not depend on what a machine happens to be fast at. Only `auto` measures, once per machine
(cached), and what it chose is a sentence in the log and in `environment.json`.

`set_torch_globals` is the one place that touches torch's process-wide switches; the command line and the
trainer call it, libraries never do. Knows nothing about configuration.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from detectune.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GAIN_NEEDED = 1.3  # lower precision must be at least this much faster before `auto` takes it


@dataclass(frozen=True)
class Compute:
    """Where and how the network runs."""

    device: torch.device
    precision: str = "fp32"  # fp32 | bf16 | fp16, never auto
    memory_format: str = "contiguous"  # contiguous | channels_last
    reason: str = ""  # what `auto` measured, in words

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context in which the forward pass runs; it does nothing in fp32."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])

    def place(self, model: nn.Module) -> nn.Module:
        """`model` on the device in the memory format; parameters stay float32."""
        # A Module moves in place; only 4-d parameters (convolutions) have a channels-last layout.
        layout = torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format
        return model.to(device=self.device).to(memory_format=layout)

    def needs_loss_scaling(self) -> bool:
        return self.precision == "fp16"


def choose_compute(*, device: str, precision: str, memory_format: str, key: str = "SOLVER") -> Compute:
    """Settle MODEL.DEVICE, `key`.PRECISION and MODEL.MEMORY_FORMAT for this machine; `auto` is measured."""
    where = choose_device(device)
    if precision == "fp16" and where.type != "cuda":
        raise UserError(
            f"{key}.PRECISION=fp16 needs a CUDA device, but MODEL.DEVICE is {where.type}; "
            f"use {key}.PRECISION=bf16 or fp32."
        )
    reason = ""
    if precision == "auto":
        precision, reason = choose_precision(where)
    if memory_format == "auto":
        # In fp32 another layout takes other kernels, which round differently: only reduced precision may
        # switch.
        memory_format = "contiguous" if precision == "fp32" else "channels_last"
    return Compute(where, precision, memory_format, reason)


def choose_device(name: str) -> torch.device:
    """The torch device that MODEL.DEVICE names; a `UserError` if the machine has none such."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UserError(
                f"MODEL.DEVICE={name} is not available: this machine has {count} usable CUDA device(s); "
                "use MODEL.DEVICE=auto or cpu."
            )
        return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("MODEL.DEVICE=mps is not available on this machine; use MODEL.DEVICE=auto or cpu.")
    return device


def choose_precision(device: torch.device) -> tuple[str, str]:
    """The fastest precision worth taking on `device`, with the measurement in words. Cached per machine."""
    if device.type not in ("cpu", "cuda"):
        return "fp32", f"auto precision: fp32, the only one measured on {device.type}"
    seconds = _cached(_machine_key(device), lambda: measure_precisions(device))
    best = min(seconds, key=lambda name: seconds[name])
    if seconds["fp32"] < GAIN_NEEDED * seconds[best]:
        best = "fp32"
    figures = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in seconds.items())
    return best, f"auto precision: {best} ({figures} for a probe convolution on {device.type})"


def measure_precisions(device: torch.device) -> dict[str, float]:
    """Seconds of a forward and backward pass of a small convolution stack in each precision, best of five."""
    names = ["fp32", "bf16"] if device.type == "cpu" or torch.cuda.is_bf16_supported() else ["fp32", "fp16"]
    seconds: dict[str, float] = {}
    for name in names:
        layers = [nn.Conv2d(128, 128, 3, padding=1, device=device) for _ in range(3)]
        layout = "contiguous" if name == "fp32" else "channels_last"
        compute = Compute(device, name, layout)
        stack = compute.place(nn.Sequential(*layers))
        image = torch.zeros(1, 128, 64, 64, device=device)

        def once(stack: nn.Module = stack, image: torch.Tensor = image, compute: Compute = compute) -> float:
            start = time.perf_counter()
            with compute.autocast():
                loss = stack(image).sum()
            loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter() - start

        for _ in range(2):
            once()
        seconds[name] = min(once() for _ in range(5))
    return seconds


def set_torch_globals(*, threads: int | None = None, deterministic: bool = False) -> None:
    """Set torch's process-wide switches: thread count, no TF32 (fp32 is fp32), reproducible kernels if
    asked.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def cache_directory() -> Path:
    """Where measurements are kept: $DETECTUNE_CACHE, ~/.cache/detectune, or the temporary folder if read-
    only.
    """
    named = os.environ.get("DETECTUNE_CACHE")
    candidates = [Path(named)] if named else [Path.home() / ".cache" / "detectune"]
    for folder in candidates:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.gettempdir())


def _machine_key(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    facts = [device.type, name, platform.machine(), torch.__version__, str(torch.get_num_threads())]
    if device.type == "cpu":
        facts.append(torch.backends.cpu.get_cpu_capability())
    return hashlib.sha256("|".join(facts).encode()).hexdigest()[:16]


def _cached(key: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    path = cache_directory() / f"precision_{key}.json"
    try:
        stored = json.loads(path.read_text())
        if isinstance(stored, dict) and "fp32" in stored and all(v > 0 for v in stored.values()):
            return {str(name): float(value) for name, value in stored.items()}
    except (OSError, ValueError, TypeError):
        stored = None  # absent or damaged: measure again
    seconds = measure()
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs the next run a measurement
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(seconds))
        part.replace(path)
    return seconds
