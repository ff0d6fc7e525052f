"""The few records that travel through the whole system, as plain typed dataclasses.

Shape legend
    N  objects or detections of one image      B  images in a batch
    G  objects per image, padded               E  polygon edges per object, padded
    K  keypoints per object                    M  side of a mask as the head predicts it
    P  given proposals per image, padded
    H, W  height and width of the padded batch

Frames
    original  pixels of the image file as decoded (EXIF orientation applied)
    network   pixels after flip, crop and resize, before padding; network = original * scale

Boxes are x1, y1, x2, y2. In a `Record` they are continuous: x2 = x1 + width, pixel i covers [i, i + 1). In the
network frame they follow the geometry dialect of the model: inclusive (x2 is the last pixel, width is
x2 - x1 + 1) for `detectron`, continuous otherwise; the loader converts once (`inclusive_boxes`).
Labels are contiguous, 1..K; 0 is background and padding. Knows nothing about configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

MovedT = TypeVar("MovedT", "ImageBatch", "Targets", "Detections")
PinnedT = TypeVar("PinnedT", "ImageBatch", "Targets")
Segmentation = list[np.ndarray] | dict[str, Any]
"""Polygons (each float64 [2 * P], x y x y ..., original frame) or one RLE {"size": [h, w], "counts": str}."""


@dataclass(frozen=True)
class ClassInfo:
    """The foreground classes of a data set; label k in 1..K is names[k - 1]."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    keypoint_names: tuple[str, ...] = ()
    keypoint_flip: tuple[int, ...] = ()  # keypoint i becomes keypoint_flip[i] under a left-right flip
    keypoint_skeleton: tuple[tuple[int, int], ...] = ()  # pairs of 0-based keypoint indices
    keypoint_labels: tuple[int, ...] = ()  # labels whose objects have keypoints; empty: not known, so all

    def has_keypoints(self, label: int) -> bool:
        """Whether keypoints of this class mean something."""
        return not self.keypoint_labels or label in self.keypoint_labels

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class Record:
    """One image and its annotations, without pixels. All arrays have N rows, original frame."""

    image_id: int
    file_name: str  # absolute path
    height: int
    width: int
    boxes: np.ndarray  # float32 [N, 4], continuous xyxy, clipped to the image
    labels: np.ndarray  # int64 [N], 1..K
    is_crowd: np.ndarray  # bool [N]
    areas: np.ndarray  # float32 [N], the annotation's own area
    segmentations: list[Segmentation | None]  # N entries
    keypoints: np.ndarray | None  # float32 [N, K, 3]: x, y, visibility (0 absent, 1 hidden, 2 visible)
    annotation_ids: np.ndarray  # int64 [N]
    proposals: np.ndarray | None = (
        None  # float32 [P, 4], continuous xyxy: ready-made ones, for a model without RPN
    )
    proposal_scores: np.ndarray | None = None  # float32 [P]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageInfo:
    """Where an image came from and how it reached the network frame."""

    image_id: int
    file_name: str
    height: int  # original frame
    width: int
    scale_x: float = 1.0  # network = original * scale
    scale_y: float = 1.0
    flipped: bool = False


@dataclass
class ImageBatch:
    """Padded images, RGB, 0..255. Normalisation happens inside the model; padding is zero after it.

    Proposals come along where a model does not make its own (Fast R-CNN): network frame, dialect boxes.
    """

    tensor: Tensor  # uint8 or float32 [B, 3, H, W]
    sizes: Tensor  # int64 [B, 2]: height, width in the network frame, before padding
    infos: tuple[ImageInfo, ...]
    proposals: Tensor | None = None  # float32 [B, P, 4], zero where padded
    proposals_valid: Tensor | None = None  # bool [B, P], False where padded
    proposal_scores: Tensor | None = None  # float32 [B, P]

    def __len__(self) -> int:
        return int(self.tensor.shape[0])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        """The same batch on `device`; `infos` stay on the host."""
        return _moved(self, device, non_blocking)

    def pin_memory(self) -> ImageBatch:
        return _pinned(self)


