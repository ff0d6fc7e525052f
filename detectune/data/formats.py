"""The formats in which a data set may be stored. Each becomes COCO's document first, so that all are checked alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from detectune.data.coco import CocoSource, read_contents
from detectune.data.json_file import read_json
from detectune.data.lvis import read_lvis
from detectune.data.problems import Problems
from detectune.data.shapes import DatasetPaths
from detectune.data.voc import read_voc
from detectune.structures import ClassInfo, Record

FORMATS: dict[str, Callable[[DatasetPaths], dict[str, Any]]] = {
    "coco": lambda place: read_json(place.annotations),
    "unlabelled": lambda place: read_json(place.annotations, labelled=False),
    "voc": lambda place: read_voc(place.annotations, place.images),
    "lvis": lambda place: read_lvis(place.annotations, place.images),
    "cityscapes": lambda place: read_json(place.annotations),
}


def read_places(places: Sequence[DatasetPaths]) -> tuple[list[list[Record]], ClassInfo, Problems]:
    """The records of each data set, their common classes, and what is wrong with them."""
    return read_contents(
        [CocoSource(place.annotations, FORMATS[place.format](place), place.images) for place in places]
    )
