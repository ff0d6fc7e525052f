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
    rle = {"size": [height, width], "counts": counts}
    try:
        coco_mask.area(rle)
    except ValueError as error:
        raise OutlineError("invalid_segmentation", str(error)) from error
    return rle
