"""Boxes of Selective Search (Uijlings et al. 2013) as its authors saved them -> Detectron's proposals.

Their file has a cell array `boxes`, one matrix [N, 4] for each image: y1, x1, y2, x2, counted from 1. Detectron's has
`boxes` [N, 4] x1, y1, x2, y2 counted from 0, `scores`, which are zero here, and `ids`, the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectune.data.matlab_file import read_cells
from detectune.errors import DataError


def convert_selective_search(path: Path, *, image_ids: Sequence[int]) -> dict[str, Any]:
    """The content of a proposal file for the images, which are taken by rising id.

    Raises:
        DataError: if the file cannot be read or is about another number of images.
    """
    cells = read_cells(path, "boxes")
    if len(cells) != len(image_ids):
        raise DataError(
            f"{path} has boxes of {len(cells)} images, the data set has {len(image_ids)}; name the data set that the "
            "boxes were made for."
        )
    boxes: list[np.ndarray] = []
    for number, cell in enumerate(cells):
        if cell is None or (cell.size and cell.shape[1:] != (4,)):
            shape = "no numbers" if cell is None else f"a matrix of {list(cell.shape)}"
            raise DataError(f"{path}: image {number} has {shape} instead of boxes [N, 4].")
        boxes.append((cell.reshape(-1, 4)[:, (1, 0, 3, 2)] - 1).astype(np.float32))
    scores = [np.zeros(len(b), dtype=np.float32) for b in boxes]
    ids = sorted(image_ids)
    return {"boxes": boxes, "scores": scores, "ids": ids, "indexes": ids}
