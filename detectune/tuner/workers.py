"""Workers on this machine: a program for each slot, its share of threads and GPUs, and the messages of its trials.

A pool starts trials, hands on what they say as events, passes answers, and notices when one is lost. What trials mean
for the study is not known here.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from detectune.tuner.outcomes import Fault, Halt, Outcome
from detectune.tuner.trial_job import Job

CLOSING_SECONDS = 10.0  # for a worker without a trial to leave


@dataclass(frozen=True)
class Evaluated:
    """A trial has measured itself; if `asks`, it waits for `Pool.answer`."""

    number: int
    step: int
    metrics: Mapping[str, float]
    asks: bool


@dataclass(frozen=True)
class Ended:
    """A trial's process is gone and its slot free. `end` is None if it was stopped and can be gone on with."""

    number: int
    end: Outcome | Fault | Halt | None
    peak_memory: int | None = None


Event = Evaluated | Ended


class Pool(Protocol):
    """Places where trials run."""

    def free(self) -> list[str]:
        """Names of the slots without a trial."""

    def start(self, slot: str, job: Job) -> None: ...

    def events(self, timeout: float) -> list[Event]:
        """What has happened, waiting at most `timeout` seconds for the first."""

    def answer(self, number: int, reason: str | None) -> None:
        """Let a trial that asked go on, or end for a reason."""

    def stop(self, number: int) -> None:
        """Ask a trial to finish its step, save and end."""

    def kill(self, number: int) -> None:
        """End a trial at once."""

    def close(self) -> None: ...


@dataclass
class Slot:
    """A place for one trial at a time, and what its worker has said."""

    name: str
    number: int | None = None  # of the trial in it
    pid: int | None = None  # of the trial's process
    said: Mapping[str, Any] | None = None  # how the trial said that it ended
    stopping: bool = False
    ready: bool = False  # whether the worker program has come up

    def begin(self, number: int) -> None:
        """A trial comes in."""
        self.number, self.pid, self.said, self.stopping = number, None, None, False

    def hear(self, message: Mapping[str, Any]) -> list[Event]:
        """What a message of the worker means for the study."""
        match message["event"]:
            case "ready":
                self.ready = True
            case "started":
                self.pid = message["pid"]
            case "evaluated" if self.number is not None:
                return [Evaluated(self.number, message["step"], message["metrics"], message["asks"])]
            case "ended":
                self.said = message
            case "exited":
                return self.leave(describe_exit(message["code"]), message["code"], message["peak_memory"])
        return []

    def leave(self, why: str, code: int = 0, peak_memory: int | None = None) -> list[Event]:
        """The trial is gone, having said how it ended or not; `why` is for the latter."""
        number, said, self.number, self.pid = self.number, self.said, None, None
        if number is None:
            return []
        if said is None:
            end = None if self.stopping or code == -signal.SIGTERM else Fault(why)
            return [Ended(number, end, peak_memory)]
        return [Ended(number, read_end(said), said.get("peak_memory") or peak_memory)]


@dataclass
class _LocalSlot(Slot):
    variables: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    unread: bytes = b""


