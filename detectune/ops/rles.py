"""Whole-image masks, as COCO's run lengths or as outlines: boxes, mirrors, suppression and voting among them.

What boxes do in `ops.nms` and `ops.voting` masks do here, as Detectron's mask tools do it. Run lengths are compressed
RLEs {"size": [height, width], "counts": str}; sets of them are few and live on the host, so this is numpy.

Shape legend
    N  masks    T  kept masks    H, W  the image    P  points of a polygon
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from hotcoco import mask as coco_mask

from detectune.structures import Segmentation

Rle = dict[str, Any]
OverlapMode = Literal["IOU", "IOMA", "CONTAINMENT"]
VotingMethod = Literal["AVG", "UNION"]

_LEAST_WEIGHT = 1e-5  # a vote outside its own box, so that no pixel is without votes


def segmentation_mask(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """Bool [H, W]: the pixels of a polygon list (joined) or an RLE, as COCO's rasteriser has them."""
    if isinstance(segmentation, dict):
        rle = segmentation
        if isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, height, width)
    else:
        rings = [np.asarray(ring, dtype=np.float64).tolist() for ring in segmentation]
        rle = coco_mask.merge(coco_mask.frPyObjects(rings, height, width))
    decoded: np.ndarray = coco_mask.decode(rle).astype(bool)
    return decoded


def mask_to_rle(mask: np.ndarray) -> Rle:
    """Run lengths of a bool [H, W]."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [mask.shape[0], mask.shape[1]], "counts": rle["counts"].decode("ascii")}


def mask_box(mask: np.ndarray) -> np.ndarray | None:
    """The first and last column and row with a pixel of bool [H, W]: float32 [4] x1, y1, x2, y2; None if empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)


def rle_boxes(rles: Sequence[Rle]) -> tuple[np.ndarray, np.ndarray]:
    """`mask_box` of N masks: float32 [N, 4], zero for empty masks, and the rows int64 of those that are not empty."""
    boxes = np.zeros((len(rles), 4), dtype=np.float32)
    filled = []
    for i, rle in enumerate(rles):
        box = mask_box(coco_mask.decode(rle))
        if box is not None:
            boxes[i] = box
            filled.append(i)
    return boxes, np.array(filled, dtype=np.int64)


def polygon_boxes(polygons: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """The smallest box around the polygons [2 * P] of each object: float32 [N, 4]."""
    boxes = np.zeros((len(polygons), 4), dtype=np.float32)
    for box, rings in zip(boxes, polygons, strict=True):
        points = np.concatenate([np.asarray(ring, dtype=np.float64).reshape(-1, 2) for ring in rings])
        box[:2], box[2:] = points.min(0), points.max(0)
    return boxes


def flip_segmentation(segmentation: Segmentation, width: int, *, offset: float = 0.0) -> Segmentation:
    """Mirrored left to right in an image of `width`; polygons by x -> width - x - offset (1: x is a pixel's index)."""
    if isinstance(segmentation, dict):
        height = segmentation["size"][0]
        return mask_to_rle(segmentation_mask(segmentation, height, width)[:, ::-1])
    flipped = []
    for ring in segmentation:
        points = np.array(ring, dtype=np.float64)
        points[0::2] = width - points[0::2] - offset
        flipped.append(points)
    return flipped


def mask_overlaps(a: Sequence[Rle], b: Sequence[Rle], *, mode: OverlapMode = "IOU") -> np.ndarray:
    """How much each mask of `a` overlaps each of `b`, float64 [N, M].

    Intersection over union (`IOU`), over the smaller area (`IOMA`), or over the area of `a` (`CONTAINMENT`).
    """
    if not a or not b:
        return np.zeros((len(a), len(b)))
    if mode == "IOU":
        return np.asarray(coco_mask.iou(list(a), list(b), [False] * len(b)))
    contained = np.asarray(coco_mask.iou(list(a), list(b), [True] * len(b)))
    if mode == "CONTAINMENT":
        return contained
    return np.maximum(contained, np.asarray(coco_mask.iou(list(b), list(a), [True] * len(a))).T)


def mask_nms(
    rles: Sequence[Rle], scores: np.ndarray, thresh: float, *, mode: OverlapMode = "IOU"
) -> np.ndarray:
    """Rows of N masks that survive, int64, by falling score: a mask goes if a kept one overlaps it above `thresh`.

    In `CONTAINMENT` it goes if it covers more than that part of the kept one.
    """
    overlaps = mask_overlaps(rles, rles, mode=mode)
    order = np.argsort(-np.asarray(scores), kind="stable")
    kept = []
    while len(order):
        kept.append(order[0])
        order = order[1:][overlaps[order[0], order[1:]] <= thresh]
    return np.array(kept, dtype=np.int64)


def mask_voting(
    rles: Sequence[Rle],
    all_rles: Sequence[Rle],
    all_boxes: np.ndarray,
    all_scores: np.ndarray,
    *,
    overlap_thresh: float,
    binarize_thresh: float = 0.5,
    method: VotingMethod = "AVG",
) -> list[Rle]:
    """T kept masks, each made anew from those of N candidates that overlap it by at least `overlap_thresh`.

    `UNION` joins them. `AVG` keeps pixels on which the mean of the votes, weighted by score, is above
    `binarize_thresh`; a candidate votes inside its box (inclusive, cut to whole pixels) and hardly outside. A mask
    without pixels, and one that no other agrees with, stays as it is.
    """
    overlaps = mask_overlaps(rles, all_rles)
    out = []
    for rle, row in zip(rles, overlaps, strict=True):
        voters = np.flatnonzero(row >= overlap_thresh)
        if len(voters) < 2 or not coco_mask.area(rle):
            out.append(rle)
            continue
        votes = np.stack([coco_mask.decode(all_rles[i]) for i in voters.tolist()])  # [V, H, W]
        if method == "UNION":
            out.append(mask_to_rle(np.asarray(votes.any(0))))
            continue
        weights = _box_weights(all_boxes[voters], all_scores[voters], votes.shape[1:])
        mean: np.ndarray = np.average(votes, axis=0, weights=weights)
        out.append(mask_to_rle(np.asarray(mean > binarize_thresh)))
    return out


def _box_weights(boxes: np.ndarray, scores: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """float64 [V, H, W]: each score inside its box."""
    weights = np.zeros((len(boxes), *size))
    for own, (x1, y1, x2, y2), score in zip(weights, boxes.astype(np.int32), scores, strict=True):
        own[max(y1, 0) : max(y2 + 1, 0), max(x1, 0) : max(x2 + 1, 0)] = score
    return np.maximum(weights, _LEAST_WEIGHT)
