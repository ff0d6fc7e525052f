"""Weights for COCO's classes -> weights to fine-tune for Cityscapes': rows of classes are picked, the rest stays.

Every array whose first side counts the 81 classes (or 4 numbers for each) becomes one for the 9 of Cityscapes. A class
that COCO has takes its row; another one is drawn from a Gaussian with the array's own mean and deviation, as Detectron
did. Momentum belongs to the old classes and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from detectune.errors import UserError

NUM_COCO = 81
NUM_CITYSCAPES = 9
# Rows: background, bicycle, car, person, train, truck, motorcycle, bus, rider; values: COCO's row, -1 for none.
_SAME_NAME = (0, 2, 3, 1, 7, 8, 4, 6, -1)
CORRESPONDENCES: dict[str, tuple[int, ...]] = {
    "cityscapes_to_coco": _SAME_NAME,
    "cityscapes_to_coco_with_rider": (*_SAME_NAME[:8], 1),  # a rider is a person
    "cityscapes_to_coco_without_person_rider": (0, 2, 3, -1, 7, 8, 4, 6, -1),
    "cityscapes_to_coco_all_random": (-1,) * NUM_CITYSCAPES,
}


def coco_to_cityscapes(
    arrays: Mapping[str, np.ndarray], *, correspondence: str, seed: int = 0
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The converted arrays, without momentum, and the names of those that changed.

    Raises:
        UserError: if the correspondence is unknown or no array counts COCO's classes.
    """
    if correspondence not in CORRESPONDENCES:
        raise UserError(
            f"--convert_func {correspondence} is unknown; choose one of {', '.join(CORRESPONDENCES)}."
        )
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    changed: list[str] = []
    for name, array in arrays.items():
        if name.endswith("_momentum"):
            continue
        if array.ndim and array.shape[0] in (NUM_COCO, 4 * NUM_COCO):
            array = _pick(array, CORRESPONDENCES[correspondence], rng)
            changed.append(name)
        out[name] = array
    if not changed:
        raise UserError(
            "No weight in the file counts COCO's 80 classes and the background; a detector trained on COCO is needed."
        )
    return out, changed


def _pick(array: np.ndarray, rows: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    by_class = array.reshape(NUM_COCO, -1)
    drawn = rng.standard_normal((len(rows), by_class.shape[1])) * by_class.std() + by_class.mean()
    picked = [by_class[row] if row >= 0 else drawn[k] for k, row in enumerate(rows)]
    per_class = array.shape[0] // NUM_COCO
    return np.stack(picked).reshape(len(rows) * per_class, *array.shape[1:]).astype(array.dtype)
