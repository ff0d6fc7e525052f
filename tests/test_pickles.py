"""Pickles are read as data: what numpy and both Pythons write arrives, and nothing that a file asks for is run."""

from __future__ import annotations

import collections
import copyreg
import importlib.util
import pickle
import pickletools
import struct
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detectune.errors import DataError, UserError
from detectune.pickles import dump_pickle, load_pickle

ran: list[str] = []


def dangerous(*_: Any) -> str:
    ran.append("dangerous")
    return "ran"


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


class Plain:
    def __init__(self) -> None:
        self.x = 1


class Armed:
    def __setstate__(self, state: Any) -> None:
        dangerous()


class WithPersistentIds(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return "elsewhere" if obj == "refer" else None


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "file.pkl"
    path.write_bytes(content)
    return path


def persistent(tmp_path: Path) -> bytes:
    with open(tmp_path / "persistent", "wb") as file:
        WithPersistentIds(file, 2).dump(["refer"])
    return (tmp_path / "persistent").read_bytes()


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
FLOATS = (
    b"cnumpy\ndtype\n"
    + text("f4")
    + b"K\x00K\x01\x87R(K\x03"
    + text("<")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
LITTLE = 4 * b"\x00"

MALICIOUS: dict[str, tuple[bytes, str]] = {
    "os.system, protocol 0": (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
    "posix.system": (b"cposix\nsystem\n" + text("true") + b"\x85R.", "posix.system"),
    "a function by the stack": (b"\x80\x04" + text("os") + text("system") + b"\x93.", "os.system"),
    "a dotted name": (
        b"\x80\x04" + text("numpy") + text("core.multiarray._reconstruct.__globals__") + b"\x93.",
        "__globals__",
    ),
    "a dotted name below a permitted class": (
        b"\x80\x04" + text("collections") + text("OrderedDict.__init__") + b"\x93.",
        "OrderedDict.__init__",
    ),
    "eval": (pickle.dumps(Calls(eval, "1"), 2), "eval"),
    "exec": (pickle.dumps(Calls(exec, "1"), 4), "exec"),
    "getattr": (pickle.dumps(Calls(getattr, (), "count"), 2), "getattr"),
    "import": (pickle.dumps(Calls(__import__, "os"), 2), "__import__"),
    "open": (pickle.dumps(Calls(open, "x", "w"), 2), "open"),
    "bytes of a bomb": (pickle.dumps(Calls(bytearray, 2**40), 2), "valid pickle"),
    "numpy.load": (pickle.dumps(Calls(np.load, "x.npy"), 2), "load"),
    "numpy.zeros of a bomb": (b"cnumpy\nzeros\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.", "numpy.zeros"),
    "numpy's file runner": (b"cnumpy.testing\nrundocs\n" + text("x.py") + b"\x85R.", "rundocs"),
    "a class of ours": (pickle.dumps(Plain(), 2), "copy_reg|Plain"),
    "a class of ours, new": (pickle.dumps(Plain(), 4), "Plain"),
    "a class's own setstate": (pickle.dumps(Armed(), 4), "Armed"),
    "INST": (b"(S'true'\nios\nsystem\n.", "object of a class"),
    "OBJ": (b"(cnumpy\nndarray\nK\x01o.", "object of a class"),
    "NEWOBJ of a permitted class": (b"\x80\x02cnumpy\nndarray\nK\x05\x85\x81.", "object of a class"),
    "NEWOBJ_EX": (b"\x80\x04" + text("numpy") + text("ndarray") + b"\x93)}\x92.", "object of a class"),
    "attributes of a container": (b"}}" + text("x") + b"K\x01sb.", "attributes of a dict"),
    "a persistent id as text": (b"Pelsewhere\n.", "persistent ids"),
    "a persistent id by the stack": (text("elsewhere") + b"Q.", "persistent ids"),
    "extension 1": (b"\x80\x02\x82\x01.", "registry of extensions"),
    "extension 2": (b"\x80\x02\x83\x01\x00.", "registry of extensions"),
    "extension 4": (b"\x80\x02\x84\x01\x00\x00\x00.", "registry of extensions"),
    "a call of a value": (text("os.system") + b")R.", "calls a str"),
    "a call of what may only be named": (b"cnumpy\nndarray\nK\x05\x85R.", "calls numpy.ndarray"),
    "a factory with a call": (b"cbuiltins\nlist\n)R.", "calls builtins.list"),
    "codec other than latin-1": (b"c_codecs\nencode\n" + text("x") + text("idna") + b"\x86R.", "encodes"),
    "objects in an array": (pickle.dumps(np.array([{}], dtype=object), 2), "objects|'O8'"),
    "objects in place of bytes": (ARRAY + b"(K\x01K\x01\x85" + FLOATS + b"\x89]tb.", "array of objects"),
    "structures in an array": (pickle.dumps(np.zeros(1, "f4,i4"), 2), "'V8'"),
    "a type that is a program": (b"cnumpy\ndtype\n" + text("f4,(9,9)O") + b"\x85R.", r"f4,\(9,9\)O"),
    "an array larger than its bytes": (
        ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + FLOATS + b"\x89C\x04" + LITTLE + b"tb.",
        "valid pickle",
    ),
    "an array of negative shape": (
        ARRAY + b"(K\x01J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86" + FLOATS + b"\x89C\x04" + LITTLE + b"tb.",
        "valid pickle",
    ),
    "a name as the value": (b"cnumpy\nndarray\n.", "one value"),
    "an unfinished array": (ARRAY + b".", "one value"),
    "values left over": (b"K\x01K\x02.", "one value"),
    "nothing": (b".", "one value"),
    "a mark that is missing": (b"\x80\x02t.", "valid pickle"),
    "a value below a mark": (b"K\x01(K\x02\x86.", "valid pickle"),
    "a memo that is missing": (b"h\x05.", "valid pickle"),
    "a memo number of a bomb": (b"K\x01r\xff\xff\xff\xffj\xfe\xff\xff\xff.", "valid pickle"),
    "text longer than the file": (b"X\xff\xff\xff\x7fab.", "middle"),
    "bytes longer than the machine": (b"\x80\x04\x8e" + 8 * b"\xff" + b"ab.", "middle"),
    "text of negative length": (b"T\xff\xff\xff\xffab.", "valid pickle"),
    "an integer of a bomb": (b"\x8b\x00\x01\x00\x00" + 256 * b"\x7f" + b".", "integer of 256 bytes"),
    "an integer of many digits": (b"L" + 5000 * b"9" + b"L\n.", "integer of 5001 digits"),
    "a deep nest of marks": (500 * b"(" + b".", "deep"),
    "a hash that never ends": (b"})" + 60 * b"2\x86" + b"K\x01s.", "as key"),
    "a dict with a tuple of tuples as key": (b"})\x85\x85\x85K\x01s.", "as key"),
    "a name that never ends": (b")" + 60 * b"2\x86" + text("x") + b"\x93.", "no text"),
    "a type that never ends": (b"cnumpy\ndtype\n)" + 60 * b"2\x86" + b"\x85R.", "array of a tuple"),
    "an encoding that never ends": (
        b"c_codecs\nencode\n" + text("x") + b")" + 60 * b"2\x86" + b"\x86R.",
        "text as a tuple",
    ),
    "a shape that never ends": (
        ARRAY + b"(K\x01)" + 60 * b"2\x86" + FLOATS + b"\x89C\x04" + LITTLE + b"tb.",
        "natural numbers",
    ),
    "a shape of many dimensions": (
        ARRAY + b"(K\x01(" + 40 * b"K\x01" + b"t" + FLOATS + b"\x89C\x04" + LITTLE + b"tb.",
        "without shape",
    ),
    "a deep tuple": (b")" + 100_000 * b"\x85" + b"R.", "value is missing"),
    "a list as key": (b"}]K\x01s.", "as key"),
    "a key without value": (b"(K\x01d.", "valid pickle"),
    "arrays outside of the file": (b"\x80\x05\x97.", "outside of the file"),
    "an instruction of the future": (b"\x80\x09\xfe.", "valid pickle"),
    "text that is no number": (b"Iabc\n.", "valid pickle"),
    "text that is no UTF-8": (b"X\x01\x00\x00\x00\xff.", "valid pickle"),
    "a zip file": (b"PK\x03\x04\n", "persistent ids"),
    "HTML": (b"<!DOCTYPE html><html>", "valid pickle"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MALICIOUS)
def test_refused(kind: str, tmp_path: Path):
    content, said = MALICIOUS[kind]
    ran.clear()
    before = set(sys.modules)
    with pytest.raises(DataError, match=said) as caught:
        load_pickle(written(tmp_path, content), what="proposal file", error=DataError)
    assert str(tmp_path / "file.pkl") in str(caught.value)
    assert not ran and set(sys.modules) == before


def test_persistent_ids_of_a_real_pickler(tmp_path: Path):
    with pytest.raises(UserError, match="persistent ids"):
        load_pickle(written(tmp_path, persistent(tmp_path)))


def test_an_extension_that_the_process_knows_is_refused(tmp_path: Path):
    """Python's own unpickler takes it from a cache without asking whether the name is permitted."""
    copyreg.add_extension(__name__, "dangerous", 240)
    try:
        content = pickle.dumps(Calls(dangerous), 2)
        assert pickle.loads(content) == "ran" and b"\x82\xf0" in content
        ran.clear()
        with pytest.raises(UserError, match="registry of extensions"):
            load_pickle(written(tmp_path, content))
        assert not ran
    finally:
        copyreg.remove_extension(__name__, "dangerous", 240)


@pytest.mark.parametrize("protocol", range(6))
def test_every_truncation_of_a_real_file_is_a_message(protocol: int, tmp_path: Path):
    content = pickle.dumps({"boxes": [np.ones((2, 4), np.float32)], "ids": [1], "cfg": "a"}, protocol)
    for length in range(len(content)):
        with pytest.raises(UserError):
            load_pickle(written(tmp_path, content[:length]))


def test_no_damaged_byte_is_worse_than_a_message(tmp_path: Path):
    content = pickle.dumps({"boxes": [np.ones((2, 4), np.float32)], "ids": [1, 300], "f": 1.5}, 2)
    rng = np.random.default_rng(0)
    ended = collections.Counter()
    for _ in range(1500):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        try:
            load_pickle(written(tmp_path, bytes(damaged)))
            ended["read"] += 1
        except UserError:
            ended["refused"] += 1
    assert ended["refused"] > 200 and ended["read"] > 50


def test_little_memory_for_a_memo_of_large_numbers(tmp_path: Path):
    """Python's unpickler makes a table as long as the largest memo number."""
    path = written(tmp_path, b"K\x01r\xff\xff\xff\x7f.")
    tracemalloc.start()
    assert load_pickle(path) == 1
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_arrays_that_share_their_bytes_may_not_grow_beyond_the_file(tmp_path: Path):
    raw = b"B" + struct.pack("<I", 40_000) + 40_000 * b"\x00" + b"q\x09"
    one = ARRAY + b"(K\x01M\x10\x27\x85" + FLOATS + b"\x89h\x09tb0"
    load_pickle(written(tmp_path, raw + one + b"."))
    with pytest.raises(UserError, match="larger than the file"):
        load_pickle(written(tmp_path, raw + 100 * one + b"."))


def test_too_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("detectune.pickle_machine.MAX_STEPS", 1000)
    load_pickle(written(tmp_path, pickle.dumps(list(range(100)), 2)))
    with pytest.raises(UserError, match="more than 1000 steps"):
        load_pickle(written(tmp_path, pickle.dumps(list(range(2000)), 2)))


def test_what_is_no_file(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be opened"):
        load_pickle(tmp_path / "absent.pkl")
    with pytest.raises(UserError, match="cannot be opened"):
        load_pickle(tmp_path)
    with pytest.raises(UserError, match="empty"):
        load_pickle(written(tmp_path, b""))


VALUES: dict[str, Any] = {
    "text": "caf\u00e9 \u4e2d \ud800",
    "long text": "x" * 300,
    "integers": [0, 1, 255, 256, 65535, 65536, -1, 2**31, -(2**40), 2**200],
    "floats": [0.5, -1e300, float("inf")],
    "constants": (None, True, False),
    "nested": {"a": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [[]], {}]},
    "raw": [b"", b"\x00\xff" * 200],
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_of_every_protocol(protocol: int, tmp_path: Path):
    value = VALUES | {"set": {1, 2}, "frozen": frozenset("ab"), "changeable": bytearray(b"abc")}
    ordered = collections.OrderedDict(b=1, a=2)
    counted = collections.defaultdict(list, {"x": [1]})
    got = load_pickle(written(tmp_path, pickle.dumps(value | {"o": ordered, "c": counted}, protocol)))
    assert got == value | {"o": {"b": 1, "a": 2}, "c": {"x": [1]}}
    assert list(got["o"]) == ["b", "a"]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["f4", ">f4", "f8", "f2", "u1", "?", "i8", ">i2", "c8"])
def test_arrays_of_every_protocol(protocol: int, kind: str, tmp_path: Path):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 2, shape).astype(kind) for shape in [(), (0, 4), (3,), (2, 3, 4)]]
    arrays.append(np.asfortranarray(rng.integers(0, 2, (3, 4)).astype(kind)))
    shared = {"a": arrays[3], "b": arrays[3], "scalars": [np.dtype(kind).type(1)] * 2}
    got, twice = load_pickle(written(tmp_path, pickle.dumps((arrays, shared), protocol)))
    for ours, theirs in zip(got, arrays, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.flags.writeable
        np.testing.assert_array_equal(ours, theirs)
    assert twice["a"] is twice["b"] and twice["scalars"] == shared["scalars"]


def test_old_and_new_names_of_numpy(tmp_path: Path):
    content = pickle.dumps(np.arange(6.0).reshape(2, 3), 2)
    old = content.replace(b"cnumpy._core.", b"cnumpy.core.")
    for variant in (old, old.replace(b"cnumpy.core.", b"cnumpy._core.")):
        np.testing.assert_array_equal(load_pickle(written(tmp_path, variant)), np.arange(6.0).reshape(2, 3))


def test_what_we_write_python_reads(tmp_path: Path):
    arrays = [np.arange(12, dtype=kind).reshape(3, 4) for kind in ("<f4", ">f4", "u1", "i8")]
    arrays += [np.zeros((0, 4), np.float32), np.asfortranarray(np.arange(6.0).reshape(2, 3))]
    content = dump_pickle(VALUES | {"arrays": arrays})
    for got in (pickle.loads(content), load_pickle(written(tmp_path, content))):
        assert {key: got[key] for key in VALUES} == VALUES
        for ours, theirs in zip(got["arrays"], arrays, strict=True):
            assert ours.dtype.newbyteorder("=") == theirs.dtype.newbyteorder("=")
            np.testing.assert_array_equal(ours, theirs)
    named = {arg for code, arg, _ in pickletools.genops(content) if code.name == "GLOBAL"}
    assert named == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype", "_codecs encode"}
    assert max(code.proto for code, _, _ in pickletools.genops(content)) == 2  # Python 2 has no later one


def test_what_is_no_plain_value_is_not_written():
    for value in (np.array([{}], dtype=object), Plain(), np.zeros(1, "f4,i4")):
        with pytest.raises(TypeError):
            dump_pickle([value])


@pytest.mark.parametrize("flavour", ["py2", "py3"])
def test_a_checkpoint_as_detectron_wrote_it(shared: Path, tmp_path: Path, flavour: str):
    path = shared / "golden/seeded_weights_detectron.py"
    spec = importlib.util.spec_from_file_location("seeded_weights_detectron", path)
    assert spec and spec.loader
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    blobs = {"conv1_w": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), "fc6_b": np.ones(3, np.float32)}
    file = tmp_path / "model.pkl"
    writer.write_pkl(str(file), blobs, "MODEL: {TYPE: x}\n" * 30, flavour=flavour)
    got = load_pickle(file)
    assert got["cfg"] == "MODEL: {TYPE: x}\n" * 30
    for name, value in blobs.items():
        np.testing.assert_array_equal(got["blobs"][name], value)
