"""What a run ran on, for `environment.json`: versions, machine, threads, the choices that `auto` made."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch

from detectune.engine.precision import Compute

LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "hotcoco", "safetensors", "pydantic")


def describe_environment(compute: Compute, *, num_processes: int = 1) -> dict[str, Any]:
    """Plain values for JSON; no secret and no user name gets in."""
    return {
        "detectune": _version("detectune"),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES} | {"torch": torch.__version__},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor_name(),
        "cpu_count": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cuda_devices": [
            torch.cuda.get_device_name(i)
            for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        ],
        "cuda": torch.version.cuda,
        "processes": num_processes,
        "device": str(compute.device),
        "precision": compute.precision,
        "memory_format": compute.memory_format,
        "auto": compute.reason,
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def processor_name() -> str:
    """The processor as the system names it."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the standard library's answer will do
    return platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
