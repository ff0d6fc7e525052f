"""Data sets of whole images with one label each, held in memory: MNIST and its kin, IDX files, folders of images.

    mnist_train       the first 50,000 of MNIST's 60,000 training images       mnist_val   the last 10,000
    mnist_trainval    all 60,000                                               mnist_test  the 10,000 test images
    fashion_mnist_*   the same of Fashion-MNIST
    digits_train, digits_val, digits_test   scikit-learn's 1,797 digits of 8 x 8 pixels, which need no files
    mnist_train[:5000]                      the first 5,000 of one

The split of MNIST is Nielsen's ("Neural Networks and Deep Learning", chapter 1). One's own data is an entry of
DATASETS with `format: idx` (images and labels are two IDX files) or `format: folders` (`images` is a folder with a
folder of images for each class).

Shape legend
    N  images    C, H, W  channels, height, width    K  classes
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from detectune.data.idx import read_idx_pair
from detectune.data.image_folders import read_folders
from detectune.data.known_datasets import data_roots
from detectune.downloads import DownloadError, fetch
from detectune.errors import DataError
from detectune.structures import ClassInfo

NUM_VALIDATION = 10_000  # the last of MNIST's training images
FILES = {"train": "train", "val": "train", "trainval": "train", "test": "t10k"}
VARIABLES = {"mnist": "MNIST_DIR", "fashion_mnist": "FASHION_MNIST_DIR"}
PAIR = ("images-idx3-ubyte", "labels-idx1-ubyte")
ADDRESSES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}
DIGESTS = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
}
"""MD5 of the files as they are published."""
FASHION = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
CLASSES = {"mnist": tuple("0123456789"), "fashion_mnist": FASHION, "digits": tuple("0123456789")}
DIGITS_SPLIT = {"train": slice(0, 1197), "val": slice(1197, 1497), "test": slice(1497, 1797)}
DIGITS_SEED = 7
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow makes images grey
BEGINNING = re.compile(r"(?P<name>.+)\[:(?P<count>\d+)\]")
NAMES = tuple(
    f"{family}_{split}" for family in CLASSES for split in (DIGITS_SPLIT if family == "digits" else FILES)
)


@dataclass(frozen=True)
class LabelledImages:
    """Images and labels of a data set."""

    name: str
    images: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N], 0..K-1
    class_info: ClassInfo  # label k is names[k]: there is no background
    source: str  # which files, in words

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the data, wherever it lies."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        names = list(self.class_info.names)
        return {"images": len(self), "objects": len(self), "classes": names, "sha256": digest.hexdigest()}


def read_labelled(name: str, root: Path | str | None = None) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, C, H, W] and labels int64 [N] of a known data set; `root` is the folder of its files.

    Raises:
        DataError: if the name is unknown, or the files are missing or damaged.
    """
    data = read_known(name, folders=None if root is None else [Path(root)])
    return data.images, data.labels


def load_labelled(name: str, datasets: Mapping[str, Any], *, download_cache: str = "") -> LabelledImages:
    """The data set `name`: an entry of `datasets` (the key DATASETS) or a known one; `name[:500]` is its beginning."""
    if cut := BEGINNING.fullmatch(name):
        whole = load_labelled(cut["name"], datasets, download_cache=download_cache)
        count = int(cut["count"])
        if not 0 < count <= len(whole):
            raise DataError(f"{name} asks for {count} of {cut['name']}'s {len(whole)} images.")
        return replace(whole, name=name, images=whole.images[:count], labels=whole.labels[:count])
    if name in datasets:
        return _read_own(name, datasets[name])
    return read_known(name, download_cache=download_cache)


def with_shape(data: LabelledImages, shape: tuple[int, ...]) -> LabelledImages:
    """The data with images of `shape` (channels, height, width): resized, colours made grey or grey repeated."""
    channels, height, width = shape
    images = data.images
    if tuple(images.shape[1:]) == tuple(shape):
        return data
    pixels = images.float()
    if channels == 1 and images.shape[1] == 3:
        pixels = (pixels * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    if tuple(images.shape[2:]) != (height, width):
        pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)
    if pixels.shape[1] != channels:
        if pixels.shape[1] != 1:
            raise DataError(
                f"{data.name} has images of {pixels.shape[1]} channels, but CLASSIFIER.INPUT_SHAPE asks for {channels}."
            )
        pixels = pixels.expand(-1, channels, -1, -1)
    return replace(data, images=pixels.round().clamp(0, 255).to(torch.uint8).contiguous())


