"""Pickles read for what they hold, with large arrays left in the file until someone wants them.

`PickleOutline` is the machine that reads pickles as data; where a text or byte string is long, it remembers the place
instead of the bytes. An array becomes a `Stored`: its type, its shape and a way to read it. A file of a gigabyte is
described in moments, and torch is not needed.
"""

from __future__ import annotations

import math
import pickle as names  # only for the names of its instructions
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectune.pickle_machine import PLAIN, ArrayType, CutOffError, Machine, Name, RefusedError, Vocabulary

LARGE = 1 << 16  # bytes from which a string stays in the file; the configuration in a checkpoint is shorter


@dataclass(frozen=True, eq=False)
class Stored:
    """An array in a file. `load` reads it; bfloat16, which numpy lacks, comes as uint16."""

    dtype: str  # float32, int64, bfloat16, ...
    shape: tuple[int, ...]
    itemsize: int
    load: Callable[[], np.ndarray]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.itemsize


@dataclass(frozen=True, eq=False)
class Span:
    """A long string that was left in the file; `utf8` if each byte above 127 takes two there."""

    start: int
    stored_length: int
    utf8: bool

    def may_have(self, length: int) -> bool:
        """Whether it can be `length` bytes or characters long; of a text only reading it tells."""
        if not self.utf8:
            return length == self.stored_length
        return length <= self.stored_length <= 2 * length


class PickleOutline(Machine):
    """Reads one pickle; arrays come as `Stored`, other long strings as `Span`."""

    def __init__(
        self, data: Any, size: int, *, position: int = 0, vocabulary: Vocabulary | None = None
    ) -> None:
        super().__init__(data, size, position=position, vocabulary=vocabulary or OUTLINE)

    def long_string(self, form: str, code: bytes, *, utf8: bool) -> None:
        """The string whose length, written as `form`, comes next; short ones are read as ever."""
        before = self.position
        length = self.take_number(form)
        if length < LARGE:
            self.position = before
            PLAIN.actions[code](self)
            return
        start = self.position
        if start + length > self.size:
            raise CutOffError
        self.position += length
        self.push(Span(start, length, utf8))

    def encoded(self, text: Any, encoding: Any = "") -> Any:
        if isinstance(text, Span) and encoding in ("latin1", "latin-1"):
            return text
        return super().encoded(text, encoding)

    def array(self, raw: Any, kind: Any, shape: Any, order: str = "C") -> Any:
        if not isinstance(raw, Span):
            array = super().array(raw, kind, shape, order)
            return Stored(array.dtype.name, array.shape, array.dtype.itemsize, lambda: array)
        if not isinstance(kind, ArrayType):
            raise RefusedError("has an array of objects")
        dtype, fixed = kind.dtype, self.checked_shape(shape)
        length = math.prod(fixed) * dtype.itemsize
        if order not in ("C", "F") or not raw.may_have(length):
            raise ValueError(f"an array of {len(fixed)} dimensions that its bytes do not make up")
        self.array_bytes += length
        if self.array_bytes > self.size:
            raise RefusedError("repeats its contents until they are larger than the file")
        data, end = self.data, raw.start + raw.stored_length

        def load() -> np.ndarray:
            piece: bytes = data[raw.start : end]
            if raw.utf8:
                piece = piece.decode("utf-8").encode("latin-1")
            if len(piece) != length:
                raise ValueError(
                    f"an array of {len(fixed)} dimensions that {len(piece)} bytes do not make up"
                )
            return np.frombuffer(piece, dtype=dtype).reshape(fixed, order=order).copy()  # type: ignore[call-overload,no-any-return]

        return Stored(dtype.name, fixed, dtype.itemsize, load)

    def scalar(self, kind: Any, raw: Any) -> Any:
        return Machine.array(self, raw, kind, ())[()]


def arrays_of(values: Mapping[Any, Any]) -> dict[str, Stored]:
    """The arrays of numbers among named values."""
    return {
        str(name): value
        for name, value in values.items()
        if isinstance(value, Stored) and (value.dtype == "bfloat16" or np.dtype(value.dtype).kind in "fiu")
    }


def walk(value: Any, *, limit: int = 100_000) -> Iterator[Stored]:
    """Every array in nested containers, each container once."""
    seen: set[int] = set()
    waiting = [value]
    while waiting and len(seen) < limit:
        item = waiting.pop()
        if isinstance(item, Stored):
            yield item
        elif isinstance(item, (dict, list, tuple)) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, dict) else item)


def _long(code: bytes, form: str, *, utf8: bool = False) -> tuple[bytes, Callable[[PickleOutline], None]]:
    return code, lambda machine: machine.long_string(form, code, utf8=utf8)


OUTLINE = PLAIN.with_more(
    actions=dict(
        [
            _long(names.BINSTRING, "<i"),
            _long(names.BINUNICODE, "<I", utf8=True),
            _long(names.BINUNICODE8, "<Q", utf8=True),
            _long(names.BINBYTES, "<I"),
            _long(names.BINBYTES8, "<Q"),
            _long(names.BYTEARRAY8, "<Q"),
        ]
    ),
    calls={
        Name("collections", "Counter"): Machine.dictionary,  # in the state of torch's learning rate schedules
        **{name: PickleOutline.scalar for name in PLAIN.calls if name.name == "scalar"},
        **{name: PickleOutline.from_buffer for name in PLAIN.calls if name.name == "_frombuffer"},
        Name("_codecs", "encode"): PickleOutline.encoded,
    },
    names=(),
)
