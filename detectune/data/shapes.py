"""A generated data set: coloured shapes on textured backgrounds, in COCO's format, exact to the pixel.

Objects are painted back to front. An outline is what remains visible: the exact polygon of an object that nothing
covers, an RLE of the visible pixels otherwise. Nothing is painted that would hide most of another object, so every
visible object is annotated. Colours help a little: a class has four of the ten, each shared with another class,
which leaves it to the shape to decide. No two objects of a picture have the same.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask
from PIL import Image, ImageDraw

from detectune.data.cache import cached_folder

VERSION = 2  # part of the cache's name: raise it when the pictures change
SEED = 7
SPLITS = ("train", "val", "test")
OVERSAMPLE = 4  # shapes are drawn this much larger and averaged, which gives smooth borders
TRIANGLE_POINTS = ("top", "left_corner", "right_corner")
COLOURS = (
    (214, 39, 40), (255, 127, 14), (240, 215, 40), (44, 160, 44), (30, 195, 190), (31, 100, 200),
    (140, 75, 190), (230, 90, 180), (245, 245, 245), (30, 30, 35),
)  # fmt: skip
NUM_OWN_COLOURS = 4


@dataclass(frozen=True)
class DatasetPaths:
    """Where a data set lies: its folder of images, its annotation file, and how that is written."""

    images: Path
    annotations: Path
    format: str = "coco"  # a key of formats.FORMATS


def _regular(corners: int, *, phase: float, inner: float = 1.0) -> np.ndarray:
    """Corners on the unit circle, float64 [P, 2]; with `inner` every second one lies on a smaller circle."""
    angles = phase + 2 * math.pi * np.arange(corners) / corners
    radii = np.where(np.arange(corners) % 2 == 0, 1.0, inner)
    return np.stack((np.sin(angles) * radii, -np.cos(angles) * radii), axis=1)


# Outlines in a square of side 2 around the origin, y downwards, and by how much each may be turned (radians).
OUTLINES: dict[str, tuple[np.ndarray, float]] = {
    "circle": (_regular(40, phase=0.0), math.pi),
    "square": (_regular(4, phase=math.pi / 4), math.pi / 9),
    "triangle": (np.array([[0.0, -1.0], [-0.85, 0.8], [0.85, 0.8]]), math.pi / 9),
    "star": (_regular(10, phase=0.0, inner=0.42), math.pi / 10),
    "cross": (
        np.array(
            [[-0.33, -1], [0.33, -1], [0.33, -0.33], [1, -0.33], [1, 0.33], [0.33, 0.33],
             [0.33, 1], [-0.33, 1], [-0.33, 0.33], [-1, 0.33], [-1, -0.33], [-0.33, -0.33]]
        ),
        math.pi / 12,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How hard the pictures are. Lengths in pixels."""

    image_size: tuple[int, int] = (128, 160)  # height, width; a quarter of the images is upright
    object_size: tuple[int, int] = (32, 88)  # of the larger side, about
    small_size: tuple[int, int] = (13, 24)
    small_fraction: float = 0.05
    num_objects: tuple[int, int] = (1, 5)
    empty_fraction: float = 0.03
    noise: float = 6.0  # standard deviation in grey levels
    least_visible: float = 0.45  # what must remain visible of each object


@dataclass
class _Shape:
    """One object while its picture is made."""

    name: str
    polygon: np.ndarray  # float64 [P, 2], image pixels
    colour: int  # of COLOURS
    mask: np.ndarray  # bool [H, W], the whole object
    visible: np.ndarray  # bool [H, W]


def make_shapes(
    directory: Path | None = None,
    *,
    split: str,
    num_images: int,
    image_size: tuple[int, int] = (128, 160),
    seed: int = SEED,
    style: Style | None = None,
) -> DatasetPaths:
    """Make the data set, or find it made. `directory` is used as it is; without one it goes to the cache.

    Image n of a split depends on (seed, split, n) and the style only, so smaller sets are parts of larger ones.
    """
    style = style or Style(image_size=image_size)
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")

    def fill(folder: Path) -> None:
        _write(folder, split=split, num_images=num_images, seed=seed, style=style)

    name = f"shapes-{VERSION}-{split}-{num_images}-{_digest(style)}-{seed}"
    folder = cached_folder(name, fill, parent=directory)
    return DatasetPaths(folder / "images", folder / "annotations.json")


