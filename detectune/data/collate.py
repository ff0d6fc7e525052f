"""Samples of one batch -> padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from detectune.data.images import ResizeStyle, resize_image
from detectune.data.transforms import Objects
from detectune.structures import Batch, ImageBatch, ImageInfo, Targets

PROPOSAL_STEP = 128


@dataclass(frozen=True)
class Sample:
    """One image in the network frame; `objects` with dialect boxes."""

    pixels: Tensor  # [3, h, w]
    objects: Objects
    info: ImageInfo


def collate(samples: Sequence[Sample], *, stride: int, masks: bool, keypoints: bool) -> Batch:
    """Images padded right and below to a common multiple of `stride`, objects to the batch's maxima."""
    sizes = torch.tensor([sample.pixels.shape[1:] for sample in samples], dtype=torch.int64)
    height, width = (-(-int(side) // stride) * stride for side in sizes.amax(0))
    tensor = torch.zeros((len(samples), 3, height, width), dtype=samples[0].pixels.dtype)
    for image, sample in zip(tensor, samples, strict=True):
        image[:, : sample.pixels.shape[1], : sample.pixels.shape[2]] = sample.pixels
    images = ImageBatch(tensor, sizes, tuple(sample.info for sample in samples))
    images = pad_proposals(images, [sample.objects for sample in samples])
    return Batch(
        images, pad_objects([sample.objects for sample in samples], masks=masks, keypoints=keypoints)
    )


def pad_proposals(images: ImageBatch, objects: Sequence[Objects]) -> ImageBatch:
    """The batch with its samples' ready-made proposals, if they have any.

    P is a multiple of PROPOSAL_STEP, so that the training step meets few different shapes.
    """
    boxes = [own.proposals for own in objects if own.proposals is not None]
    if len(boxes) < len(objects) or not boxes:
        return images
    scores = [own.proposal_scores for own in objects if own.proposal_scores is not None]
    most = -(-max(1, *(len(own) for own in boxes)) // PROPOSAL_STEP) * PROPOSAL_STEP
    padded = np.zeros((len(boxes), most, 4), dtype=np.float32)
    padded_scores = np.zeros((len(boxes), most), dtype=np.float32)
    valid = np.zeros((len(boxes), most), dtype=bool)
    for i, own in enumerate(boxes):
        padded[i, : len(own)], valid[i, : len(own)] = own, True
        if len(scores) == len(boxes):
            padded_scores[i, : len(own)] = scores[i]
    return replace(
        images,
        proposals=torch.from_numpy(padded),
        proposals_valid=torch.from_numpy(valid),
        proposal_scores=torch.from_numpy(padded_scores) if len(scores) == len(boxes) else None,
    )


def single_image(
    pixels: np.ndarray,
    *,
    short_side: int,
    max_size: int,
    style: ResizeStyle,
    stride: int,
    image_id: int = 0,
    file_name: str = "",
) -> ImageBatch:
    """An image uint8 [H, W, 3] alone, resized and padded as `collate` pads."""
    resized, scale_x, scale_y = resize_image(pixels, short_side=short_side, max_size=max_size, style=style)
    height, width = resized.shape[-2:]
    padded = nn.functional.pad(resized, (0, -width % stride, 0, -height % stride))
    info = ImageInfo(image_id, file_name, pixels.shape[0], pixels.shape[1], scale_x, scale_y)
    return ImageBatch(padded[None], torch.tensor([[height, width]]), (info,))


def split_images(images: ImageBatch, *, stride: int) -> list[ImageBatch]:
    """The images of a batch each alone, with no more padding than `stride` asks for."""

    def row(tensor: Tensor | None, i: int) -> Tensor | None:
        return None if tensor is None else tensor[i : i + 1]

    out = []
    for i, (height, width) in enumerate(images.sizes.tolist()):
        rows, columns = -(-height // stride) * stride, -(-width // stride) * stride
        out.append(
            ImageBatch(
                images.tensor[i : i + 1, :, :rows, :columns],
                images.sizes[i : i + 1],
                images.infos[i : i + 1],
                row(images.proposals, i),
                row(images.proposals_valid, i),
                row(images.proposal_scores, i),
            )
        )
    return out


def pad_objects(objects: Sequence[Objects], *, masks: bool, keypoints: bool) -> Targets:
    """G is the largest number of objects of an image, E the largest number of edges of an object; both may be 0."""
    num_images = len(objects)
    most = max((len(own) for own in objects), default=0)
    boxes = np.zeros((num_images, most, 4), dtype=np.float32)
    labels = np.zeros((num_images, most), dtype=np.int64)
    is_crowd = np.zeros((num_images, most), dtype=bool)
    valid = np.zeros((num_images, most), dtype=bool)
    for i, own in enumerate(objects):
        n = len(own)
        boxes[i, :n], labels[i, :n], is_crowd[i, :n], valid[i, :n] = own.boxes, own.labels, own.is_crowd, True
    targets = Targets(
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        is_crowd=torch.from_numpy(is_crowd),
        valid=torch.from_numpy(valid),
    )
    if masks:
        longest = max((len(edges) for own in objects for edges in own.edges), default=0)
        edges = np.zeros((num_images, most, longest, 4), dtype=np.float64)
        polygon = np.zeros((num_images, most, longest), dtype=np.int64)
        for i, own in enumerate(objects):
            for j, (lines, rings) in enumerate(zip(own.edges, own.edge_polygon, strict=True)):
                edges[i, j, : len(lines)], polygon[i, j, : len(lines)] = lines, rings
        targets.edges, targets.edge_polygon = torch.from_numpy(edges), torch.from_numpy(polygon)
        targets.num_polygons = int(polygon.max(initial=0)) + 1
    if keypoints:
        points = [own.keypoints for own in objects if own.keypoints is not None]
        num_points = points[0].shape[1] if points else 0
        padded = np.zeros((num_images, most, num_points, 3), dtype=np.float32)
        for i, own in enumerate(objects):
            if own.keypoints is not None:
                padded[i, : len(own)] = own.keypoints
        targets.keypoints = torch.from_numpy(padded)
    return targets
