"""Pickles as data: reads what Python and numpy write of plain values, and runs nothing.

A pickle is a program for a stack machine whose instructions may call any function. `load_pickle` is a machine of our
own without that ability: it knows numbers, text, containers and numpy arrays, builds them itself, and refuses every
other name before anything happens. Python 2's files (text as latin-1, `numpy.core`) and all protocols up to 5 are read.

Memory is bounded by the file: lengths are checked against what is left of it, memo numbers are only keys, arrays
together may not be larger than it, and each step, of which there are at most MAX_STEPS, adds some hundred bytes. What a
file says is shown only where it is short text: a nest of shared lists has no end when it is written out.
`dump_pickle` writes protocol 2 with names that old and new numpy know, so that Detectron itself can read it.
"""

from __future__ import annotations

import codecs
import math
import mmap
import pickle as names  # only for the names of its instructions
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detectune.errors import UserError

MAX_STEPS = 20_000_000  # a proposal file of COCO's 118 000 training images takes 7 million
MAX_NESTING = 64
MAX_DIMENSIONS = 32
MAX_INTEGER_BYTES = 64
_DTYPE = re.compile(r"[<>=|]?(?:[biufcSU]\d{1,6}|\?)")
_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUILTINS = ("__builtin__", "builtins")
_FACTORIES = ("list", "dict", "int", "float", "str", "object", "long", "unicode")


class _RefusedError(Exception):
    """Says what the file asks for, to stand after 'this file'."""


class _CutOffError(Exception):
    """The file ends before its last instruction."""


@dataclass(frozen=True)
class _Name:
    """A function or class that the file names; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module[:80]}.{self.name[:80]}"


@dataclass(eq=False)
class _ArrayType:
    """numpy's dtype while its byte order is still to come."""

    dtype: np.dtype[Any]


@dataclass(eq=False)
class _NewArray:
    """An array before its contents; `memo` are the numbers under which it was remembered."""

    memo: list[int] = field(default_factory=list)


_MARK: Any = object()


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
                return _Machine(data, size).run()
    except OSError as problem:
        raise error(f"{path}: the {what} cannot be opened ({problem.strerror or problem}).") from problem
    except _RefusedError as problem:
        raise error(
            f"{path}: this {what} {problem}; a pickle can hold programs, so only numpy arrays and plain values are "
            "read from it, and nothing of this one was run. If you trust it, convert it to another format where it "
            "was made."
        ) from None
    except _CutOffError:
        raise error(
            f"{path}: this {what} ends in the middle of its pickle; copy or download it again."
        ) from None
    except (ValueError, TypeError, LookupError, struct.error, ArithmeticError, AttributeError) as problem:
        raise error(
            f"{path}: this {what} is no valid pickle ({problem}); copy it again, or export it anew where it was made."
        ) from problem


