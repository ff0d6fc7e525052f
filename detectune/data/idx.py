"""IDX files, in which MNIST is published: a short header, then one array. Plain or gzip-compressed.

Header: two zero bytes, a code of the element type, the number of dimensions, then each dimension as 4 bytes, highest
byte first. Source: http://yann.lecun.com/exdb/mnist
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from detectune.errors import DataError

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP = b"\x1f\x8b"


def read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """The array of an IDX file, which must have as many `dimensions`; type as stored, in the machine's byte order.

    Raises:
        DataError: if the file is missing, no IDX file, cut short or too long, or of other dimensions.
    """
    content = _read(path)
    if len(content) < 4 or content[:2] != b"\x00\x00" or content[2] not in TYPES:
        shown = content[:4].hex(" ") or "nothing"
        raise DataError(
            f"{path} is no IDX file: it begins with {shown} where 00 00, a type and a number are expected."
        )
    code, found = content[2], content[3]
    if found != dimensions:
        what = {1: "labels", 3: "images"}.get(dimensions, f"{dimensions} dimensions")
        raise DataError(
            f"{path} has {found} dimensions, but {dimensions} are expected of {what}; were images and labels mixed up?"
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise DataError(f"{path} is cut short: its header needs {start} bytes, {len(content)} are there.")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    element = np.dtype(TYPES[code])
    expected = start + math.prod(shape) * element.itemsize
    if len(content) != expected:
        wrong = "cut short" if len(content) < expected else "too long"
        raise DataError(
            f"{path} is {wrong}: an array of {' x '.join(map(str, shape))} needs {expected} bytes, {len(content)} are "
            "there; get the file again."
        )
    array = np.frombuffer(content, dtype=element, offset=start).reshape(shape)
    return array.astype(element.newbyteorder("="))


def read_idx_pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [N, H, W] and labels int64 [N] of two files that belong together; a `DataError` if they do not."""
    pixels, classes = read_idx(images, dimensions=3), read_idx(labels, dimensions=1)
    if pixels.dtype != np.uint8:
        raise DataError(f"{images} holds {pixels.dtype}, but pixels are bytes (uint8).")
    if not np.issubdtype(classes.dtype, np.integer):
        raise DataError(f"{labels} holds {classes.dtype}, but labels are whole numbers.")
    if len(pixels) != len(classes):
        raise DataError(
            f"{images} has {len(pixels)} images, but {labels} has {len(classes)} labels; name a pair."
        )
    if len(pixels) == 0:
        raise DataError(f"{images} has no images.")
    return pixels, classes.astype(np.int64)


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(GZIP) else content
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or cut short ({error}); get the file again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
