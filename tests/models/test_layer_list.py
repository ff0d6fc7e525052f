"""Texts to layers, layers to shapes, and what is said about those that do not fit."""

from __future__ import annotations

import pytest

from detectune.errors import UserError
from detectune.models.layer_list import (
    Activation,
    Conv,
    Dense,
    Pool,
    Softmax,
    parse_layers,
    shapes_of,
    text_of,
)

TEXTS = ["conv 20 5x5", "maxpool 2", "relu", "conv 40 3x5 stride 2 pad 1", "batchnorm", "meanpool 3 stride 1",
         "dense 100", "dropout 0.5", "tanh", "softmax 10"]  # fmt: skip


def test_layers_are_read_and_written_back() -> None:
    layers = parse_layers(TEXTS)
    assert layers[:4] == (Conv(20, (5, 5)), Pool("max", 2, 2), Activation("relu"), Conv(40, (3, 5), 2, 1))
    assert layers[6] == Dense(100) and layers[-1] == Softmax(10)
    assert [text_of(layer) for layer in layers] == TEXTS
    assert parse_layers(["Conv 8 3", "softmax 2"])[0] == Conv(8, (3, 3))


def test_shapes_follow_the_list() -> None:
    shapes = shapes_of(parse_layers(TEXTS), (1, 28, 28))
    assert shapes[0] == (1, 28, 28) and shapes[1] == (20, 24, 24) and shapes[2] == (20, 12, 12)
    assert shapes[4] == (40, 6, 5) and shapes[6] == (40, 4, 3) and shapes[-1] == (10,)
    assert len(shapes) == len(TEXTS) + 1


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "is empty"),
        (["desne 10", "softmax 10"], r"layer 1 \(`desne 10`\) is unknown; did you mean dense\?"),
        (["", "softmax 10"], r"layer 1 \(``\) is unknown; known are: conv"),
        (["conv 20", "softmax 10"], r"layer 1 .* needs channels and a kernel.*conv 20 5x5"),
        (["conv 20 5x5x5", "softmax 10"], "5x5x5 is no kernel"),
        (["conv 20 5x5 dilation 2", "softmax 10"], "dilation is no option"),
        (["conv 20 5x5 stride", "softmax 10"], "stride stands alone"),
        (["conv 20 5x5 stride 0", "softmax 10"], "0 is not a whole number from 1 on"),
        (["dense -5", "softmax 10"], "-5 is not a whole number"),
        (["dense", "softmax 10"], "1 number expected, 0 given"),
        (["dropout 1", "softmax 10"], r"layer 1 .*1 is not between 0 and 1.*dropout 0\.5"),
        (["dropout half", "softmax 10"], "half"),
        (["relu 3", "softmax 10"], "0 numbers expected, 1 given"),
        (["softmax 10", "dense 10"], r"layer 1 \(`softmax 10`\) gives the answer, so it must be the last"),
        (["dense 100", "relu"], r"layer 2 \(`relu`\) cannot be the last layer"),
        (["sigmoid"], "cannot be the last layer"),
    ],
)
def test_a_wrong_list_is_refused_with_the_layer_and_the_mend(texts: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_layers(texts)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (
            ["conv 20 5x5", "maxpool 2", "conv 40 15x15", "softmax 10"],
            r"layer 3 \(`conv 40 15x15`\) cannot be applied: what reaches it is 20 x 12 x 12, smaller than its window",
        ),
        (
            ["dense 100", "maxpool 2", "softmax 10"],
            r"layer 2 .*what reaches it is 100 units, no picture any more",
        ),
        (["maxpool 29", "softmax 10"], "1 x 28 x 28, smaller than its window of 29 x 29"),
    ],
)
def test_a_layer_that_does_not_fit_is_named_with_the_shape_that_reached_it(
    texts: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        shapes_of(parse_layers(texts), (1, 28, 28))
