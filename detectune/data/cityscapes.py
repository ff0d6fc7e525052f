"""Cityscapes (Cordts et al. 2016, arXiv:1604.01685) as a COCO file: `detectune data cityscapes FOLDER`.

    FOLDER/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
    FOLDER/gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png   and ..._gtFine_polygons.json

Objects of the eight classes that have instances become RLEs of their pixels, so nothing is lost at holes and where one
object hides a part of another. Groups whose members cannot be told apart become crowd regions. Category ids are
Cityscapes' own label ids. Where the picture of instances is missing it is drawn from the polygons, later ones over
earlier ones, as the data set's authors made it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask
from PIL import Image, ImageDraw

from detectune.errors import DataError

CLASSES = {
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
INSTANCES, POLYGONS, IMAGE = "_gtFine_instanceIds.png", "_gtFine_polygons.json", "_leftImg8bit.png"
PER_LABEL = (
    1000  # pixels of instance n of a label hold label * 1000 + n; of a group or anything else, the label
)


def convert_cityscapes(
    folder: Path, split: str, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """COCO's document of a split (train, val); file names are relative to FOLDER/leftImg8bit.

    Raises:
        DataError: if the folders are not there or a file cannot be used.
    """
    names = _frames(folder, split)
    document: dict[str, Any] = {
        "info": {"description": f"Cityscapes gtFine, {split}"},
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for name, number in CLASSES.items()],
    }
    for number, name in enumerate(names, start=1):
        ids = instance_ids(folder / "gtFine" / split, name)
        height, width = ids.shape
        document["images"].append(
            {"id": number, "file_name": f"{split}/{name}{IMAGE}", "height": height, "width": width}
        )
        for annotation in annotations_of(ids):
            annotation |= {"id": len(document["annotations"]) + 1, "image_id": number}
            document["annotations"].append(annotation)
        if progress is not None:
            progress(number, len(names))
    return document


def annotations_of(ids: np.ndarray) -> Iterator[dict[str, Any]]:
    """The objects and groups of a picture of instance ids [H, W], by rising id."""
    labels = set(CLASSES.values())
    for value in np.unique(ids).tolist():
        label = value // PER_LABEL if value >= PER_LABEL else value
        if label not in labels:
            continue
        rle = coco_mask.encode(np.asfortranarray(ids == value, dtype=np.uint8))
        counts = rle["counts"]
        yield {
            "category_id": label,
            "iscrowd": int(value < PER_LABEL),
            "area": int(coco_mask.area(rle)),
            "bbox": [float(v) for v in coco_mask.toBbox(rle)],
            "segmentation": {
                "size": [int(side) for side in rle["size"]],
                "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
            },
        }


def instance_ids(folder: Path, name: str) -> np.ndarray:
    """int32 [H, W]: the picture of instances of a frame (`aachen/aachen_000000_000019`), or one drawn from polygons."""
    path = folder / f"{name}{INSTANCES}"
    if not path.is_file():
        return _drawn_ids(folder / f"{name}{POLYGONS}")
    try:
        with Image.open(path) as image:
            ids = np.array(image)
    except OSError as error:
        raise DataError(
            f"{path}: the picture of instances cannot be read ({error}); copy it again."
        ) from error
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise DataError(f"{path}: a picture of instances has one channel of whole numbers, not {ids.shape}.")
    return ids.astype(np.int32)


def _drawn_ids(path: Path) -> np.ndarray:
    try:
        content = json.loads(path.read_bytes())
        size = (int(content["imgWidth"]), int(content["imgHeight"]))
        objects = [
            (str(item["label"]), [(float(x), float(y)) for x, y in item["polygon"]])
            for item in content["objects"]
            if not item.get("deleted")
        ]
    except OSError as error:
        raise DataError(
            f"{path}: neither this nor the picture of instances beside it can be opened ({error.strerror or error})."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: these are no polygons of Cityscapes ({error}); copy the file again."
        ) from error
    picture = Image.new("I", size, 0)
    draw = ImageDraw.Draw(picture)
    counts = dict.fromkeys(CLASSES, 0)
    for label, polygon in objects:
        group = label.removesuffix("group") if label.removesuffix("group") in CLASSES else ""
        value = 0
        if label in CLASSES:
            value = CLASSES[label] * PER_LABEL + counts[label]
            counts[label] += 1
        elif label.endswith("group") and group:
            value = CLASSES[group]
        if len(polygon) > 1:
            draw.polygon(polygon, fill=value)
    return np.array(picture).astype(np.int32)


def _frames(folder: Path, split: str) -> list[str]:
    """`city/frame` of every image of a split, sorted."""
    images, truth = folder / "leftImg8bit" / split, folder / "gtFine" / split
    for place in (images, truth):
        if not place.is_dir():
            raise DataError(
                f"{place} does not exist; unpack Cityscapes' leftImg8bit and gtFine archives into {folder}."
            )
    found = sorted(path.relative_to(images).as_posix() for path in images.glob(f"*/*{IMAGE}"))
    if not found:
        raise DataError(f"{images} holds no images named CITY/..{IMAGE}, as Cityscapes has them.")
    return [name.removesuffix(IMAGE) for name in found]
