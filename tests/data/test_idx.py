"""IDX files and what is said about those that cannot be used."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from detectune.data.idx import read_idx, read_idx_pair
from detectune.errors import DataError

PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([7, 1], dtype=np.uint8)


def idx(array: np.ndarray, code: int = 0x08) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


def written(folder: Path, images: bytes = idx(PIXELS), labels: bytes = idx(LABELS)) -> tuple[Path, Path]:
    (folder / "images").write_bytes(images)
    (folder / "labels").write_bytes(labels)
    return folder / "images", folder / "labels"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_pair_is_read_plain_or_compressed(tmp_path: Path, pack: type[bytes]) -> None:
    pixels, labels = read_idx_pair(*written(tmp_path, pack(idx(PIXELS)), pack(idx(LABELS))))
    assert np.array_equal(pixels, PIXELS) and labels.tolist() == [7, 1] and labels.dtype == np.int64


def test_numbers_of_more_bytes_come_in_the_machines_order(tmp_path: Path) -> None:
    values = np.array([[1, -2], [300, 4]])
    (tmp_path / "a").write_bytes(idx(values.astype(">i4"), 0x0C))
    assert np.array_equal(read_idx(tmp_path / "a", dimensions=2), values)
    (tmp_path / "b").write_bytes(idx((values / 3).astype(">f4"), 0x0D))
    assert np.allclose(read_idx(tmp_path / "b", dimensions=2), values / 3)


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (b"\x89PNG" + bytes(60), idx(LABELS), "images is no IDX file: it begins with 89 50 4e 47"),
        (b"", idx(LABELS), "it begins with nothing"),
        (idx(PIXELS)[:-1], idx(LABELS), r"cut short: an array of 2 x 3 x 4 needs 40 bytes, 39 are there"),
        (idx(PIXELS)[:9], idx(LABELS), "its header needs 16 bytes, 9 are there"),
        (idx(PIXELS) + b"x", idx(LABELS), "too long"),
        (gzip.compress(idx(PIXELS))[:-9], idx(LABELS), "damaged or cut short"),
        (
            idx(LABELS),
            idx(LABELS),
            "1 dimensions, but 3 are expected of images; were images and labels mixed up",
        ),
        (idx(PIXELS), idx(LABELS[:1]), "2 images, but .*labels has 1 labels"),
        (idx(PIXELS.astype(">f4"), 0x0D), idx(LABELS), "holds float32, but pixels are bytes"),
        (idx(PIXELS), idx(LABELS.astype(">f4"), 0x0D), "holds float32, but labels are whole numbers"),
        (idx(PIXELS[:0]), idx(LABELS[:0]), "has no images"),
    ],
    ids=[
        "png",
        "empty",
        "cut_pixels",
        "cut_header",
        "too_long",
        "cut_gzip",
        "mixed_up",
        "few_labels",
        "pixels_float",
        "labels_float",
        "no_images",
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, images: bytes, labels: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_idx_pair(*written(tmp_path, images, labels))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.idx: there is no such file"):
        read_idx(tmp_path / "nothing.idx", dimensions=1)
