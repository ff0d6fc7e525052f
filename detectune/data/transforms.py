"""One image and its objects, moved together: mirror, crop, resize, colours.

`Sample` starts as the record's objects in the original frame and ends in the network frame; every function
returns a new one. Boxes are continuous here; `inclusive_boxes` makes Detectron's of them, once, at the end.

Shape legend: N objects, E edges of one object, K keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from detectune.data.images import ResizeStyle, resize_image
from detectune.ops.masks import segmentation_edges
from detectune.structures import Record

GREY = (0.299, 0.587, 0.114)  # ITU-R 601 luma of red, green, blue


@dataclass(frozen=True)
class Objects:
    """The annotations of one image. Segmentations are edges already, as a mirror or a crop of an RLE needs."""

    boxes: np.ndarray  # float32 [N, 4], continuous
    labels: np.ndarray  # int64 [N]
    is_crowd: np.ndarray  # bool [N]
    edges: list[np.ndarray]  # N times float64 [E, 4]: x1, y1, x2, y2; empty without masks
    edge_polygon: list[np.ndarray]  # N times int64 [E]
    keypoints: np.ndarray | None  # float32 [N, K, 3]
    proposals: np.ndarray | None = None  # float32 [P, 4], continuous; P has nothing to do with N
    proposal_scores: np.ndarray | None = None  # float32 [P]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: np.ndarray) -> Objects:
        """The objects that a boolean array selects."""
        kept = np.flatnonzero(rows)
        return Objects(
            boxes=self.boxes[kept],
            labels=self.labels[kept],
            is_crowd=self.is_crowd[kept],
            edges=[self.edges[i] for i in kept],
            edge_polygon=[self.edge_polygon[i] for i in kept],
            keypoints=None if self.keypoints is None else self.keypoints[kept],
            proposals=self.proposals,
            proposal_scores=self.proposal_scores,
        )


def objects_of(record: Record, *, masks: bool, keypoints: bool, keypoint_shift: float) -> Objects:
    """The record's objects. `keypoint_shift` is added to keypoints that are there (0.5: centre of their pixel).

    With `masks`, an object without an outline becomes a crowd region: it can be no example for the mask head, and
    neither an object nor background for the boxes.
    """
    edges, polygons = [], []
    is_crowd = record.is_crowd.copy()
    for i, segmentation in enumerate(record.segmentations):
        if masks and segmentation is None:
            is_crowd[i] = True
        if not masks or segmentation is None or is_crowd[i]:
            own: tuple[np.ndarray, np.ndarray] = np.zeros((0, 4)), np.zeros(0, dtype=np.int64)
        else:
            own = segmentation_edges(segmentation)
        edges.append(own[0])
        polygons.append(own[1])
    points = None
    if keypoints and record.keypoints is not None:
        points = record.keypoints.copy()
        points[..., :2] += np.where(points[..., 2:] > 0, np.float32(keypoint_shift), np.float32(0))
    return Objects(
        record.boxes.copy(),
        record.labels,
        is_crowd,
        edges,
        polygons,
        points,
        record.proposals,
        record.proposal_scores,
    )


def flip_objects(
    objects: Objects, width: int, *, keypoint_flip: Sequence[int], keypoint_shift: float
) -> Objects:
    """Mirrored left to right in an image `width` wide: x becomes width - x.

    Keypoints name pixels unless shifted to their centre, so x becomes width - 1 - x plus twice the shift, and left
    and right ones change places. Absent keypoints stay (0, 0, 0).
    """
    edges = []
    for own in objects.edges:
        mirrored = own.copy()
        mirrored[:, [0, 2]] = width - own[:, [0, 2]]
        edges.append(mirrored)
    keypoints = objects.keypoints
    if keypoints is not None:
        keypoints = keypoints[:, list(keypoint_flip)].copy()
        mirrored_x = width - 1 + 2 * keypoint_shift - keypoints[..., 0]
        keypoints[..., 0] = np.where(keypoints[..., 2] > 0, mirrored_x, 0)
    return replace(
        objects,
        boxes=_mirrored(objects.boxes, width),
        edges=edges,
        keypoints=keypoints,
        proposals=None if objects.proposals is None else _mirrored(objects.proposals, width),
    )


def _mirrored(boxes: np.ndarray, width: int) -> np.ndarray:
    mirrored = boxes.copy()
    mirrored[:, [0, 2]] = width - boxes[:, [2, 0]]
    return mirrored


def crop_window(
    crop: tuple[float, float, float, float], height: int, width: int
) -> tuple[int, int, int, int]:
    """Pixels x1, y1, x2, y2 of a crop given as fractions: left and top of the room left over, width, height."""
    left, top, part_x, part_y = crop
    columns, rows = max(1, round(part_x * width)), max(1, round(part_y * height))
    x, y = round(left * (width - columns)), round(top * (height - rows))
    return x, y, x + columns, y + rows


def crop_objects(objects: Objects, window: tuple[int, int, int, int]) -> Objects:
    """Objects in the coordinates of a window, boxes cut at its border.

    An object stays if the centre of its box lies in the window (Liu et al. 2016, SSD). What else is partly visible
    becomes a crowd region, so that half an object is neither an example nor background. Outlines are not cut: the
    rasteriser sees only what lies in the box. Keypoints outside become absent. Proposals are cut at the border too.
    """
    x1, y1, x2, y2 = window
    boxes = objects.boxes - np.array([x1, y1, x1, y1], dtype=np.float32)
    size = np.array([x2 - x1, y2 - y1], dtype=np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = np.all((centres >= 0) & (centres < size), axis=1)
    boxes = np.clip(boxes, 0, np.tile(size, 2))
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    keypoints = objects.keypoints
    if keypoints is not None:
        keypoints = keypoints.copy()
        keypoints[..., :2] -= np.array([x1, y1], dtype=np.float32)
        there = np.all((keypoints[..., :2] >= 0) & (keypoints[..., :2] < size), axis=-1)
        keypoints *= there[..., None]
    edges = [own - np.array([x1, y1, x1, y1]) for own in objects.edges]
    moved = replace(
        objects, boxes=boxes, edges=edges, keypoints=keypoints, is_crowd=objects.is_crowd | ~inside
    )
    return _crop_proposals(moved, window)[visible]


def _crop_proposals(objects: Objects, window: tuple[int, int, int, int]) -> Objects:
    """Those that are visible in the window, in its coordinates."""
    if objects.proposals is None:
        return objects
    x1, y1, x2, y2 = window
    boxes = objects.proposals - np.array([x1, y1, x1, y1], dtype=np.float32)
    boxes = np.clip(boxes, 0, np.array([x2 - x1, y2 - y1] * 2, dtype=np.float32))
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    scores = objects.proposal_scores
    return replace(
        objects, proposals=boxes[visible], proposal_scores=None if scores is None else scores[visible]
    )


def scale_objects(objects: Objects, scale_x: float, scale_y: float) -> Objects:
    """Coordinates times the factors of the resize."""
    factors = np.array([scale_x, scale_y, scale_x, scale_y])
    keypoints = objects.keypoints
    if keypoints is not None:
        keypoints = keypoints.copy()
        keypoints[..., :2] *= factors[:2].astype(np.float32)
    return replace(
        objects,
        boxes=objects.boxes * factors.astype(np.float32),
        proposals=None if objects.proposals is None else objects.proposals * factors.astype(np.float32),
        edges=[own * factors for own in objects.edges],
        keypoints=keypoints,
    )


def inclusive_boxes(boxes: np.ndarray, scale: float) -> np.ndarray:
    """Detectron's boxes: the last pixel of the original image, scaled. Takes scaled continuous boxes."""
    return boxes - np.array([0, 0, scale, scale], dtype=np.float32)


