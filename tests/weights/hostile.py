"""Files that want more than to be read: each would run a program, or take the machine's memory, in a reader that obeys.

`PICKLES` are contents for any place where a pickle is read; `TORCH_FILES` abuse the zip file around one. Each is made
for a canary, a path that only a program could create.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Maker = Callable[[Path], bytes]


class Calls:
    """Pickles as a call of `function`, with attributes to set if there are any."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


class Armed:
    """Runs a program when its attributes are set."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __setstate__(self, state: Any) -> None:
        state["canary"].touch()


class Kept(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return ("module", "os", "system") if obj == "kept" else None


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def command(canary: Path) -> str:
    return f"touch {canary}"


def touch(canary: Path) -> Calls:
    import os

    return Calls(os.system, command(canary))


def kept(canary: Path) -> bytes:
    buffer = io.BytesIO()
    Kept(buffer, 2).dump({"blobs": {"a_w": "kept"}})
    return buffer.getvalue()


def doubling(times: int) -> bytes:
    """A list of two of the same list of two of the same list ...: tiny here, 2^times when written out."""
    return b"]q\x000" + b"".join(b"](h\x00h\x00eq\x000" for _ in range(times)) + b"h\x00."


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
FLOATS = (
    b"cnumpy\ndtype\n"
    + text("f4")
    + b"K\x00K\x01\x87R(K\x03"
    + text("<")
    + b"NNNJ"
    + b"\xff" * 4
    + b"J"
    + b"\xff" * 4
    + b"K\x00tb"
)
INSIDE = b"}" + text("blobs") + b"}" + text("a_w")

PICKLES: dict[str, Maker] = {
    "a call by reduce": lambda c: pickle.dumps(touch(c), 2),
    "a call by reduce, as text": lambda c: b"cos\nsystem\n(S'" + command(c).encode() + b"'\ntR.",
    "a call by reduce, protocol 4": lambda c: pickle.dumps(touch(c), 4),
    "a call by reduce, protocol 5": lambda c: pickle.dumps({"blobs": touch(c)}, 5),
    "nested among weights": lambda c: pickle.dumps({"blobs": {"a_w": np.ones(2, np.float32), "b_w": touch(c)}}, 2),
    "deeply nested": lambda c: pickle.dumps({"model": [({"x": [touch(c)]},)]}, 2),
    "in the configuration": lambda c: pickle.dumps({"blobs": {"a_w": np.ones(2)}, "cfg": touch(c)}, 2),
    "as a key": lambda c: pickle.dumps({"blobs": {b"x": 1}}, 2)[:-1] + b"0" + pickle.dumps(touch(c), 2)[2:],
    "after the value": lambda c: pickle.dumps(touch(c), 2)[2:-1] + b"0}.",
    "eval": lambda c: pickle.dumps(Calls(eval, f"__import__('os').system({command(c)!r})"), 2),
    "exec": lambda c: pickle.dumps(Calls(exec, f"open({str(c)!r}, 'w')"), 2),
    "open": lambda c: pickle.dumps(Calls(open, str(c), "w"), 2),
    "a class instance": lambda c: b"(S'" + command(c).encode() + b"'\nios\nsystem\n.",
    "an object": lambda c: b"(cos\nsystem\n" + text(command(c)) + b"o.",
    "a new object": lambda c: b"\x80\x02csubprocess\nPopen\n" + text(command(c)) + b"\x85\x81.",
    "a new object with names": lambda c: b"\x80\x04" + text("subprocess") + text("Popen") + b"\x93)}" + text("args")
    + text(command(c)) + b"s\x92.",
    "by attribute: setstate": lambda c: pickle.dumps(Armed(c), 2),
    "by attribute of an array": lambda c: ARRAY + b"}" + text("__class__") + text("os.system") + b"sb.",
    "by attribute of a dictionary": lambda c: b"}}" + text("__reduce_ex__") + text(command(c)) + b"sb.",
    "through a known class": lambda c: pickle.dumps(Calls(collections.OrderedDict, [(touch(c), 1)]), 2),
    "through a factory": lambda c: b"ccollections\ndefaultdict\ncos\nsystem\n\x85R" + text(command(c)) + b"K\x01s.",
    "through a known class's method": lambda c: b"\x80\x04" + text("collections")
    + text("OrderedDict.fromkeys.__globals__") + b"\x93.",
    "through numpy": lambda c: b"cnumpy.testing._private.utils\nrundocs\n" + text(str(c)) + b"\x85R.",
    "through a module's import": lambda c: b"c__builtin__\n__import__\n" + text("os") + b"\x85R.",
    "through getattr": lambda c: b"c__builtin__\ngetattr\ncos\npath\n" + text("os") + b"\x86R.",
    "through a codec": lambda c: b"c_codecs\nencode\n" + text("x") + text("os") + b"\x86R.",
    "through torch": lambda c: b"ctorch\nload\n" + text(str(c)) + b"\x85R.",
    "through torch's lookup": lambda c: b"ctorch._utils\n_import_dotted_name\n" + text("os.system") + b"\x85R.",
    "objects in an array": lambda c: pickle.dumps({"blobs": {"a_w": np.array([touch(c)], dtype=object)}}, 2),
    "the registry of extensions": lambda c: b"\x80\x02\x82\x01" + text(command(c)) + b"\x85R.",
    "a persistent id": kept,
    "arrays outside of the file": lambda c: b"\x80\x05\x97.",
    "a bomb of text": lambda c: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"ab.",
    "a bomb of bytes": lambda c: b"B\xff\xff\xff\xffab.",
    "a bomb of a memo": lambda c: b"K\x01r\xff\xff\xff\xffj\xfe\xff\xff\xff.",
    "a bomb of nesting": lambda c: b"(" * 100_000 + b".",
    "a bomb of marks": lambda c: b"]" + b"(" * 5000 + b"e" * 5000 + b".",
    "a bomb of an integer": lambda c: b"\x8b\x00\x10\x00\x00" + b"\x7f" * 4096 + b".",
    "a bomb of a shape": lambda c: INSIDE + ARRAY + b"(K\x01(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft" + FLOATS
    + b"\x89C\x04\x00\x00\x00\x00tbss.",
    "a bomb of zeros": lambda c: b"cnumpy\nzeros\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.",
    "a bomb of bytearrays": lambda c: pickle.dumps(Calls(bytearray, 1 << 40), 2),
    "a bomb of shared bytes": lambda c: b"B" + struct.pack("<I", 40_000) + bytes(40_000) + b"q\x09"
    + 100 * (ARRAY + b"(K\x01M\x10\x27\x85" + FLOATS + b"\x89h\x09tb0") + b".",
    "a key that never ends": lambda c: b"})" + 60 * b"2\x86" + b"K\x01s.",
    "cut off": lambda c: pickle.dumps({"blobs": {"a_w": np.ones(99)}}, 2)[:-60],
    "cut off in a name": lambda c: b"\x80\x02}X\x05\x00\x00\x00blobs}cnumpy.co",
}  # fmt: skip
PLAIN_VALUES = {"doubling lists": lambda c: doubling(200)}


def zipped(
    content: bytes, storages: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", b"little")
        for key, raw in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", raw)
    return buffer.getvalue()


def storage(key: str, numel: bytes, kind: str = "FloatStorage") -> bytes:
    return (
        b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + numel + b"tQ"
    )


def tensor(where: bytes, shape: bytes, strides: bytes, offset: bytes = b"K\x00") -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + where + offset + shape + strides + b"\x89}tR"


def model(*tensors: bytes) -> bytes:
    entries = b"".join(text(f"layer{n}_w") + one for n, one in enumerate(tensors))
    return b"\x80\x02}(" + entries + b"u."


HUGE = b"J\xff\xff\xff\x7f"
FOUR = b"K\x04"

TORCH_FILES: dict[str, Callable[[], bytes]] = {
    "a compressed bomb": lambda: zipped(b"\x80\x02]" + bytes(10_000_000), compression=zipfile.ZIP_DEFLATED),
    "a compressed storage": lambda: zipped(
        model(tensor(storage("0", FOUR), b"K\x04\x85", b"K\x01\x85")), {"0": bytes(10_000_000)}, zipfile.ZIP_DEFLATED
    ),
    "a tensor larger than its storage": lambda: zipped(
        model(tensor(storage("0", FOUR), HUGE + b"\x85", b"K\x01\x85")), {"0": bytes(16)}
    ),
    "a tensor behind its storage": lambda: zipped(
        model(tensor(storage("0", FOUR), b"K\x02\x85", b"K\x01\x85", b"K\x03")), {"0": bytes(16)}
    ),
    "a tensor of negative steps": lambda: zipped(
        model(tensor(storage("0", FOUR), b"K\x02\x85", b"J\xff\xff\xff\xff\x85")), {"0": bytes(16)}
    ),
    "a tensor of steps of zero": lambda: zipped(
        model(tensor(storage("0", FOUR), HUGE + HUGE + b"\x86", b"K\x00K\x00\x86")), {"0": bytes(16)}
    ),
    "many tensors of one storage": lambda: zipped(
        model(*(500 * [tensor(storage("0", b"M\x00\x40"), b"M\x00\x40\x85", b"K\x01\x85")])), {"0": bytes(65_536)}
    ),
    "a storage that says it is larger": lambda: zipped(
        model(tensor(storage("0", HUGE), HUGE + b"\x85", b"K\x01\x85")), {"0": bytes(16)}
    ),
    "a storage that is missing": lambda: zipped(model(tensor(storage("1", FOUR), b"K\x04\x85", b"K\x01\x85"))),
    "a storage of no type": lambda: zipped(
        model(tensor(storage("0", FOUR, "StringStorage"), b"K\x04\x85", b"K\x01\x85")), {"0": bytes(16)}
    ),
    "a tensor of no storage": lambda: zipped(model(tensor(text("0"), b"K\x04\x85", b"K\x01\x85"))),
    "a pickled module": lambda: zipped(b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81}b."),
    "a quantised tensor": lambda: zipped(b"\x80\x02ctorch._utils\n_rebuild_qtensor\n)R."),
    "a program of TorchScript": lambda: _script(),
    "no pickle": lambda: _archive({"archive/other": b"x"}),
    "two pickles": lambda: _archive({"a/data.pkl": b"}.", "b/data.pkl": b"}."}),
    "a damaged checksum": lambda: zipped(
        model(tensor(storage("0", FOUR), b"K\x04\x85", b"K\x01\x85")), {"0": b"abcdefghijklmnop"}
    ).replace(b"abcdefghijklmnop", b"abcdefghijklmnoX"),
    "cut off": lambda: zipped(model(tensor(storage("0", FOUR), b"K\x04\x85", b"K\x01\x85")), {"0": bytes(16)})[:-40],
}  # fmt: skip


def _archive(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _script() -> bytes:
    return _archive({"m/data.pkl": b"}.", "m/constants.pkl": b").", "m/code/__torch__.py": b"import os"})
