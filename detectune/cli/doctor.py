"""`detectune doctor`: what this machine has, what Detectune makes of it, and what is missing.

Every check answers for itself: one that fails becomes a line under "Missing", never a traceback.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any

import typer

# Instruction sets that decide how fast convolutions run, as Linux names them.
INSTRUCTION_SETS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
)
PACKAGES = (
    "torch", "torchvision", "numpy", "pillow", "pydantic", "ruamel.yaml", "typer", "rich", "hotcoco", "safetensors",
    "matplotlib", "jinja2", "tensorboard",
)  # fmt: skip
Facts = dict[str, Any]


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False) -> None:
    """Show the environment, what accelerates on it, and what is missing."""
    facts = examine()
    print(json.dumps(facts, indent=2, default=str) if as_json else describe(facts))
    if any(problem["required"] for problem in facts["missing"]):
        raise typer.Exit(1)


def examine() -> Facts:
    """Everything known about this machine and installation, as plain values."""
    missing: list[Facts] = []
    facts: Facts = {
        "detectune": _detectune(),
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "packages": _packages(missing),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "memory": _memory(),
        "disk": _disk(missing),
        "allocator": _allocator(),
        "compiler": _compiler(missing),
    }
    facts |= _torch(missing)
    return facts | {"missing": missing}


def describe(facts: Facts) -> str:
    """The facts as lines that fit a terminal of 60 columns."""
    cpu, memory, gib = facts["cpu"], facts["memory"], 2**30
    sets = ", ".join(cpu["instruction_sets"]) or "none known"
    lines = [
        _line("Detectune", f"{facts['detectune']['version']} in {facts['detectune']['folder']}"),
        _line("Python", f"{facts['python']['version']}, {facts['python']['executable']}"),
        _line(
            "Packages",
            ", ".join(f"{name} {version}" for name, version in facts["packages"].items() if version),
        ),
        _line("System", facts["system"]),
        "",
        _line("Processor", f"{cpu['model']}, {cpu['usable']} of {cpu['count']} processors usable"),
        _line("Instructions", f"{sets}; torch uses {facts['torch'].get('cpu_capability', 'unknown')}"),
        _line("Threads", f"{facts['torch'].get('threads', 'unknown')} in torch"),
    ]
    if memory:
        lines.append(
            _line("Memory", f"{memory['total'] / gib:.1f} GiB, {memory['available'] / gib:.1f} GiB available")
        )
    lines += [
        _line("GPU", "; ".join(gpu["text"] for gpu in facts["gpus"]) or "none that torch can use"),
        _line("Processes", facts["processes"]),
        *(
            _line("Disk", f"{place}: {free / gib:.1f} GiB free")
            for place, free in facts["disk"]["free"].items()
        ),
        _line("Cache", facts["disk"]["cache"]),
        "",
        *(_line("Fast paths", text) for text in facts["acceleration"]),
        _line("Allocator", facts["allocator"]["text"]),
        _line("Compiler", facts["compiler"] or "none: COMPILE keys cannot be used"),
        "",
    ]
    if facts["missing"]:
        lines += [_line("Missing", f"{problem['what']} {problem['mend']}") for problem in facts["missing"]]
    else:
        lines.append(_line("Missing", "nothing"))
    return "\n".join(lines)


def _line(name: str, text: str) -> str:
    width = max(40, min(shutil.get_terminal_size((80, 24)).columns, 110))
    indent = " " * 14
    return fill(
        text,
        width,
        initial_indent=f"{name:<14}",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _detectune() -> Facts:
    import detectune

    return {"version": detectune.__version__, "folder": str(Path(__file__).resolve().parent.parent)}


def _packages(missing: list[Facts]) -> dict[str, str | None]:
    from importlib import metadata

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
            missing.append(
                {"what": f"{name} is not installed.", "mend": f"pip install {name}", "required": True}
            )
    return versions


def _cpu() -> Facts:
    model, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
            elif name.strip() in ("flags", "Features"):
                flags.update(value.split())
                break
    except OSError:
        pass  # not Linux: the standard library's answer stands, the instruction sets stay unknown
    count = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
    found = [name for name in INSTRUCTION_SETS if name in flags]
    return {"model": model, "count": count, "usable": usable, "instruction_sets": found}


def _memory() -> Facts | None:
    """Bytes in all and available; a container's own limit counts where it is lower. None where unknown."""
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, available = (int(rows[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return {"total": total, "available": available}
    return {"total": min(total, limit), "available": max(0, min(available, limit - used))}


def _disk(missing: list[Facts]) -> Facts:
    from detectune.engine.precision import cache_directory

    cache = cache_directory()
    free = {}
    for place in dict.fromkeys([Path.cwd(), cache]):
        free[str(place)] = shutil.disk_usage(place).free
        if free[str(place)] < 2**30:
            missing.append(
                {"what": f"Less than 1 GiB is free at {place}.", "mend": "A run saves checkpoints: make room.",
                 "required": False}
            )  # fmt: skip
    return {"cache": str(cache), "free": free}


def _allocator() -> Facts:
    from detectune.cli import allocator

    if not allocator.uses_glibc():
        return {"state": "unavailable", "text": "the system's own (only glibc's can be tuned)"}
    if allocator.is_tuned(os.environ):
        return {"state": "active", "text": "glibc, tuned by this environment"}
    if os.environ.get(allocator.OPT_OUT, "") not in ("", "0"):
        return {
            "state": "off",
            "text": f"glibc, not tuned: {allocator.OPT_OUT} is set. Eager mode is slower so.",
        }
    commands = ", ".join(sorted(allocator.COMMANDS))
    text = f"glibc; {commands} restart themselves with it tuned. Python programs: {' '.join(_settings())}"
    return {"state": "automatic", "text": text}


def _settings() -> list[str]:
    from detectune.cli.allocator import SETTINGS

    return [f"{name}={value}" for name, value in SETTINGS.items()]


def _compiler(missing: list[Facts]) -> str | None:
    named = os.environ.get("CXX")
    found = next(
        (path for name in (named, "g++", "clang++", "c++") if name and (path := shutil.which(name))), None
    )
    if found is None:
        missing.append(
            {"what": "There is no C++ compiler, which SOLVER.COMPILE and TEST.COMPILE need on a CPU.",
             "mend": "Install g++ if you want them.", "required": False}
        )  # fmt: skip
    return found


def _torch(missing: list[Facts]) -> Facts:
    """What torch says; without a working torch only what is missing."""
    nothing: Facts = {"torch": {}, "gpus": [], "processes": "none without torch", "acceleration": []}
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        mend = "Install torch and the torchvision of the same release together: pip install --upgrade torch torchvision"
        missing.append(
            {"what": f"torch or torchvision does not work: {reason}.", "mend": mend, "required": True}
        )
        return nothing
    known = {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "mps": torch.backends.mps.is_available(),
    }
    gpus = [_gpu(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if not gpus and shutil.which("nvidia-smi"):
        missing.append(
            {"what": "There is an NVIDIA driver, but torch sees no GPU.",
             "mend": "The installed torch may be a CPU build or need a newer driver.", "required": False}
        )  # fmt: skip
    return {"torch": known, "gpus": gpus, "processes": _processes(len(gpus)), "acceleration": _acceleration()}


def _processes(num_gpus: int) -> str:
    """What NUM_GPUS may be on this machine."""
    import torch.distributed as dist

    if not dist.is_available():
        return "NUM_GPUS 1: this torch cannot start several processes that train together"
    cpu = "with MODEL.DEVICE cpu any number of processes (gloo)"
    if num_gpus == 0:
        return f"NUM_GPUS 1; {cpu}"
    through = "NCCL" if dist.is_nccl_available() else "no NCCL: one GPU only"
    return f"NUM_GPUS up to {num_gpus} ({through}); {cpu}"


def _gpu(index: int) -> Facts:
    import torch

    found = torch.cuda.get_device_properties(index)
    capability = f"{found.major}.{found.minor}"
    text = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, capability {capability}, CUDA {torch.version.cuda}"
    return {"name": found.name, "memory": found.total_memory, "capability": capability, "text": text}


def _acceleration() -> list[str]:
    """What the `auto` values of PRECISION and MEMORY_FORMAT mean on this machine, as measured."""
    from detectune.engine.precision import choose_device, choose_precision

    device = choose_device("auto")
    precision, reason = choose_precision(device)
    layout = "contiguous" if precision == "fp32" else "channels_last"
    return [
        f"MODEL.DEVICE auto: {device}",
        f"PRECISION keys, {reason}",
        f"MODEL.MEMORY_FORMAT auto: contiguous in fp32, so that nothing changes; with precision {precision}: {layout}",
        "Their defaults are fp32: only what you set to auto, bf16 or fp16 rounds differently",
    ]
