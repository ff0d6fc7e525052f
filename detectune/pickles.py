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
from collections.abc import Mapping, Sequence
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
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            if not path.is_file() or size == 0:
                raise error(f"{path}: the {what} is {'empty' if path.is_file() else 'no regular file'}.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return Machine(data, size).run()
    except OSError as problem:
        raise error(f"{path}: the {what} cannot be opened ({problem.strerror or problem}).") from problem
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


def dump_pickle(value: Any) -> bytes:
    """Dicts, lists, tuples, text, numbers, None and arrays of numbers as a pickle of protocol 2."""
    parts: list[bytes] = [names.PROTO + b"\x02"]
    _write(value, parts)
    return b"".join([*parts, names.STOP])


def _write(value: Any, parts: list[bytes]) -> None:
    if value is None or isinstance(value, bool):
        parts.append({None: names.NONE, True: names.NEWTRUE, False: names.NEWFALSE}[value])
    elif isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
        parts += [names.BINUNICODE, struct.pack("<I", len(raw)), raw]
    elif isinstance(value, int):
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        parts += [names.LONG1, struct.pack("<B", len(raw)), raw]
    elif isinstance(value, float):
        parts += [names.BINFLOAT, struct.pack(">d", value)]
    elif isinstance(value, bytes):
        parts.append(b"c_codecs\nencode\n")
        _write((value.decode("latin-1"), "latin1"), parts)
        parts.append(names.REDUCE)
    elif isinstance(value, Mapping):
        parts += [names.EMPTY_DICT, names.MARK]
        for key, item in value.items():
            _write(key, parts)
            _write(item, parts)
        parts.append(names.SETITEMS)
    elif isinstance(value, tuple):
        parts.append(names.MARK)
        for item in value:
            _write(item, parts)
        parts.append(names.TUPLE)
    elif isinstance(value, np.ndarray):
        _write_array(value, parts)
    elif isinstance(value, Sequence):
        parts += [names.EMPTY_LIST, names.MARK]
        for item in value:
            _write(item, parts)
        parts.append(names.APPENDS)
    else:
        raise TypeError(f"{type(value).__name__} is no plain value")


def _write_array(array: np.ndarray, parts: list[bytes]) -> None:
    if array.dtype.hasobject or array.dtype.names:
        raise TypeError(f"an array of {array.dtype} is no plain value")
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    order = "|" if array.dtype.itemsize == 1 else "<"
    parts.append(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n")
    _write((0,), parts)
    _write(b"b", parts)
    parts += [names.TUPLE3, names.REDUCE, names.MARK]
    _write(1, parts)
    _write(tuple(array.shape), parts)
    parts.append(b"cnumpy\ndtype\n")
    _write((array.dtype.str[1:], False, True), parts)
    parts.append(names.REDUCE)
    _write((3, order, None, None, None, -1, -1, 0), parts)
    parts.append(names.BUILD)
    _write(False, parts)
    _write(array.tobytes(), parts)
    parts += [names.TUPLE, names.BUILD]
