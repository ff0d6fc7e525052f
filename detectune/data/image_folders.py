"""A folder of images for each class, read into one array.

    cats/  dogs/ ...    the classes, in the order of their names; every image below a folder is one of its class

All images get the size of the first one, and one channel where all of them are grey. For small images: all pixels are
held in memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from detectune.data.images import load_image
from detectune.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}


def read_folders(root: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Pixels uint8 [N, C, H, W] (C is 1 or 3), labels int64 [N], class names.

    Raises:
        DataError: names the folder without classes or images, or the image that cannot be read.
    """
    if not root.is_dir():
        raise DataError(f"{root} is no folder; name one that has a folder of images for each class.")
    names = tuple(sorted(folder.name for folder in root.iterdir() if folder.is_dir()))
    if len(names) < 2:
        raise DataError(
            f"{root} has {len(names)} folders; a classifier needs one for each of two classes or more."
        )
    files = [(file, label) for label, name in enumerate(names) for file in _images_in(root / name)]
    height, width = load_image(files[0][0]).shape[:2]
    images = np.stack([fit_image(load_image(file), channels=3, size=(height, width)) for file, _ in files])
    if (images[:, :1] == images[:, 1:]).all():
        images = images[:, :1]
    return images, np.array([label for _, label in files], dtype=np.int64), names


def fit_image(image: np.ndarray, *, channels: int, size: tuple[int, int]) -> np.ndarray:
    """An image uint8 [H, W, 3] RGB as a network sees it: uint8 [C, height, width], grey for one channel."""
    if image.shape[:2] != tuple(size) or channels == 1:
        picture = Image.fromarray(image).convert("L" if channels == 1 else "RGB")
        image = np.array(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return image[None] if channels == 1 else np.ascontiguousarray(image.transpose(2, 0, 1))


def _images_in(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise DataError(f"{folder} has no image; looked for {', '.join(sorted(SUFFIXES))}.")
    return files
