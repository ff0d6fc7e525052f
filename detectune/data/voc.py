"""Pascal VOC's development kit (Everingham et al. 2010): lists of image names, one XML file for each image.

    VOC2007/ImageSets/Main/trainval.txt  names, one a line     VOC2007/Annotations/000005.xml
    VOC2007/JPEGImages/000005.jpg

Pixels are counted from 1 and the last one belongs to the box, so a box is [xmin - 1, ymin - 1, xmax, ymax] in our
continuous frame. Objects marked difficult are left out of training, and neither asked for nor held against a detector
in the evaluation. Data sets of one's own in this form may have other classes and name a folder of XML files instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from detectune.data.json_file import missing_path
from detectune.errors import DataError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


@dataclass(frozen=True)
class VocImage:
    """One XML file."""

    name: str  # without suffix, as in the lists and in result files
    image_id: int
    file_name: str
    height: int
    width: int
    classes: tuple[str, ...]
    boxes: np.ndarray  # float64 [N, 4], continuous xyxy
    difficult: np.ndarray  # bool [N]


def read_voc(annotations: Path, images: Path) -> dict[str, Any]:
    """The data set as COCO's document; `annotations` is a list of names or a folder of XML files.

    Categories are VOC's twenty, numbered from 1, if there are no other classes, else those of all XML files by name.
    Image ids are the numbers in the names (2007_000027 is 2007000027), or the places in the list where names are words.
    """
    found = read_voc_images(annotations, images)
    names = _class_names(_xml_folder(annotations, images))
    number = {name: i for i, name in enumerate(names, start=1)}
    document: dict[str, Any] = {
        "images": [
            {"id": image.image_id, "file_name": image.file_name, "height": image.height, "width": image.width}
            for image in found
        ],
        "annotations": [],
        "categories": [{"id": number[name], "name": name} for name in names],
    }
    for image in found:
        for name, box, difficult in zip(image.classes, image.boxes.tolist(), image.difficult, strict=True):
            x1, y1, x2, y2 = box
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": image.image_id,
                    "category_id": number[name],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "ignore": int(difficult),
                }
            )
    return document


def read_voc_images(annotations: Path, images: Path) -> list[VocImage]:
    """The images of a list of names or of a folder of XML files, in order."""
    folder = _xml_folder(annotations, images)
    names = _listed_names(annotations)
    digits = [name.replace("_", "") for name in names]
    by_number = all(text.isdecimal() and len(text) < 15 for text in digits) and len(set(digits)) == len(
        digits
    )
    return [
        _read_image(folder / f"{name}.xml", images, int(text) if by_number else place)
        for place, (name, text) in enumerate(zip(names, digits, strict=True), start=1)
    ]


def _listed_names(annotations: Path) -> list[str]:
    if annotations.is_dir():
        names = sorted(file.stem for file in annotations.glob("*.xml"))
    else:
        try:
            lines = annotations.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(
                missing_path(annotations, "list of image names", reason=error.strerror or "")
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(f"{annotations}: a list of image names is text, one name a line.") from error
        names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise DataError(
            f"{annotations}: there are no {'XML files' if annotations.is_dir() else 'names'} in it."
        )
    return names


def _xml_folder(annotations: Path, images: Path) -> Path:
    """Annotations/ of the kit that the list belongs to, or beside the images."""
    if annotations.is_dir():
        return annotations
    places = [
        parent / "Annotations" for parent in (*annotations.resolve().parents[:3], images.resolve().parent)
    ]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise DataError(
            f"{annotations}: its XML files are looked for in {places[2]} and {places[3]}, but neither exists; keep the "
            "folders of the VOC kit, or name the folder of XML files as 'annotations'."
        )
    return folder


def _class_names(folder: Path) -> tuple[str, ...]:
    return _class_names_of(folder, folder.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _class_names_of(folder: Path, stamp: int) -> tuple[str, ...]:
    """The classes of a folder that has not changed since `stamp`; of all files, so that every list has the same."""
    found: set[str] = set()
    for file in folder.glob("*.xml"):
        found.update(_text(item, "name", file) for item in _parse(file).findall("object"))
    return CLASSES if found <= set(CLASSES) else tuple(sorted(found))


def _read_image(path: Path, images: Path, image_id: int) -> VocImage:
    root = _parse(path)
    size = root.find("size")
    height, width = (
        (0, 0) if size is None else (int(_number(size, name, path)) for name in ("height", "width"))
    )
    if height < 1 or width < 1:
        raise DataError(f"{path}: <size> must give the image's width and height in pixels.")
    classes, boxes, difficult = [], [], []
    for item in root.findall("object"):
        bounds = item.find("bndbox")
        if bounds is None:
            raise DataError(f"{path}: an <object> has no <bndbox>; every object needs a box.")
        x1, y1, x2, y2 = (_number(bounds, name, path) for name in ("xmin", "ymin", "xmax", "ymax"))
        classes.append(_text(item, "name", path))
        boxes.append((x1 - 1, y1 - 1, x2, y2))
        difficult.append((item.findtext("difficult") or "0").strip() == "1")
    return VocImage(
        name=path.stem,
        image_id=image_id,
        file_name=_file_name(root, path, images),
        height=height,
        width=width,
        classes=tuple(classes),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        difficult=np.array(difficult, dtype=bool),
    )


def _file_name(root: ElementTree.Element, path: Path, images: Path) -> str:
    """<filename> if that exists, else the name of the XML file with an image's suffix."""
    written = Path((root.findtext("filename") or "").strip()).name
    candidates = [written] if written else []
    candidates += [path.stem + suffix for suffix in SUFFIXES]
    return next((name for name in candidates if (images / name).is_file()), candidates[0])


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except OSError as error:
        raise DataError(missing_path(path, "annotation file", reason=error.strerror or str(error))) from error
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: this is not valid XML ({error}); copy or export it again.") from error


def _text(element: ElementTree.Element, name: str, path: Path) -> str:
    text = (element.findtext(name) or "").strip()
    if not text:
        raise DataError(f"{path}: an <{element.tag}> has no <{name}>.")
    return text


def _number(element: ElementTree.Element, name: str, path: Path) -> float:
    text = _text(element, name, path)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"{path}: <{name}> is {text!r}, not a number.")
    return value
