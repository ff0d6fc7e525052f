"""What torch.save writes, read without torch: the zip file of today and the row of pickles before version 1.6.

A tensor is a call of `_rebuild_tensor_v2` on a storage, which is a persistent id: a type, a key, a length. Both are
read as data here, as a `Stored` whose bytes lie in the zip's entry `data/<key>` or behind the pickles. Entries are
never compressed, so no file is larger inside than outside.
"""

from __future__ import annotations

import mmap
import pickle as names  # only for the names of its instructions
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detectune.pickle_machine import Machine, Name, RefusedError
from detectune.weights.outline import OUTLINE, PickleOutline, Stored

OLD_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle: a number that torch chose
_MAX_PICKLE = 1 << 28  # bytes of data.pkl; a model of a million tensors takes a tenth of it
_LOCAL_HEADER = 30  # bytes of a zip entry's header before its name

# storage class -> numpy type; bfloat16 has none and is read as its bits
STORAGES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": "u2", "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_DTYPES = (
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "float", "half",
)  # fmt: skip


@dataclass(frozen=True)
class _Place:
    """Where a storage's bytes lie; `crc` is 0 where nothing is known."""

    start: int
    length: int
    crc: int = 0


@dataclass(frozen=True)
class _Storage:
    """A storage that the pickle refers to."""

    kind: str
    key: str
    numel: int


@dataclass(eq=False)
class _Options:
    """An argparse.Namespace: trainers keep their command line beside the weights."""

    values: dict[Any, Any]


