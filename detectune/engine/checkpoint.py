"""Checkpoints: one dictionary in one file, whole or absent, checked when read.

A file is what `torch.save` writes, then a trailer of 16 bytes: a mark, the CRC-32 of what precedes, its
length. A file cut short, or with a flipped bit, is told from a good one, and an older good one is taken
instead. Reading never runs code from the file (`weights_only`). Knows nothing about what the dictionary
means.
"""

from __future__ import annotations

import io
import pickle  # only for the error that torch raises
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import torch

from detectune.engine.run_directory import atomic_file

MARK = b"DTN1"
TRAILER = struct.Struct("<4sIQ")  # mark, CRC-32, length of the content
NAME = re.compile(r"iter_(\d{7,})\.pt")


class DamagedCheckpointError(Exception):
    """A checkpoint file that is not what was written."""


class _Checked(io.RawIOBase):
    """Passes writes on to a file, keeping their CRC and the first error (torch.save hides it in a
    RuntimeError).
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.crc = 0
        self.length = 0
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        try:
            self.file.write(view)
        except OSError as error:
            self.error = self.error or error
            raise
        self.crc = zlib.crc32(view, self.crc)
        self.length += view.nbytes
        return view.nbytes


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dictionaries); an `OutputError` if the disk refuses."""
    with atomic_file(path) as file:
        checked = _Checked(file)
        try:
            torch.save(state, cast(IO[bytes], checked))  # it only ever writes
        except Exception as error:
            raise (checked.error or error) from error
        file.write(TRAILER.pack(MARK, checked.crc, checked.length))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The dictionary of a checkpoint, tensors on the CPU; `DamagedCheckpointError` says what is wrong with
    it.
    """
    content = path.read_bytes()
    if len(content) < TRAILER.size:
        raise DamagedCheckpointError("it is cut short")
    mark, crc, length = TRAILER.unpack_from(content, len(content) - TRAILER.size)
    body = memoryview(content)[: -TRAILER.size]
    if mark != MARK or length != len(body):
        raise DamagedCheckpointError("it is cut short")
    if zlib.crc32(body) != crc:
        raise DamagedCheckpointError("its content does not match its checksum")
    try:
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, LookupError, EOFError) as error:
        raise DamagedCheckpointError("it is no checkpoint, or asks for more than plain values") from error
    if not isinstance(state, dict):
        raise DamagedCheckpointError("it does not hold a dictionary")
    return state


def checkpoint_path(folder: Path, iteration: int) -> Path:
    """`folder`/iter_0000100.pt for iteration 100."""
    return folder / f"iter_{iteration:07d}.pt"


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files of a folder, oldest iteration first. Nothing is read."""
    named = [path for path in folder.glob("iter_*.pt") if NAME.fullmatch(path.name)]
    return sorted(named, key=lambda path: int(path.stem.removeprefix("iter_")))


def newest_valid(folder: Path, *, log: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The last checkpoint that can be trusted, and its content; those passed over are named in the log."""
    for path in reversed(list_checkpoints(folder)):
        try:
            return path, load_checkpoint(path)
        except DamagedCheckpointError as error:
            log(f"Checkpoint {path} is damaged ({error}); trying the one before it.")
    return None


def prune_checkpoints(folder: Path, *, keep: int) -> None:
    """Delete all but the last `keep` checkpoints (at least one stays)."""
    for path in list_checkpoints(folder)[: -max(1, keep)]:
        path.unlink(missing_ok=True)
