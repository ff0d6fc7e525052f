"""The stack machine that reads pickles, without the ability to call anything.

It knows numbers, text, containers and numpy arrays, builds them itself, and refuses every other name before anything
happens. Memory is bounded by the file: lengths are checked against what is left of it, memo numbers are only keys,
arrays together may not be larger than it, and each step, of which there are at most MAX_STEPS, adds some hundred bytes.
What a file says is shown only where it is short text: a nest of shared lists has no end when it is written out.
"""

from __future__ import annotations

import codecs
import math
import mmap
import pickle as names  # only for the names of its instructions
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAX_STEPS = 20_000_000  # a proposal file of COCO's 118 000 training images takes 7 million
MAX_NESTING = 64
MAX_DIMENSIONS = 32
MAX_INTEGER_BYTES = 64
_DTYPE = re.compile(r"[<>=|]?(?:[biufcSU]\d{1,6}|\?)")
_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUILTINS = ("__builtin__", "builtins")
_FACTORIES = ("list", "dict", "int", "float", "str", "object", "long", "unicode")


class RefusedError(Exception):
    """Says what the file asks for, to stand after 'this file'."""


class CutOffError(Exception):
    """The file ends before its last instruction."""


@dataclass(frozen=True)
class Name:
    """A function or class that the file names; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module[:80]}.{self.name[:80]}"


@dataclass(eq=False)
class ArrayType:
    """numpy's dtype while its byte order is still to come."""

    dtype: np.dtype[Any]


@dataclass(eq=False)
class _NewArray:
    """An array before its contents; `memo` are the numbers under which it was remembered."""

    memo: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Vocabulary:
    """What a machine understands: instructions, functions it has a harmless twin of, and names it may only hold."""

    actions: Mapping[bytes, Callable[[Any], Any]]
    calls: Mapping[Name, Callable[..., Any]]
    names: frozenset[Name]

    def with_more(
        self,
        *,
        actions: Mapping[bytes, Callable[[Any], Any]],
        calls: Mapping[Name, Callable[..., Any]],
        names: Iterable[Name],
    ) -> Vocabulary:
        """This vocabulary and more; `names` includes those of `calls`."""
        return Vocabulary(
            {**self.actions, **actions}, {**self.calls, **calls}, self.names | set(calls) | set(names)
        )


