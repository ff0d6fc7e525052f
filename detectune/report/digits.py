"""Small pictures for pages about classifiers: images that were taken for another class, filters of the first layer."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from detectune.data.labelled import LabelledImages
from detectune.report.pictures import Picture
from detectune.weights.native import load_weights

MOST_MISTAKES = 40
MOST_FILTERS = 48


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class."""

    picture: Picture
    label: str
    predicted: str
    probability: float  # of the wrong answer


def read_mistakes(
    evaluation: Path, data: LabelledImages, *, most: int = MOST_MISTAKES
) -> tuple[list[Mistake], int]:
    """The surest of the mistakes in a folder evaluation/<data set>/, and how many there are; none without the file."""
    file = evaluation / "mistakes.json"
    if not file.is_file():
        return [], 0
    rows = json.loads(file.read_text())
    names = data.class_info.names
    shown = [
        Mistake(
            _png(data.images[row["index"]].numpy()),
            names[row["label"]],
            names[row["predicted"]],
            row["probability"],
        )
        for row in rows[:most]
    ]
    return shown, len(rows)


def first_filters(weights: Path, *, most: int = MOST_FILTERS) -> list[Picture]:
    """The first convolution of a classifier's weights, a picture for each filter: dark is negative, light positive.

    Empty where the first layer is dense or looks at colours.
    """
    if not weights.is_file():
        return []
    state, _ = load_weights(weights)
    kernels = state.get("layers.0.weight")
    if kernels is None or kernels.ndim != 4 or kernels.shape[1] != 1:
        return []
    values = kernels[:most].float().numpy()
    reach = np.abs(values).max(axis=(1, 2, 3), keepdims=True) + 1e-12
    return [_png(np.rint(127.5 + 127.5 * value).astype(np.uint8)) for value in values / reach]


def _png(pixels: np.ndarray) -> Picture:
    """uint8 [C, H, W] with 1 or 3 channels as an inlined PNG."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return Picture(
        "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(), image.width, image.height
    )
