"""MATLAB's cell arrays, from a file that scipy wrote and from bytes put together here; proposals made of them."""

from __future__ import annotations

import base64
import struct
from pathlib import Path

import numpy as np
import pytest

from detectune.data.matlab_file import read_cells
from detectune.data.selective_search import convert_selective_search
from detectune.errors import DataError

# scipy.io.savemat(..., {"images": ["a"], "boxes": cells}, do_compression=True) with the three cells of CELLS.
BY_SCIPY = """
TUFUTEFCIDUuMCBNQVQtZmlsZSBQbGF0Zm9ybTogcG9zaXgsIENyZWF0ZWQgb246IFdlZCBOb3YgMjUgMTc6NTY6MTEgMjAyNgAA
AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABSU0PAAAALAAAAHic42NgYLAAYjYg5gBi
FgYIYIXyGZEwSE1mbmJ6ajEDgwBQJBHIBwA6dwNXDwAAAHIAAAB4nONjYGBQYGRgYAPSHEAMZIIBKxKfGUqDxJLyK1KLgTQfEBcw
IPSxoeljAmIWJPM4gdiBAQY+2ENoEZgQlJaA0vZQWgZKu0JpBQeQvRZI9nJjcS+yvSxQcS4GHUYRhgmMIP0GeNzNwIDpbhAAAAKo
CQg=
"""
CELLS = [[[1, 2, 31, 42], [5, 6, 7, 8]], [[10, 300, 20, 400]], []]  # float64, uint16, empty


@pytest.fixture
def by_scipy(tmp_path: Path) -> Path:
    path = tmp_path / "boxes.mat"
    path.write_bytes(base64.b64decode(BY_SCIPY))
    return path


def test_scipys_file_is_read(by_scipy: Path) -> None:
    cells = read_cells(by_scipy, "boxes")
    assert [cell.tolist() for cell in cells] == CELLS
    assert cells[2].shape == (0, 4)


def element(kind: int, content: bytes, order: str) -> bytes:
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(name: str, shape: tuple[int, ...], kind: int, rest: bytes, order: str, flags: int = 0) -> bytes:
    content = element(6, struct.pack(f"{order}II", kind | flags << 8, 0), order)
    content += element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
    return element(14, content + element(1, name.encode(), order) + rest, order)


def mat_file(variables: bytes, order: str) -> bytes:
    return b"MATLAB 5.0".ljust(124) + struct.pack(f"{order}HH", 0x0100, 0x4D49) + variables


def test_the_other_byte_order_is_read(tmp_path: Path) -> None:
    numbers = np.array([[1, 2], [3, 4], [5, 6]], dtype=">i2")
    cell = matrix("", (3, 2), 10, element(3, numbers.tobytes(order="F"), ">"), ">")
    path = tmp_path / "big.mat"
    path.write_bytes(mat_file(matrix("boxes", (1, 1), 1, cell, ">"), ">"))
    assert [c.tolist() for c in read_cells(path, "boxes")] == [numbers.tolist()]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:200], "damaged"),
        (lambda data: data[:160] + bytes(20) + data[180:], "damaged"),
        (lambda data: data[:126] + b"XX" + data[128:], "no MATLAB file"),
        (lambda data: b"\x89HDF" + data[4:], "version 7.3"),
    ],
)
def test_damaged_and_other_files_are_named(by_scipy: Path, damage, said: str) -> None:
    by_scipy.write_bytes(damage(by_scipy.read_bytes()))
    with pytest.raises(DataError, match=f"boxes.mat.*{said}"):
        read_cells(by_scipy, "boxes")


def test_what_is_no_cell_array_of_numbers_is_refused(by_scipy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no variable 'segments'; the file has images, boxes"):
        read_cells(by_scipy, "segments")
    path = tmp_path / "plain.mat"
    path.write_bytes(mat_file(matrix("boxes", (1, 1), 6, element(9, bytes(8), "<"), "<"), "<"))
    with pytest.raises(DataError, match="no cell array"):
        read_cells(path, "boxes")
    path.write_bytes(
        mat_file(matrix("boxes", (1, 1), 1, matrix("", (1, 1), 2, b"", "<"), "<"), "<")  # a structure inside
    )
    with pytest.raises(DataError, match="image 0 has no numbers"):
        convert_selective_search(path, image_ids=[1])


def test_boxes_are_turned_and_counted_from_zero(by_scipy: Path) -> None:
    """y1, x1, y2, x2 from 1 become x1, y1, x2, y2 from 0, for images by rising id."""
    content = convert_selective_search(by_scipy, image_ids=[7, 3, 5])
    assert content["ids"] == [3, 5, 7]
    assert content["boxes"][0].tolist() == [[1, 0, 41, 30], [5, 4, 7, 6]]
    assert [b.shape for b in content["boxes"]] == [(2, 4), (1, 4), (0, 4)]
    assert [s.tolist() for s in content["scores"]] == [[0, 0], [0], []]
    assert all(array.dtype == np.float32 for key in ("boxes", "scores") for array in content[key])
    with pytest.raises(DataError, match="3 images, the data set has 2"):
        convert_selective_search(by_scipy, image_ids=[1, 2])
