"""Weights for COCO's classes -> weights to fine-tune for Cityscapes': rows of classes are picked, the rest stays.

Every array whose first side counts COCO's 81 classes (or 4 numbers for each) becomes one for the classes of the new
data set. A class that COCO has takes its row; another one is drawn from a Gaussian with the array's own mean and
deviation, as Detectron did. Momentum belongs to the old classes and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from detectune.errors import UserError

NUM_COCO = 81
DETECTRONS_CITYSCAPES = ("bicycle", "car", "person", "train", "truck", "motorcycle", "bus", "rider")
"""Classes 1..8 of the annotation files that Detectron's converter made."""
_COCO_ROWS = {"person": 1, "bicycle": 2, "car": 3, "motorcycle": 4, "bus": 6, "train": 7, "truck": 8}
# Name of the correspondence -> what differs from "the row of the same name, the background's for the background".
CORRESPONDENCES: dict[str, dict[str, int]] = {
    "cityscapes_to_coco": {},
    "cityscapes_to_coco_with_rider": {"rider": 1},  # a rider is a person
    "cityscapes_to_coco_without_person_rider": {"person": -1},
    "cityscapes_to_coco_all_random": dict.fromkeys(("background", *_COCO_ROWS), -1),
}


def coco_rows_of(names: Sequence[str], correspondence: str) -> list[int]:
    """COCO's row for the background and each class of the new data set; -1: none.

    Raises:
        UserError: if the correspondence is unknown.
    """
    if correspondence not in CORRESPONDENCES:
        raise UserError(
            f"--convert_func {correspondence} is unknown; choose one of {', '.join(CORRESPONDENCES)}."
        )
    rows = {"background": 0} | _COCO_ROWS | CORRESPONDENCES[correspondence]
    return [rows.get(name, -1) for name in ("background", *names)]


def coco_to_cityscapes(
    arrays: Mapping[str, np.ndarray],
    *,
    correspondence: str,
    names: Sequence[str] = DETECTRONS_CITYSCAPES,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays for the classes `names` (labels 1, 2, ...), without momentum, and the names of those that changed.

    Raises:
        UserError: if the correspondence is unknown or no array counts COCO's classes.
    """
    rows = coco_rows_of(names, correspondence)
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    changed: list[str] = []
    for name, array in arrays.items():
        if name.endswith("_momentum"):
            continue
        if array.ndim and array.shape[0] in (NUM_COCO, 4 * NUM_COCO):
            array = _pick(array, rows, rng)
            changed.append(name)
        out[name] = array
    if not changed:
        raise UserError(
            "No weight in the file counts COCO's 80 classes and the background; a detector trained on COCO is needed."
        )
    return out, changed


def _pick(array: np.ndarray, rows: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    by_class = array.reshape(NUM_COCO, -1)
    drawn = rng.standard_normal((len(rows), by_class.shape[1])) * by_class.std() + by_class.mean()
    picked = [by_class[row] if row >= 0 else drawn[k] for k, row in enumerate(rows)]
    per_class = array.shape[0] // NUM_COCO
    return np.stack(picked).reshape(len(rows) * per_class, *array.shape[1:]).astype(array.dtype)
