"""Weights of Caffe (before Caffe2): a .caffemodel -> Detectron's blobs.

The file is a NetParameter message of Google's protocol buffers; the few fields with weights are read here by number
(caffe.proto), so that neither Caffe nor a protobuf compiler is needed. As Detectron's converter did: `<layer>_w` and
`<layer>_b`; BatchNorm and the Scale behind it become one scale and shift, `res..._bn_s` and `res..._bn_b`;
`res4b11_branch2c` is called `res4_11_branch2c`. Unlike there, BatchNorm's sums are divided by their third blob, the
number that they are sums of, as Caffe itself does.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detectune.errors import WeightsError

_EPS = 1e-5
_LAYERS, _OLD_LAYERS = 100, 2  # fields of NetParameter: LayerParameter, V1LayerParameter
_OLD_KINDS = {4: "Convolution", 14: "InnerProduct", 39: "Deconvolution"}
_FLOAT, _DOUBLE = "<f4", "<f8"


@dataclass
class Layer:
    """A layer of the file: its kind in Caffe's words and its blobs."""

    name: str = ""
    kind: str = ""
    blobs: list[np.ndarray] = field(default_factory=list)


def read_caffemodel(path: Path) -> list[Layer]:
    """The layers of a .caffemodel in their order, with or without blobs.

    Raises:
        WeightsError: if the file cannot be read or is something else.
    """
    try:
        data = path.read_bytes()
        layers = [
            _layer(value, old=number == _OLD_LAYERS)
            for number, wire, value in _fields(data)
            if number in (_LAYERS, _OLD_LAYERS) and wire == 2 and isinstance(value, bytes)
        ]
    except OSError as error:
        raise WeightsError(f"{path}: the weights cannot be opened ({error.strerror or error}).") from error
    except (ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{path}: this is no .caffemodel, or it is cut off ({error}); copy it again."
        ) from error
    if not any(layer.blobs for layer in layers):
        raise WeightsError(
            f"{path}: there are no weights in this file; give a .caffemodel of a trained network."
        )
    return layers


def to_detectron_blobs(layers: list[Layer]) -> dict[str, np.ndarray]:
    """Detectron's name -> float32 array.

    Raises:
        WeightsError: if a BatchNorm has no Scale of its own name, or a kind of layer with weights is not known.
    """
    blobs: dict[str, np.ndarray] = {}
    scales = {layer.name.removeprefix("scale"): layer for layer in layers if layer.kind == "Scale"}
    for layer in layers:
        if not layer.blobs or layer.kind == "Scale":
            continue
        if layer.kind == "BatchNorm":
            scale = scales.get(layer.name.removeprefix("bn"))
            if scale is None or len(scale.blobs) != 2 or len(layer.blobs) < 2:
                raise WeightsError(
                    f"Layer {layer.name} (BatchNorm) has no Scale layer of its own with two blobs; Detectron's "
                    "frozen norms need both."
                )
            name = _modern_name(f"res{layer.name.removeprefix('bn')}_bn")
            blobs[f"{name}_s"], blobs[f"{name}_b"] = _folded(layer, scale)
        elif layer.kind in ("Convolution", "InnerProduct", "Deconvolution"):
            weight = layer.blobs[0]
            if layer.kind == "InnerProduct":
                weight = weight.reshape(weight.shape[-2:])
            name = _modern_name(layer.name)
            blobs[f"{name}_w"] = weight
            bias = layer.blobs[1].reshape(-1) if len(layer.blobs) > 1 else np.zeros(len(weight), np.float32)
            blobs[f"{name}_b"] = bias
        else:
            raise WeightsError(
                f"Layer {layer.name} is a {layer.kind or 'layer of unknown kind'} with weights; Convolution, "
                "Deconvolution, InnerProduct, BatchNorm and Scale can be converted."
            )
    return blobs


def _folded(norm: Layer, scale: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a BatchNorm with the Scale behind it."""
    mean, variance = (blob.reshape(-1).astype(np.float64) for blob in norm.blobs[:2])
    count = float(norm.blobs[2].reshape(-1)[0]) if len(norm.blobs) > 2 else 1.0
    factor = 0.0 if count == 0 else 1.0 / count
    gamma, beta = (blob.reshape(-1).astype(np.float64) for blob in scale.blobs)
    slope = gamma / np.sqrt(variance * factor + _EPS)
    return slope.astype(np.float32), (beta - mean * factor * slope).astype(np.float32)


def _modern_name(name: str) -> str:
    """res4b11_branch2c -> res4_11_branch2c, res2a_branch1 -> res2_0_branch1; others stay."""
    match = re.fullmatch(r"res(\d)([a-z])(\d*)(_.*)", name)
    if match is None:
        return name
    stage, letter, number, rest = match.groups()
    return f"res{stage}_{number or ord(letter) - ord('a')}{rest}"


def _layer(data: bytes, *, old: bool) -> Layer:
    layer = Layer()
    name, kind, blobs = (4, 5, 6) if old else (1, 2, 7)
    for number, _, value in _fields(data):
        if number == name and isinstance(value, bytes):
            layer.name = value.decode()
        elif number == kind:
            layer.kind = (
                value.decode() if isinstance(value, bytes) else _OLD_KINDS.get(value, f"kind {value}")
            )
        elif number == blobs and isinstance(value, bytes):
            layer.blobs.append(_blob(value))
    return layer


def _blob(data: bytes) -> np.ndarray:
    """A BlobProto as float32, in its `shape` or in the four old sides (num, channels, height, width)."""
    sides = {1: 1, 2: 1, 3: 1, 4: 1}
    shape: list[int] | None = None
    parts: list[np.ndarray] = []
    for number, wire, value in _fields(data):
        if number in sides and isinstance(value, int):
            sides[number] = value
        elif number == 7 and isinstance(value, bytes):
            shape = _dims(value)
        elif number in (5, 8) and isinstance(value, bytes):
            # Packed numbers, or one at a time from old writers (wire types 5 and 1).
            kind = _DOUBLE if number == 8 or wire == 1 else _FLOAT
            parts.append(np.frombuffer(value, dtype=kind).astype(np.float32))
    numbers = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return numbers.reshape(list(sides.values()) if shape is None else shape)


def _dims(data: bytes) -> list[int]:
    dims: list[int] = []
    for number, _, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            place = 0
            while place < len(value):
                side, place = _varint(value, place)
                dims.append(side)
        elif number == 1 and isinstance(value, int):
            dims.append(value)
    return dims


def _fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """(number, wire type, value) of each field of a message; fixed and length-delimited values as bytes."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _varint(data, place)
            yield number, wire, value
            continue
        if wire == 2:
            length, place = _varint(data, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {place}")
        if place + length > len(data):
            raise ValueError(f"a field reaches past the end at byte {place}")
        yield number, wire, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError(f"a number does not end at byte {place}")