class LocalPool:
    """`workers` slots on this machine; usable as a context."""

    def __init__(self, workers: int) -> None:
        host = socket.gethostname()
        shares = divide(workers, cpus=available_cpus(), gpus=visible_gpus())
        self.slots = [_LocalSlot(f"{host}:{i}", variables=variables) for i, variables in enumerate(shares)]
        self.selector = selectors.DefaultSelector()

    def __enter__(self) -> LocalPool:
        for slot in self.slots:
            self._begin(slot)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def free(self) -> list[str]:
        return [slot.name for slot in self.slots if slot.number is None]

    def start(self, slot: str, job: Job) -> None:
        place = next(place for place in self.slots if place.name == slot)
        place.begin(job.number)
        if place.process is None or place.process.poll() is not None:
            self._begin(place)
        self._send(place, {"job": job.as_json()})

    def events(self, timeout: float) -> list[Event]:
        deadline = time.monotonic() + timeout
        while True:
            events: list[Event] = []
            for key, _ in self.selector.select(max(0.0, deadline - time.monotonic())):
                events += self._read(key.data)
            if events or time.monotonic() >= deadline:
                return events

    def answer(self, number: int, reason: str | None) -> None:
        self._send(self._slot_of(number), {"answer": reason})

    def stop(self, number: int) -> None:
        slot = self._slot_of(number)
        slot.stopping = True
        self._send(slot, {"stop": True})

    def kill(self, number: int) -> None:
        slot = self._slot_of(number)
        slot.stopping = True
        if slot.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(slot.pid, signal.SIGKILL)

    def close(self) -> None:
        for slot in self.slots:
            if slot.process is None:
                continue
            assert slot.process.stdin is not None and slot.process.stdout is not None
            with contextlib.suppress(OSError):
                slot.process.stdin.close()
            try:
                slot.process.wait(CLOSING_SECONDS)
            except subprocess.TimeoutExpired:
                slot.process.kill()
                slot.process.wait()
            slot.process.stdout.close()
        self.selector.close()

    def start_worker(self, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """A worker program. Its own session keeps the terminal's Ctrl-C from it: the study decides."""
        return subprocess.Popen(
            [sys.executable, "-m", "detectune.tuner.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **variables},
            bufsize=0,
            start_new_session=True,
        )

    def _begin(self, slot: _LocalSlot) -> None:
        self._forget(slot)
        slot.process = self.start_worker(slot.variables)
        assert slot.process.stdout is not None
        slot.unread, slot.ready = b"", False
        self.selector.register(slot.process.stdout, selectors.EVENT_READ, slot)

    def _forget(self, slot: _LocalSlot) -> None:
        if slot.process is None:
            return
        for stream in (slot.process.stdin, slot.process.stdout):
            assert stream is not None
            with contextlib.suppress(KeyError, ValueError):
                self.selector.unregister(stream)
            with contextlib.suppress(OSError):
                stream.close()
        slot.process.kill()
        slot.process.wait()
        slot.process = None

    def _send(self, slot: _LocalSlot, message: Mapping[str, Any]) -> None:
        assert slot.process is not None and slot.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone: the end of its output says so
            slot.process.stdin.write((json.dumps(message) + "\n").encode())

    def _slot_of(self, number: int) -> _LocalSlot:
        return next(slot for slot in self.slots if slot.number == number)

    def _read(self, slot: _LocalSlot) -> list[Event]:
        assert slot.process is not None and slot.process.stdout is not None
        chunk = os.read(slot.process.stdout.fileno(), 65536)
        if not chunk:
            code = -signal.SIGKILL
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = slot.process.wait(1.0)
            self._forget(slot)
            if not slot.ready and slot.number is not None:
                number, slot.number = slot.number, None
                return [Ended(number, Halt("A worker could not be started; what it said stands above."))]
            return slot.leave(describe_exit(code), code)
        *lines, slot.unread = (slot.unread + chunk).split(b"\n")
        return [event for line in lines for event in slot.hear(json.loads(line))]


def read_end(said: Mapping[str, Any]) -> Outcome | Fault | Halt | None:
    """What a trial's last message says."""
    if "outcome" in said:
        return Outcome.from_json(said["outcome"])
    if "fault" in said:
        return Fault(said["fault"])
    return Halt(said["halt"]) if "halt" in said else None


def describe_exit(code: int) -> str:
    """What the system says about a process that ended without a word."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    why = ", most often for lack of memory" if code == -signal.SIGKILL else ""
    return f"its process was ended by the system with {name}{why}"


def divide(workers: int, *, cpus: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """Environment variables of each worker: its share of threads, and one GPU where there are any.

    Threads that the user set stay as they are. More workers than GPUs share them in turn.
    """
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cpus // workers)))
    shares = []
    for i in range(workers):
        variables = {"OMP_NUM_THREADS": threads}
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)]
        shares.append(variables)
    return shares


def available_cpus() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Names of the GPUs for CUDA_VISIBLE_DEVICES, without initialising CUDA in this process."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]
