"""Suppression and voting on overlaps that are known, in many sets at once, equal the routes that compute them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detectune.ops.boxes import box_iou
from detectune.ops.nms import (
    float32_limit,
    greedy_keep_of_overlaps,
    nms,
    soft_nms,
    soft_nms_of_overlaps,
)
from detectune.ops.voting import box_voting, vote_of_overlaps

SETS, SIZE = 12, 25


def crowds(seed: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Boxes [S, k, 4] around a few places, scores [S, k] by falling score, and which are valid, bool [S, k]."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(0, 3, (SETS, SIZE), generator=generator)[..., None] * 40.0
    corner = places + torch.rand((SETS, SIZE, 2), generator=generator) * 15
    sides = 20 + torch.rand((SETS, SIZE, 2), generator=generator) * 20
    scores = torch.rand((SETS, SIZE), generator=generator).sort(dim=1, descending=True).values
    valid = torch.rand((SETS, SIZE), generator=generator) < 0.8
    valid[3] = False
    return torch.cat((corner, corner + sides), 2), scores, valid.numpy()


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("thresh", [0.0, 0.3, 0.7, 1.0])
def test_hard_suppression(offset: float, thresh: float) -> None:
    boxes, scores, valid = crowds(0)
    overlaps = box_iou(boxes, boxes, offset=offset).numpy()
    limit = float32_limit(thresh, inclusive=offset > 0)
    keep = greedy_keep_of_overlaps(overlaps, valid, limit)
    for s in range(SETS):
        rows = torch.from_numpy(np.flatnonzero(valid[s]))
        want = rows[nms(boxes[s, rows], scores[s, rows], thresh, offset=offset, inclusive=offset > 0)]
        assert np.flatnonzero(keep[s]).tolist() == want.sort().values.tolist()
    assert thresh == 1.0 or 0 < keep.sum() < valid.sum()


@pytest.mark.parametrize("method", ["linear", "gaussian", "hard"])
@pytest.mark.parametrize("score_thresh", [1e-4, 0.2])
def test_soft_suppression(method: str, score_thresh: float) -> None:
    boxes, scores, valid = crowds(1)
    overlaps = box_iou(boxes, boxes).numpy()
    keys = {"method": method, "sigma": 0.3, "overlap_thresh": 0.4, "score_thresh": score_thresh}
    stays, new = soft_nms_of_overlaps(overlaps, scores.numpy(), valid, **keys)  # type: ignore[arg-type]
    for s in range(SETS):
        rows = torch.from_numpy(np.flatnonzero(valid[s]))
        index, want = soft_nms(boxes[s, rows], scores[s, rows], **keys)  # type: ignore[arg-type]
        assert sorted(rows[index].tolist()) == np.flatnonzero(stays[s]).tolist()
        assert new[s, rows[index]].tolist() == want.tolist()
    assert method == "hard" or (new[stays] < scores.numpy()[stays]).any()


@pytest.mark.parametrize("method", ["ID", "AVG", "IOU_AVG", "GENERALIZED_AVG", "QUASI_SUM", "TEMP_AVG"])
def test_voting_of_sets_with_candidates_of_their_own(method: str) -> None:
    boxes, scores, valid = crowds(2)
    overlaps = box_iou(boxes, boxes)
    s, t = (torch.from_numpy(a) for a in np.nonzero(valid & (np.arange(SIZE) % 4 == 0)))
    voters = overlaps[s, t].where(torch.from_numpy(valid)[s], torch.tensor(-1.0))
    moved, new = vote_of_overlaps(
        voters, boxes[s, t], scores[s, t], boxes[s], scores[s], 0.5,
        scoring_method=method, beta=0.7,  # type: ignore[arg-type]
    )  # fmt: skip
    for number in range(SETS):
        own, rows = s == number, torch.from_numpy(np.flatnonzero(valid[number]))
        want_boxes, want = box_voting(
            boxes[number, t[own]], scores[number, t[own]], boxes[number, rows], scores[number, rows], 0.5,
            scoring_method=method, beta=0.7,  # type: ignore[arg-type]
        )  # fmt: skip
        torch.testing.assert_close(moved[own], want_boxes)
        torch.testing.assert_close(new[own], want)
    assert not torch.equal(moved, boxes[s, t])
