"""Pickles as data: reads what Python and numpy write of plain values, and runs nothing.

A pickle is a program for a stack machine whose instructions may call any function. `load_pickle` hands it to a machine
of our own that can only build values (`pickle_machine`). Python 2's files (text as latin-1, `numpy.core`) and all
protocols up to 5 are read. `dump_pickle` writes protocol 2 with names that old and new numpy know, so that Detectron
itself can read it.
"""

from __future__ import annotations

import mmap
import pickle as names  # only for the names of its instructions
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from detectune.errors import UserError
from detectune.pickle_machine import CutOffError, Machine, RefusedError


def load_pickle(path: Path, *, what: str = "file", error: type[UserError] = UserError) -> Any:
    """The value in a pickle: plain containers, text, bytes, numbers, None and numpy arrays of numbers or text.

    OrderedDict and defaultdict come back as dict. `what` names the kind of file in messages.

    Raises:
        UserError (or `error`): if the file cannot be read, is no pickle, is cut off, or asks for anything else.
    """
    with (
        reading_pickle(path, what=what, error=error),
        open_mapped(path, what=what, error=error) as (data, size),
    ):
        return Machine(data, size).run()


@contextmanager
def open_mapped(
    path: Path, *, what: str, error: type[UserError] = UserError
) -> Iterator[tuple[mmap.mmap, int]]:
    """The bytes of a regular file that is not empty, mapped into memory, and how many there are.

    The mapping stays open for as long as something reads from it.
    """
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            if not path.is_file() or size == 0:
                raise error(f"{path}: the {what} is {'empty' if path.is_file() else 'no regular file'}.")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as problem:
        raise error(f"{path}: the {what} cannot be opened ({problem.strerror or problem}).") from problem
    yield data, size


@contextmanager
def reading_pickle(path: Path, *, what: str, error: type[UserError] = UserError) -> Iterator[None]:
    """Turns what is wrong with a pickle into one sentence about the file at `path`."""
    try:
        yield
    except RefusedError as problem:
        raise error(
            f"{path}: this {what} {problem}; a pickle can hold programs, so only numpy arrays and plain values are "
            "read from it, and nothing of this one was run. If you trust it, convert it to another format where it "
            "was made."
        ) from None
    except CutOffError:
        raise error(
            f"{path}: this {what} ends in the middle of its pickle; copy or download it again."
        ) from None
    except (ValueError, TypeError, LookupError, struct.error, ArithmeticError, AttributeError) as problem:
        raise error(
            f"{path}: this {what} is no valid pickle ({problem}); copy it again, or export it anew where it was made."
        ) from problem


def dump_pickle(value: Any, *, python2: bool = False) -> bytes:
    """Dicts, lists, tuples, text, numbers, None and arrays of numbers as a pickle of protocol 2.

    `python2` writes ASCII text and the bytes of arrays as Python 2's `str`, as Detectron's own files have them. Python
    3 then needs `encoding="latin1"`, or `load_pickle`.
    """
    parts: list[bytes] = [names.PROTO + b"\x02"]
    _write(value, parts, python2)
    return b"".join([*parts, names.STOP])


def _write(value: Any, parts: list[bytes], python2: bool) -> None:
    if value is None or isinstance(value, bool):
        parts.append({None: names.NONE, True: names.NEWTRUE, False: names.NEWFALSE}[value])
    elif isinstance(value, str):
        if python2 and value.isascii():
            _write(value.encode("ascii"), parts, python2)
            return
        raw = value.encode("utf-8", "surrogatepass")
        parts += [names.BINUNICODE, struct.pack("<I", len(raw)), raw]
    elif isinstance(value, int):
        parts.append(_integer(value))
    elif isinstance(value, float):
        parts += [names.BINFLOAT, struct.pack(">d", value)]
    elif isinstance(value, bytes):
        _write_bytes(value, parts, python2)
    elif isinstance(value, Mapping):
        parts += [names.EMPTY_DICT, names.MARK]
        for key, item in value.items():
            _write(key, parts, python2)
            _write(item, parts, python2)
        parts.append(names.SETITEMS)
    elif isinstance(value, tuple):
        parts.append(names.MARK)
        for item in value:
            _write(item, parts, python2)
        parts.append(names.TUPLE)
    elif isinstance(value, np.ndarray):
        _write_array(value, parts, python2)
    elif isinstance(value, Sequence):
        parts += [names.EMPTY_LIST, names.MARK]
        for item in value:
            _write(item, parts, python2)
        parts.append(names.APPENDS)
    else:
        raise TypeError(f"{type(value).__name__} is no plain value")


def _integer(value: int) -> bytes:
    if 0 <= value < 256:
        return names.BININT1 + struct.pack("<B", value)
    if -(2**31) <= value < 2**31:
        return names.BININT + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return names.LONG1 + struct.pack("<B", len(raw)) + raw


def _write_bytes(value: bytes, parts: list[bytes], python2: bool) -> None:
    if not python2:
        parts.append(b"c_codecs\nencode\n")
        _write((value.decode("latin-1"), "latin1"), parts, python2)
        parts.append(names.REDUCE)
    elif len(value) < 256:
        parts += [names.SHORT_BINSTRING, struct.pack("<B", len(value)), value]
    else:
        parts += [names.BINSTRING, struct.pack("<i", len(value)), value]


def _write_array(array: np.ndarray, parts: list[bytes], python2: bool) -> None:
    if array.dtype.hasobject or array.dtype.names:
        raise TypeError(f"an array of {array.dtype} is no plain value")
    order = "|" if array.dtype.itemsize == 1 else "<"
    kind = array.dtype.newbyteorder("<")
    parts.append(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n")
    _write((0,), parts, python2)
    _write(b"b", parts, python2)
    parts += [names.TUPLE3, names.REDUCE, names.MARK]
    _write(1, parts, python2)
    _write(tuple(array.shape), parts, python2)
    parts.append(b"cnumpy\ndtype\n")
    _write((kind.str[1:], 0, 1), parts, python2)
    parts.append(names.REDUCE)
    _write((3, order, None, None, None, -1, -1, 0), parts, python2)
    parts.append(names.BUILD)
    _write(False, parts, python2)
    _write(array.astype(kind, copy=False).tobytes("C"), parts, python2)
    parts += [names.TUPLE, names.BUILD]