def read_torch_zip(path: Path, data: mmap.mmap, size: int) -> Any:
    """The value in a torch.save file of today, its tensors as `Stored`.

    Raises:
        ValueError, RefusedError, CutOffError: if it is damaged or asks for anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"its zip directory is damaged: {error}") from error
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("a zip file without the data.pkl that torch.save writes")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in entries:
        raise RefusedError("is a TorchScript program rather than weights")
    places = {
        name.removeprefix(f"{folder}data/"): _place(entry, data, size)
        for name, entry in entries.items()
        if name.startswith(f"{folder}data/") or name == pickles[0]
    }
    inside = places.pop(pickles[0])
    if inside.length > _MAX_PICKLE:
        raise RefusedError(f"has a pickle of {inside.length} bytes")
    text = data[inside.start : inside.start + inside.length]
    _check(text, inside)
    order: Literal["<", ">"] = "<"
    if f"{folder}byteorder" in entries:
        place = _place(entries[f"{folder}byteorder"], data, size)
        order = ">" if data[place.start : place.start + place.length] == b"big" else "<"
    outline = _TorchPickle(text, len(text), data=data, places=places, order=order)
    value = outline.run()
    for key, storage in outline.storages.items():
        if (
            key not in places
            or places[key].length < storage.numel * np.dtype(STORAGES[storage.kind]).itemsize
        ):
            raise ValueError("a storage is missing or cut off")
    return value


def read_old_torch_file(data: mmap.mmap, size: int) -> Any:
    """The value in a torch.save file from before 1.6: magic, version, machine, value, keys, storages."""
    start = len(OLD_MAGIC)
    for _ in range(2):
        header = Machine(data, size, position=start)
        told = header.run()
        start = header.position
    little = not isinstance(told, dict) or bool(told.get("little_endian", True))
    places: dict[str, _Place] = {}
    outline = _TorchPickle(data, size, position=start, data=data, places=places, order="<" if little else ">")
    value = outline.run()
    listing = Machine(data, size, position=outline.position)
    keys = listing.run()
    position = listing.position
    if not isinstance(keys, list):
        raise ValueError("its list of storages is missing")
    for key in keys:
        storage = outline.storages.get(key)
        if storage is None:
            raise ValueError("a storage that no tensor uses")
        count = int.from_bytes(data[position : position + 8], "little" if little else "big")
        length = count * np.dtype(STORAGES[storage.kind]).itemsize
        if count != storage.numel or position + 8 + length > size:
            raise ValueError("a storage is cut off")
        places[key] = _Place(position + 8, length)
        position += 8 + length
    missing = outline.storages.keys() - places.keys()
    if missing:
        raise ValueError("a storage is missing")
    return value


def _place(entry: zipfile.ZipInfo, data: mmap.mmap, size: int) -> _Place:
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise RefusedError("has compressed or encrypted entries (torch.save writes plain ones)")
    begin = entry.header_offset
    header = data[begin : begin + _LOCAL_HEADER]
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise ValueError("its zip directory points beside an entry")
    start = (
        begin
        + _LOCAL_HEADER
        + int.from_bytes(header[26:28], "little")
        + int.from_bytes(header[28:30], "little")
    )
    if start + entry.file_size > size:
        raise ValueError("an entry of its zip directory is cut off")
    return _Place(start, entry.file_size, entry.CRC)


def _check(content: bytes, place: _Place) -> None:
    if place.crc and zlib.crc32(content) != place.crc:
        raise ValueError("an entry's checksum does not match")


class _TorchPickle(PickleOutline):
    """Also knows torch's tensors; their bytes are at `places`, which may be filled after the pickle was read."""

    def __init__(
        self,
        pickle: Any,
        size: int,
        *,
        position: int = 0,
        data: Any,
        places: Mapping[str, _Place],
        order: Literal["<", ">"],
    ) -> None:
        super().__init__(pickle, size, position=position, vocabulary=_VOCABULARY)
        self.file, self.places, self.order = data, places, order
        self.storages: dict[str, _Storage] = {}

    def refer(self) -> None:
        """A persistent id: ('storage', class, key, device, number of elements) and perhaps a view."""
        identity = self.pop()
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
            raise RefusedError("refers to objects outside of the file other than storages of tensors")
        _, kind, key, _, numel = identity[:5]
        if len(identity) == 6 and identity[5] is not None:
            raise RefusedError("has views of storages (as torch wrote them before 0.4)")
        if not isinstance(kind, Name) or kind.name not in STORAGES or not isinstance(key, str):
            raise ValueError("a storage without type or key")
        if type(numel) is not int or numel < 0:
            raise ValueError("a storage whose length is no natural number")
        storage = _Storage(kind.name, key, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("a storage of two types")
        self.push(storage)

    def tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Stored:
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor without storage")
        shape, strides = self.checked_shape(shape), self.checked_shape(strides)
        if len(shape) != len(strides) or type(offset) is not int or offset < 0:
            raise ValueError("a tensor whose strides do not fit its shape")
        dtype = np.dtype(STORAGES[storage.kind]).newbyteorder(self.order)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        empty = 0 in shape
        count = int(np.prod([int(n) for n in shape], dtype=object))
        if not empty and (last >= storage.numel or count > storage.numel):
            raise ValueError("a tensor larger than its storage")
        name = "bfloat16" if storage.kind == "BFloat16Storage" else dtype.name

        def load() -> np.ndarray:
            if empty:
                return np.zeros(shape, dtype.newbyteorder("="))
            place = self.places.get(storage.key)
            if place is None or place.length < storage.numel * dtype.itemsize:
                raise ValueError("a storage is missing or cut off")
            whole = memoryview(self.file)[place.start : place.start + place.length]
            _check(whole, place)  # type: ignore[arg-type]
            flat = np.frombuffer(whole, dtype=dtype, count=storage.numel)
            steps = [step * dtype.itemsize for step in strides]
            view = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)
            return np.array(view, dtype=dtype.newbyteorder("="), order="C")

        return Stored(name, shape, dtype.itemsize, load)

    def parameter(self, value: Any, *_: Any) -> Stored:
        if not isinstance(value, Stored):
            raise ValueError("a parameter without tensor")
        return value

    def size_of_tensor(self, values: Any = ()) -> tuple[Any, ...]:
        return self.checked_shape(tuple(values) if isinstance(values, list) else values)

    def device(self, *words: Any) -> str:
        if not all(isinstance(word, (str, int)) for word in words):
            raise ValueError("a device that is no text")
        return ":".join(str(word)[:40] for word in words)

    def new_object(self) -> None:
        arguments, kind = self.pop(), self.pop()
        if kind != Name("argparse", "Namespace") or arguments != ():
            raise RefusedError(f"makes an object of {kind if isinstance(kind, Name) else 'a class'}")
        self.push(_Options({}))

    def build(self) -> None:
        """Attributes: of command lines, kept; of a state dict (its `_metadata`), which says nothing we need."""
        state, target = self.pop(), self.pop()
        if isinstance(target, _Options) and isinstance(state, dict):
            target.values.update(state)
            self.push(target)
        elif isinstance(target, dict) and isinstance(state, dict):
            self.push(target)
        else:
            self.push(target)
            self.push(state)
            super().build()


_VOCABULARY = OUTLINE.with_more(
    actions={names.BINPERSID: _TorchPickle.refer, names.NEWOBJ: _TorchPickle.new_object},
    calls={
        Name("torch._utils", "_rebuild_tensor_v2"): _TorchPickle.tensor,
        Name("torch._utils", "_rebuild_tensor"): _TorchPickle.tensor,
        Name("torch._utils", "_rebuild_parameter"): _TorchPickle.parameter,
        Name("torch", "Size"): _TorchPickle.size_of_tensor,
        Name("torch", "device"): _TorchPickle.device,
    },
    names=[
        *(Name(module, kind) for module in ("torch", "torch.storage") for kind in STORAGES),
        *(Name("torch", dtype) for dtype in _DTYPES),
        Name("argparse", "Namespace"),
    ],
)
