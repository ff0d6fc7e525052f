"""Any setting of the inference knobs on raw outputs: the detections that `test` would give with it, and their AP.

Suppression, voting and thresholds are the very functions of the models, with the rules that the builders make of the
setting; nothing is decided a second time here. What a candidate overlaps is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectune.config.tree import Config
from detectune.data.loader import KEYPOINT_SHIFT
from detectune.engine.inference import to_original
from detectune.evaluation.average_precision import Found, Matched, match, precision_and_recall
from detectune.evaluation.truth import Truth
from detectune.models.build_rules import (
    build_detection_rule,
    build_one_stage_rule,
    build_proposal_rule,
    proposal_clipping,
)
from detectune.models.detections import DetectionRule, best_detections, frame_scale, survivors
from detectune.models.geometry import GEOMETRIES
from detectune.models.retinanet_detections import OneStageRule
from detectune.models.rpn import ProposalRule, thin_proposals
from detectune.structures import ClassInfo, Detections, Record
from detectune.tuner.raw_outputs import RawImage

CONFIDENCES = {"bbox": None, "logit": 2, "prob": 3}  # KRCNN.KEYPOINT_CONFIDENCE -> column of a keypoint
TASKS = ("bbox", "segm", "keypoints")
MEASURES: dict[str, tuple[slice, str]] = {
    "AP": (slice(None), "all"), "AP50": (slice(0, 1), "all"), "AP75": (slice(5, 6), "all"),
    "APs": (slice(None), "s"), "APm": (slice(None), "m"), "APl": (slice(None), "l"),
}  # fmt: skip
"""Metric -> which of COCO's thresholds, which size."""
RECALLS = ("AR100", "AR")  # of boxes and masks, of keypoints


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
        uncut = proposal.nms_thresh <= 0 and not config.FPN.MULTILEVEL_RPN
        return Rules(
            build_detection_rule(config, geometry),
            proposal if all_proposals else None,
            float("inf") if uncut or not config.MODEL.FASTER_RCNN else proposal.post_nms_top_n,
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
    rows = _seen_anchors(raw, rule) if isinstance(rule, OneStageRule) else _seen_regions(raw, rules)
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
    rank = _proposal_ranks(raw, rules.proposal, rules)[raw.place]
    rows = (above & (rank >= 0)).nonzero()[:, 0]
    return rows[torch.sort(rank[rows], stable=True).indices]


def _proposal_ranks(raw: RawImage, rule: ProposalRule, rules: Rules) -> Tensor:
    """Rank int64 [L * k] that each anchor has among the proposals, -1 for those that become none."""
    assert raw.proposals is not None and raw.logits is not None
    num_levels, kept = raw.logits.shape
    width = min(kept, rule.pre_nms_top_n) if rule.pre_nms_top_n > 0 else kept
    info, unit = raw.info, rules.clip_to
    index, top = thin_proposals(
        raw.proposals[None, :, :width],
        raw.logits[None, :, :width],
        (raw.size[None] + unit - 1) // unit * unit,
        rule,
        torch.tensor([[info.scale_x, info.scale_y, info.scale_x, info.scale_y]]),
        offset=rules.offset,
    )
    index = index[0][top[0] > -torch.inf]
    rank = torch.full((num_levels * kept,), -1, dtype=torch.int64)
    rank[index // width * kept + index % width] = torch.arange(len(index))
    return rank


def _seen_anchors(raw: RawImage, rule: OneStageRule) -> Tensor:
    """The first `pre_nms_top_n` of each level that pass the threshold."""
    coarsest = int(raw.place.max()) if len(raw) else 0
    rows = [torch.zeros(0, dtype=torch.int64)]
    for level in range(coarsest + 1):
        thresh = rule.coarsest_score_thresh if level == coarsest else rule.score_thresh
        mine = ((raw.place == level) & (raw.scores > thresh)).nonzero()[:, 0]
        rows.append(mine[: rule.pre_nms_top_n])
    return torch.cat(rows)


class Replay:
    """Raw outputs with the truth of their images; `detections` and `measure` answer for any setting.

    Args:
        images: all of a data set, by rising id.
        records: of the same images.
        class_info: their classes.
        config: the configuration around which settings are tried.
        all_proposals: whether the outputs are of every anchor that may become a proposal.
    """

    def __init__(
        self,
        images: Sequence[RawImage],
        records: Sequence[Record],
        class_info: ClassInfo,
        config: Config,
        *,
        all_proposals: bool,
    ) -> None:
        self.images, self.class_info, self.config = list(images), class_info, config
        self.all_proposals = all_proposals
        self.geometry = GEOMETRIES[config.MODEL.GEOMETRY]
        first = images[0]
        self.tasks = (
            ["bbox"] + ["segm"] * (first.rles is not None) + ["keypoints"] * (first.keypoints is not None)
        )
        self.truths = {
            task: Truth(records, class_info, task, sigmas=config.KRCNN.OKS_SIGMAS) for task in self.tasks
        }
        self._first = np.concatenate(([0], np.cumsum([len(raw) for raw in images])))
        originals = [self._original(raw, raw.boxes, torch.arange(len(raw))) for raw in images]
        self._shown = np.zeros(int(self._first[-1]), dtype=bool)
        boxes = np.zeros((len(self._shown), 4))
        for start, original in zip(self._first, originals, strict=False):
            rows = start + original.labels.numpy()
            self._shown[rows] = True
            boxes[rows] = self._box_rows(original.boxes)
        self._tables = {task: self._table(task, boxes) for task in self.tasks}

    def __len__(self) -> int:
        return len(self.images)

    def found(self, config: Config, task: str, images: Sequence[int] | None = None) -> Found:
        """What the setting of `config` finds in the images of these numbers (all), with what each overlaps.

        Raises:
            ValueError: if `task` needs masks or keypoints of boxes that voting moves.
        """
        rules = Rules.of(config, all_proposals=self.all_proposals)
        numbers = range(len(self.images)) if images is None else images
        chosen = [(i, choose(self.images[i], rules)) for i in numbers]
        if rules.detection.voting is not None:
            if task != "bbox":
                raise ValueError("masks and keypoints are those of boxes that voting has not moved")
            return _joined([self._voted(i, one) for i, one in chosen])
        table = self._tables[task]
        rows = np.concatenate([self._first[i] + one.rows.numpy() for i, one in chosen])
        scores = np.concatenate([one.scores.numpy() for _, one in chosen]).astype(np.float64)
        found = table[rows]
        ranked = (
            found.score
            if task == "keypoints" and CONFIDENCES[self.config.KRCNN.KEYPOINT_CONFIDENCE]
            else scores
        )
        counts = self._shown[rows] & (found.label > 0)
        return replace(found, score=ranked)[counts]

    def matched(
        self, config: Config, task: str, images: Sequence[int] | None = None, *, area: str = "all"
    ) -> Matched:
        """`found`, matched with the truth."""
        truth = self.truths[task]
        return match(self.found(config, task, images), truth.objects, area=area, limit=truth.limit)

    def measure(self, config: Config, metric: str, images: Sequence[int] | None = None) -> float:
        """A metric, as bbox/AP75, of a setting on the images of these numbers; NaN where it is not defined."""
        task, _, name = metric.partition("/")
        area = MEASURES[name][1] if name in MEASURES else "all"
        return measure_matched(self.matched(config, task, images, area=area), name, self.weights(images))

    def weights(self, images: Sequence[int] | None) -> np.ndarray:
        """1 for the images of these numbers, 0 for the others, float64 [I]."""
        weights = np.zeros(len(self.images))
        weights[list(range(len(self.images)) if images is None else images)] = 1
        return weights

    def _voted(self, i: int, one: Chosen) -> Found:
        assert one.moved is not None
        raw, truth = self.images[i], self.truths["bbox"]
        original = self._original(raw, one.moved, torch.arange(len(one.rows)))
        rows = original.labels
        boxes, labels = self._box_rows(original.boxes), raw.labels[one.rows[rows]].numpy()
        objects, overlaps = truth.overlaps(raw.info.image_id, labels, boxes)
        return Found(
            np.full(len(labels), i), labels, one.scores[rows].numpy().astype(np.float64), truth.areas(boxes),
            objects, overlaps,
        )  # fmt: skip

    def _original(self, raw: RawImage, boxes: Tensor, numbers: Tensor) -> Detections:
        """Boxes of the suppression's frame as `test` shows them; labels are `numbers`, as empty boxes are dropped."""
        if self.geometry.heads_in_original_frame:
            boxes = boxes * frame_scale(raw.info, boxes)
        return to_original(Detections(boxes, torch.zeros(len(boxes)), numbers), raw.info, self.geometry)

    def _box_rows(self, boxes: Tensor) -> np.ndarray:
        """Boxes as result rows have them, float64 [n, 4]."""
        corners, offset = boxes.numpy().astype(np.float64).reshape(-1, 4), self.geometry.offset
        return np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2] + offset), axis=1)

    def _table(self, task: str, boxes: np.ndarray) -> Found:
        """All candidates of all images, with what each overlaps; label 0 for those that do not count in the task."""
        truth, parts = self.truths[task], []
        for i, raw in enumerate(self.images):
            labels, scores = raw.labels.numpy(), raw.scores.numpy().astype(np.float64)
            geometry: Any = boxes[self._first[i] : self._first[i + 1]]
            if task == "segm":
                geometry = raw.rles
            elif task == "keypoints":
                assert raw.keypoints is not None
                points = raw.keypoints
                column = CONFIDENCES[self.config.KRCNN.KEYPOINT_CONFIDENCE]
                if column is not None:
                    scores = points[:, :, column].mean(1).numpy().astype(np.float64)
                places = points[..., :2] - KEYPOINT_SHIFT[self.config.MODEL.GEOMETRY]
                geometry = places.numpy().astype(np.float64)
                labels = np.where([self.class_info.has_keypoints(k) for k in labels.tolist()], labels, 0)
            objects, overlaps = truth.overlaps(raw.info.image_id, labels, geometry)
            areas = truth.areas(geometry)
            parts.append(Found(np.full(len(raw), i), labels, scores, areas, objects, overlaps))
        return _joined(parts)


def measure_matched(matched: Matched, name: str, weights: np.ndarray) -> float:
    """AP, AP50, AP75 or average recall, over the classes that have objects."""
    precision, recall = precision_and_recall(matched, weights)
    values = recall if name in RECALLS else precision[MEASURES[name][0]]
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _joined(parts: Sequence[Found]) -> Found:
    width = max(part.objects.shape[1] for part in parts)

    def wide(array: np.ndarray, fill: float) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)

    image, label, score, area = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("image", "label", "score", "area")
    )
    objects = np.concatenate([wide(part.objects, -1) for part in parts])
    return Found(
        image, label, score, area, objects, np.concatenate([wide(part.overlaps, 0.0) for part in parts])
    )
