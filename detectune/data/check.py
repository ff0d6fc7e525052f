"""What a data set contains and what is wrong with it: `detectune data check`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detectune.data.formats import read_places
from detectune.data.images import load_image
from detectune.data.problems import KINDS, Problems
from detectune.data.shapes import DatasetPaths
from detectune.errors import DataError
from detectune.structures import ClassInfo, Record

SMALL, LARGE = 32.0**2, 96.0**2  # COCO's limits of small, medium and large objects, in pixels of area


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs."""

    name: str
    category_id: int
    objects: int  # crowd regions not counted
    images: int


@dataclass(frozen=True)
class Spread:
    """Five numbers that describe many: percentiles 0, 5, 50, 95 and 100."""

    least: float
    low: float
    median: float
    high: float
    most: float


@dataclass(frozen=True)
class DatasetReport:
    """Statistics and problems of a data set. Lengths in pixels of the original images; crowds counted apart."""

    annotations: str
    images_folder: str
    num_images: int
    num_empty_images: int  # without any object
    num_objects: int
    num_crowd: int
    num_polygons: int  # objects whose outline is polygons, an RLE, or absent
    num_rle: int
    num_without_outline: int
    num_with_keypoints: int
    image_height: Spread
    image_width: Spread
    objects_per_image: Spread
    box_side: Spread  # square root of the box's area
    box_aspect: Spread  # width / height
    num_small: int
    num_medium: int
    num_large: int
    classes: tuple[ClassCount, ...]
    problems: Problems

    @property
    def fatal(self) -> list[str]:
        """The kinds of problems that stop training."""
        return self.problems.fatal()

    def to_json(self) -> dict[str, Any]:
        """Plain containers; a list of problems with kind, count, whether fatal, first cases and remedy."""
        content = asdict(self)
        content["problems"] = [
            {
                "kind": kind,
                "count": self.problems.counts[kind],
                "fatal": KINDS[kind].fatal,
                "what": KINDS[kind].noun,
                "examples": self.problems.examples[kind],
                "remedy": KINDS[kind].remedy,
            }
            for kind in KINDS
            if kind in self.problems.counts
        ]
        return content

    def to_text(self) -> str:
        """A page of at most 60 columns, problems excepted."""
        lines = [*self._overview(), "", *self._class_table(), ""]
        if not self.problems:
            return "\n".join([*lines, "No problems found."])
        for title, wanted in (("These stop training:", True), ("Mended while reading:", False)):
            kinds = [k for k in KINDS if k in self.problems.counts and KINDS[k].fatal == wanted]
            lines += [title, *(f"  - {self.problems.line(kind)}" for kind in kinds)] if kinds else []
        return "\n".join(lines)

    def _overview(self) -> list[str]:
        rows = [
            ("images", f"{self.num_images}, {self.num_empty_images} without objects"),
            ("objects", f"{self.num_objects}, and {self.num_crowd} crowd regions"),
            (
                "outlines",
                f"{self.num_polygons} polygons, {self.num_rle} RLE, {self.num_without_outline} without",
            ),
            ("keypoints", f"{self.num_with_keypoints} objects"),
            ("small, medium, large", f"{self.num_small}, {self.num_medium}, {self.num_large}"),
        ]
        spreads = [
            ("image width", self.image_width),
            ("image height", self.image_height),
            ("objects per image", self.objects_per_image),
            ("box side", self.box_side),
            ("box width / height", self.box_aspect),
        ]
        head = f"{'':<22}{'least':>7}{'5 %':>7}{'median':>8}{'95 %':>7}{'most':>7}"
        return [
            *(f"{name:<22}{value}" for name, value in rows),
            "",
            head,
            *(
                f"{name:<22}{s.least:>7.4g}{s.low:>7.4g}{s.median:>8.4g}{s.high:>7.4g}{s.most:>7.4g}"
                for name, s in spreads
            ),
        ]

    def _class_table(self) -> list[str]:
        rows = [f"{'class':<30}{'id':>6}{'objects':>10}{'images':>10}"]
        for row in self.classes:
            name = row.name if len(row.name) < 30 else row.name[:26] + "..."
            rows.append(f"{name:<30}{row.category_id:>6}{row.objects:>10}{row.images:>10}")
        return rows


