"""Starting studies in processes that are forked, not loaded anew (`forked.py`), looking at them and killing them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Launcher:
    process: subprocess.Popen[str]

    def start(self, folder: Path, *, workers: int, trials: int, **options: str) -> int:
        """Start a study, or go on with it; its process id."""
        assert self.process.stdin is not None
        words = [f"{key}={value}" for key, value in options.items()]
        self.process.stdin.write(" ".join([str(folder), str(workers), str(trials), *words]) + "\n")
        self.process.stdin.flush()
        words = self.line().split()
        assert words[0] == "study", words
        return int(words[1])

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextlib.contextmanager
def launched() -> Iterator[Launcher]:
    """A launcher for as long as the block lasts."""
    command = [sys.executable, str(Path(__file__).parent / "forked.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    yield Launcher(process)
    process.communicate(timeout=60)


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, nearest first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(0), [])
        found += children
        waiting += children
    return found


def kill_tree(pid: int) -> None:
    """End a process and everything below it at one moment: all are stopped before the first is killed."""
    everyone = [pid, *descendants(pid)]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in [*everyone, *descendants(pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


def ends(folder: Path) -> dict[int, str]:
    """Trial -> its first end, from outcome.json as the trial itself wrote it, with the time it was written."""
    return {
        int(file.parent.name): f"{file.stat().st_mtime_ns} {file.read_text()}"
        for file in sorted((folder / "trials").glob("*/outcome.json"))
    }


def stamp(folder: Path) -> int:
    """When the study last wrote down how it stands; 0 if it has not yet."""
    file = folder / "trials.json"
    return file.stat().st_mtime_ns if file.exists() else 0


def wait_for(what: Callable[[], bool]) -> None:
    """Until something has come true."""
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)
