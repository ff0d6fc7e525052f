"""Proposals of all images at once are those of the model, image by image, under any rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from detectune.models.rpn import ProposalRule, thin_proposals
from detectune.structures import ImageInfo
from detectune.tuner.proposal_sets import ProposalSets, proposal_ranks
from detectune.tuner.raw_outputs import RawImage

HEIGHT, WIDTH = 60, 80


def anchors(rng: np.random.Generator, *, levels: int, kept: int, decimals: int) -> RawImage:
    """An image in which some anchors pad their level and, where logits are rounded, many are equal."""
    corners = rng.uniform(0, (WIDTH - 1, HEIGHT - 1), (levels, kept, 2))
    sides = rng.gamma(2.0, 8.0, (levels, kept, 2))
    boxes = np.concatenate((corners, np.minimum(corners + sides, (WIDTH, HEIGHT))), axis=-1)
    logits = -np.sort(-rng.normal(0, 1, (levels, kept)).round(decimals), axis=1)
    logits[-1, kept - 4 :] = -np.inf
    place = torch.from_numpy(rng.permutation(levels * kept)[:50])
    return RawImage(
        ImageInfo(1, "x", HEIGHT // 2, WIDTH // 2, 2.0, 2.0), torch.tensor([HEIGHT, WIDTH]), torch.zeros(50, 4),
        torch.ones(50), torch.ones(50, dtype=torch.int64), place,
        torch.from_numpy(boxes).float(), torch.from_numpy(logits).float(),
    )  # fmt: skip


@pytest.mark.parametrize("levels", [1, 4])
@pytest.mark.parametrize("decimals", [6, 1])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_any_rule_in_all_images_at_once(levels: int, decimals: int, offset: float) -> None:
    rng = np.random.default_rng(levels)
    images = [anchors(rng, levels=levels, kept=kept, decimals=decimals) for kept in (40, 60, 60)]
    sets = ProposalSets(images, offset=offset, clip_to=1)
    counts = set()
    for _ in range(30):
        rule = ProposalRule(
            int(rng.choice([0, 7, 25, 100])), int(rng.choice([0, 5, 20, 60])), float(rng.choice([0.0, 0.4, 0.7])),
            float(rng.choice([0.0, 6.0])), min_size_original=bool(rng.integers(2)), centre_inside=bool(rng.integers(2)),
        )  # fmt: skip
        want = [proposal_ranks(raw, rule, offset=offset, clip_to=1)[raw.place] >= 0 for raw in images]
        seen = sets.seen(rule)
        assert seen.tolist() == torch.cat(want).tolist(), rule
        counts.add(int(seen.sum()))
    assert len(counts) > 8  # rules differ


def test_suppression_is_done_once_for_its_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(*given: Any, **more: Any) -> Any:
        calls.append(given)
        return thin_proposals(*given, **more)

    monkeypatch.setattr("detectune.tuner.proposal_sets.thin_proposals", counting)
    rng = np.random.default_rng(0)
    images = [anchors(rng, levels=2, kept=40, decimals=6) for _ in range(3)]
    sets = ProposalSets(images, offset=0.0, clip_to=1)
    for thresh in (0.5, 0.7, 0.5):
        for best in (10, 20, 40):
            sets.seen(ProposalRule(best, best, thresh))
    assert len(calls) == 2 * len(images)
