"""Names of data sets -> where they lie. Built-in ones are made when first asked for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectune.data.json_file import read_json
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


def resolve_dataset(name: str, datasets: Mapping[str, Any]) -> DatasetPaths:
    """Images and annotations of `name`: an entry of `datasets` (the key DATASETS), else a built-in one."""
    if name in datasets:
        entry = datasets[name]
        return DatasetPaths(Path(entry["images"]), Path(entry["annotations"]))
    if name in BUILT_IN:
        return BUILT_IN[name].make()
    known = sorted({*datasets, *BUILT_IN})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise DataError(
        f"The data set {name!r} is not known{hint} Known: {', '.join(known)}. Add your own in the YAML file: "
        f"DATASETS: {{{name}: {{images: folder, annotations: file.json}}}}"
    )


def locate_dataset(given: str, images: str | None = None) -> DatasetPaths:
    """What `detectune data` is given: a built-in name, or an annotation file and perhaps its folder of images.

    Without a folder the usual places around the file are tried: beside it, `images`, COCO's `train2017`, ...
    """
    if given in BUILT_IN:
        return resolve_dataset(given, {})
    annotations = Path(given)
    if not annotations.exists() and (near := difflib.get_close_matches(given, BUILT_IN, n=1)):
        raise DataError(f"{given} is neither a file nor a built-in data set; did you mean {near[0]}?")
    if images is not None:
        return DatasetPaths(Path(images), annotations)
    names = [
        entry["file_name"]
        for entry in read_json(annotations)["images"]
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str)
    ]
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
