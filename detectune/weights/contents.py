"""Opening a weights file of any kind: recognised by its first bytes, described without torch, whatever its name.

safetensors         8 bytes of length, then JSON           ours, and others'
torch file          a zip file with a data.pkl             torch.save, which wrote most of the .pth files there are
old torch file      a row of pickles after a magic number  torch.save before 1.6
pickle              any pickle                             Detectron's and detectron2's .pkl
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detectune.errors import WeightsError
from detectune.pickles import open_mapped, reading_pickle
from detectune.weights.outline import PickleOutline, Stored
from detectune.weights.torch_files import OLD_MAGIC, read_old_torch_file, read_torch_zip

Container = Literal["safetensors", "torch file", "old torch file", "pickle"]
_SAFETENSORS_TYPES = {  # to numpy's name and type; bfloat16 is read as its bits
    "F64": ("float64", "<f8"), "F32": ("float32", "<f4"), "F16": ("float16", "<f2"), "BF16": ("bfloat16", "<u2"),
    "I64": ("int64", "<i8"), "I32": ("int32", "<i4"), "I16": ("int16", "<i2"), "I8": ("int8", "i1"),
    "U8": ("uint8", "u1"), "BOOL": ("bool", "?"),
}  # fmt: skip
_OTHERS = (
    (b"<", "a web page or XML; what was downloaded is perhaps an error message"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"\x08", "a model of ONNX or Caffe, which is a program rather than named weights"),
    (b"\x89HDF", "an HDF5 file, as Keras writes"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"PAR1", "a Parquet file"),
)


@dataclass(frozen=True)
class Contents:
    """What a file holds: nested plain values whose arrays are `Stored`, and for safetensors what it says of itself."""

    container: Container
    value: Any
    metadata: dict[str, str]
    size: int  # bytes on the disk


def open_contents(path: Path) -> Contents:
    """Read what the file at `path` holds, leaving large arrays on the disk.

    Raises:
        WeightsError: if it cannot be read, is none of the four kinds, or its pickle asks for more than values.
    """
    if not path.exists():
        raise WeightsError(f"{path}: there is no such weights file.")
    what = "weights file"
    with open_mapped(path, what=what, error=WeightsError) as (data, size):
        container = _container(path, data, size)
        if container == "safetensors":
            value, metadata = _read_safetensors(path, data)
            return Contents(container, value, metadata, size)
        with reading_pickle(path, what=what, error=WeightsError):
            if container == "torch file":
                value = read_torch_zip(path, data, size)
            elif container == "old torch file":
                value = read_old_torch_file(data, size)
            else:
                value = PickleOutline(data, size).run()
    return Contents(container, value, {}, size)


def _container(path: Path, data: mmap.mmap, size: int) -> Container:
    start = data[:32]
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length <= size - 8:
        return "safetensors"
    if start[:4] == b"PK\x03\x04":
        return "torch file"
    if start.startswith(OLD_MAGIC):
        return "old torch file"
    if (start[:1] == b"\x80" and start[1:2] <= b"\x05") or start[:1] in b"}](":
        return "pickle"
    other = next((what for magic, what in _OTHERS if start.startswith(magic)), None)
    told = f"it looks like {other}" if other else f"it begins with {start[:8]!r}"
    if path.suffix == ".safetensors":
        told += ", or it is cut off"
    raise WeightsError(
        f"{path}: this is no weights file ({told}); give a safetensors file, a pickle of Detectron or detectron2, or a "
        ".pth of torch.save."
    )


def _read_safetensors(path: Path, data: mmap.mmap) -> tuple[dict[str, Stored], dict[str, str]]:
    """The library judges the file; its header says where each tensor lies."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: this is not a readable safetensors file ({error}); it may be cut off or of another kind."
        ) from error
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return {name: _tensor(data, 8 + length, entry) for name, entry in header.items()}, metadata


def _tensor(data: mmap.mmap, start: int, entry: Mapping[str, Any]) -> Stored:
    shape = tuple(entry["shape"])
    begin, end = (start + offset for offset in entry["data_offsets"])
    name, form = _SAFETENSORS_TYPES.get(entry["dtype"], (entry["dtype"].lower(), "u1"))
    dtype = np.dtype(form)
    return Stored(
        name, shape, dtype.itemsize, lambda: np.frombuffer(data[begin:end], dtype=dtype).reshape(shape).copy()
    )