def _digest(style: Style) -> str:
    return hashlib.sha256(repr(style).encode()).hexdigest()[:8]


def _write(folder: Path, *, split: str, num_images: int, seed: int, style: Style) -> None:
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, num_images + 1):
        rng = np.random.default_rng([seed, SPLITS.index(split), number])
        picture, shapes = draw_picture(rng, style)
        name = f"{split}_{number:05d}.jpg"
        Image.fromarray(picture).save(folder / "images" / name, quality=95, subsampling=0)
        height, width = picture.shape[:2]
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for shape in shapes:
            annotations.append(_annotation(shape, image_id=number, annotation_id=len(annotations) + 1))
    content = {
        "info": {"description": f"Generated shapes, version {VERSION}, seed {seed}, split {split}"},
        "images": images,
        "annotations": annotations,
        "categories": _categories(),
    }
    (folder / "annotations.json").write_text(json.dumps(content))


def _categories() -> list[dict[str, Any]]:
    categories: list[dict[str, Any]] = [
        {"id": i + 1, "name": name, "supercategory": "shape"} for i, name in enumerate(OUTLINES)
    ]
    for category in categories:
        if category["name"] == "triangle":
            category |= {"keypoints": list(TRIANGLE_POINTS), "skeleton": [[1, 2], [2, 3], [3, 1]]}
    return categories


def draw_picture(rng: np.random.Generator, style: Style) -> tuple[np.ndarray, list[_Shape]]:
    """uint8 [H, W, 3] and its objects, back to front."""
    height, width = style.image_size
    if rng.random() < 0.25:
        height, width = width, height
    canvas = _background(rng, height, width)
    shapes: list[_Shape] = []
    wanted = (
        0 if rng.random() < style.empty_fraction else int(rng.integers(*style.num_objects, endpoint=True))
    )
    for _ in range(wanted * 4):
        if len(shapes) == wanted:
            break
        shape = _place(rng, style, height, width, taken=[other.colour for other in shapes])
        if not _leaves_visible(shape, shapes, style.least_visible):
            continue
        for other in shapes:
            other.visible &= ~shape.mask
        shapes.append(shape)
        _paint(canvas, shape, rng)
    canvas += rng.normal(0, style.noise, canvas.shape)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), shapes


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """float64 [H, W, 3]: a few soft blotches of a muted colour, and stripes on every second picture."""
    base = rng.uniform(70, 185) + rng.uniform(-18, 18, 3)
    coarse = rng.normal(0, 14, (int(rng.integers(3, 7)), int(rng.integers(3, 7)), 3))
    layers = [
        np.asarray(
            Image.fromarray(coarse[..., c].astype(np.float32)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
        )
        for c in range(3)
    ]
    canvas: np.ndarray = base + np.stack(layers, axis=2).astype(np.float64)
    if rng.random() < 0.5:
        y, x = np.mgrid[:height, :width]
        angle, period = rng.uniform(0, math.pi), rng.uniform(5, 14)
        wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period + rng.uniform(0, 6))
        canvas += rng.uniform(4, 10) * wave[..., None]
    return canvas


def _place(rng: np.random.Generator, style: Style, height: int, width: int, *, taken: list[int]) -> _Shape:
    """A shape at a random place, wholly inside the image, in a colour of its own."""
    name = list(OUTLINES)[int(rng.integers(len(OUTLINES)))]
    outline, turn = OUTLINES[name]
    low, high = style.small_size if rng.random() < style.small_fraction else style.object_size
    side = math.exp(rng.uniform(math.log(low), math.log(min(high, 0.7 * min(height, width)))))
    stretch = math.exp(rng.uniform(-0.12, 0.12))
    angle = rng.uniform(-turn, turn)
    spin = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = (outline * np.array([stretch, 1 / stretch])) @ spin.T
    extent = points.max(0) - points.min(0)
    points = (points - points.min(0)) * (side / extent.max())
    room = np.array([width, height]) - points.max(0) - 2
    polygon = np.round(points + 1 + rng.random(2) * np.maximum(room, 0), 2)
    mask = _raster(polygon, height, width)
    colour = _choose_colour(rng, list(OUTLINES).index(name), taken)
    return _Shape(name, polygon, colour, mask, mask.copy())


