"""Which anchors become proposals under a setting, in all images at once.

Suppression costs most and is done once for each of its thresholds, on every anchor: greedy suppression of the best of a
level is the beginning of that of all of them, so how many of them enter it, and how many proposals stay, are only cuts.

Shape legend
    L  levels    k  anchors kept of each level    A  anchors of all images    N  candidates of all images
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from detectune.evaluation.average_precision import counted
from detectune.models.rpn import ProposalRule, thin_proposals
from detectune.tuner.raw_outputs import RawImage

SUPPRESSIONS_KEPT = 64


def proposal_ranks(raw: RawImage, rule: ProposalRule, *, offset: float, clip_to: int) -> Tensor:
    """Rank int64 [L * k] that each anchor of an image has among the proposals, -1 for those that become none."""
    assert raw.logits is not None
    num_levels, kept = raw.logits.shape
    width = min(kept, rule.pre_nms_top_n) if rule.pre_nms_top_n > 0 else kept
    index = _thinned(raw, rule, width, offset, clip_to)
    rank = torch.full((num_levels * kept,), -1, dtype=torch.int64)
    rank[index // width * kept + index % width] = torch.arange(len(index))
    return rank


def _thinned(raw: RawImage, rule: ProposalRule, width: int, offset: float, clip_to: int) -> Tensor:
    """The anchors that become proposals, best first, as int64 rows of L * width."""
    assert raw.proposals is not None and raw.logits is not None
    info = raw.info
    index, top = thin_proposals(
        raw.proposals[None, :, :width],
        raw.logits[None, :, :width],
        (raw.size[None] + clip_to - 1) // clip_to * clip_to,
        rule,
        torch.tensor([[info.scale_x, info.scale_y, info.scale_x, info.scale_y]]),
        offset=offset,
    )
    return index[0][top[0] > -torch.inf]


class ProposalSets:
    """The anchors of all images; `seen` answers for any rule what `proposal_ranks` says image by image.

    Args:
        images: with the anchors that may become proposals.
        offset: 1 if boxes are inclusive.
        clip_to: see `build_rules.proposal_clipping`.
    """

    def __init__(self, images: Sequence[RawImage], *, offset: float, clip_to: int) -> None:
        self.images, self.offset, self.clip_to = images, offset, clip_to
        all_logits = [raw.logits for raw in images if raw.logits is not None]
        self.num_levels = all_logits[0].shape[0]
        sizes = [logits.numel() for logits in all_logits]
        self._first = np.concatenate(([0], np.cumsum(sizes)))
        image = np.repeat(np.arange(len(images)), sizes)
        logits = torch.cat([logits.flatten() for logits in all_logits]).numpy()
        places = np.concatenate([np.arange(one.numel()) % one.shape[1] for one in all_logits])
        order = np.lexsort((-logits, image))  # by image and falling logit
        self._order = order[logits[order] > -np.inf]
        self._image, self._logits, self._places = (a[self._order] for a in (image, logits, places))
        self._of_candidates = np.concatenate(
            [first + raw.place.numpy() for first, raw in zip(self._first, images, strict=False)]
        )
        self._survivors = lru_cache(SUPPRESSIONS_KEPT)(self._suppressed)

    def seen(self, rule: ProposalRule) -> np.ndarray:
        """Which candidates come from an anchor that becomes a proposal, bool [N]."""
        stays = self._survivors(replace(rule, pre_nms_top_n=0, post_nms_top_n=0))
        if rule.pre_nms_top_n > 0:
            stays = stays & (self._places < rule.pre_nms_top_n)
        rows = np.flatnonzero(stays)
        tied: np.ndarray = rows[:0]
        if rule.cuts(self.num_levels):
            rank = counted(self._image[rows])
            out = np.flatnonzero(rank == rule.post_nms_top_n)  # the first of each image that is left out
            tied = self._image[rows[out[self._logits[rows[out]] == self._logits[rows[out - 1]]]]]
            rows = rows[rank < rule.post_nms_top_n]
        proposed = np.zeros(self._first[-1], dtype=bool)
        proposed[self._order[rows]] = True
        for i in tied.tolist():  # which of equals stays is decided as the model does
            ranks = proposal_ranks(self.images[i], rule, offset=self.offset, clip_to=self.clip_to)
            proposed[self._first[i] : self._first[i + 1]] = ranks.numpy() >= 0
        return np.asarray(proposed[self._of_candidates])

    def _suppressed(self, rule: ProposalRule) -> np.ndarray:
        """What is acceptable and survives suppression, of all anchors by image and falling logit, bool [A]."""
        stays = np.zeros(self._first[-1], dtype=bool)
        for first, raw in zip(self._first, self.images, strict=False):
            assert raw.logits is not None
            stays[first + _thinned(raw, rule, raw.logits.shape[1], self.offset, self.clip_to).numpy()] = True
        return np.asarray(stays[self._order])
