"""Weights files of every kind -> our names: safetensors of ours, pickles of Detectron and detectron2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectune.errors import WeightsError
from detectune.pickles import load_pickle
from detectune.weights.detectron import from_detectron
from detectune.weights.detectron2 import from_detectron2
from detectune.weights.native import load_weights


def read_weights(
    path: str | Path, *, agnostic_boxes: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file in our names, on the CPU, and what the file says of itself (nothing, if it is a pickle).

    `agnostic_boxes`: whether the model's boxes are the same for all classes, which Detectron stored with a background.

    Raises:
        WeightsError: if the file cannot be read or holds no weights.
    """
    path = Path(path)
    if path.suffix != ".pkl":
        return load_weights(path)
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such weights file.")
    content = load_pickle(path, what="weights file", error=WeightsError)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        return from_detectron2(_tensors(content["model"], path)), {}
    blobs = content.get("blobs", content) if isinstance(content, Mapping) else {}
    return from_detectron(_tensors(blobs, path), agnostic_boxes=agnostic_boxes), {}


def _tensors(values: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The arrays among named values as tensors with memory of their own."""
    found = {
        str(name): torch.from_numpy(np.array(value))
        for name, value in values.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu"
    }
    if not found:
        raise WeightsError(
            f"{path}: there are no weights in this pickle; give a model of Detectron or detectron2."
        )
    return found