class _Machine:
    """One pass over the instructions of a file."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self.data = data
        self.size = size
        self.position = 0
        self.steps = 0
        self.array_bytes = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        actions = _ACTIONS
        while True:
            code = self.take(1)
            if code == names.STOP:
                if len(self.stack) != 1 or isinstance(self.stack[0], (_Name, _ArrayType, _NewArray)):
                    raise ValueError("it does not end with one value")
                return self.stack[0]
            action = actions.get(code)
            if action is None:
                raise (
                    _RefusedError(_describe(code))
                    if code in _FORBIDDEN
                    else ValueError(f"unknown instruction {code!r}")
                )
            self.count(1)
            action(self)

    # Reading

    def take(self, length: int) -> bytes:
        end = self.position + length
        if end > self.size:
            raise _CutOffError
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def take_line(self) -> str:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise _CutOffError
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
            raise _RefusedError(f"takes more than {MAX_STEPS} steps to read")

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
            raise _RefusedError(f"nests its values more than {MAX_NESTING} deep")
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
        found = _Name(module, name)
        if found not in _ALLOWED:
            raise _RefusedError(f"names {found}")
        self.push(found)

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise _RefusedError(f"calls a {type(function).__name__}")
        made = _CALLS.get(function)
        if made is None:
            raise _RefusedError(f"calls {function}")
        self.push(made(self, *arguments))

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, _ArrayType):
            _, order, base, fields, titles, *_ = state
            if base is not None or fields is not None or titles is not None:
                raise _RefusedError("has an array of structures")
            target.dtype = target.dtype.newbyteorder(order if order in ("<", ">") else "=")
            self.push(target)
        elif isinstance(target, _NewArray):
            shape, kind, fortran, raw = state[-4:]
            array = self.array(raw, kind, shape, order="F" if fortran else "C")
            for number in target.memo:
                self.memo[number] = array
            self.push(array)
        else:
            raise _RefusedError(f"sets the attributes of a {type(target).__name__}")

    # numpy

    def array(self, raw: Any, kind: Any, shape: Any, order: str = "C") -> np.ndarray:
        if isinstance(raw, list) or not isinstance(kind, _ArrayType):
            raise _RefusedError("has an array of objects")
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        if not isinstance(raw, bytes) or not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
            raise ValueError("an array without bytes or shape")
        if not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError("an array whose shape is not of natural numbers")
        if order not in ("C", "F") or math.prod(shape) * kind.dtype.itemsize != len(raw):
            raise ValueError(
                f"an array of {len(shape)} dimensions from {len(raw)} bytes, which do not make it up"
            )
        self.array_bytes += len(raw)
        if self.array_bytes > self.size:
            raise _RefusedError("repeats its contents until they are larger than the file")
        return np.frombuffer(raw, dtype=kind.dtype).reshape(shape, order=order).copy()  # type: ignore[call-overload, no-any-return]

    def new_array(self, *_: Any) -> _NewArray:
        return _NewArray()

    def array_type(self, text: Any, *_: Any) -> _ArrayType:
        if isinstance(text, bytes):
            text = text.decode("latin-1")
        if not isinstance(text, str) or _DTYPE.fullmatch(text) is None:
            raise _RefusedError(f"has an array of {_shown(text)}")
        return _ArrayType(np.dtype(text))

    def scalar(self, kind: Any, raw: Any) -> Any:
        return self.array(raw, kind, ())[()]

    def from_buffer(self, raw: Any, kind: Any, shape: Any, order: str) -> np.ndarray:
        return self.array(raw, kind, shape, order)

    # Other calls

    def encoded(self, text: Any, encoding: Any = "") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _RefusedError(f"encodes text as {_shown(encoding)}")
        self.count(len(text) // 64)
        return text.encode("latin-1")

    def dictionary(self, *arguments: Any) -> dict[Any, Any]:
        given: Any = next((a for a in arguments if not isinstance(a, _Name) and a is not None), [])
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
    raise _RefusedError(f"has a {type(value).__name__} as key")


def _pairs(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise ValueError("a key without value")
    return {_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _integer(raw: bytes) -> int:
    if len(raw) > MAX_INTEGER_BYTES:
        raise _RefusedError(f"has an integer of {len(raw)} bytes")
    return int.from_bytes(raw, "little", signed=True)


def _written_integer(text: str) -> int | bool:
    if text in ("00", "01"):  # how protocol 0 writes False and True
        return text == "01"
    if len(text) > 2 * MAX_INTEGER_BYTES:
        raise _RefusedError(f"has an integer of {len(text)} digits")
    return int(text.rstrip("L"))


def _written_text(line: str) -> str:
    if len(line) < 2 or line[0] != line[-1] or line[0] not in "'\"":
        raise ValueError("text without quotes")
    return codecs.escape_decode(line[1:-1].encode("latin-1"))[0].decode("latin-1")


def _utf8(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _plain_name(machine: _Machine) -> None:
    module = machine.take_line()
    machine.name(module, machine.take_line())


def _stacked_name(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _last(machine: _Machine, count: int) -> tuple[Any, ...]:
    return tuple(machine.pop() for _ in range(count))[::-1]


def _discard(machine: _Machine) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop()


def _pair(machine: _Machine) -> None:
    key, value = _last(machine, 2)
    machine.set_items([key, value])


_ACTIONS: dict[bytes, Callable[[_Machine], Any]] = {
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


_CALLS: dict[_Name, Callable[..., Any]] = {
    _Name("numpy", "dtype"): _Machine.array_type,
    **{_Name(module, "_reconstruct"): _Machine.new_array for module in _ARRAYS},
    **{_Name(module, "scalar"): _Machine.scalar for module in _ARRAYS},
    _Name("numpy.core.numeric", "_frombuffer"): _Machine.from_buffer,
    _Name("numpy._core.numeric", "_frombuffer"): _Machine.from_buffer,
    _Name("_codecs", "encode"): _Machine.encoded,
    _Name("collections", "OrderedDict"): _Machine.dictionary,
    _Name("collections", "defaultdict"): _Machine.dictionary,
    **{_Name(module, "set"): _Machine.unordered for module in _BUILTINS},
    **{_Name(module, "frozenset"): _Machine.unordered for module in _BUILTINS},
    **{_Name(module, name): _Machine.raw_bytes for module in _BUILTINS for name in ("bytes", "bytearray")},
}
_ALLOWED = {
    *_CALLS,
    _Name("numpy", "ndarray"),
    *(_Name(module, name) for module in _BUILTINS for name in _FACTORIES),
}


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
