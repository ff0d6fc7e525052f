"""Timing several contenders in one run, in alternation, each in a process of its own.

A ratio is only worth something when both sides met the same machine in the same minutes. Each contender lives in a
spawned process (so that allocator settings and compiled code are its own) and waits while another one works; rounds
go A B C A B C, and medians over rounds are compared. Nothing here knows what is being timed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Contender:
    """One side of a comparison. `setup(*arguments)` runs in its own process and returns the step to be timed."""

    name: str
    setup: Callable[..., Callable[[], Any]]
    arguments: tuple[Any, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Timing:
    """Seconds of every timed step, and the process's peak resident memory in MiB."""

    seconds: list[float] = field(default_factory=list)
    peak_memory_mib: float = 0.0
    setup_seconds: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, in seconds."""
        if len(self.seconds) < 4:
            return (max(self.seconds) - min(self.seconds)) / 2
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2


def alternate(
    contenders: Sequence[Contender], *, rounds: int, steps: int = 1, warm_up: int = 2
) -> dict[str, Timing]:
    """Times `steps` steps of every contender in turn, `rounds` times, after `warm_up` untimed steps each."""
    workers = [_Worker(c) for c in contenders]
    timings = {c.name: Timing() for c in contenders}
    try:
        for contender, worker in zip(contenders, workers, strict=True):
            timings[contender.name].setup_seconds = worker.ask("setup", 0)[0]
            worker.ask("run", warm_up)
            print(f"  ready: {contender.name}", flush=True)
        for number in range(rounds):
            for contender, worker in zip(contenders, workers, strict=True):
                timings[contender.name].seconds += worker.ask("run", steps)
            shown = ", ".join(f"{n} {t.seconds[-1]:.3f}" for n, t in timings.items())
            print(f"  round {number + 1}/{rounds}: {shown} s", flush=True)
        for contender, worker in zip(contenders, workers, strict=True):
            timings[contender.name].peak_memory_mib = worker.ask("memory", 0)[0]
    finally:
        for worker in workers:
            worker.close()
    return timings


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    import torch
    import torchvision

    model, flags = platform.processor(), ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
        flags = next((x.split(":")[1] for x in lines if x.startswith("flags")), "")
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "instruction_sets": [name for name in wanted if name in flags.split()],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def peak_memory_mib() -> float:
    """The most resident memory that this process had. Not `ru_maxrss`: a new program inherits that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def minutes_of_calls(folder: Path, began: float) -> list[float]:
    """The minutes of every call that worked in a folder, this one's last, which began at that `time.monotonic`."""
    file = folder / "bench_calls.json"
    calls: list[float] = json.loads(file.read_text()) if file.is_file() else []
    calls.append(round((time.monotonic() - began) / 60, 2))
    file.write_text(json.dumps(calls) + "\n")
    return calls


def write_result(name: str, result: Mapping[str, Any]) -> Path:
    """Saves a result with the machine and the command that made it; returns the file."""
    RESULTS.mkdir(exist_ok=True)
    command = "python bench/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"command": command, "machine": machine(), **result}, indent=1) + "\n")
    print(f"written: {path}", flush=True)
    return path


class _Worker:
    """A contender's process and the pipe to it."""

    def __init__(self, contender: Contender) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = contender.name
        self._pipe, theirs = context.Pipe()
        before = dict(os.environ)
        os.environ.update(contender.environment)
        try:
            self._process = context.Process(
                target=_serve, args=(theirs, contender.setup, contender.arguments), daemon=True
            )
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def ask(self, what: str, steps: int) -> list[float]:
        self._pipe.send((what, steps))
        answer: list[float] | str = self._pipe.recv()
        if isinstance(answer, str):
            raise RuntimeError(f"{self._name} failed:\n{answer}")
        return answer

    def close(self) -> None:
        """Ends the process by closing its pipe; killed if it does not go (a training run takes SIGTERM as "save")."""
        self._pipe.close()
        self._process.join(timeout=10)
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, setup: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> None:
    step: Callable[[], Any] | None = None
    while True:
        try:
            what, steps = pipe.recv()
        except EOFError:
            return  # the other side has closed
        try:
            if what == "setup":
                started = time.perf_counter()
                step = setup(*arguments)
                pipe.send([time.perf_counter() - started])
            elif what == "memory":
                pipe.send([peak_memory_mib()])
            else:
                assert step is not None, "setup comes first"
                seconds = []
                for _ in range(steps):
                    started = time.perf_counter()
                    step()
                    _synchronise()
                    seconds.append(time.perf_counter() - started)
                pipe.send(seconds)
        except Exception:
            pipe.send(traceback.format_exc())


def _synchronise() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
