"""Greedy non-maximum suppression: walk boxes by falling score, drop what overlaps a kept one too much.

Shape legend
    N  boxes    S  independent sets (image x level)    k  boxes per set, sorted by falling score

`inclusive` suppresses at an overlap equal to the threshold too (Detectron); otherwise only above it. `offset` is as in
`ops.boxes`. Overlaps and comparisons are float32, so every route here decides border cases alike.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torchvision
from torch import Tensor

from detectune.ops.boxes import box_iou
from detectune.ops.routes import static_by_default

SoftMethod = Literal["linear", "gaussian", "hard"]

MAX_CHAIN = 64
"""Longest chain of suppressions (a drops b, which would have dropped c, ...) that the static route resolves."""

_SCRATCH_ELEMENTS = 2**24
_GONE = np.float32(-1e30)  # finite: times a weight of 0 it must stay a number
_BLOCK = 128


def nms(
    boxes: Tensor, scores: Tensor, thresh: float, *, offset: float = 0.0, inclusive: bool = False
) -> Tensor:
    """Rows of boxes [N, 4] that survive, int64, by falling score (equal scores: by row)."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[_greedy_keep(boxes[order].float(), thresh, offset, inclusive)]


def nms_batched(
    boxes: Tensor,
    scores: Tensor,
    valid: Tensor,
    thresh: float,
    *,
    offset: float = 0.0,
    inclusive: bool = False,
    static: bool | None = None,
    max_chain: int = MAX_CHAIN,
) -> Tensor:
    """Which boxes survive in each of S sets: bool [S, k], False in invalid rows.

    Args:
        boxes: [S, k, 4], within each set sorted by falling score.
        scores: [S, k], for that order (not read: rows count as sorted).
        valid: bool [S, k].
        thresh: overlap above which the lower box goes.
        static: True is one program of fixed shapes that never waits for the device; False walks the sets one by one.
            By default static everywhere but on a CPU. The results are equal, see `max_chain`.
        max_chain: the static route is exact while no chain of suppressions is longer (proposals have chains of about
            ten; k is always enough). Beyond, an even number keeps too many at the chain's end and drops none wrongly.
    """
    del scores
    if static is None:
        static = static_by_default(boxes)
    boxes = boxes.float()
    if static:
        return _fixpoint_keep(boxes, valid, thresh, offset, inclusive, max_chain)
    keep = torch.zeros_like(valid)
    for s in range(len(boxes)):
        rows = valid[s].nonzero()[:, 0]
        keep[s, rows[_greedy_keep(boxes[s, rows], thresh, offset, inclusive)]] = True
    return keep


