"""Suppression in all images at once, on overlaps that are computed once for all settings.

A set is one class in one image. Sets of about the same size lie together in padded arrays; what `ops` does to the sets
of one image it does here to those of all images, by the routes for known overlaps (tests/ops compare the routes).

Shape legend
    N  candidates of all images    S  sets of a block    k  candidates of a set, padded    M  what stays
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detectune.models.detections import SOFT_SCORE_THRESH, SuppressionRule
from detectune.ops.boxes import box_iou
from detectune.ops.nms import float32_limit, greedy_keep_of_overlaps, soft_nms_of_overlaps
from detectune.ops.voting import vote_of_overlaps

GROWTH = 1.3  # sets of a block differ by no more than this factor in size
MOST_OVERLAPS = 2**27  # numbers, half a GiB; beyond it images are suppressed one by one


@dataclass(frozen=True)
class Block:
    """Sets of about the same size, candidates by falling score."""

    rows: np.ndarray  # int64 [S, k], -1 where padded
    scores: np.ndarray  # float32 [S, k]
    boxes: torch.Tensor  # float32 [S, k, 4]
    overlaps: np.ndarray  # float32 [S, k, k]


def make_blocks(
    boxes: torch.Tensor, scores: np.ndarray, sets: np.ndarray, *, offset: float
) -> list[Block] | None:
    """The blocks of N candidates [N, 4], [N] whose sets are numbered int64 [N]; None if there is no room for them."""
    order = np.lexsort((-scores, sets))
    starts = np.flatnonzero(np.diff(sets[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(order)))
    if not len(sizes):
        return []
    edges, bound = [0], 0.0
    by_size = np.argsort(sizes, kind="stable")
    for place, size in enumerate(sizes[by_size].tolist()):
        if size > bound:
            edges.append(place)
            bound = max(size * GROWTH, 8)
    spans = list(zip(edges[1:], [*edges[2:], len(by_size)], strict=True))
    if sum((b - a) * int(sizes[by_size[b - 1]]) ** 2 for a, b in spans) > MOST_OVERLAPS:
        return None
    return [_block(boxes, scores, order, starts[by_size[a:b]], sizes[by_size[a:b]], offset) for a, b in spans]


def _block(
    boxes: torch.Tensor,
    scores: np.ndarray,
    order: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
    offset: float,
) -> Block:
    column = np.arange(int(sizes.max()))
    there = column < sizes[:, None]
    rows = np.where(there, order[np.where(there, starts[:, None] + column, 0)], -1)
    own = boxes[torch.from_numpy(np.maximum(rows, 0))]
    return Block(rows, scores[np.maximum(rows, 0)], own, box_iou(own, own, offset=offset).numpy())


def survivors_of(
    blocks: Sequence[Block], active: np.ndarray, rule: SuppressionRule
) -> tuple[np.ndarray, np.ndarray, np.ndarray, torch.Tensor | None]:
    """What stays of the candidates `active` (bool [N]): rows int64 [M], scores float32 [M] before and after voting, and
    voted boxes [M, 4].
    """
    found = [_of_block(block, active, rule) for block in blocks]
    rows = np.concatenate([part[0] for part in found] or [np.zeros(0, dtype=np.int64)])
    before, scores = (
        np.concatenate([part[i] for part in found] or [np.zeros(0, dtype=np.float32)]) for i in (1, 2)
    )
    moved = [part[3] for part in found if part[3] is not None]
    if rule.voting is None:
        return rows, before, scores, None
    return rows, before, scores, torch.cat(moved) if moved else torch.zeros((0, 4))


def _of_block(
    block: Block, active: np.ndarray, rule: SuppressionRule
) -> tuple[np.ndarray, np.ndarray, np.ndarray, torch.Tensor | None]:
    valid = (block.rows >= 0) & active[block.rows]
    if not valid.any():
        none = np.zeros(0, dtype=np.float32)
        return np.zeros(0, dtype=np.int64), none, none, None
    # What is below the threshold comes last. Sets without any are passed over, not cut out, which would copy the rest.
    width = int(np.flatnonzero(valid.any(0))[-1]) + 1
    valid, scores = valid[:, :width], block.scores[:, :width]
    overlaps = block.overlaps[:, :width, :width]
    if rule.soft is not None:
        stays, new = soft_nms_of_overlaps(
            overlaps, scores, valid, method=rule.soft.method, sigma=rule.soft.sigma,
            overlap_thresh=rule.nms_thresh, score_thresh=SOFT_SCORE_THRESH,
        )  # fmt: skip
    else:
        limit = float32_limit(rule.nms_thresh, inclusive=rule.offset > 0)
        stays, new = greedy_keep_of_overlaps(overlaps, valid, limit), scores
    s, t = np.nonzero(stays)
    rows, kept = block.rows[s, t], new[s, t]
    if rule.voting is None:
        return rows, kept, kept, None
    voters = torch.from_numpy(np.where(valid[s], overlaps[s, t], np.float32(-1)))  # [M, k]
    boxes = block.boxes[:, :width]
    moved, voted = vote_of_overlaps(
        voters, boxes[torch.from_numpy(s), torch.from_numpy(t)], torch.from_numpy(kept),
        boxes[torch.from_numpy(s)], torch.from_numpy(scores[s]), rule.voting.thresh,
        scoring_method=rule.voting.scoring_method, beta=rule.voting.beta,
    )  # fmt: skip
    return rows, kept, voted.numpy(), moved
