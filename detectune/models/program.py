"""A detector as one program of tensors, which torch.export and ONNX can record: a resized image in, detections out.

The parts are the detector's own. What differs from `predict` is what a recorder cannot follow: nothing here asks for a
value, so what must be left out is masked or picked by index, and there is one image.

Shape legend
    H, W  the resized image    P  proposals    K  classes, background (0) included    n  candidates, region x class
    N  detections    M  side of a mask
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from detectune.ops.boxes import clip_boxes
from detectune.ops.class_nms import ClassNms


@dataclass(frozen=True)
class Frame:
    """One image and how it lies in the network's frame."""

    pixels: Tensor  # float32 [1, 3, h, w], normalised, padded to a multiple of the stride
    sizes: Tensor  # float32 [1, 2], height and width before padding
    original: Tensor  # float32 [2], height and width of the original
    scale: Tensor  # float32 [4], network over original pixels: x, y, x, y


def framed(image: Tensor, size: Tensor, scale: Tensor, *, mean: Tensor, std: Tensor, stride: int) -> Frame:
    """The inputs of every program, made ready: see `program_inputs`."""
    height, width = image.shape[-2:]
    pixels = (image - mean) / std
    if stride > 1:
        rows, columns = (_fresh((side + stride - 1) // stride) * stride for side in (height, width))
        pixels = F.pad(pixels, (0, columns - width, 0, rows - height))
    sides = [torch.scalar_tensor(side, dtype=torch.float32) for side in (height, width)]
    return Frame(pixels, torch.stack(sides)[None], size.float(), torch.cat((scale, scale)))


def _fresh(count: int) -> int:
    """A number that a recorder takes for one of its own, not for the sum by which it came about.

    Sides of all feature maps follow from it, in sums that stay short, and without assumptions about the example.
    """
    fresh: Any = torch.scalar_tensor(count, dtype=torch.int64).item()
    torch._check(fresh >= 1)
    return fresh  # not int(fresh), which would ask for the value


def keep_best(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    suppress: ClassNms,
    *,
    nms_thresh: float,
    offset: float,
    limit: int,
    keep_ties: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates [n, 4], [n] (-inf: none) and [n] suppressed within labels; the `limit` best (0: all), by score.

    With `keep_ties` what ties the last one stays.
    """
    real = torch.isfinite(boxes).all(1) & torch.isfinite(scores)
    rows = real.nonzero()[:, 0]
    boxes, scores, labels = boxes[rows], scores[rows], labels[rows]
    rows = suppress(boxes, scores, labels, nms_thresh, offset)
    boxes, scores, labels = boxes[rows], scores[rows], labels[rows]
    scores, order = torch.sort(scores, descending=True, stable=True)
    boxes, labels = boxes[order], labels[order]
    if not limit:
        return boxes, scores, labels
    if keep_ties:
        last = F.pad(scores, (0, limit), value=-torch.inf)[limit - 1]
        stays = scores >= last
    else:
        stays = torch.arange(scores.shape[0], device=scores.device) < limit
    rows = stays.nonzero()[:, 0]
    return boxes[rows], scores[rows], labels[rows]


def to_original_frame(boxes: Tensor, frame: Frame, *, offset: float) -> Tensor:
    """Boxes [N, 4] of the network frame in the original image."""
    return clip_boxes(boxes / frame.scale, frame.original, offset=offset)


class Program(nn.Module):
    """What all programs take and give.

    Inputs
        image: float32 [1, 3, H, W], RGB, 0..255, resized as the configuration says and not padded.
        size: int64 [2], height and width of the original image.
        scale: float32 [2], resized over original pixels, x and y.

    Outputs, by name, N rows each, best first
        boxes: float32 [N, 4], original image, in the dialect's convention.
        scores: float32 [N].
        labels: int64 [N], from 1 on.
        masks: float32 [N, M, M], probabilities inside the box, if there is a head for them.
        keypoints: float32 [N, points, 4], original image: x, y, logit, probability; if there is a head for them.
    """

    output_names: tuple[str, ...] = ("boxes", "scores", "labels")
