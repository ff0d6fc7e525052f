"""Names of data sets -> where they lie. Built-in ones are made when first asked for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectune.data.json_file import read_json
from detectune.data.known_datasets import KNOWN, data_roots, find_known
from detectune.data.shapes import DatasetPaths, make_shapes
from detectune.errors import DataError


@dataclass(frozen=True)
class BuiltIn:
    """A data set that comes with the package."""

    doc: str
    make: Callable[[], DatasetPaths]


BUILT_IN: dict[str, BuiltIn] = {
    "shapes_train": BuiltIn(
        "600 generated images of coloured shapes with boxes, outlines and keypoints.",
        lambda: make_shapes(split="train", num_images=600),
    ),
    "shapes_val": BuiltIn(
        "150 more of them, for testing.",
        lambda: make_shapes(split="val", num_images=150),
    ),
}


def resolve_dataset(name: str, datasets: Mapping[str, Any], *, download_cache: str = "") -> DatasetPaths:
    """Where `name` lies: an entry of `datasets` (the key DATASETS), a built-in one, or one that Detectron names."""
    if name in datasets:
        entry = datasets[name]
        return DatasetPaths(Path(entry["images"]), Path(entry["annotations"]), entry.get("format", "coco"))
    if name in BUILT_IN:
        return BUILT_IN[name].make()
    if name in KNOWN:
        return find_known(name, data_roots(download_cache))
    known = sorted({*datasets, *BUILT_IN})
    near = difflib.get_close_matches(name, [*known, *KNOWN], n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise DataError(
        f"The data set {name!r} is not known{hint} Known: {', '.join(known)}, and Detectron's, such as "
        "coco_2017_train and voc_2007_trainval. Add your own in the YAML file: "
        f"DATASETS: {{{name}: {{images: folder, annotations: file.json}}}}"
    )


def locate_dataset(given: str, images: str | None = None) -> DatasetPaths:
    """What `detectune data` is given: a known name, or annotations (a COCO or LVIS file, VOC's list of names, a folder
    of XML files) and perhaps their folder of images.

    Without a folder the usual places around the file are tried: beside it, `images`, COCO's `train2017`, ...
    """
    if given in BUILT_IN or given in KNOWN:
        return resolve_dataset(given, {})
    annotations = Path(given)
    if not annotations.exists() and (near := difflib.get_close_matches(given, [*BUILT_IN, *KNOWN], n=1)):
        raise DataError(f"{given} is neither a file nor a known data set; did you mean {near[0]}?")
    if annotations.suffix == ".txt" or annotations.is_dir():
        return _locate_voc(annotations, images)
    entries = [entry for entry in read_json(annotations)["images"] if isinstance(entry, dict)]
    kind = "lvis" if entries and all("file_name" not in e and "coco_url" in e for e in entries) else "coco"
    if images is not None or kind == "lvis":
        return DatasetPaths(Path(images or annotations.resolve().parent), annotations, kind)
    names = [entry["file_name"] for entry in entries if isinstance(entry.get("file_name"), str)]
    folder = annotations.resolve().parent
    split = annotations.stem.rpartition("_")[2]
    tried = [
        base / name if name else base
        for base in (folder, folder.parent)
        for name in ("", "images", split, f"images/{split}", annotations.stem)
    ]
    # One file may be missing; the folder that has most of a few is meant.
    probes = names[:: max(1, len(names) // 20)]
    best = max(tried, key=lambda place: sum((place / name).is_file() for name in probes))
    if probes and not any((best / name).is_file() for name in probes):
        raise DataError(
            f"{annotations}: its images, such as {probes[0]}, are neither beside it nor in the usual folders around "
            "it; name their folder with --images."
        )
    return DatasetPaths(best, annotations)


def _locate_voc(annotations: Path, images: str | None) -> DatasetPaths:
    """JPEGImages or images beside Annotations/ or ImageSets/, else the folder of the XML files itself."""
    if images is not None:
        return DatasetPaths(Path(images), annotations, "voc")
    if annotations.is_dir() and not any(annotations.glob("*.xml")):
        raise DataError(
            f"{annotations} is a folder without XML files; name the annotation file in it (COCO JSON), or VOC's "
            "list of names (ImageSets/Main/trainval.txt)."
        )
    place = annotations.resolve()
    around = [parent / name for parent in place.parents[:3] for name in ("JPEGImages", "images")]
    folder = next((f for f in around if f.is_dir()), place if place.is_dir() else place.parent)
    return DatasetPaths(folder, annotations, "voc")
