"""Proposals for images that are told by their file names instead of by a data set's ids.

A JSON file has `{file name: {"boxes": [[x1, y1, x2, y2], ...], "scores": [...]}}` in pixels of the original image, in
the convention of the detector's geometry; scores may be left out. Detectron's `.pkl` files, whose boxes are inclusive,
tell images by COCO's ids, which stand at the end of COCO's file names.

Shape legend
    P  proposals of one image
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectune.data.json_file import missing_path
from detectune.data.proposal_files import read_proposals
from detectune.errors import DataError
from detectune.ops.boxes import clip_boxes

WHAT = "file of proposals"
ID_AT_THE_END = re.compile(r"(\d+)$")


@dataclass(frozen=True)
class NamedProposals:
    """What a file proposes for each image: boxes float32 [P, 4] and scores float32 [P] or none."""

    path: Path
    by_image: Mapping[str, tuple[np.ndarray, np.ndarray | None]]
    by_id: bool  # the names are numbers, as COCO has them
    inclusive: bool | None  # None: as the detector's geometry has it

    def boxes_for(self, name: str, *, height: int, width: int, offset: float, limit: int) -> Tensor:
        """Boxes float32 [P, 4] for the image file `name` of that size, inside it; `offset` as in `ops.boxes`.

        Of more than `limit` the best ones are taken, if there are scores, else the first. Continuous boxes that are
        empty inside the image are left out, as detectron2 does.

        Raises:
            DataError: if the file has none for this image.
        """
        boxes, scores = self.by_image[self._key(name)]
        if scores is not None and len(boxes) > limit:
            boxes = boxes[np.argsort(-scores, kind="stable")]
        found = torch.from_numpy(boxes.copy())
        if self.inclusive and not offset:
            found[:, 2:] += 1
        found = clip_boxes(found, torch.tensor([height, width]), offset=offset)
        if not offset:
            found = found[(found[:, 2:] > found[:, :2]).all(1)]
        return found[:limit]

    def _key(self, name: str) -> str:
        base = Path(name).name
        if self.by_id:
            digits = ID_AT_THE_END.search(Path(name).stem)
            key = str(int(digits[1])) if digits else ""
            if key in self.by_image:
                return key
            told = f"its id {key} is not in the file" if key else "its name does not end in an id"
            raise DataError(
                f"{self.path}: there are no proposals for {name}: images are told by COCO's ids here, and {told}. A "
                "JSON file tells them by name."
            )
        for key in (name, base):
            if key in self.by_image:
                return key
        near = difflib.get_close_matches(base, self.by_image, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise DataError(f"{self.path}: there are no proposals for {name}.{hint}")


def read_named_proposals(path: Path) -> NamedProposals:
    """The proposals of a JSON file, or of one of Detectron's `.pkl` or our `.npz` files.

    Raises:
        DataError: names the file, the image and the item that is wrong.
    """
    if not path.is_file():
        raise DataError(missing_path(path, WHAT))
    if path.suffix.lower() != ".json":
        found = read_proposals(path)
        nothing: list[np.ndarray | None] = [None] * len(found)
        scores: Sequence[np.ndarray | None] = found.scores or nothing
        by_id = {str(i): (b, s) for i, b, s in zip(found.image_ids, found.boxes, scores, strict=True)}
        return NamedProposals(path, by_id, by_id=True, inclusive=True)
    try:
        content = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}:{error.colno}: this is not valid JSON: {error.msg}."
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: a {WHAT} is JSON, but this cannot be read as such ({error}).") from error
    if not isinstance(content, dict):
        raise DataError(f'{path}: a {WHAT} has the form {{file name: {{"boxes": [[x1, y1, x2, y2], ...]}}}}.')
    named = {name: _entry(path, name, entry) for name, entry in content.items()}
    return NamedProposals(path, named, by_id=False, inclusive=None)


def _entry(path: Path, name: str, entry: Any) -> tuple[np.ndarray, np.ndarray | None]:
    place = f"{path}: {name}"
    boxes = entry.get("boxes") if isinstance(entry, dict) else None
    if not isinstance(boxes, list):
        raise DataError(
            f'{place}: an entry is {{"boxes": [[x1, y1, x2, y2], ...], "scores": [...]}}; it has no boxes.'
        )
    for i, box in enumerate(boxes):
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
            raise DataError(f"{place}: boxes[{i}] must be four numbers, x1, y1, x2, y2, not {str(box)[:60]}.")
        if box[2] < box[0] or box[3] < box[1]:
            raise DataError(
                f"{place}: boxes[{i}] ends before it begins: {box}; x1, y1 is the upper left corner."
            )
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    scores = entry.get("scores")
    if scores is None:
        return array, None
    if not isinstance(scores, list) or len(scores) != len(boxes):
        raise DataError(
            f"{place}: there must be one score for each of the {len(boxes)} boxes, or no scores at all."
        )
    for i, score in enumerate(scores):
        if not _is_number(score):
            raise DataError(f"{place}: scores[{i}] must be a number, not {str(score)[:60]}.")
    return array, np.array(scores, dtype=np.float32)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and abs(value) < 1e9
    )
