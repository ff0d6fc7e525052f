"""Weights files of every kind -> our names: safetensors, pickles of Detectron and detectron2, what torch.save wrote."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from detectune.errors import WeightsError
from detectune.pickles import reading_pickle
from detectune.weights.detectron import from_detectron, stage_heads_in
from detectune.weights.detectron2 import from_detectron2
from detectune.weights.outline import Stored
from detectune.weights.recognise import System, WeightsFile, recognise
from detectune.weights.torchvision import from_torchvision

Colours = Literal["auto", "BGR", "RGB"]

# First digits of the SHA-256 digests of torchvision's COCO_V1 detectors, whose frozen norms add nothing to the
# variance; it is part of their published file names.
_WITHOUT_EPS = ("258fb6c6", "bf2d0c1e", "fc266e95", "eeacb38b")


@dataclass(frozen=True)
class Loaded:
    """The tensors of a weights file in our names, on the CPU."""

    state: dict[str, Tensor]
    momentum: dict[str, Tensor]  # what the optimiser held for some of them
    metadata: dict[str, str]
    system: System


def read_weights(
    path: str | Path,
    *,
    agnostic_boxes: bool | None = None,
    stage_heads: Collection[str] | None = None,
    colours: Colours = "auto",
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file in our names, on the CPU, and what the file says of itself.

    For others' files that is the dialect they compute in (`geometry`) and, for Detectron's, the configuration (`cfg`).

    Args:
        path: a file of any kind that `recognise` knows.
        agnostic_boxes: whether the model's boxes are the same for all classes; None tells by their number.
        stage_heads: see `from_detectron`.
        colours: which detectron2's weights read; `auto` is BGR unless the file says that torchvision made them.

    Raises:
        WeightsError: if the file cannot be read or holds no weights.
    """
    loaded = load_file(Path(path), agnostic_boxes=agnostic_boxes, stage_heads=stage_heads, colours=colours)
    return loaded.state, loaded.metadata


def load_file(
    path: Path,
    *,
    agnostic_boxes: bool | None = None,
    stage_heads: Collection[str] | None = None,
    colours: Colours = "auto",
) -> Loaded:
    """As `read_weights`, with momentum."""
    file = recognise(path)
    state, momentum = _tensors(path, file.arrays), _tensors(path, file.momentum)
    metadata = dict(file.metadata)
    if agnostic_boxes is None:
        agnostic_boxes = has_agnostic_boxes(state)
    if file.system == "detectron":
        if stage_heads is None:
            stage_heads = stage_heads_in(state)
        state, momentum = (
            from_detectron(blobs, agnostic_boxes=agnostic_boxes, stage_heads=stage_heads)
            for blobs in (state, momentum)
        )
    elif file.system == "detectron2":
        state = from_detectron2(
            state,
            bgr=colours == "BGR" or (colours == "auto" and metadata.get("author") != "torchvision"),
            agnostic_boxes=agnostic_boxes,
            class_specific_masks=has_class_specific_masks(state),
        )
    elif file.system == "torchvision":
        state = from_torchvision(state, norm_eps=0.0 if _lacks_eps(file) else 1e-5)
    return Loaded(state, momentum, metadata, file.system)


def has_agnostic_boxes(state: Mapping[str, Tensor]) -> bool:
    """Whether a state in Detectron's or detectron2's names has fewer boxes than classes.

    Detectron counts two for one that all classes share, so with a single class nobody can tell; then False.
    """
    predictor = "roi_heads.box_predictor."
    for scores, boxes, background in (
        ("cls_score_w", "bbox_pred_w", 0),
        ("conv_cls_w", "conv_bbox_pred_w", 0),
        (f"{predictor}cls_score.weight", f"{predictor}bbox_pred.weight", 1),
    ):
        if scores in state and boxes in state:
            return len(state[boxes]) < 4 * (len(state[scores]) - background)
    return False


def has_class_specific_masks(state: Mapping[str, Tensor]) -> bool:
    """Whether a state in detectron2's names has a mask for each class."""
    masks = state.get("roi_heads.mask_head.predictor.bias")
    scores = next(
        (v for n, v in state.items() if re.fullmatch(r"roi_heads\.box_pred.*cls_score\.bias", n)), None
    )
    return masks is None or scores is None or len(masks) == len(scores) - 1


def _lacks_eps(file: WeightsFile) -> bool:
    if file.container not in ("torch file", "old torch file"):
        return False
    with open(file.path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:8] in _WITHOUT_EPS


def _tensors(path: Path, arrays: Mapping[str, Stored]) -> dict[str, Tensor]:
    """The arrays as tensors with memory of their own; together they may not be much larger than the file."""
    total, size = sum(array.nbytes for array in arrays.values()), path.stat().st_size
    if total > 2 * size:
        raise WeightsError(
            f"{path}: its tensors share memory until they are {total / size:.0f} times the size of the file, which no "
            "model does; it was not read."
        )
    with reading_pickle(path, what="weights file", error=WeightsError):
        return {name: as_tensor(array) for name, array in arrays.items()}


def as_tensor(array: Stored) -> Tensor:
    """The array as a tensor."""
    values = torch.from_numpy(array.load())
    return values.view(torch.bfloat16) if array.dtype == "bfloat16" else values
