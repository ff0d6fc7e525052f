"""The weights that training starts from: TRAIN.WEIGHTS, fitted by name and shape.

A layer whose rows are the classes (or keypoints) may have been trained for others: it starts anew, and the log says
so. Any other difference in shape means that the file is of another model, and is refused.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from detectune.engine.run_directory import atomic_file, output_errors
from detectune.errors import WeightsError
from detectune.weights.files import Colours, read_weights
from detectune.weights.last_stage import place_last_stage
from detectune.weights.native import FitReport, fit_weights

CLASS_LAYERS = re.compile(
    r"box_head\.(stages\.\d+\.)?(cls_score|bbox_pred)\.|box_pooler\.(cls_score|bbox_pred)\.|mask_head\.predictor\.|head\.(cls_score|bbox_pred)\."
)
POINT_LAYER = "keypoint_head.predictor."


def load_initial_weights(model: nn.Module, path: Path, *, colours: Colours = "auto") -> str:
    """Put the weights at `path` into `model`, and say in a sentence what was taken; `colours` as for `read_weights`.

    Raises:
        WeightsError: if the file cannot be read, nothing in it belongs to the model, or shapes differ
        elsewhere than in the class layers.
    """
    state, _ = read_weights(path, colours=colours)
    report = fit_weights(model, place_last_stage(state, model.state_dict()))
    wrong = [entry for entry in report.mismatched if not is_other_classes(*entry)]
    if wrong:
        shown = "; ".join(
            f"{name} is {tuple(got)} in the file, {tuple(want)} in the model" for name, got, want in wrong[:5]
        )
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise WeightsError(f"TRAIN.WEIGHTS {path} does not fit the model: {shown}{more}.")
    if not report.matched:
        names = ", ".join(sorted(state)[:3])
        raise WeightsError(
            f"TRAIN.WEIGHTS {path} holds no weight of this model; its names begin with {names}, "
            f"the model's with {', '.join(sorted(model.state_dict())[:3])}."
        )
    return describe_fit(path, report)


def copy_initial_weights(path: Path, folder: Path) -> Path:
    """Copy the file at `path` into `folder`, which keeps a run repeatable (TRAIN.COPY_WEIGHTS); returns the copy."""
    copy = folder / path.name
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(copy) as target, path.open("rb") as source:
        shutil.copyfileobj(source, target)
    return copy


def is_other_classes(name: str, in_file: tuple[int, ...], in_model: tuple[int, ...]) -> bool:
    """Whether a shape differs only because the layer was trained for another number of classes or keypoints."""
    if name.startswith(
        POINT_LAYER
    ):  # keypoints are the rows of a convolution, the columns of a transposed one
        return (
            len(in_file) == len(in_model) and sum(a != b for a, b in zip(in_file, in_model, strict=True)) == 1
        )
    return CLASS_LAYERS.match(name) is not None and tuple(in_file)[1:] == tuple(in_model)[1:]


def describe_fit(path: Path, report: FitReport) -> str:
    """One sentence: how many tensors were taken, which start anew, which were left over."""
    parts = [f"TRAIN.WEIGHTS {path}: {len(report.matched)} tensors taken"]
    if report.mismatched:
        parts.append(
            f"made for other classes or keypoints, start anew: {', '.join(name for name, _, _ in report.mismatched)}"
        )
    if report.missing:
        parts.append(f"{len(report.missing)} not in the file start anew ({_some(report.missing)})")
    if report.unexpected:
        parts.append(
            f"{len(report.unexpected)} in the file are not of this model ({_some(report.unexpected)})"
        )
    return "; ".join(parts) + "."


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