def _choose_colour(rng: np.random.Generator, kind: int, taken: list[int]) -> int:
    """One of the class's own colours that the picture does not have yet, else another that it does not have."""
    free = [number for number in range(len(COLOURS)) if number not in taken]
    own = [number for number in free if (number - 2 * kind) % len(COLOURS) < NUM_OWN_COLOURS]
    return int(rng.choice(own or free or range(len(COLOURS))))


def _raster(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """bool [H, W] by COCO's own rule, which tools will use to read the polygon back."""
    rle = coco_mask.frPyObjects([polygon.ravel().tolist()], height, width)[0]
    return coco_mask.decode(rle).astype(bool)


def _leaves_visible(shape: _Shape, others: list[_Shape], least: float) -> bool:
    return all((other.visible & ~shape.mask).sum() >= least * other.mask.sum() for other in others)


def _paint(canvas: np.ndarray, shape: _Shape, rng: np.random.Generator) -> None:
    """Blend the shape in, with a slight shade from one side to the other."""
    height, width = canvas.shape[:2]
    x1, y1 = np.floor(shape.polygon.min(0)).astype(int)
    x2, y2 = np.minimum(np.ceil(shape.polygon.max(0)).astype(int) + 1, [width, height])
    cover = Image.new("L", ((x2 - x1) * OVERSAMPLE, (y2 - y1) * OVERSAMPLE))
    # Pillow fills up to and including a corner's pixel, whose centre lies half a fine pixel further.
    corners = (shape.polygon - [x1, y1]) * OVERSAMPLE - 0.5
    ImageDraw.Draw(cover).polygon([tuple(point) for point in corners.tolist()], fill=255)
    alpha = np.asarray(cover.reduce(OVERSAMPLE), dtype=np.float64)[..., None] / 255
    colour = np.array(COLOURS[shape.colour]) + rng.uniform(-12, 12, 3)
    shade = np.linspace(-1, 1, x2 - x1)[None, :, None] * rng.uniform(-14, 14)
    window = canvas[y1:y2, x1:x2]
    window += alpha * (colour + shade - window)


def _annotation(shape: _Shape, *, image_id: int, annotation_id: int) -> dict[str, Any]:
    """COCO's entry of the visible part: box, area and outline agree to the pixel."""
    height, width = shape.mask.shape
    covered = bool((shape.mask & ~shape.visible).any())
    segmentation: Any = [shape.polygon.ravel().tolist()]
    if covered:
        rle = coco_mask.encode(np.asfortranarray(shape.visible.astype(np.uint8)))
        segmentation = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
        columns, rows = np.flatnonzero(shape.visible.any(0)), np.flatnonzero(shape.visible.any(1))
        box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
    else:
        low, high = shape.polygon.min(0), shape.polygon.max(0)
        box = [*low, *(high - low)]
    annotation = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": list(OUTLINES).index(shape.name) + 1,
        "bbox": [round(float(value), 2) for value in box],
        "area": float(shape.visible.sum()),
        "iscrowd": 0,
        "segmentation": segmentation,
    }
    if shape.name == "triangle":
        annotation |= {"keypoints": _keypoints(shape), "num_keypoints": len(TRIANGLE_POINTS)}
    return annotation


def _keypoints(shape: _Shape) -> list[int]:
    """The corners as COCO writes them: the pixel, and 2 if it can be seen or 1 if something covers it."""
    height, width = shape.mask.shape
    centre = shape.polygon.mean(0)
    flat: list[int] = []
    for x, y in shape.polygon:
        column, row = min(int(x), width - 1), min(int(y), height - 1)
        # A corner's own pixel is mostly background; a little inwards tells whether the corner is covered.
        inner_x, inner_y = (np.array([x, y]) * 0.85 + centre * 0.15).astype(int)
        flat += [column, row, 2 if shape.visible[inner_y, inner_x] else 1]
    return flat
