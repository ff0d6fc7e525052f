"""One object's outline as COCO writes it: polygons, an uncompressed RLE or a compressed RLE."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask

from detectune.structures import Segmentation


class OutlineError(ValueError):
    """An outline that cannot be used. `kind` is a key of `problems.KINDS`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def parse_segmentation(value: Any, height: int, width: int) -> Segmentation:
    """Polygons of three points or more, or a compressed RLE of the image's size; `OutlineError` otherwise.

    Polygons of fewer points are dropped where others remain, as Detectron does.
    """
    if value is None or value == [] or value == {}:
        raise OutlineError("no_segmentation", "none given")
    if isinstance(value, dict):
        return _parse_rle(value, height, width)
    if not isinstance(value, list):
        raise OutlineError("invalid_segmentation", f"a {type(value).__name__}")
    polygons = [ring for ring in map(_parse_polygon, value) if ring is not None]
    if not polygons:
        raise OutlineError("invalid_segmentation", "no polygon with three points")
    return polygons


def segmentation_area(segmentation: Segmentation, height: int, width: int) -> float:
    """Pixels inside the outline, counted on the raster."""
    if isinstance(segmentation, dict):
        return float(coco_mask.area(segmentation))
    rles = coco_mask.frPyObjects([ring.tolist() for ring in segmentation], height, width)
    return float(coco_mask.area(coco_mask.merge(rles)))


def _parse_polygon(ring: Any) -> np.ndarray | None:
    if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
        return None
    try:
        points = np.array(ring, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return points if points.ndim == 1 and np.isfinite(points).all() else None


def _parse_rle(value: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, (str, list)):
        raise OutlineError("invalid_segmentation", "an RLE needs 'size' [height, width] and 'counts'")
    if [height, width] != size:
        raise OutlineError("rle_size", f"RLE {size[0]}x{size[1]}, image {height}x{width} (height x width)")
    if isinstance(counts, list):
        if not all(isinstance(run, (int, float)) and run >= 0 and math.isfinite(run) for run in counts):
            raise OutlineError("invalid_segmentation", "runs that are not counts")
        if sum(counts) != height * width:
            raise OutlineError(
                "invalid_segmentation", f"runs add up to {sum(counts)} of {height * width} pixels"
            )
        packed = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)["counts"]
        counts = packed.decode("ascii")
    elif unpacked_pixels(counts) != height * width:
        raise OutlineError(
            "invalid_segmentation", f"counts do not make up the image's {height * width} pixels"
        )
    return {"size": [height, width], "counts": counts}


def unpacked_pixels(counts: str) -> int:
    """How many pixels a compressed RLE describes; -1 if it is none.

    Each run is written in groups of five bits, low ones first, from '0' on; a sixth bit says that more follow, and
    the fifth bit of the last one is the sign. From the fourth on, runs are differences to the one before last.
    """
    groups = np.frombuffer(counts.encode("utf-8"), dtype=np.uint8).astype(np.int64) - 48
    if len(groups) == 0 or groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        return -1
    last = np.flatnonzero(groups & 32 == 0)
    length = np.diff(last, prepend=-1)
    place = np.arange(len(groups)) - np.repeat(last - length + 1, length)
    if place.max() > 8:
        return -1
    runs = np.add.reduceat((groups & 31) << (5 * place), last - length + 1)
    runs -= np.where(groups[last] & 16, 1 << (5 * length), 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return -1 if runs.min() < 0 else int(runs.sum())
