"""Overlaps of candidates with the objects of their image and class, once for all selections (`average_precision.py`).

Boxes by intersection over union, masks by that of their pixels, keypoints by object keypoint similarity (OKS), each
as COCO computes it. Frames are original; boxes are [x, y, w, h] as in result rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask

from detectune.evaluation.average_precision import THRESHOLDS, Objects, counted
from detectune.evaluation.coco import coco_truth
from detectune.ops.keypoints import keypoint_sigmas
from detectune.ops.rles import mask_to_rle, segmentation_mask
from detectune.structures import ClassInfo, Record

LIMITS = {"bbox": 100, "segm": 100, "keypoints": 20}
"""Detections of a class in an image that count."""

Geometry = np.ndarray | Sequence[dict[str, Any]]
"""Boxes float64 [n, 4], run lengths, or keypoints float64 [n, k, 3]."""


class Truth:
    """The objects of one task. `objects` has them as arrays; images are numbered by rising id.

    Args:
        records: with their annotations.
        class_info: their classes.
        task: bbox, segm or keypoints.
        sigmas: how much each keypoint may be off, as in `ops.keypoints.keypoint_sigmas`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        class_info: ClassInfo,
        task: str,
        *,
        sigmas: Sequence[float] = (),
    ) -> None:
        self.task, self.limit = task, LIMITS[task]
        document = coco_truth(records, class_info)
        self.image_ids = sorted(int(image["id"]) for image in document["images"])
        self.number = {image_id: i for i, image_id in enumerate(self.image_ids)}
        self.sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
        rows = sorted(document["annotations"], key=lambda row: self.number[row["image_id"]])
        labels = {number: label for label, number in enumerate(class_info.category_ids, start=1)}
        crowd = np.array([row["iscrowd"] for row in rows], dtype=bool)
        forgiven = crowd.copy()
        if task == "keypoints":
            forgiven |= np.array([row.get("num_keypoints", 0) == 0 for row in rows], dtype=bool)
            self.variances = (2 * np.asarray(keypoint_sigmas(len(class_info.keypoint_names), sigmas))) ** 2
        self.rows = rows
        self.objects = Objects(
            image=np.array([self.number[row["image_id"]] for row in rows], dtype=np.int64),
            label=np.array([labels[row["category_id"]] for row in rows], dtype=np.int64),
            area=np.array([row["area"] for row in rows], dtype=np.float64),
            is_crowd=crowd,
            forgiven=forgiven,
            num_images=len(self.image_ids),
            num_classes=len(class_info),
        )
        self._boxes = np.array([row["bbox"] for row in rows] or np.zeros((1, 4)), dtype=np.float64)
        self._objects_of_sets = self._sets()
        self._shapes: list[Any] = [self._shape(row) for row in rows]

    def overlaps(
        self, image_id: int, labels: np.ndarray, geometry: Geometry
    ) -> tuple[np.ndarray, np.ndarray]:
        """Objects int64 [n, P] and overlaps float64 [n, P] of candidates of one image, as `Found` has them."""
        mine = self.of_image(image_id)[::-1]  # the last one first
        if not len(mine) or not len(labels):
            return np.full((len(labels), 0), -1, dtype=np.int64), np.zeros((len(labels), 0))
        overlap = self.iou(geometry, mine)
        near = (overlap >= THRESHOLDS[0]) & (labels[:, None] == self.objects.label[mine])
        width = int(near.sum(1).max())
        order = np.argsort(~near, axis=1, kind="stable")[:, :width]
        near = np.take_along_axis(near, order, axis=1)
        return np.where(near, mine[order], -1), np.where(
            near, np.take_along_axis(overlap, order, axis=1), 0.0
        )

    def box_overlaps(
        self, images: np.ndarray, labels: np.ndarray, boxes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """`overlaps` of boxes float64 [n, 4] of many images at once; `images` int64 [n] are their numbers."""
        table = self._objects_of_sets[images * self.objects.num_classes + labels - 1]  # [n, G]
        x, y, w, h = (self._boxes[table, i] for i in range(4))
        left, top, width, height = (boxes[:, i, None] for i in range(4))
        across = np.minimum(left + width, x + w) - np.maximum(left, x)
        down = np.minimum(top + height, y + h) - np.maximum(top, y)
        inter = np.where((across > 0) & (down > 0), across * down, 0.0)
        own = width * height
        union = np.where(self.objects.is_crowd[table], own, own + w * h - inter)
        overlap = np.where(inter > 0, inter / np.where(union > 0, union, 1.0), 0.0)
        near = (overlap >= THRESHOLDS[0]) & (table >= 0)
        order = np.argsort(~near, axis=1, kind="stable")[:, : int(near.sum(1).max(initial=0))]
        near, table = np.take_along_axis(near, order, axis=1), np.take_along_axis(table, order, axis=1)
        return np.where(near, table, -1), np.where(near, np.take_along_axis(overlap, order, axis=1), 0.0)

    def of_image(self, image_id: int) -> np.ndarray:
        """The objects of an image, int64 [m], in the order of its annotations."""
        return np.flatnonzero(self.objects.image == self.number[image_id])

    def areas(self, geometry: Geometry) -> np.ndarray:
        """By which COCO calls detections small or large, float64 [n]."""
        if self.task == "segm":
            assert not isinstance(geometry, np.ndarray)
            return np.asarray(coco_mask.area(list(geometry)), dtype=np.float64).reshape(-1)
        assert isinstance(geometry, np.ndarray)
        if self.task == "bbox":
            return np.asarray(geometry[:, 2] * geometry[:, 3])
        span = geometry[..., :2].max(1) - geometry[..., :2].min(1) if len(geometry) else np.zeros((0, 2))
        return np.asarray(span[:, 0] * span[:, 1])

    def iou(self, geometry: Geometry, mine: np.ndarray) -> np.ndarray:
        """Overlaps float64 [n, m] with the objects `mine` [m] of any class; with a crowd: the part that lies in it."""
        crowd = [bool(value) for value in self.objects.is_crowd[mine]]
        shapes = [self._shapes[i] for i in mine]
        if self.task == "keypoints":
            return np.stack([self._oks(np.asarray(geometry), self.rows[i]) for i in mine], axis=1)
        if self.task == "segm":
            return np.asarray(coco_mask.iou(list(geometry), shapes, crowd))
        return np.asarray(coco_mask.iou(np.asarray(geometry, dtype=np.float64), np.asarray(shapes), crowd))

    def _sets(self) -> np.ndarray:
        """The objects of each image and class, the last one first: int64 [I * K, G], -1 where padded."""
        own = self.objects
        group = own.image * own.num_classes + own.label - 1
        order = np.argsort(group, kind="stable")[::-1]
        place = counted(group[order])
        table = np.full((own.num_images * own.num_classes, int(place.max(initial=0)) + 1), -1, dtype=np.int64)
        table[group[order], place] = order
        return table

    def _shape(self, row: dict[str, Any]) -> Any:
        if self.task != "segm":
            return row["bbox"]
        height, width = self.sizes[row["image_id"]]
        return mask_to_rle(segmentation_mask(row["segmentation"], height, width))

    def _oks(self, points: np.ndarray, row: dict[str, Any]) -> np.ndarray:
        """Similarity of poses [n, k, 3] to one object, float64 [n]; without visible keypoints, to its box doubled."""
        true = np.asarray(row["keypoints"], dtype=np.float64).reshape(-1, 3)
        visible = true[:, 2] > 0
        if visible.any():
            away = points[:, visible, :2] - true[visible, :2]
        else:
            x, y, w, h = row["bbox"]
            low, high = np.array([x - w, y - h]), np.array([x + 2 * w, y + 2 * h])
            away = np.maximum(0, low - points[..., :2]) + np.maximum(0, points[..., :2] - high)
        variances = self.variances[visible] if visible.any() else self.variances
        error = (away**2).sum(-1) / variances / (row["area"] + np.spacing(1)) / 2
        return np.asarray(np.exp(-error).mean(1))
