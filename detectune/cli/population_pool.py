"""Where the trials of a study run together, as members of a population: a pool that waits until it has all of them.

The study gives a trial to each free slot; then, and only when the population before has ended as a whole, the trials
are divided among processes (`population_program.py`), each of which trains its block. A trial that is lost with its
process, or was interrupted, is given again and goes on from its last evaluation.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectune.engine.run_directory import output_errors
from detectune.errors import UserError
from detectune.tuner.trial_job import Job
from detectune.tuner.workers import (
    CLOSING_SECONDS,
    Event,
    Slot,
    available_cpus,
    describe_exit,
    divide,
    visible_gpus,
)

if TYPE_CHECKING:
    from detectune.config.tree import Config
    from detectune.tuner.history import Space

LOCK = ".population"
"""In the study's folder; every process that trains members holds it, so that none of a killed study trains on."""


@dataclass(eq=False)
class _Block:
    """A process, and the slots whose trials it trains."""

    process: subprocess.Popen[bytes]
    slots: Sequence[Slot]


class PopulationPool:
    """`size` slots whose trials are trained together by `processes` processes; usable as a context."""

    def __init__(self, size: int, *, processes: int, gpus: Sequence[str] = ()) -> None:
        host = socket.gethostname()
        self.slots = [Slot(f"{host}:member {i}") for i in range(size)]
        self.shares = divide(processes, cpus=processes, gpus=gpus)
        self.given: list[tuple[Slot, Job]] = []
        self.blocks: list[_Block] = []
        self.said: queue.Queue[tuple[_Block, Mapping[str, Any] | None]] = queue.Queue()

    def __enter__(self) -> PopulationPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def free(self) -> list[str]:
        """All slots without a trial; none while a population trains, so that the next one is whole again."""
        return [] if self.blocks else [slot.name for slot in self.slots if slot.number is None]

    def start(self, slot: str, job: Job) -> None:
        place = next(place for place in self.slots if place.name == slot)
        place.begin(job.number)
        self.given.append((place, job))

    def events(self, timeout: float) -> list[Event]:
        """Starts what was given since the last population; then what its processes say."""
        if self.given and not self.blocks:
            self._begin()
        events: list[Event] = []
        deadline = time.monotonic() + timeout
        while not events and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                events += self._hear(*self.said.get(timeout=left))
        while not self.said.empty():
            events += self._hear(*self.said.get())
        return events

    def answer(self, number: int, reason: str | None) -> None:
        """Members of a population never ask."""

    def stop(self, number: int) -> None:
        """End the process of a trial; every member of it goes on later from its last evaluation."""
        self._end(number, signal.SIGTERM)

    def kill(self, number: int) -> None:
        self._end(number, signal.SIGKILL)

    def close(self) -> None:
        for block in self.blocks:
            assert block.process.stdin is not None
            with contextlib.suppress(OSError):
                block.process.stdin.close()  # which ends it
            try:
                block.process.wait(CLOSING_SECONDS)
            except subprocess.TimeoutExpired:
                block.process.kill()
                block.process.wait()
        self.blocks = []

    def _begin(self) -> None:
        given, self.given = self.given, []
        study = Path(given[0][1].run).parent.parent
        with output_errors(study):
            study.mkdir(parents=True, exist_ok=True)
        wait_until_alone(study / LOCK)
        count = min(len(self.shares), len(given))
        for k, variables in enumerate(self.shares[:count]):
            own = given[k::count]
            process = start_process(study, variables)
            block = _Block(process, [slot for slot, _ in own])
            self.blocks.append(block)
            threading.Thread(target=self._listen, args=(block,), daemon=True).start()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it is gone: the end of its output says so
                process.stdin.write((json.dumps({"jobs": [job.as_json() for _, job in own]}) + "\n").encode())

    def _listen(self, block: _Block) -> None:
        assert block.process.stdout is not None
        with block.process.stdout as lines:
            for line in lines:
                self.said.put((block, json.loads(line)))
        block.process.wait()
        self.said.put((block, None))

    def _hear(self, block: _Block, message: Mapping[str, Any] | None) -> list[Event]:
        if message is not None:
            slot = next(slot for slot in block.slots if slot.number == message["number"])
            slot.hear(message)
            return slot.leave("")
        if block not in self.blocks:  # closed
            return []
        self.blocks.remove(block)
        code = block.process.returncode
        return [event for slot in block.slots for event in slot.leave(describe_exit(code), code)]

    def _end(self, number: int, how: signal.Signals) -> None:
        for block in self.blocks:
            if any(slot.number == number for slot in block.slots):
                for slot in block.slots:
                    slot.stopping = True
                with contextlib.suppress(ProcessLookupError):
                    block.process.send_signal(how)


def make_population_pool(size: int, *, processes: int | None, device: str) -> PopulationPool:
    """The pool for a population of `size` on MODEL.DEVICE: a process for each core, or for each GPU."""
    gpus = visible_gpus() if device in ("auto", "cuda") else []
    count = processes or (len(gpus) if gpus else available_cpus())
    return PopulationPool(size, processes=min(count, size), gpus=gpus)


def start_process(study: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process for a block of members, whose words go to the study's population.log. Ctrl-C is the study's."""
    with output_errors(study / "population.log"):
        log = open(study / "population.log", "ab")  # noqa: SIM115 - closed below
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "detectune.cli.population_program"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **variables},
            bufsize=0,
            start_new_session=True,
        )


def wait_until_alone(lock: Path) -> None:
    """Until no process of an earlier session, whose study was killed, trains members any more."""
    with output_errors(lock):
        file = open(lock, "a+")  # noqa: SIM115 - closed below
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)


def check_population(space: Space, base: Config) -> None:
    """A `UserError` that names the knob which keeps trials in `space` around `base` from being one population."""
    from detectune.config.load import ConfigError
    from detectune.lab.checks import check_members

    check_members([base])
    for dimension in space:
        values = (dimension.low, dimension.high) if dimension.choices is None else dimension.choices
        members = []
        for value in values:
            with contextlib.suppress(ConfigError):  # legal only together with others: the trial finds out
                members.append(base.with_overrides({dimension.key: value}))
        try:
            check_members([base, *members])
        except UserError as error:
            raise UserError(
                f"{dimension.key} cannot be searched with --population: {error} Leave it out, or search without "
                "--population."
            ) from error