class Machine:
    """One pass over the instructions of a file, from `position` on. A subclass may bring a larger vocabulary."""

    def __init__(
        self,
        data: mmap.mmap | bytes,
        size: int,
        *,
        position: int = 0,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self.data = data
        self.size = size
        self.position = position
        self.vocabulary = vocabulary or PLAIN
        self.steps = 0
        self.array_bytes = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        actions = self.vocabulary.actions
        while True:
            code = self.take(1)
            if code == names.STOP:
                if len(self.stack) != 1 or isinstance(self.stack[0], (Name, ArrayType, _NewArray)):
                    raise ValueError("it does not end with one value")
                return self.stack[0]
            action = actions.get(code)
            if action is None:
                raise (
                    RefusedError(_describe(code))
                    if code in _FORBIDDEN
                    else ValueError(f"unknown instruction {code!r}")
                )
            self.count(1)
            action(self)

    # Reading

    def take(self, length: int) -> bytes:
        end = self.position + length
        if end > self.size:
            raise CutOffError
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def take_line(self) -> str:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise CutOffError
        return self.take(end + 1 - self.position)[:-1].decode("latin-1")

    def take_number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def take_counted(self, form: str) -> bytes:
        length = self.take_number(form)
        if length < 0:
            raise ValueError(f"a length of {length}")
        return self.take(length)

    # Stack

    def count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise RefusedError(f"takes more than {MAX_STEPS} steps to read")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or (self.marks and len(self.stack) <= self.marks[-1]):
            raise ValueError("a value is missing")
        return self.stack.pop()

    def top(self, kind: type | tuple[type, ...]) -> Any:
        value = self.pop()
        self.push(value)
        if not isinstance(value, kind):
            raise ValueError(f"a {type(value).__name__} where a container belongs")
        return value

    def mark(self) -> None:
        if len(self.marks) >= MAX_NESTING:
            raise RefusedError(f"nests its values more than {MAX_NESTING} deep")
        self.marks.append(len(self.stack))

    def to_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("a mark is missing")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def remember(self, number: int) -> None:
        value = self.pop()
        self.push(value)
        if isinstance(value, _NewArray):
            value.memo.append(number)
        self.memo[number] = value

    def recall(self, number: int) -> None:
        if number not in self.memo:
            raise ValueError(f"value {number} is used before it exists")
        self.push(self.memo[number])

    # Containers

    def append(self, values: list[Any]) -> None:
        target = self.top((list, set))
        target.update(map(_key, values)) if isinstance(target, set) else target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        self.top(dict).update(_pairs(values))

    # Names

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        found = Name(module, name)
        if found not in self.vocabulary.names:
            raise RefusedError(f"names {found}")
        self.push(found)

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise RefusedError(f"calls a {type(function).__name__}")
        made = self.vocabulary.calls.get(function)
        if made is None:
            raise RefusedError(f"calls {function}")
        self.push(made(self, *arguments))

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, ArrayType):
            _, order, base, fields, titles, *_ = state
            if base is not None or fields is not None or titles is not None:
                raise RefusedError("has an array of structures")
            target.dtype = target.dtype.newbyteorder(order if order in ("<", ">") else "=")
            self.push(target)
        elif isinstance(target, _NewArray):
            shape, kind, fortran, raw = state[-4:]
            array = self.array(raw, kind, shape, order="F" if fortran else "C")
            for number in target.memo:
                self.memo[number] = array
            self.push(array)
        else:
            raise RefusedError(f"sets the attributes of a {type(target).__name__}")

    # numpy

    def array(self, raw: Any, kind: Any, shape: Any, order: str = "C") -> np.ndarray:
        if isinstance(raw, list) or not isinstance(kind, ArrayType):
            raise RefusedError("has an array of objects")
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        if not isinstance(raw, bytes):
            raise ValueError("an array without bytes")
        shape = self.checked_shape(shape)
        if order not in ("C", "F") or math.prod(shape) * kind.dtype.itemsize != len(raw):
            raise ValueError(
                f"an array of {len(shape)} dimensions from {len(raw)} bytes, which do not make it up"
            )
        self.array_bytes += len(raw)
        if self.array_bytes > self.size:
            raise RefusedError("repeats its contents until they are larger than the file")
        return np.frombuffer(raw, dtype=kind.dtype).reshape(shape, order=order).copy()  # type: ignore[call-overload, no-any-return]

    def checked_shape(self, shape: Any) -> tuple[int, ...]:
        if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
            raise ValueError("an array without shape")
        if not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError("an array whose shape is not of natural numbers")
        return shape

    def new_array(self, *_: Any) -> _NewArray:
        return _NewArray()

    def array_type(self, text: Any, *_: Any) -> ArrayType:
        if isinstance(text, bytes):
            text = text.decode("latin-1")
        if not isinstance(text, str) or _DTYPE.fullmatch(text) is None:
            raise RefusedError(f"has an array of {_shown(text)}")
        return ArrayType(np.dtype(text))

    def scalar(self, kind: Any, raw: Any) -> Any:
        return self.array(raw, kind, ())[()]

    def from_buffer(self, raw: Any, kind: Any, shape: Any, order: str) -> np.ndarray:
        return self.array(raw, kind, shape, order)

    # Other calls

    def encoded(self, text: Any, encoding: Any = "") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise RefusedError(f"encodes text as {_shown(encoding)}")
        self.count(len(text) // 64)
        return text.encode("latin-1")

    def dictionary(self, *arguments: Any) -> dict[Any, Any]:
        given: Any = next((a for a in arguments if not isinstance(a, Name) and a is not None), [])
        self.count(len(given))
        entries = given.items() if isinstance(given, Mapping) else given
        return {_key(key): value for key, value in entries}

    def unordered(self, values: Any = ()) -> set[Any]:
        if not isinstance(values, (list, tuple)):
            raise ValueError("a set of no list")
        self.count(len(values))
        return set(map(_key, values))

    def raw_bytes(self, *values: Any) -> bytes:
        raw = b"" if not values else values[0]
        if isinstance(raw, str):
            raw = raw.encode("latin-1")
        if not isinstance(raw, bytes):
            raise ValueError("bytes of something else")
        return raw


def _shown(value: Any) -> str:
    return repr(value[:40]) if isinstance(value, str) else f"a {type(value).__name__}"


def _key(value: Any) -> Any:
    """Keys and members are simple: the hash of a nested one can take longer than any program lasts."""
    simple = (str, bytes, int, float, complex, type(None), np.generic)
    if isinstance(value, simple) or (isinstance(value, tuple) and all(isinstance(v, simple) for v in value)):
        return value
    raise RefusedError(f"has a {type(value).__name__} as key")


def _pairs(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise ValueError("a key without value")
    return {_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _integer(raw: bytes) -> int:
    if len(raw) > MAX_INTEGER_BYTES:
        raise RefusedError(f"has an integer of {len(raw)} bytes")
    return int.from_bytes(raw, "little", signed=True)


def _written_integer(text: str) -> int | bool:
    if text in ("00", "01"):  # how protocol 0 writes False and True
        return text == "01"
    if len(text) > 2 * MAX_INTEGER_BYTES:
        raise RefusedError(f"has an integer of {len(text)} digits")
    return int(text.rstrip("L"))


def _written_text(line: str) -> str:
    if len(line) < 2 or line[0] != line[-1] or line[0] not in "'\"":
        raise ValueError("text without quotes")
    return codecs.escape_decode(line[1:-1].encode("latin-1"))[0].decode("latin-1")


def _utf8(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _plain_name(machine: Machine) -> None:
    module = machine.take_line()
    machine.name(module, machine.take_line())


def _stacked_name(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _last(machine: Machine, count: int) -> tuple[Any, ...]:
    return tuple(machine.pop() for _ in range(count))[::-1]


def _discard(machine: Machine) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop()


def _pair(machine: Machine) -> None:
    key, value = _last(machine, 2)
    machine.set_items([key, value])


_ACTIONS: dict[bytes, Callable[[Machine], Any]] = {
    names.PROTO: lambda m: m.take(1),
    names.FRAME: lambda m: m.take(8),
    names.MARK: lambda m: m.mark(),
    names.POP: _discard,
    names.POP_MARK: lambda m: m.to_mark(),
    names.DUP: lambda m: m.push(m.top(object)),
    names.NONE: lambda m: m.push(None),
    names.NEWTRUE: lambda m: m.push(True),
    names.NEWFALSE: lambda m: m.push(False),
    names.INT: lambda m: m.push(_written_integer(m.take_line())),
    names.LONG: lambda m: m.push(_written_integer(m.take_line())),
    names.BININT: lambda m: m.push(m.take_number("<i")),
    names.BININT1: lambda m: m.push(m.take_number("<B")),
    names.BININT2: lambda m: m.push(m.take_number("<H")),
    names.LONG1: lambda m: m.push(_integer(m.take_counted("<B"))),
    names.LONG4: lambda m: m.push(_integer(m.take_counted("<i"))),
    names.FLOAT: lambda m: m.push(float(m.take_line())),
    names.BINFLOAT: lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    names.STRING: lambda m: m.push(_written_text(m.take_line())),
    names.BINSTRING: lambda m: m.push(m.take_counted("<i").decode("latin-1")),
    names.SHORT_BINSTRING: lambda m: m.push(m.take_counted("<B").decode("latin-1")),
    names.UNICODE: lambda m: m.push(m.take_line().encode("latin-1").decode("raw-unicode-escape")),
    names.BINUNICODE: lambda m: m.push(_utf8(m.take_counted("<I"))),
    names.SHORT_BINUNICODE: lambda m: m.push(_utf8(m.take_counted("<B"))),
    names.BINUNICODE8: lambda m: m.push(_utf8(m.take_counted("<Q"))),
    names.BINBYTES: lambda m: m.push(m.take_counted("<I")),
    names.SHORT_BINBYTES: lambda m: m.push(m.take_counted("<B")),
    names.BINBYTES8: lambda m: m.push(m.take_counted("<Q")),
    names.BYTEARRAY8: lambda m: m.push(m.take_counted("<Q")),
    names.EMPTY_TUPLE: lambda m: m.push(()),
    names.TUPLE1: lambda m: m.push(_last(m, 1)),
    names.TUPLE2: lambda m: m.push(_last(m, 2)),
    names.TUPLE3: lambda m: m.push(_last(m, 3)),
    names.TUPLE: lambda m: m.push(tuple(m.to_mark())),
    names.EMPTY_LIST: lambda m: m.push([]),
    names.LIST: lambda m: m.push(m.to_mark()),
    names.APPEND: lambda m: m.append([m.pop()]),
    names.APPENDS: lambda m: m.append(m.to_mark()),
    names.EMPTY_DICT: lambda m: m.push({}),
    names.DICT: lambda m: m.push(_pairs(m.to_mark())),
    names.SETITEM: _pair,
    names.SETITEMS: lambda m: m.set_items(m.to_mark()),
    names.EMPTY_SET: lambda m: m.push(set()),
    names.ADDITEMS: lambda m: m.append(m.to_mark()),
    names.FROZENSET: lambda m: m.push(set(map(_key, m.to_mark()))),
    names.PUT: lambda m: m.remember(int(_written_integer(m.take_line()))),
    names.BINPUT: lambda m: m.remember(m.take_number("<B")),
    names.LONG_BINPUT: lambda m: m.remember(m.take_number("<I")),
    names.MEMOIZE: lambda m: m.remember(len(m.memo)),
    names.GET: lambda m: m.recall(int(_written_integer(m.take_line()))),
    names.BINGET: lambda m: m.recall(m.take_number("<B")),
    names.LONG_BINGET: lambda m: m.recall(m.take_number("<I")),
    names.GLOBAL: _plain_name,
    names.STACK_GLOBAL: _stacked_name,
    names.REDUCE: lambda m: m.call(),
    names.BUILD: lambda m: m.build(),
}  # fmt: skip

_FORBIDDEN = {
    names.INST: "makes an object of a class",
    names.OBJ: "makes an object of a class",
    names.NEWOBJ: "makes an object of a class",
    names.NEWOBJ_EX: "makes an object of a class",
    names.PERSID: "refers to objects outside of the file (persistent ids)",
    names.BINPERSID: "refers to objects outside of the file (persistent ids)",
    names.EXT1: "uses Python's registry of extensions",
    names.EXT2: "uses Python's registry of extensions",
    names.EXT4: "uses Python's registry of extensions",
    names.NEXT_BUFFER: "keeps its arrays outside of the file",
    names.READONLY_BUFFER: "keeps its arrays outside of the file",
}


def _describe(code: bytes) -> str:
    return _FORBIDDEN[code]


_CALLS: dict[Name, Callable[..., Any]] = {
    Name("numpy", "dtype"): Machine.array_type,
    **{Name(module, "_reconstruct"): Machine.new_array for module in _ARRAYS},
    **{Name(module, "scalar"): Machine.scalar for module in _ARRAYS},
    Name("numpy.core.numeric", "_frombuffer"): Machine.from_buffer,
    Name("numpy._core.numeric", "_frombuffer"): Machine.from_buffer,
    Name("_codecs", "encode"): Machine.encoded,
    Name("collections", "OrderedDict"): Machine.dictionary,
    Name("collections", "defaultdict"): Machine.dictionary,
    **{Name(module, "set"): Machine.unordered for module in _BUILTINS},
    **{Name(module, "frozenset"): Machine.unordered for module in _BUILTINS},
    **{Name(module, name): Machine.raw_bytes for module in _BUILTINS for name in ("bytes", "bytearray")},
}
_NAMES = frozenset(
    {
        *_CALLS,
        Name("numpy", "ndarray"),
        *(Name(module, name) for module in _BUILTINS for name in _FACTORIES),
    }
)

PLAIN = Vocabulary(_ACTIONS, _CALLS, _NAMES)
