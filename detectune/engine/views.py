"""Views of one image for test-time augmentation: stretched, mirrored, resized, in this order, and boxes to and fro.

Three frames meet here. `original` is the image file's; a view's `own` frame is that of its stretched and mirrored
pixels; `network` is own * scale. Knows nothing about configuration, and of detectors only that they have features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from detectune.data.collate import single_image
from detectune.data.images import ResizeStyle, stretch_image
from detectune.ops.boxes import flip_boxes, scale_aspect_ratio
from detectune.structures import Detections, ImageBatch, ImageInfo

Features = dict[int, Tensor]


@dataclass(frozen=True)
class View:
    """One way to see an image."""

    short_side: int
    max_size: int
    flip: bool = False
    stretch: float = 1.0  # width over the original's


@dataclass(frozen=True)
class Seen:
    """An image in one view. `offset` is 1 where boxes are inclusive."""

    view: View
    images: ImageBatch  # of one image
    features: Features
    offset: float

    @property
    def info(self) -> ImageInfo:
        """Height and width of the own frame, and the scale from there to the network frame."""
        return self.images.infos[0]

    @property
    def own_size(self) -> Tensor:
        return torch.tensor((self.info.height, self.info.width), device=self.images.tensor.device)

    def scale(self, boxes: Tensor) -> Tensor:
        """Network over own pixels, [4]."""
        return boxes.new_tensor((self.info.scale_x, self.info.scale_y) * 2)

    def to_original(self, boxes: Tensor) -> Tensor:
        """Boxes [..., 4] of the own frame."""
        if self.view.flip:
            boxes = flip_boxes(boxes, float(self.info.width), offset=self.offset)
        return scale_aspect_ratio(boxes, 1 / self.view.stretch) if self.view.stretch != 1 else boxes

    def to_network(self, boxes: Tensor) -> Tensor:
        """Boxes [..., 4] of the original frame."""
        if self.view.stretch != 1:
            boxes = scale_aspect_ratio(boxes, self.view.stretch)
        if self.view.flip:
            boxes = flip_boxes(boxes, float(self.info.width), offset=self.offset)
        return boxes * self.scale(boxes)

    def find(self, found: Detections) -> Detections:
        """Detections of the original frame where this view has them, network frame."""
        return Detections(self.to_network(found.boxes), found.scores, found.labels)


class Looks:
    """Sees one image in views, and keeps the features of those that will be asked for again.

    Args:
        pixels: uint8 [H, W, 3], the image file's.
        plain, images: the view that is there already, neither mirrored nor stretched. Proposals that it comes with go
            along into every view.
        see: a batch of one image to its features.
        wanted: every view as often as it will be asked for.
        style, stride: how views are resized and what their sides are padded to a multiple of.
        offset: 1 where boxes are inclusive.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        plain: View,
        images: ImageBatch,
        *,
        see: Callable[[ImageBatch], Features],
        wanted: Iterable[View],
        style: ResizeStyle,
        stride: int,
        offset: float,
    ) -> None:
        self.plain = plain
        self._pixels, self._images, self._see = pixels, images, see
        self._style, self._stride, self._offset = style, stride, offset
        self._left = Counter(wanted)
        self._kept: dict[View, Seen] = {}

    def __call__(self, view: View) -> Seen:
        seen = self._kept.pop(view, None) or self._look(view)
        self._left[view] -= 1
        if self._left[view] > 0:
            self._kept[view] = seen
        return seen

    def _look(self, view: View) -> Seen:
        images = self._images if view == self.plain else self._batch(view)
        return Seen(view, images, self._see(images), self._offset)

    def _batch(self, view: View) -> ImageBatch:
        pixels = self._pixels if view.stretch == 1 else stretch_image(self._pixels, view.stretch)
        if view.flip:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        batch = single_image(
            pixels,
            short_side=view.short_side,
            max_size=view.max_size,
            style=self._style,
            stride=self._stride,
        )
        batch = batch.to(self._images.tensor.device)
        plain = self._images
        if plain.proposals is None:
            return batch
        original = plain.proposals / Seen(self.plain, plain, {}, self._offset).scale(plain.proposals)
        return replace(
            batch,
            proposals=Seen(view, batch, {}, self._offset).to_network(original),
            proposals_valid=plain.proposals_valid,
            proposal_scores=plain.proposal_scores,
        )
