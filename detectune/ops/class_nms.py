"""Suppression within classes as one operation of a recorded program (torch.export, ONNX), whose shapes follow values.

Shape legend
    N  boxes    C  labels
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor

from detectune.ops.nms import batched_class_nms, float32_limit

ClassNms = Callable[[Tensor, Tensor, Tensor, float, float], Tensor]
"""Boxes float32 [N, 4], finite scores [N], labels int64 [N] from 0 on, threshold, offset -> rows that stay, int64.

The rows come in no particular order. The offset is as in `ops.boxes`; where it is not 0, an overlap equal to the
threshold suppresses too.
"""


def spread_class_nms(boxes: Tensor, scores: Tensor, labels: Tensor, thresh: float, offset: float) -> Tensor:
    """`ClassNms` by torchvision's operation, each class moved to a place of its own.

    Moving needs room for digits, so it is done in float64: the overlaps differ from those of float32 by less than a
    rounding error of theirs.
    """
    boxes = _continuous(boxes, offset).double()
    ends = torch.cat((boxes.detach().flatten(), boxes.new_zeros(1)))
    low, room = ends.min(), ends.max() - ends.min() + 1
    moved = boxes + (labels.double() * room)[:, None]
    # a recorder takes it that two rows stay at least, so there are two that always do
    apart = low - boxes.new_tensor([[3.0, 3, 2, 2], [6.0, 6, 5, 5]])
    lowest = scores.new_full((2,), -torch.inf).double()
    kept: Tensor = torchvision.ops.nms(
        torch.cat((moved, apart)),
        torch.cat((scores.double(), lowest)),
        float32_limit(thresh, inclusive=offset > 0),
    )
    return kept[(kept < boxes.shape[0]).nonzero()[:, 0]]


def onnx_class_nms(num_labels: int) -> ClassNms:
    """`ClassNms` by ONNX's NonMaxSuppression, which keeps classes apart itself; for `torch.onnx.export` only."""

    def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, thresh: float, offset: float) -> Tensor:
        limit = max(0.0, float32_limit(thresh, inclusive=offset > 0))
        kept: Tensor = _recorded(_continuous(boxes, offset), scores, labels, num_labels, limit)
        return kept

    return suppress


def _continuous(boxes: Tensor, offset: float) -> Tensor:
    """Boxes whose sides are x2 - x1, with the areas and overlaps that these have with `offset`."""
    if not offset:
        return boxes
    return torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)


@torch.library.custom_op("detectune::class_nms", mutates_args=())
def _recorded(boxes: Tensor, scores: Tensor, labels: Tensor, num_labels: int, limit: float) -> Tensor:
    """Rows of continuous boxes that no better box of their label overlaps by more than `limit`."""
    del num_labels
    return batched_class_nms(boxes, scores, labels, limit)


@_recorded.register_fake
def _(boxes: Tensor, scores: Tensor, labels: Tensor, num_labels: int, limit: float) -> Tensor:
    del scores, labels, num_labels, limit
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


def onnx_translations() -> dict[Any, Any]:
    """What `torch.onnx.export` has to know, as its `custom_translation_table`; needs the package onnxscript."""
    import onnxscript

    op: Any = onnxscript.opset18  # numbers become tensors on the way, which its types do not say

    lowest, unlimited = -3.0e38, 2**63 - 1

    def translate(boxes: Any, scores: Any, labels: Any, num_labels: int, limit: float) -> Any:
        own = op.Equal(op.Unsqueeze(labels, [0]), op.Unsqueeze(op.Range(0, num_labels, 1), [1]))  # [C, N]
        by_class = op.Where(own, op.Unsqueeze(scores, [0]), lowest)
        chosen = op.NonMaxSuppression(
            op.Unsqueeze(boxes, [0]), op.Unsqueeze(by_class, [0]), unlimited, limit, lowest
        )  # [kept, 3]: image, class, box
        return op.Reshape(op.Slice(chosen, [2], [3], [1]), [-1])

    def stable_sort(x: Any, *, stable: bool, dim: int = -1, descending: bool = False) -> Any:
        assert stable  # equal elements come by index in ONNX
        length = op.Gather(op.Shape(x), [dim])
        return op.TopK(x, length, axis=dim, largest=int(descending), sorted=1)

    return {
        torch.ops.detectune.class_nms.default: translate,
        torch.ops.aten.sort.stable: stable_sort,
    }
