"""The folder of one run: where everything lies, who may write there, and writing that survives a crash.

    config.yaml  diff.yaml  environment.json  metrics.jsonl  model_final.safetensors  report.html
    checkpoints/iter_0000100.pt  checkpoints/best.safetensors  tensorboard/  evaluation/<data set>/

One process at a time: the folder is held by an advisory lock that the system drops when its holder dies,
however it dies. Files are written beside their place, flushed to disk and renamed, so a reader never sees
half of one; metrics.jsonl is appended to, and a torn last line is cut off when a run goes on.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from detectune.errors import OutputError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}


class RunDirectory:
    """Paths of a run and the lock on them. Use `with RunDirectory(path).held() as directory`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.final_weights = self.path / "model_final.safetensors"
        self.best_weights = self.checkpoints / "best.safetensors"
        self.tensorboard = self.path / "tensorboard"
        self.report = self.path / "report.html"

    @contextmanager
    def held(self) -> Iterator[RunDirectory]:
        """Make the folder and hold its lock; an `OutputError` if another process has it."""
        with output_errors(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "a+")  # noqa: SIM115 - closed below, after the run
        try:
            _take(lock, self.path)
            self._remove_unfinished()
            yield self
        finally:
            lock.close()  # drops the lock too; the file stays, as removing it would let two processes in

    def _remove_unfinished(self) -> None:
        """Delete what a killed run had not finished writing; only files of ours, the folder may be
        anyone's.
        """
        names = ("config.yaml", "diff.yaml", "environment.json", "metrics.jsonl", "model_final.safetensors")
        parts = [part for name in names for part in self.path.glob(f".{name}.*.part")]
        for part in (*parts, *self.checkpoints.glob(".*.part")):
            part.unlink(missing_ok=True)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl. Numbers that are not finite become null."""
        line = json.dumps({key: _plain(value) for key, value in row.items()}, allow_nan=False)
        with output_errors(self.metrics), open(self.metrics, "a") as file:
            file.write(line + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every complete row of metrics.jsonl, oldest first."""
        rows: list[dict[str, Any]] = []
        if self.metrics.exists():
            for line in self.metrics.read_text().splitlines():
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    continue  # the line that a killed process did not finish
        return rows

    def keep_metrics(self, num_rows: int) -> None:
        """Keep the first rows only: those of steps that will be done again go, and so does a torn last
        line.
        """
        if self.metrics.exists():
            kept = self.read_metrics()[:num_rows]
            write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))

    def write_text(self, name: str, text: str) -> None:
        """Write the text file `name` of this folder in one piece."""
        write_text(self.path / name, text)

    def set_aside(self) -> Path | None:
        """Move an earlier run's results into `earlier_NNN/`; None if there are none."""
        names = ("checkpoints", "metrics.jsonl", "model_final.safetensors", "tensorboard", "report.html")
        results = [self.path / name for name in (*names, "evaluation", "config.yaml", "diff.yaml")]
        if not any(self.checkpoints.iterdir()) and not self.metrics.exists():
            return None
        taken = {path.name for path in self.path.glob("earlier_*")}
        folder = next(f for n in range(1, 10**6) if (f := self.path / f"earlier_{n:03d}").name not in taken)
        with output_errors(folder):
            folder.mkdir()
            for result in results:
                if result.exists():
                    shutil.move(result, folder / result.name)
            self.checkpoints.mkdir()
        return folder


def write_text(path: Path, text: str) -> None:
    """Write a text file in one piece or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode())


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name, complete and flushed to disk, when the block ends without an
    error.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with output_errors(path):
        try:
            with open(part, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            _flush_folder(path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a read-only or forbidden place into an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        reason = _reason(error, path)
        if reason is None:
            raise
        raise OutputError(
            f"{path} cannot be written: {reason}. What was saved before is intact; "
            "make room or choose another OUTPUT_DIR, then give the same command again."
        ) from error


def _reason(error: OSError, path: Path) -> str | None:
    if error.errno in NO_ROOM:
        free = _free_bytes(path)
        left = "" if free is None else f" ({free / 2**20:.0f} MiB left on it)"
        return f"the disk is full{left}"
    if error.errno == errno.EFBIG:
        return "the file would be larger than the system allows"
    if error.errno in NO_RIGHT:
        return f"writing there is not allowed ({os.strerror(error.errno or 0)})"
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return f"a file or folder of another kind is in the way ({error.filename})"
    return None


def _free_bytes(path: Path) -> int | None:
    folder = next((parent for parent in (path, *path.parents) if parent.is_dir()), None)
    try:
        return None if folder is None else shutil.disk_usage(folder).free
    except OSError:
        return None


def _take(lock: IO[str], path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
            raise
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        raise OutputError(
            f"{path} is in use by another training process (pid {holder}); "
            "wait for it to end, or choose another OUTPUT_DIR."
        ) from error
    with output_errors(path):
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # the rename itself must reach the disk
    finally:
        os.close(handle)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value
