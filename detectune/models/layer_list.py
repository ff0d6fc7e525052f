"""A network as a readable list, `conv 20 5x5`, `maxpool 2`, `dense 100`, `softmax 10`: texts to layers to shapes.

    conv C KxK [stride S] [pad P]   C channels; a kernel K or HxW
    maxpool K [stride S]            also meanpool; S is K if not given
    dense N                         N units, all of its input flattened
    dropout R                       R is the fraction that is dropped while training
    batchnorm                       of channels or units
    sigmoid tanh relu ...           an activation
    softmax N                       dense N, then softmax: the last layer

Shape legend
    (C, H, W)  channels, height, width of a picture        (N,)  units

Pure: knows nothing about torch, weights or configuration but the key's name in messages.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from detectune.errors import UserError

KEY = "CLASSIFIER.LAYERS"
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Conv:
    channels: int
    kernel: tuple[int, int]  # height, width
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Pool:
    kind: Literal["max", "mean"]
    size: int
    stride: int


@dataclass(frozen=True)
class Dense:
    units: int


@dataclass(frozen=True)
class Softmax:
    units: int


@dataclass(frozen=True)
class Dropout:
    rate: float


@dataclass(frozen=True)
class BatchNorm:
    pass


@dataclass(frozen=True)
class Activation:
    name: str


Layer = Conv | Pool | Dense | Softmax | Dropout | BatchNorm | Activation

FORMS = {
    "conv": "conv 20 5x5, with stride 2 or pad 2 behind it",
    "maxpool": "maxpool 2, with stride 1 behind it",
    "meanpool": "meanpool 2, with stride 1 behind it",
    "dense": "dense 100",
    "softmax": "softmax 10",
    "dropout": "dropout 0.5",
    "batchnorm": "batchnorm",
} | {name: name for name in ACTIVATIONS}


def parse_layers(texts: Sequence[str]) -> tuple[Layer, ...]:
    """The layers that a list of texts means.

    Raises:
        UserError: names the first layer that cannot be read and how it is written, or says what is missing at the end.
    """
    if not texts:
        raise UserError(
            f"{KEY} is empty; list the layers, for example ['dense 100', 'sigmoid', 'softmax 10']."
        )
    layers = tuple(_parse(text, number) for number, text in enumerate(texts, start=1))
    for number, layer in enumerate(layers[:-1], start=1):
        if isinstance(layer, Softmax):
            raise UserError(
                f"{_name(number, texts[number - 1])} gives the answer, so it must be the last layer."
            )
    last = layers[-1]
    ends_in_sigmoids = last == Activation("sigmoid") and len(layers) > 1 and isinstance(layers[-2], Dense)
    if not isinstance(last, Softmax) and not ends_in_sigmoids:
        raise UserError(
            f"{_name(len(texts), texts[-1])} cannot be the last layer; end with softmax and the number of classes, "
            "such as softmax 10, or with dense 10 and sigmoid."
        )
    return layers


def shapes_of(layers: Sequence[Layer], input_shape: Shape) -> list[Shape]:
    """The shape that reaches each layer, and behind them what the last one returns: one more than there are layers.

    Raises:
        UserError: names the layer that cannot be applied and the shape that reached it.
    """
    shapes = [tuple(input_shape)]
    for number, layer in enumerate(layers, start=1):
        shapes.append(_output_shape(layer, shapes[-1], number))
    return shapes


def text_of(layer: Layer) -> str:
    """How a layer is written; `parse_layers` reads it back."""
    match layer:
        case Conv(channels, (height, width), stride, padding):
            more = f" stride {stride}" * (stride != 1) + f" pad {padding}" * (padding != 0)
            return f"conv {channels} {height}x{width}{more}"
        case Pool(kind, size, stride):
            return f"{kind}pool {size}" + f" stride {stride}" * (stride != size)
        case Dense(units):
            return f"dense {units}"
        case Softmax(units):
            return f"softmax {units}"
        case Dropout(rate):
            return f"dropout {rate:g}"
        case BatchNorm():
            return "batchnorm"
        case Activation(name):
            return name


def shape_text(shape: Shape) -> str:
    """`20 x 12 x 12` for channels, height and width; `100 units` for a row."""
    return f"{shape[0]} units" if len(shape) == 1 else " x ".join(map(str, shape))


def _parse(text: str, number: int) -> Layer:
    words = text.lower().split()
    name, rest = (words[0], words[1:]) if words else ("", [])
    if name not in FORMS:
        near = difflib.get_close_matches(name, FORMS, n=1)
        hint = f"did you mean {near[0]}? Known: " if near else "known are: "
        raise UserError(f"{_name(number, text)} is unknown; {hint}{', '.join(FORMS)}.")
    try:
        return _READERS.get(name, lambda words: _bare(Activation(name), words))(rest)
    except ValueError as error:
        reason = f" ({error})" if str(error) else ""
        raise UserError(
            f"{_name(number, text)} cannot be read{reason}; it is written like this: {FORMS[name]}."
        ) from error


def _conv(words: list[str]) -> Conv:
    if len(words) < 2:
        raise ValueError("it needs channels and a kernel")
    sides = [_whole(side) for side in words[1].split("x")]
    if len(sides) > 2:
        raise ValueError(f"{words[1]} is no kernel")
    options = _options(words[2:], {"stride": 1, "pad": 0})
    return Conv(_whole(words[0]), (sides[0], sides[-1]), options["stride"], options["pad"])


def _pool(kind: Literal["max", "mean"]) -> Callable[[list[str]], Pool]:
    def read(words: list[str]) -> Pool:
        if not words:
            raise ValueError("it needs a size")
        size = _whole(words[0])
        return Pool(kind, size, _options(words[1:], {"stride": size})["stride"])

    return read


def _dropout(words: list[str]) -> Dropout:
    (word,) = _exactly(words, 1)
    rate = float(word)
    if not 0 <= rate < 1:
        raise ValueError(f"{word} is not between 0 and 1")
    return Dropout(rate)


def _bare(layer: Layer, words: list[str]) -> Layer:
    _exactly(words, 0)
    return layer


_READERS: dict[str, Callable[[list[str]], Layer]] = {
    "conv": _conv,
    "maxpool": _pool("max"),
    "meanpool": _pool("mean"),
    "dense": lambda words: Dense(_whole(_exactly(words, 1)[0])),
    "softmax": lambda words: Softmax(_whole(_exactly(words, 1)[0])),
    "dropout": _dropout,
    "batchnorm": lambda words: _bare(BatchNorm(), words),
}


def _options(words: list[str], defaults: dict[str, int]) -> dict[str, int]:
    """`stride 2 pad 1` -> numbers; a padding may be 0."""
    found = dict(defaults)
    if len(words) % 2:
        raise ValueError(f"{words[-1]} stands alone")
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name not in defaults:
            raise ValueError(f"{name} is no option")
        found[name] = _whole(value, least=0 if name == "pad" else 1)
    return found


def _exactly(words: list[str], count: int) -> list[str]:
    if len(words) != count:
        raise ValueError(f"{count} number{'s' * (count != 1)} expected, {len(words)} given")
    return words


def _whole(word: str, *, least: int = 1) -> int:
    if not re.fullmatch(r"\d{1,7}", word) or int(word) < least:
        raise ValueError(f"{word} is not a whole number from {least} on")
    return int(word)


def _output_shape(layer: Layer, shape: Shape, number: int) -> Shape:
    def refuse(reason: str) -> UserError:
        return UserError(
            f"{_name(number, text_of(layer))} cannot be applied: what reaches it is {shape_text(shape)}, {reason}."
        )

    if isinstance(layer, Dense | Softmax):
        return (layer.units,)
    if isinstance(layer, Dropout | BatchNorm | Activation):
        return shape
    if len(shape) != 3:
        raise refuse("no picture any more; move it before the first dense layer")
    channels, height, width = shape
    if isinstance(layer, Conv):
        kernel, stride, padding = layer.kernel, layer.stride, layer.padding
        channels = layer.channels
    else:
        kernel, stride, padding = (layer.size, layer.size), layer.stride, 0
    sides = [(side + 2 * padding - k) // stride + 1 for side, k in zip((height, width), kernel, strict=True)]
    if min(sides) < 1:
        raise refuse(f"smaller than its window of {kernel[0]} x {kernel[1]}")
    return (channels, sides[0], sides[1])


def _name(number: int, text: str) -> str:
    return f"{KEY}: layer {number} (`{text}`)"