@dataclass
class Targets:
    """Ground truth of a batch, padded to G objects per image. Network frame, dialect boxes.

    Polygons are a soup of edges: an object's mask is the union of its polygons, each filled by the even-odd
    rule, so neither ring order nor holes need a structure of their own. Padding edges have zero length.
    An RLE becomes the horizontal pixel edges of its runs, which rasterise back to the very same pixels.
    """

    boxes: Tensor  # float32 [B, G, 4]
    labels: Tensor  # int64 [B, G], 0 where padded
    is_crowd: Tensor  # bool [B, G]
    valid: Tensor  # bool [B, G], False where padded
    edges: Tensor | None = None  # float64 [B, G, E, 4]: x1, y1, x2, y2, continuous coordinates
    edge_polygon: Tensor | None = None  # int64 [B, G, E]: which polygon of its object an edge belongs to
    num_polygons: int = 1  # the largest number of polygons of one object in the batch
    keypoints: Tensor | None = None  # float32 [B, G, K, 3]: x, y, visibility

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        return _moved(self, device, non_blocking)

    def pin_memory(self) -> Targets:
        return _pinned(self)


@dataclass
class Batch:
    """What `Detector.forward` takes: images and, for losses, their targets."""

    images: ImageBatch
    targets: Targets | None = None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        targets = None if self.targets is None else self.targets.to(device, non_blocking)
        return Batch(self.images.to(device, non_blocking), targets)

    def pin_memory(self) -> Batch:
        return Batch(self.images.pin_memory(), None if self.targets is None else self.targets.pin_memory())

    @property
    def names(self) -> str:
        """Which images these are, for messages."""
        return ", ".join(f"{info.file_name} (id {info.image_id})" for info in self.images.infos)


@dataclass
class LabelledBatch:
    """What a classifier takes: whole images with one label each, label k in 0..K-1 (there is no background)."""

    images: Tensor  # uint8 or float32 [B, C, H, W], 0..255
    labels: Tensor | None  # int64 [B]
    indices: Tensor  # int64 [B], which images of the data set
    source: str = ""  # its name

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> LabelledBatch:
        """The same batch on `device`; `indices` stay on the host."""
        if self.images.device == torch.device(device):
            return self
        images = self.images.to(device, non_blocking=non_blocking)
        labels = None if self.labels is None else self.labels.to(device, non_blocking=non_blocking)
        return LabelledBatch(images, labels, self.indices, self.source)

    @property
    def names(self) -> str:
        """Which images these are, for messages."""
        return f"numbers {', '.join(map(str, self.indices.tolist()))} of {self.source}"


@dataclass
class Detections:
    """What a model found in one image; N rows, sorted by falling score.

    `Detector.predict` returns them in the network frame with soft `masks`; `engine.inference.to_original` returns
    them in the original frame with `rles` in place of `masks`. Boxes keep the dialect's convention in both.
    """

    boxes: Tensor  # float32 [N, 4]
    scores: Tensor  # float32 [N]
    labels: Tensor  # int64 [N], 1..K
    masks: Tensor | None = None  # float32 [N, M, M], probabilities inside the box
    keypoints: Tensor | None = None  # float32 [N, K, 4]: x, y, logit, probability
    rles: list[dict[str, Any]] | None = field(default=None)  # compressed COCO RLE of the original image

    def __len__(self) -> int:
        return int(self.scores.shape[0])

    def __getitem__(self, rows: Tensor) -> Detections:
        """The detections that a boolean or integer index tensor selects."""
        picked: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                picked[f.name] = value[rows.to(value.device)]
            elif value is not None:
                index = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
                picked[f.name] = [value[i] for i in index.tolist()]
        return Detections(**picked)

    def to(self, device: torch.device | str) -> Detections:
        return _moved(self, device, False)


def _moved(value: MovedT, device: torch.device | str, non_blocking: bool) -> MovedT:
    moved: dict[str, Any] = {
        f.name: v.to(device, non_blocking=non_blocking)
        for f in fields(value)
        if isinstance(v := getattr(value, f.name), Tensor)
    }
    return replace(value, **moved)


def _pinned(value: PinnedT) -> PinnedT:
    pinned: dict[str, Any] = {
        f.name: v.pin_memory() for f in fields(value) if isinstance(v := getattr(value, f.name), Tensor)
    }
    return replace(value, **pinned)
