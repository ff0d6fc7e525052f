"""Workers on a Ray cluster: an actor for each slot keeps a worker program on some node and passes its messages on.

The study itself stays one process, with its own storage; nodes need the package and the study's folder under the same
path (a shared file system), as trials are run directories in it. When a node dies its actor dies: the trial was lost
through no fault of its own, and is gone on with from its checkpoint by an actor on another node.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from detectune.errors import UserError
from detectune.tuner.trial_job import Job
from detectune.tuner.workers import Event, Slot

LOST = "its Ray node was lost"


@dataclass
class _RaySlot(Slot):
    actor: Any = None
    waiting: Any = None  # the reference of the next message


class WorkerActor:
    """Lives on a node, beside the worker program that it started."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "detectune.tuner.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **variables},
            bufsize=0,
        )

    def send(self, message: Mapping[str, Any]) -> None:
        """One line to the worker or its trial."""
        assert self.process.stdin is not None
        self.process.stdin.write((json.dumps(message) + "\n").encode())

    def receive(self) -> dict[str, Any]:
        """The next message; waits for it."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the worker program has ended")
        message: dict[str, Any] = json.loads(line)
        return message

    def kill_trial(self, pid: int) -> None:
        """End a trial at once."""
        os.kill(pid, signal.SIGKILL)


class RayPool:
    """`workers` slots on the cluster at `address` (`auto`: the one this machine belongs to, or a new one here)."""

    def __init__(self, address: str, workers: int, *, cpus: float = 1.0) -> None:
        try:
            ray: Any = importlib.import_module("ray")  # a module by name: it is typed in parts only
        except ImportError:
            raise UserError("--ray needs Ray: pip install 'detectune[cluster]'.") from None
        self.ray: Any = ray
        if not ray.is_initialized():
            try:
                ray.init(
                    address=None if address == "local" else address,
                    log_to_driver=False,
                    logging_level="ERROR",
                )
            except ConnectionError as error:
                raise UserError(f"There is no Ray cluster at {address}: {error}") from error
        gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
        threads = {"OMP_NUM_THREADS": str(max(1, int(cpus)))}
        # Two calls at a time: one waits for the next message while another sends.
        actor = ray.remote(num_cpus=cpus, num_gpus=gpus, max_concurrency=2)(WorkerActor)
        self.make_actor: Callable[[], Any] = lambda: actor.remote(threads)
        self.slots = [_RaySlot(f"ray:{i}") for i in range(workers)]

    def __enter__(self) -> RayPool:
        for slot in self.slots:
            self._begin(slot)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def free(self) -> list[str]:
        """Slots whose worker is up: after the loss of a node some may wait for room that never comes."""
        return [slot.name for slot in self.slots if slot.number is None and slot.ready]

    def start(self, slot: str, job: Job) -> None:
        place = next(place for place in self.slots if place.name == slot)
        place.begin(job.number)
        self._send(place, {"job": job.as_json()})

    def events(self, timeout: float) -> list[Event]:
        deadline = time.monotonic() + timeout
        while True:
            events: list[Event] = []
            references = {slot.waiting: slot for slot in self.slots}
            done, _ = self.ray.wait(list(references), timeout=max(0.0, deadline - time.monotonic()))
            for reference in done:
                events += self._receive(references[reference])
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
            slot.actor.kill_trial.remote(slot.pid)

    def close(self) -> None:
        for slot in self.slots:
            self.ray.kill(slot.actor)

    def _begin(self, slot: _RaySlot) -> None:
        slot.actor, slot.ready = self.make_actor(), False
        slot.waiting = slot.actor.receive.remote()

    def _receive(self, slot: _RaySlot) -> list[Event]:
        try:
            message = self.ray.get(slot.waiting)
        except (self.ray.exceptions.RayActorError, self.ray.exceptions.RayTaskError) as error:
            lost = isinstance(error, self.ray.exceptions.RayActorError)
            events: list[Event] = slot.leave(LOST if lost else "its worker program has ended")
            self._begin(slot)
            return events
        slot.waiting = slot.actor.receive.remote()
        return slot.hear(message)

    def _send(self, slot: _RaySlot, message: Mapping[str, Any]) -> None:
        slot.actor.send.remote(message)  # to an actor that is lost: the next message says so

    def _slot_of(self, number: int) -> _RaySlot:
        return next(slot for slot in self.slots if slot.number == number)
