"""Reads cell arrays of number matrices from MATLAB's files (Level 5, versions 5 to 7), such as proposals of 2012.

Only what such files need: uncompressed or zlib elements of either byte order, real matrices of any number type, cells
of them. Version 7.3 is HDF5, a different format, and is refused with the way out. Source: MathWorks, "MAT-File Format".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from detectune.errors import DataError

_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CELL, _FIRST_NUMERIC, _LAST_NUMERIC = 1, 6, 15  # array classes
_COMPLEX = 0x08  # flag
MOST_BYTES = 8 << 30  # of one compressed element, unpacked


class _RefusedError(ValueError):
    """Says what in the file is not read."""


def read_cells(path: Path, name: str) -> list[np.ndarray]:
    """The matrices in the cell array called `name`, in MATLAB's order (columns first), each [rows, columns] float64.

    Raises:
        DataError: if the file cannot be read, is of another format, or has no such cell array.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the file cannot be opened ({error.strerror or error}).") from error
    if data[:4] == b"\x89HDF" or data[512:516] == b"\x89HDF":
        raise DataError(
            f"{path}: this is MATLAB's version 7.3 (HDF5); save it again with save(..., '-v7') and convert that."
        )
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise DataError(f"{path}: this is no MATLAB file.")
    found: list[str] = []
    try:
        for kind, content in _elements(data[128:], order):
            if kind != _MATRIX:
                continue
            own_name, value = _matrix(content, order)
            found.append(own_name)
            if own_name == name:
                if not isinstance(value, list):
                    raise _RefusedError(f"{name} is a matrix and no cell array")
                return value
    except (ValueError, struct.error, IndexError, KeyError, zlib.error) as error:
        raise DataError(f"{path}: the file is damaged or holds something else ({error}).") from error
    raise DataError(f"{path}: there is no variable {name!r}; the file has {', '.join(found) or 'none'}.")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, content) of the elements one after the other; compressed ones unpacked."""
    place = 0
    while place + 8 <= len(data):
        kind, length = struct.unpack_from(f"{order}II", data, place)
        if kind >> 16:  # a small element: its length shares the first word and four bytes of content follow
            kind, length = kind & 0xFFFF, kind >> 16
            yield kind, data[place + 4 : place + 4 + length]
            place += 8
            continue
        place += 8
        if place + length > len(data):
            raise ValueError(f"an element of {length} bytes reaches past the end")
        content = data[place : place + length]
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            yield from _elements(unpacker.decompress(content, MOST_BYTES), order)
            place += length
        else:
            yield kind, content
            place += length + (-length % 8)


def _matrix(content: bytes, order: str) -> tuple[str, Any]:
    """(name, float64 [rows, columns] or list of them) of a matrix element."""
    if not content:
        return "", np.zeros((0, 0))
    parts = _elements(content, order)
    flags = struct.unpack_from(f"{order}I", next(parts)[1])[0]
    kind = flags & 0xFF
    shape = np.frombuffer(next(parts)[1], dtype=f"{order}i4").tolist()
    name = next(parts)[1].decode("latin-1")
    if kind == _CELL:
        return name, [_matrix(inner, order)[1] for _, inner in parts]
    if not _FIRST_NUMERIC <= kind <= _LAST_NUMERIC or (flags >> 8) & _COMPLEX:
        return name, None
    number_type, numbers = next(parts)
    values = np.frombuffer(numbers, dtype=f"{order}{_NUMBERS[number_type]}").astype(np.float64)
    return name, values.reshape(shape, order="F")
