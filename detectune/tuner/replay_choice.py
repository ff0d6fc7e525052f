"""Which candidates a setting of the inference knobs leaves: image by image, or all images at once.

Suppression, voting and the cut are the models' functions, with the rules that the builders make of a configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detectune.config.tree import Config
from detectune.evaluation.average_precision import counted
from detectune.models.build_rules import (
    build_detection_rule,
    build_one_stage_rule,
    build_proposal_rule,
    proposal_clipping,
)
from detectune.models.detections import DetectionRule, best_detections, survivors
from detectune.models.geometry import GEOMETRIES
from detectune.models.retinanet_detections import OneStageRule
from detectune.models.rpn import ProposalRule
from detectune.tuner.proposal_sets import ProposalSets, proposal_ranks
from detectune.tuner.raw_outputs import RawImage
from detectune.tuner.suppression_sets import make_blocks, survivors_of


@dataclass(frozen=True)
class Rules:
    """What a setting says, as the models take it."""

    detection: DetectionRule | OneStageRule
    proposal: ProposalRule | None  # None: proposals were suppressed before the heads saw them
    most_proposals: float
    offset: float
    clip_to: int  # see `build_rules.proposal_clipping`

    @staticmethod
    def of(config: Config, *, all_proposals: bool) -> Rules:
        """The rules of a configuration."""
        geometry = GEOMETRIES[config.MODEL.GEOMETRY]
        if config.RETINANET.RETINANET_ON:
            return Rules(build_one_stage_rule(config, geometry), None, 0, geometry.offset, 1)
        proposal = build_proposal_rule(config.TEST, geometry)
        levels = config.FPN.RPN_MAX_LEVEL - config.FPN.RPN_MIN_LEVEL + 1 if config.FPN.MULTILEVEL_RPN else 1
        cut = config.MODEL.FASTER_RCNN and proposal.cuts(levels)
        return Rules(
            build_detection_rule(config, geometry),
            proposal if all_proposals else None,
            proposal.post_nms_top_n if cut else float("inf"),
            geometry.offset,
            proposal_clipping(config, geometry),
        )


@dataclass(frozen=True)
class Chosen:
    """What a setting finds in one image, best first."""

    rows: Tensor  # int64 [N], of the image's candidates
    scores: Tensor  # float32 [N]
    moved: Tensor | None  # float32 [N, 4], frame of suppression: boxes that are no longer the candidates' own


def choose(raw: RawImage, rules: Rules) -> Chosen:
    """The detections of one image under a setting."""
    rule = rules.detection
    rows = seen_anchors(raw, rule) if isinstance(rule, OneStageRule) else _seen_regions(raw, rules)
    boxes, scores, kept = survivors(raw.boxes[rows], raw.scores[rows], raw.labels[rows], rule)
    if isinstance(rule, DetectionRule):
        boxes, scores, kept = best_detections(boxes, scores, kept, rule)
    elif rule.max_detections > 0:
        boxes, scores, kept = (t[: rule.max_detections] for t in (boxes, scores, kept))
    return Chosen(rows[kept], scores, boxes if rule.voting is not None else None)


def _seen_regions(raw: RawImage, rules: Rules) -> Tensor:
    """The candidates that pass the threshold, in the order of the proposals that the setting leaves."""
    above = raw.scores > rules.detection.score_thresh
    if rules.proposal is None:
        return (above & (raw.place < rules.most_proposals)).nonzero()[:, 0]
    rank = proposal_ranks(raw, rules.proposal, offset=rules.offset, clip_to=rules.clip_to)[raw.place]
    rows = (above & (rank >= 0)).nonzero()[:, 0]
    return rows[torch.sort(rank[rows], stable=True).indices]


def seen_anchors(raw: RawImage, rule: OneStageRule) -> Tensor:
    """The first `pre_nms_top_n` of each level that pass the threshold."""
    coarsest = int(raw.place.max()) if len(raw) else 0
    rows = [torch.zeros(0, dtype=torch.int64)]
    for level in range(coarsest + 1):
        thresh = rule.coarsest_score_thresh if level == coarsest else rule.score_thresh
        mine = ((raw.place == level) & (raw.scores > thresh)).nonzero()[:, 0]
        rows.append(mine[: rule.pre_nms_top_n])
    return torch.cat(rows)


class Pool:
    """The candidates of all images, one after the other.

    Args:
        images: their raw outputs.
        num_classes: foreground classes.
        offset: 1 if boxes are inclusive.
        at_once: suppress all images together where their overlaps fit into memory; else one by one.
    """

    def __init__(
        self, images: Sequence[RawImage], *, num_classes: int, offset: float, at_once: bool = True
    ) -> None:
        self.images = images
        counts = [len(raw) for raw in images]
        self.first = np.concatenate(([0], np.cumsum(counts)))
        self.image = np.repeat(np.arange(len(images)), counts)
        self.label = torch.cat([raw.labels for raw in images]).numpy()
        self.score = torch.cat([raw.scores for raw in images]).numpy()
        self.place = torch.cat([raw.place for raw in images]).numpy()
        boxes = torch.cat([raw.boxes for raw in images])
        self._blocks = None
        self._proposals: ProposalSets | None = None  # made where a setting asks for it
        if at_once:
            sets = self.image * (num_classes + 1) + self.label
            self._blocks = make_blocks(boxes, self.score, sets, offset=offset)

    def choose(self, rules: Rules, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, Tensor | None]:
        """What a setting finds in the images of these numbers: rows int64 [M] by image and falling score, scores
        float32 [M], and boxes [M, 4] in the frame of suppression where voting moves them.
        """
        if self._blocks is None:
            return self._one_by_one(rules, images)
        rule = rules.detection
        active = self._active(rules) & np.isin(self.image, images)
        rows, before, scores, moved = survivors_of(self._blocks, active, rule)
        # Two that have the same voters have one score: they stay in the order that they had before.
        order = np.lexsort((rows, -before, self.label[rows], -scores, self.image[rows]))
        image, score = self.image[rows[order]], scores[order]
        if rule.max_detections > 0:
            rank = counted(image)
            stays = rank < rule.max_detections
            if isinstance(rule, DetectionRule) and rule.keep_ties:
                last = np.full(len(self.images), np.inf, dtype=np.float32)
                ends = rank == rule.max_detections - 1
                last[image[ends]] = score[ends]
                stays |= score >= last[image]
            order = order[stays]
        return rows[order], scores[order], None if moved is None else moved[torch.from_numpy(order)]

    def _active(self, rules: Rules) -> np.ndarray:
        """What passes the thresholds and comes from a region or anchor that the setting looks at, bool [N]."""
        rule = rules.detection
        if isinstance(rule, OneStageRule):
            active = np.zeros(len(self.score), dtype=bool)
            for i, raw in enumerate(self.images):
                active[self.first[i] + seen_anchors(raw, rule).numpy()] = True
            return active
        above = self.score > np.float32(rule.score_thresh)
        if rules.proposal is None:
            return np.asarray(above & (self.place < rules.most_proposals))
        if self._proposals is None:
            self._proposals = ProposalSets(self.images, offset=rules.offset, clip_to=rules.clip_to)
        return np.asarray(above & self._proposals.seen(rules.proposal))

    def _one_by_one(self, rules: Rules, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, Tensor | None]:
        chosen = [(i, choose(self.images[i], rules)) for i in images.tolist()]
        rows = np.concatenate([self.first[i] + one.rows.numpy() for i, one in chosen])
        scores = torch.cat([one.scores for _, one in chosen]).numpy()
        moved = [one.moved for _, one in chosen if one.moved is not None]
        return rows, scores, torch.cat(moved) if moved else None