def batched_class_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    thresh: float,
    *,
    offset: float = 0.0,
    inclusive: bool = False,
) -> Tensor:
    """`nms` within each label [N] (class, level, image...): surviving rows, int64, by falling score over all labels."""
    order = torch.sort(scores, descending=True, stable=True).indices
    boxes, labels = boxes[order].float(), labels[order]
    keep = torch.zeros(len(order), dtype=torch.bool, device=boxes.device)
    for label in torch.unique(labels).tolist():
        rows = (labels == label).nonzero()[:, 0]
        keep[rows[_greedy_keep(boxes[rows], thresh, offset, inclusive)]] = True
    return order[keep]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    method: SoftMethod,
    sigma: float = 0.5,
    overlap_thresh: float = 0.3,
    score_thresh: float = 0.001,
    offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (Bodla 2017): instead of dropping what overlaps a picked box, lower its score.

    The best box is picked, every other is weighted by its overlap with it, and so on. The weight is 1 - overlap above
    the overlap threshold (`linear`), exp(-overlap^2 / sigma) (`gaussian`), or 0 above the threshold (`hard`); a box
    whose lowered score is below `score_thresh` goes. A box that no picked box overlaps keeps its score, however low.

    Returns:
        The picked rows of boxes [N, 4] in the order of picking (falling new score), and their new scores, float32.
    """
    places = boxes.detach().float().cpu()
    few = len(places) ** 2 <= _SCRATCH_ELEMENTS
    weights = overlaps = None
    if few:
        overlaps = box_iou(places, places, offset=offset).numpy()
        weights = _soft_weights(overlaps, method, sigma, overlap_thresh)
    left = scores.detach().float().cpu().numpy().copy()
    gone = np.zeros(len(left), dtype=bool)
    rows: list[int] = []
    new: list[float] = []
    while not gone.all():
        best = int(np.argmax(left))  # those that are gone are below every score
        rows.append(best)
        new.append(left[best])
        gone[best] = True
        if weights is None or overlaps is None:
            overlap = box_iou(places[best : best + 1], places, offset=offset)[0].numpy()
            weight = _soft_weights(overlap, method, sigma, overlap_thresh)
        else:
            overlap, weight = overlaps[best], weights[best]
        left *= weight
        gone |= (overlap > 0) & (left < score_thresh)
        left[gone] = _GONE
    index = torch.tensor(rows, dtype=torch.int64, device=boxes.device)
    return index, torch.tensor(np.array(new, dtype=np.float32), device=boxes.device)


def _soft_weights(overlap: np.ndarray, method: SoftMethod, sigma: float, overlap_thresh: float) -> np.ndarray:
    """What overlaps of any shape multiply scores with, float32; 1 where boxes do not touch."""
    if method == "linear":
        weight = np.where(overlap > overlap_thresh, 1 - overlap, 1)
    elif method == "gaussian":
        weight = np.exp(-(overlap * overlap) / sigma)
    else:
        weight = np.where(overlap > overlap_thresh, 0, 1)
    return np.where(overlap > 0, weight, 1).astype(np.float32)


def greedy_keep_of_overlaps(overlaps: np.ndarray, valid: np.ndarray, limit: float) -> np.ndarray:
    """Which boxes survive in S sets whose overlaps float32 [S, k, k] are known: bool [S, k], False in invalid rows.

    Boxes are sorted by falling score within a set; `limit` is `float32_limit`'s.
    """
    keep = valid.copy()
    for i in range(valid.shape[1] - 1):
        rows = np.flatnonzero(keep[:, i])
        keep[rows, i + 1 :] &= overlaps[rows, i, i + 1 :] <= limit
    return keep


def soft_nms_of_overlaps(
    overlaps: np.ndarray,
    scores: np.ndarray,
    valid: np.ndarray,
    *,
    method: SoftMethod,
    sigma: float = 0.5,
    overlap_thresh: float = 0.3,
    score_thresh: float = 0.001,
) -> tuple[np.ndarray, np.ndarray]:
    """`soft_nms` in S sets whose overlaps float32 [S, k, k] are known: which stay, bool [S, k], and new scores [S, k].

    What is not valid stays out; its score, and that of what goes, means nothing.
    """
    left = np.where(valid, scores, _GONE).astype(np.float32)
    gone, new = ~valid, left.copy()
    stays = np.zeros_like(valid)
    rows = np.flatnonzero(valid.any(1))
    while len(rows):
        best = left[rows].argmax(1)
        stays[rows, best] = gone[rows, best] = True
        new[rows, best] = left[rows, best]
        overlap = overlaps[rows, best]
        lower = left[rows] * _soft_weights(overlap, method, sigma, overlap_thresh)
        out = gone[rows] | ((overlap > 0) & (lower < score_thresh))
        lower[out] = _GONE
        left[rows], gone[rows] = lower, out
        rows = rows[~out.all(1)]
    return stays, new


def _greedy_keep(boxes: Tensor, thresh: float, offset: float, inclusive: bool) -> Tensor:
    """Rows of sorted boxes [N, 4] that survive, ascending."""
    if offset == 0.0 and not inclusive:
        falling = torch.arange(len(boxes), 0, -1, device=boxes.device, dtype=torch.float32)
        kept: Tensor = torchvision.ops.nms(boxes, falling, thresh)
        return kept.sort().values
    limit = float32_limit(thresh, inclusive=inclusive)
    alive = np.ones(len(boxes), dtype=bool)
    for start in range(0, len(boxes), _BLOCK):
        stop = min(start + _BLOCK, len(boxes))
        block = torch.from_numpy(start + np.flatnonzero(alive[start:stop])).to(boxes.device)
        hits = (box_iou(boxes[block], boxes[block], offset=offset) > limit).cpu().numpy()
        stays = np.ones(len(block), dtype=bool)
        for i in range(len(block)):
            if stays[i]:
                stays[i + 1 :] &= ~hits[i, i + 1 :]
        alive[start:stop] = False
        kept = block[torch.from_numpy(stays).to(boxes.device)]
        alive[kept.cpu().numpy()] = True
        rest = torch.from_numpy(stop + np.flatnonzero(alive[stop:])).to(boxes.device)
        hit = (box_iou(boxes[kept], boxes[rest], offset=offset) > limit).any(dim=0)
        alive[rest[hit].cpu().numpy()] = False
    return torch.from_numpy(np.flatnonzero(alive)).to(boxes.device)


def _fixpoint_keep(
    boxes: Tensor, valid: Tensor, thresh: float, offset: float, inclusive: bool, max_chain: int
) -> Tensor:
    """Solve keep[j] = valid[j] and no i < j with keep[i] and hits[i, j], by iteration from keep = valid.

    After t rounds every box with fewer than t suppressions before it is settled, because what settles it is.
    """
    k = valid.shape[1]
    number = (
        torch.float32 if boxes.device.type == "cpu" else torch.bfloat16
    )  # a sum of ones, compared with zero
    hits = _suppressions(boxes, thresh, offset, inclusive).to(number)  # [S, k, k]
    keep = valid
    for _ in range(min(max_chain, k)):
        hit = torch.bmm(keep.to(number)[:, None], hits)[:, 0]  # [S, k]
        keep = valid & (hit == 0)
    return keep


def _suppressions(boxes: Tensor, thresh: float, offset: float, inclusive: bool) -> Tensor:
    """Bool [S, k, k]: i comes before j and overlaps it too much. Scratch memory is bounded by slices of rows."""
    num_sets, k, _ = boxes.shape
    limit = float32_limit(thresh, inclusive=inclusive)
    rows = max(1, _SCRATCH_ELEMENTS // max(1, num_sets * k))
    column = torch.arange(k, device=boxes.device)
    parts = [
        (box_iou(boxes[:, start : start + rows], boxes, offset=offset) > limit)
        & (column[start : start + rows, None] < column)
        for start in range(0, k, rows)
    ]
    return torch.cat(parts, dim=1) if parts else boxes.new_zeros((num_sets, 0, 0), dtype=torch.bool)


def float32_limit(thresh: float, *, inclusive: bool) -> float:
    """The float32 number x for which `overlap > x` is the wanted comparison of a float32 overlap.

    Exclusive: overlap > thresh with thresh in double, as torchvision compares. Inclusive: overlap >= float32(thresh),
    as Detectron does.
    """
    nearest = np.float32(thresh)
    if inclusive or float(nearest) > thresh:
        return float(np.nextafter(nearest, np.float32(-np.inf)))
    return float(nearest)