def read_known(
    name: str, *, folders: Sequence[Path] | None = None, download_cache: str = ""
) -> LabelledImages:
    """One of NAMES, from the first of `folders` that has its files (`mnist_folders` if not given)."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]}? Known: " if near else "known are "
        raise DataError(
            f"The data set {name!r} of labelled images is not known; {hint}{', '.join(NAMES)}. Add your own in the "
            f"YAML file: DATASETS: {{{name}: {{images: images.idx, annotations: labels.idx, format: idx}}}}"
        )
    family, _, split = name.rpartition("_")
    if family == "digits":
        return _digits(name, split)
    part = FILES[split]
    places = list(folders) if folders is not None else image_folders(family, download_cache=download_cache)
    folder = find_idx(family, part, places) or _downloaded(family, part, places, download_cache)
    images, labels = (_one_of(folder, f"{part}-{name}") for name in PAIR)
    assert images is not None and labels is not None
    pixels, classes = read_idx_pair(images, labels)
    if split in ("train", "val"):
        rows = slice(None, -NUM_VALIDATION) if split == "train" else slice(-NUM_VALIDATION, None)
        pixels, classes = pixels[rows], classes[rows]
    return _made(name, pixels[:, None], classes, CLASSES[family], source=f"{TITLES[family]} in {folder}")


def image_folders(family: str, *, download_cache: str = "") -> list[Path]:
    """Where the IDX files of mnist or fashion_mnist are looked for: MNIST_DIR (FASHION_MNIST_DIR), below the data
    roots, below DETECTUNE_SHARED and `../shared`.
    """
    named = os.environ.get(VARIABLES[family])
    shared = Path(os.environ.get("DETECTUNE_SHARED") or "../shared")
    roots = [*data_roots(download_cache), shared / "data"]
    return [*([Path(named).expanduser()] if named else []), *(root / family for root in roots)]


def find_idx(family: str, part: str, folders: Sequence[Path]) -> Path | None:
    """The first folder with both files of a part (train, t10k), if there is one."""
    return next((f for f in folders if all(_one_of(f, f"{part}-{name}") for name in PAIR)), None)


def _downloaded(family: str, part: str, folders: Sequence[Path], download_cache: str) -> Path:
    """The folder of the files in the download cache, fetched and compared with their published digests.

    Raises:
        DataError: if they cannot be had; it says where they are expected.
    """
    reason = "no DOWNLOAD_CACHE is given to fetch them into"
    folder = Path(download_cache).expanduser() / family
    try:
        for name in PAIR if download_cache else ():
            file = f"{part}-{name}.gz"
            if not (folder / file).is_file():
                fetch(
                    ADDRESSES[family] + file,
                    folder / file,
                    check=partial(_check_digest, DIGESTS[family][file]),
                )
        if download_cache:
            return folder
    except DownloadError as error:
        reason = f"{ADDRESSES[family]} does not give them ({error})"
    raise DataError(
        f"The files of {family} are not found: {part}-{PAIR[0]} and {part}-{PAIR[1]}, plain or with .gz, are expected "
        f"in one of: {', '.join(map(str, folders))}; {reason}. Set {VARIABLES[family]} to their folder, or take "
        "digits_train, digits_val and digits_test, 8 x 8 pixels, which come with scikit-learn."
    )


def _check_digest(expected: str, file: Path) -> None:
    with open(file, "rb") as stream:
        found = hashlib.file_digest(stream, "md5").hexdigest()
    if found != expected:
        raise ValueError(f"a file with the MD5 digest {found} in place of {expected}")


def _one_of(folder: Path, name: str) -> Path | None:
    """A file, plain or compressed; some unpackers write a dot for the last hyphen."""
    stem, _, rest = name.rpartition("-idx")
    names = (name, f"{name}.gz", f"{stem}.idx{rest}", f"{stem}.idx{rest}.gz")
    return next((folder / found for found in names if (folder / found).is_file()), None)


def _read_own(name: str, entry: Mapping[str, Any]) -> LabelledImages:
    form = entry.get("format", "coco")
    if form == "idx":
        pixels, classes = read_idx_pair(Path(entry["images"]), Path(entry["annotations"]))
        if classes.min() < 0:
            raise DataError(f"{entry['annotations']} has the label {classes.min()}; labels count from 0.")
        names = tuple(map(str, range(int(classes.max()) + 1)))
        return _made(name, pixels[:, None], classes, names, source=entry["images"])
    if form == "folders":
        pixels, classes, names = read_folders(Path(entry["images"]))
        return _made(name, pixels, classes, names, source=entry["images"])
    raise DataError(
        f"DATASETS.{name} has format {form}, which has no label for a whole image; a classifier takes idx or folders."
    )


def _digits(name: str, split: str) -> LabelledImages:
    """scikit-learn's digits, grey levels 0..16 stretched to 0..255, shuffled once and for all."""
    rows = _digits_table()  # [N, 65]: grey levels row by row, then the digit
    order = np.random.default_rng(DIGITS_SEED).permutation(len(rows))[DIGITS_SPLIT[split]]
    pixels = np.rint(rows[order, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    classes = rows[order, 64].astype(np.int64)
    return _made(
        name,
        pixels[:, None],
        classes,
        CLASSES["digits"],
        source="scikit-learn's digits, 8 x 8 pixels, not MNIST",
    )


@cache
def _digits_table() -> np.ndarray:
    """The file that scikit-learn brings, read without importing it: that takes seconds, which each trial would pay."""
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError(
            "The digits come with scikit-learn, which is not installed: pip install scikit-learn."
        )
    return np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")


def _made(
    name: str, pixels: np.ndarray, classes: np.ndarray, names: tuple[str, ...], *, source: str
) -> LabelledImages:
    if classes.max() >= len(names) or classes.min() < 0:
        raise DataError(
            f"{name} ({source}) has the label {classes.max()}, but its labels go from 0 to {len(names) - 1}."
        )
    info = ClassInfo(names, tuple(range(len(names))))
    images = torch.from_numpy(np.ascontiguousarray(pixels))
    return LabelledImages(name, images, torch.from_numpy(classes), info, source)
