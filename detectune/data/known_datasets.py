"""The data sets that Detectron's configurations name, and where their files lie below a data root.

Detectron kept them below detectron/datasets/data, with COCO's images in coco/coco_train2014 and so on. The layouts in
which they are published are found as well: coco/train2014, VOCdevkit/VOC2007. Nothing is downloaded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from detectune.data.shapes import DatasetPaths
from detectune.errors import DataError

ROOT_VARIABLE = "DETECTUNE_DATA"
DETECTRON_ROOT = Path("detectron/datasets/data")


@dataclass(frozen=True)
class Layout:
    """Images and annotations relative to a data root."""

    images: str
    annotations: str
    format: str = "coco"


def _coco(split: str, annotations: str, *, format: str = "coco") -> tuple[Layout, ...]:
    return tuple(
        Layout(f"coco/{folder}", f"coco/annotations/{annotations}.json", format)
        for folder in (f"coco_{split}", split, f"images/{split}")
    )


def _coco_family(prefix: str, kind: str) -> dict[str, tuple[Layout, ...]]:
    """The names that start with `prefix`; `kind` of annotations is instances or person_keypoints."""
    found = {
        f"{prefix}_2014_{part}": _coco(f"{'train' if part == 'train' else 'val'}2014", f"{kind}_{part}2014")
        for part in ("train", "val", "minival", "valminusminival")
    }
    found |= {
        f"{prefix}_2017_{part}": _coco(f"{part}2017", f"{kind}_{part}2017") for part in ("train", "val")
    }
    for year in (2015, 2017):
        for part in ("test", "test-dev"):
            found[f"{prefix}_{year}_{part}"] = _coco(
                f"test{year}", f"image_info_{part}{year}", format="unlabelled"
            )
    return found


def _voc(year: int, part: str) -> tuple[Layout, ...]:
    kits = (f"VOC{year}/VOCdevkit{year}/VOC{year}", f"VOCdevkit/VOC{year}", f"VOC{year}")
    published = tuple(Layout(f"{kit}/JPEGImages", f"{kit}/ImageSets/Main/{part}.txt", "voc") for kit in kits)
    return (*published, Layout(f"VOC{year}/JPEGImages", f"VOC{year}/annotations/voc_{year}_{part}.json"))


KNOWN: dict[str, tuple[Layout, ...]] = {
    **_coco_family("coco", "instances"),
    **_coco_family("keypoints_coco", "person_keypoints"),
    **{
        f"coco_stuff_{part}": _coco(f"{part}2014", f"coco_stuff_{part}") for part in ("train", "val")
    },
    **{
        f"cityscapes_fine_instanceonly_seg_{part}": tuple(
            Layout(
                f"cityscapes/{images}",
                f"cityscapes/annotations/instancesonly_gtFine_{part}.json",
                "unlabelled" if part == "test" else "cityscapes",
            )
            for images in ("images", "leftImg8bit")
        )
        for part in ("train", "val", "test")
    },
    **{
        f"voc_{year}_{part}": _voc(year, part)
        for year, parts in {2007: ("train", "val", "trainval", "test"), 2012: ("train", "val", "trainval")}.items()
        for part in parts
    },
    **{
        f"lvis_v{version}_{part}": (
            Layout("coco", f"lvis/lvis_v{version}_{part}.json", "lvis"),
            Layout(f"coco/{part}2017", f"lvis/lvis_v{version}_{part}.json", "lvis"),
        )
        for version in ("0.5", "1")
        for part in ("train", "val")
    },
}  # fmt: skip
"""Each name's layouts, Detectron's own first where it is not the published one."""


def data_roots(download_cache: str = "") -> list[Path]:
    """Where data sets are looked for: DETECTUNE_DATA, Detectron's folder in the working directory, DOWNLOAD_CACHE."""
    named = os.environ.get(ROOT_VARIABLE)
    places = [Path(os.path.expanduser(named))] if named else []
    places.append(Path.cwd() / DETECTRON_ROOT)
    return [*places, Path(os.path.expanduser(download_cache))] if download_cache else places


def find_known(name: str, roots: list[Path]) -> DatasetPaths:
    """The first layout of `name` whose files are there.

    Raises:
        DataError: if there is none; it says which files are expected where.
    """
    layouts = KNOWN[name]
    for root in roots:
        for layout in layouts:
            images, annotations = root / layout.images, root / layout.annotations
            if images.is_dir() and annotations.exists():
                return DatasetPaths(images, annotations, layout.format)
    first = layouts[0]
    folders = " or ".join(dict.fromkeys(layout.images for layout in layouts))
    files = " or ".join(dict.fromkeys(layout.annotations for layout in layouts))
    places = ", ".join(map(str, roots))
    if not os.environ.get(ROOT_VARIABLE):
        places += f" (the variable {ROOT_VARIABLE} is not set)"
    parts = [
        root / part
        for root in roots
        for layout in layouts
        for part in (layout.images, layout.annotations)
        if (root / part).exists()
    ]
    half = f" Only {parts[0]} is there." if parts else ""
    entry = f"{{images: .../{Path(first.images).name}, annotations: .../{Path(first.annotations).name}}}"
    raise DataError(
        f"The files of the data set {name} are not found: its images in {folders} and its annotations in {files} are "
        f"expected below one of: {places}.{half} Put or link them there, set {ROOT_VARIABLE} to the folder that has "
        f"them, or say where they are in the YAML file: DATASETS: {{{name}: {entry}}}"
    )
