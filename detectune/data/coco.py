"""COCO JSON files -> records, classes, problems. The only place that sees `category_id` and COCO's key names.

Nothing is read from images here but that they exist. What is wrong is collected, not raised one by one, so that
one look shows everything; `Problems.raise_if_fatal` is the caller's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from detectune.data.classes import join_categories
from detectune.data.json_file import missing_path, read_json
from detectune.data.problems import Problems
from detectune.data.segmentation import OutlineError, parse_segmentation, segmentation_area
from detectune.errors import DataError
from detectune.structures import ClassInfo, Record, Segmentation

FILE_STRIDE = 10**15
"""Image ids of the n-th joined file that occur in an earlier one too are raised by n times this."""


@dataclass
class _Image:
    """An entry of 'images' with its objects so far."""

    record_id: int
    file_name: str
    height: int
    width: int
    objects: list[_Object] = field(default_factory=list)


@dataclass
class _Object:
    """An entry of 'annotations' that passed."""

    box: tuple[float, float, float, float]
    label: int
    is_crowd: bool
    area: float
    segmentation: Segmentation | None
    keypoints: np.ndarray | None  # float32 [K, 3]
    annotation_id: int


def read_coco(
    annotation_files: Sequence[Path], image_dirs: Sequence[Path]
) -> tuple[list[Record], ClassInfo, Problems]:
    """All images of all files, in file order, with or without objects. `image_dirs` has one folder for each file.

    Image ids are made unique over the files; `original_image_id` takes that back.
    """
    sources = [
        CocoSource(path, read_json(path), folder)
        for path, folder in zip(annotation_files, image_dirs, strict=True)
    ]
    records, class_info, problems = read_contents(sources)
    return [record for own in records for record in own], class_info, problems


@dataclass(frozen=True)
class CocoSource:
    """One data set as COCO writes it, however it was stored."""

    path: Path  # for messages
    content: dict[str, Any]  # images, annotations, categories
    images: Path


def read_contents(sources: Sequence[CocoSource]) -> tuple[list[list[Record]], ClassInfo, Problems]:
    """The records of each source, their common classes and problems; see `read_coco`."""
    problems = Problems()
    class_info, label_maps = join_categories(
        [(source.path, source.content["categories"]) for source in sources], problems
    )
    records: list[list[Record]] = []
    seen: set[int] = set()
    for number, source in enumerate(sources):
        reader = _Reader(source.path, source.images, label_maps[number], class_info, problems)
        images = reader.read(source.content)
        for image_id in images:
            if image_id in seen:
                images[image_id].record_id = image_id + number * FILE_STRIDE
        seen.update(image.record_id for image in images.values())
        records.append([_record(image, len(class_info.keypoint_names)) for image in images.values()])
    return records, class_info, problems


def original_image_id(image_id: int) -> int:
    """The id that the image has in its own file."""
    return image_id % FILE_STRIDE if image_id >= FILE_STRIDE else image_id


class _Reader:
    """Reads one file; what is wrong goes to `problems`, prefixed by the file's name."""

    def __init__(
        self,
        path: Path,
        folder: Path,
        labels: dict[int, int],
        class_info: ClassInfo,
        problems: Problems,
    ) -> None:
        self.path = path
        self.folder = folder
        self.labels = labels
        self.class_info = class_info
        self.problems = problems
        self.listings: dict[str, frozenset[str]] = {}

    def read(self, content: dict[str, Any]) -> dict[int, _Image]:
        """{image id in the file: image}, in file order."""
        if not self.folder.is_dir():
            raise DataError(missing_path(self.folder, "folder of images"))
        images: dict[int, _Image] = {}
        for place, entry in enumerate(content["images"]):
            self._add_image(images, place, entry)
        if not images:
            raise DataError(f"{self.path}: 'images' is empty; there is nothing to read.")
        seen: set[int] = set()
        for place, entry in enumerate(content["annotations"]):
            self._add_object(images, seen, place, entry)
        return images

    def _add_image(self, images: dict[int, _Image], place: int, entry: Any) -> None:
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            raise DataError(f"{self.path}: images[{place}] needs a 'file_name': {str(entry)[:80]}.")
        image_id, height, width = (entry.get(key) for key in ("id", "height", "width"))
        name = entry["file_name"]
        if not _is_id(image_id):
            raise DataError(
                f"{self.path}: images[{place}] ({name}) has the id {image_id!r}; COCO ids are whole numbers."
            )
        if not (_is_size(height) and _is_size(width)):
            raise DataError(
                f"{self.path}: images[{place}] ({name}) has height {height!r} and width {width!r}; give the image's "
                "size in pixels."
            )
        if image_id in images:
            self.problems.add("duplicate_image_id", f"{image_id}: {name} and {images[image_id].file_name}")
            return
        file_name = os.path.join(self.folder, name)
        if not self._exists(file_name):
            self.problems.add("missing_image", file_name)
        images[image_id] = _Image(image_id, file_name, height, width)

    def _exists(self, file_name: str) -> bool:
        """One listing for each folder is far quicker than one question for each file."""
        folder, name = os.path.split(file_name)
        if folder not in self.listings:
            self.listings[folder] = frozenset(os.listdir(folder) if os.path.isdir(folder) else ())
        return name in self.listings[folder]

    def _add_object(self, images: dict[int, _Image], seen: set[int], place: int, entry: Any) -> None:
        if not isinstance(entry, dict):
            raise DataError(f"{self.path}: annotations[{place}] is no object: {str(entry)[:80]}.")
        annotation_id = entry.get("id", place)
        if not _is_id(annotation_id):
            raise DataError(
                f"{self.path}: annotations[{place}] has the id {annotation_id!r}; COCO ids are whole numbers."
            )
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        image = images.get(image_id) if _is_id(image_id) else None
        file = os.path.basename(image.file_name) if image else f"image_id {image_id}"
        case = f"annotation {annotation_id}, {file}"
        if annotation_id in seen:
            self.problems.add("duplicate_annotation_id", case)
        seen.add(annotation_id)
        label = self.labels.get(category_id) if _is_id(category_id) else None
        if label is None:
            self.problems.add("unknown_category", f"{case}: category_id {category_id}")
            return
        if image is None:
            self.problems.add("unknown_image", case)
            return
        if entry.get("ignore"):
            self.problems.add("ignored", case)
            return
        if (box := self._box(entry.get("bbox"), image, case)) is None:
            return
        segmentation = self._segmentation(entry, image, case)
        if (area := self._area(entry.get("area"), box, segmentation, image, case)) is None:
            return
        keypoints = self._keypoints(entry.get("keypoints"), case)
        crowd = bool(entry.get("iscrowd"))
        image.objects.append(_Object(box, label, crowd, area, segmentation, keypoints, annotation_id))

    def _box(self, bbox: Any, image: _Image, case: str) -> tuple[float, float, float, float] | None:
        """x1, y1, x2, y2 inside the image, or None if nothing is left."""
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_finite(v) for v in bbox):
            self.problems.add("invalid_box", f"{case}: {str(bbox)[:60]}")
            return None
        x, y, w, h = bbox
        if w <= 0 or h <= 0:
            self.problems.add("degenerate_box", f"{case}: width {w:g}, height {h:g}")
            return None
        inside = (max(x, 0.0), max(y, 0.0), min(x + w, float(image.width)), min(y + h, float(image.height)))
        shown = f"{case}: bbox [{x:g}, {y:g}, {w:g}, {h:g}] in an image of {image.width} x {image.height}"
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            self.problems.add("box_outside", shown)
            return None
        cut = max(
            a - b for a, b in zip((inside[0], inside[1], x + w, y + h), (x, y, *inside[2:]), strict=True)
        )
        if cut > 1:
            self.problems.add("box_partly_outside", shown)
        return inside

    def _segmentation(self, entry: dict[str, Any], image: _Image, case: str) -> Segmentation | None:
        try:
            return parse_segmentation(entry.get("segmentation"), image.height, image.width)
        except OutlineError as error:
            self.problems.add(error.kind, case if error.kind == "no_segmentation" else f"{case}: {error}")
            return None

    def _area(
        self,
        area: Any,
        box: tuple[float, float, float, float],
        segmentation: Segmentation | None,
        image: _Image,
        case: str,
    ) -> float | None:
        """The object's own area; None leaves it out, as Detectron does with an area of zero."""
        if area is None:
            self.problems.add("missing_area", case)
            if segmentation is None:
                return (box[2] - box[0]) * (box[3] - box[1])
            area = segmentation_area(segmentation, image.height, image.width)
        if not _is_finite(area) or area <= 0:
            self.problems.add("zero_area", f"{case}: area {area}")
            return None
        return float(area)

    def _keypoints(self, value: Any, case: str) -> np.ndarray | None:
        num = len(self.class_info.keypoint_names)
        if not value or num == 0:
            return None
        if not isinstance(value, list) or len(value) != 3 * num or not all(_is_finite(v) for v in value):
            found = f"{len(value)} numbers" if isinstance(value, list) else type(value).__name__
            self.problems.add("invalid_keypoints", f"{case}: {found}, not 3 x {num}")
            return None
        return np.array(value, dtype=np.float32).reshape(num, 3)


def _record(image: _Image, num_keypoints: int) -> Record:
    objects = image.objects
    keypoints = None
    if num_keypoints:
        keypoints = np.zeros((len(objects), num_keypoints, 3), dtype=np.float32)
        for row, item in zip(keypoints, objects, strict=True):
            if item.keypoints is not None:
                row[:] = item.keypoints
    return Record(
        image_id=image.record_id,
        file_name=image.file_name,
        height=image.height,
        width=image.width,
        boxes=np.array([item.box for item in objects], dtype=np.float32).reshape(-1, 4),
        labels=np.array([item.label for item in objects], dtype=np.int64),
        is_crowd=np.array([item.is_crowd for item in objects], dtype=bool),
        areas=np.array([item.area for item in objects], dtype=np.float32),
        segmentations=[item.segmentation for item in objects],
        keypoints=keypoints,
        annotation_ids=np.array([item.annotation_id for item in objects], dtype=np.int64),
    )


def _is_id(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62


def _is_size(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and value > 0


def _is_finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)
