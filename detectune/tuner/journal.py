"""The journal of a study: Optuna's log of operations in one file, made to survive whatever happens to its writers.

The lock is the system's, which falls when its holder dies, however it dies; a line that a killed process or a full
disk left unfinished is cut off before the next is written. Other programs, such as optuna-dashboard, open the same
file with Optuna's own reader.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from detectune.engine.run_directory import output_errors
from detectune.errors import OutputError

SAY_AFTER = 5.0  # seconds of waiting for the lock before the user is told
GIVE_UP_AFTER = 600.0


class StudyJournal(JournalFileBackend):
    """Optuna's journal file with the system's lock and no torn lines."""

    def __init__(self, path: Path, *, log: Callable[[str], None]) -> None:
        self.path = path
        self.log = log
        super().__init__(str(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in logs)
        # Unbuffered: what could not be written must not be tried once more on closing.
        with (
            output_errors(self.path),
            open(self.path, "r+b", buffering=0) as file,
            self._locked(file.fileno()),
        ):
            end = _end_of_last_line(file)
            file.truncate(end)
            file.seek(end)
            try:
                rest = memoryview(text.encode())
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), end)  # all of it or nothing
                raise

    @contextmanager
    def _locked(self, handle: int) -> Iterator[None]:
        began, told = time.monotonic(), False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = time.monotonic() - began
                if waited > GIVE_UP_AFTER:
                    raise OutputError(
                        f"{self.path} has been locked by another process for {waited:.0f} seconds; end that process, "
                        "then give the same command again. Nothing that was finished is lost."
                    ) from None
                if waited > SAY_AFTER and not told:
                    self.log(f"{self.path} is locked by another process; waiting for it.")
                    told = True
                time.sleep(0.02)
        yield  # closing the file drops the lock


def _end_of_last_line(file: Any) -> int:
    """Where the last complete line ends, in bytes."""
    size: int = file.seek(0, os.SEEK_END)
    step, end = 4096, size
    while end > 0:
        begin = max(0, end - step)
        file.seek(begin)
        found: int = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