def jitter_colours(image: Tensor, *, brightness: float, contrast: float, saturation: float) -> Tensor:
    """[3, H, W] in 0..255 with brightness, contrast and saturation times the factors; dtype as given.

    Brightness scales towards black, contrast towards the image's mean grey, saturation towards each pixel's own.
    """
    if brightness == contrast == saturation == 1.0:
        return image
    pixels = image.to(torch.float32) * brightness
    weights = torch.tensor(GREY)[:, None, None]
    if contrast != 1.0:
        mean = (pixels * weights).sum(0).mean()
        pixels = mean + (pixels - mean) * contrast
    if saturation != 1.0:
        grey = (pixels * weights).sum(0, keepdim=True)
        pixels = grey + (pixels - grey) * saturation
    pixels = pixels.clamp(0, 255)
    return pixels if image.dtype == torch.float32 else pixels.round().to(image.dtype)


@dataclass(frozen=True)
class Move:
    """What is done to one image. The default is what testing does."""

    short_side: int
    max_size: int
    style: ResizeStyle
    flip: bool = False
    crop: tuple[float, float, float, float] | None = None
    colours: tuple[float, float, float] = (1.0, 1.0, 1.0)  # brightness, contrast, saturation


def apply_move(
    image: np.ndarray, objects: Objects, move: Move, *, keypoint_flip: Sequence[int], keypoint_shift: float
) -> tuple[Tensor, Objects, float, float]:
    """uint8 [H, W, 3] and its objects -> [3, h, w], objects in the network frame, and the factors of x and y."""
    if move.flip:
        image = image[:, ::-1]
        objects = flip_objects(
            objects, image.shape[1], keypoint_flip=keypoint_flip, keypoint_shift=keypoint_shift
        )
    if move.crop is not None:
        x1, y1, x2, y2 = window = crop_window(move.crop, *image.shape[:2])
        image = image[y1:y2, x1:x2]
        objects = crop_objects(objects, window)
    pixels, scale_x, scale_y = resize_image(
        np.ascontiguousarray(image), short_side=move.short_side, max_size=move.max_size, style=move.style
    )
    brightness, contrast, saturation = move.colours
    pixels = jitter_colours(pixels, brightness=brightness, contrast=contrast, saturation=saturation)
    return pixels, scale_objects(objects, scale_x, scale_y), scale_x, scale_y
