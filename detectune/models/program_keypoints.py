"""Heat maps to keypoints in a recorded program: `ops.keypoints.heatmaps_to_keypoints` without asking for values.

Each map is enlarged to its box, whose size is a value. So all are enlarged to as many rows and columns as the largest
needs, one detection after the other to save memory, and what lies beyond a box does not count.

Shape legend
    N  detections    K  keypoints    S  side of a heat map    R, C  rows and columns of the largest enlarged map
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch._higher_order_ops.scan import scan

from detectune.models.keypoint_head import PoseRule
from detectune.ops.keypoints import CUBIC


def read_heatmaps(maps: Tensor, boxes: Tensor, rule: PoseRule) -> Tensor:
    """x, y, logit, probability, float32 [N, K, 4], of logits [N, K, S, S] in boxes [N, 4]."""
    # a first row that does not count, so that there is one
    maps, boxes = F.pad(maps, (0, 0, 0, 0, 0, 0, 1, 0)), F.pad(boxes, (0, 0, 1, 0))
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1.0)  # [N, 2]: width, height
    cells = sides.ceil().clamp(min=float(rule.min_size))
    most = cells.amax(0).to(torch.int64)
    column = torch.arange(most[0].item(), device=boxes.device, dtype=torch.float64)
    row = torch.arange(most[1].item(), device=boxes.device, dtype=torch.float64)

    def read(carried: Tensor, one: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        heat, count = one  # [K, S, S], [2]
        across, down = (
            _cubic_weights(column, count[0], heat.shape[-1]),
            _cubic_weights(row, count[1], heat.shape[-1]),
        )
        inside = (row < count[1])[:, None] & (column < count[0])
        enlarged = (down @ heat @ across.T).masked_fill(~inside, -torch.inf).flatten(1)  # [K, R * C]
        logit, place = enlarged.max(1)
        over = enlarged if rule.normalization == "resized" else heat.flatten(1)
        probability = 1 / torch.exp(over - logit[:, None]).sum(1)
        found = torch.stack((place.to(torch.float32), logit, probability), dim=1)
        return carried.clone(), found

    _, found = scan(read, maps.new_zeros(1), (maps.float(), cells.double()))
    place, logit, probability = found.unbind(-1)  # each [N, K]
    x = (place % most[0] + 0.5) * (sides / cells)[:, :1] + boxes[:, :1]
    y = (torch.floor(place / most[0]) + 0.5) * (sides / cells)[:, 1:] + boxes[:, 1:2]
    return torch.stack((x, y, logit, probability), dim=-1)[1:]


def _cubic_weights(index: Tensor, count: Tensor, side: int) -> Tensor:
    """Weights float32 [size, side] of cubic convolution from `side` cells to `count`; the outermost cells repeat."""
    position = (index + 0.5) * (side / count) - 0.5
    cell = torch.floor(position)
    cells = torch.arange(side, device=index.device)
    weights = torch.zeros_like(position)[:, None]
    for tap in (-1, 0, 1, 2):
        distance = (position - cell - tap).abs()
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
        far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
        weight = torch.where(distance <= 1, near, far)
        here = (cell + tap).clamp(0, side - 1)[:, None] == cells
        weights = weights + torch.where(here, weight[:, None], 0.0)
    return weights.float()