def check_dataset(
    annotations: Path,
    images: Path,
    *,
    format: str = "coco",
    read_images: bool = True,
    num_threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetReport:
    """Read the annotations and, with `read_images`, every image; `progress(done, of)` after each.

    Raises `DataError` only where there is nothing to report on: no file, no JSON, not COCO.
    """
    (records,), class_info, problems = read_places([DatasetPaths(images, annotations, format)])
    if read_images:
        check_images(records, problems, num_threads=num_threads, progress=progress)
    return describe_records(records, class_info, problems, annotations=annotations, images=images)


def check_images(
    records: Sequence[Record],
    problems: Problems,
    *,
    num_threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Decode every image that is there and add what is wrong to `problems`."""
    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        for done, found in enumerate(pool.map(_check_image, records), start=1):
            if found is not None:
                problems.add(*found)
            if progress is not None:
                progress(done, len(records))


def _check_image(record: Record) -> tuple[str, str] | None:
    if not Path(record.file_name).exists():
        return None  # counted when the annotations were read
    try:
        height, width = load_image(record.file_name).shape[:2]
    except DataError as error:
        return "unreadable_image", str(error)
    if (height, width) != (record.height, record.width):
        return (
            "image_size",
            f"{record.file_name}: {width} x {height}, annotated {record.width} x {record.height}",
        )
    return None


def describe_records(
    records: Sequence[Record], class_info: ClassInfo, problems: Problems, *, annotations: Path, images: Path
) -> DatasetReport:
    """The statistics."""
    crowd = np.concatenate([record.is_crowd for record in records])
    boxes = np.concatenate([record.boxes for record in records])[~crowd]
    areas = np.concatenate([record.areas for record in records])[~crowd]
    sides = boxes[:, 2:] - boxes[:, :2]
    outlines = [outline for record in records for outline in record.segmentations]
    return DatasetReport(
        annotations=str(annotations),
        images_folder=str(images),
        num_images=len(records),
        num_empty_images=sum(len(record) == 0 for record in records),
        num_objects=int((~crowd).sum()),
        num_crowd=int(crowd.sum()),
        num_polygons=sum(isinstance(outline, list) for outline in outlines),
        num_rle=sum(isinstance(outline, dict) for outline in outlines),
        num_without_outline=sum(outline is None for outline in outlines),
        num_with_keypoints=sum(
            int((record.keypoints[..., 2] > 0).any(axis=1).sum())
            for record in records
            if record.keypoints is not None
        ),
        image_height=_spread([record.height for record in records]),
        image_width=_spread([record.width for record in records]),
        objects_per_image=_spread([int((~record.is_crowd).sum()) for record in records]),
        box_side=_spread(np.sqrt(sides.prod(axis=1))),
        box_aspect=_spread(sides[:, 0] / sides[:, 1]),
        num_small=int((areas < SMALL).sum()),
        num_medium=int(((areas >= SMALL) & (areas <= LARGE)).sum()),
        num_large=int((areas > LARGE).sum()),
        classes=_count_classes(records, class_info),
        problems=problems,
    )


def _count_classes(records: Sequence[Record], class_info: ClassInfo) -> tuple[ClassCount, ...]:
    objects = np.zeros(len(class_info) + 1, dtype=np.int64)
    images = np.zeros(len(class_info) + 1, dtype=np.int64)
    for record in records:
        labels = record.labels[~record.is_crowd]
        np.add.at(objects, labels, 1)
        images[np.unique(labels)] += 1
    rows = zip(
        class_info.names, class_info.category_ids, objects[1:].tolist(), images[1:].tolist(), strict=True
    )
    return tuple(ClassCount(*row) for row in rows)


def _spread(values: Sequence[float] | np.ndarray) -> Spread:
    if len(values) == 0:
        return Spread(0.0, 0.0, 0.0, 0.0, 0.0)
    return Spread(*(float(value) for value in np.percentile(values, [0, 5, 50, 95, 100])))
