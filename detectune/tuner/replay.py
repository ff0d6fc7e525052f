"""Any setting of the inference knobs on raw outputs: the detections that `test` would give with it, and their AP.

Suppression, voting and thresholds are the very functions of the models, with the rules that the builders make of the
setting; nothing is decided a second time here. What a candidate overlaps is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectune.config.tree import Config
from detectune.data.loader import KEYPOINT_SHIFT
from detectune.engine.class_thresholds import class_thresholds, reaching
from detectune.engine.inference import boxes_to_original
from detectune.evaluation.average_precision import Found, Matched, match, precision_and_recall
from detectune.evaluation.truth import Truth
from detectune.models.geometry import GEOMETRIES
from detectune.ops.masks import masks_to_rles
from detectune.structures import ClassInfo, Record
from detectune.tuner.raw_outputs import RawImage
from detectune.tuner.replay_choice import Pool, Rules

CONFIDENCES = {"bbox": None, "logit": 2, "prob": 3}  # KRCNN.KEYPOINT_CONFIDENCE -> column of a keypoint
TASKS = ("bbox", "segm", "keypoints")
MEASURES: dict[str, tuple[slice, str]] = {
    "AP": (slice(None), "all"), "AP50": (slice(0, 1), "all"), "AP75": (slice(5, 6), "all"),
    "APs": (slice(None), "s"), "APm": (slice(None), "m"), "APl": (slice(None), "l"),
}  # fmt: skip
"""Metric -> which of COCO's thresholds, which size."""
TABLES_KEPT = 16  # of masks at a threshold
RECALLS = ("AR100", "AR")  # of boxes and masks, of keypoints


class Replay:
    """Raw outputs with the truth of their images; `detections` and `measure` answer for any setting.

    Args:
        images: all of a data set, by rising id.
        records: of the same images.
        class_info: their classes.
        config: the configuration around which settings are tried.
        all_proposals: whether the outputs are of every anchor that may become a proposal.
        at_once: see `Pool`.
    """

    def __init__(
        self,
        images: Sequence[RawImage],
        records: Sequence[Record],
        class_info: ClassInfo,
        config: Config,
        *,
        all_proposals: bool,
        at_once: bool = True,
    ) -> None:
        self.images, self.class_info, self.config = list(images), class_info, config
        self.all_proposals = all_proposals
        self.geometry = GEOMETRIES[config.MODEL.GEOMETRY]
        first = images[0]
        self.tasks = (
            ["bbox"]
            + ["segm"] * (first.rles is not None or first.masks is not None)
            + ["keypoints"] * (first.keypoints is not None)
        )
        self.truths = {
            task: Truth(records, class_info, task, sigmas=config.KRCNN.OKS_SIGMAS) for task in self.tasks
        }
        self.pool = Pool(images, num_classes=len(class_info), offset=self.geometry.offset, at_once=at_once)
        scales = [(raw.info.scale_x, raw.info.scale_y) * 2 for raw in images]
        self._scales = torch.tensor(scales)
        self._sizes = torch.tensor([(raw.info.height, raw.info.width) for raw in images])
        self._boxes, self._shown = self._original(torch.cat([raw.boxes for raw in images]), self.pool.image)
        self._tables = {
            task: self._table(task) for task in self.tasks if task != "segm" or first.masks is None
        }
        self._masks_at = lru_cache(TABLES_KEPT)(partial(self._table, "segm"))  # where they are probabilities

    def __len__(self) -> int:
        return len(self.images)

    def found(
        self, config: Config, task: str, images: Sequence[int] | None = None, *, by_box: bool = False
    ) -> Found:
        """What the setting of `config` finds in the images of these numbers (all), with what each overlaps.

        `by_box`: with the scores of boxes also where keypoints are ranked by their own.

        Raises:
            ValueError: if `task` needs masks or keypoints of boxes that voting moves.
        """
        rules = Rules.of(config, all_proposals=self.all_proposals)
        numbers = np.arange(len(self.images)) if images is None else np.asarray(images, dtype=np.int64)
        rows, scores, moved = self.pool.choose(rules, numbers)
        least = class_thresholds(config.TEST.SCORE_THRESH_PER_CLASS, self.class_info)
        if least is not None:
            stays = reaching(scores, self.pool.label[rows], least)
            rows, scores = rows[stays], scores[stays]
            moved = None if moved is None else moved[torch.from_numpy(stays)]
        if moved is not None:
            if task != "bbox":
                raise ValueError("masks and keypoints are those of boxes that voting has not moved")
            return self._voted(rows, scores, moved)
        candidates = (
            self._tables[task] if task in self._tables else self._masks_at(config.MRCNN.THRESH_BINARIZE)
        )
        found = candidates[rows]
        confidence = CONFIDENCES[self.config.KRCNN.KEYPOINT_CONFIDENCE]
        own_scores = task == "keypoints" and confidence is not None and not by_box
        ranked = found.score if own_scores else scores.astype(np.float64)
        return replace(found, score=ranked)[self._shown[rows] & (found.label > 0)]

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

    def _voted(self, rows: np.ndarray, scores: np.ndarray, moved: Tensor) -> Found:
        truth, image, label = self.truths["bbox"], self.pool.image[rows], self.pool.label[rows]
        boxes, shown = self._original(moved, image)
        sides = self._with_sides(boxes)
        objects, overlaps = truth.box_overlaps(image, label, sides)
        found = Found(image, label, scores.astype(np.float64), truth.areas(sides), objects, overlaps)
        return found[shown]

    def _original(self, boxes: Tensor, image: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Boxes [n, 4] of the suppression's frame in the original one, and which of them are shown, bool [n]."""
        number = torch.from_numpy(image)
        scale = self._scales[number].to(boxes.dtype)
        if self.geometry.heads_in_original_frame:
            boxes = boxes * scale
        placed, shown = boxes_to_original(boxes, scale, self._sizes[number], self.geometry)
        return placed.reshape(-1, 4), shown.numpy()

    def _with_sides(self, boxes: Tensor) -> np.ndarray:
        """Corners [n, 4] as result rows have them: left, top, width, height, float64."""
        corners = boxes.numpy().astype(np.float64)
        return np.concatenate(
            (corners[:, :2], corners[:, 2:] - corners[:, :2] + self.geometry.offset), axis=1
        )

    def _table(self, task: str, mask_thresh: float = 0.5) -> Found:
        """All candidates of all images, with what each overlaps; label 0 for those that do not count in the task.

        `mask_thresh` is for masks that are probabilities.
        """
        truth, parts, boxes = self.truths[task], [], self._with_sides(self._boxes)
        for i, raw in enumerate(self.images):
            labels, scores = raw.labels.numpy(), raw.scores.numpy().astype(np.float64)
            own = slice(self.pool.first[i], self.pool.first[i + 1])
            geometry: Any = boxes[own]
            if task == "segm":
                geometry = raw.rles if raw.masks is None else self._cut(raw, self._boxes[own], mask_thresh)
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

    def _cut(self, raw: RawImage, boxes: Tensor, mask_thresh: float) -> list[dict[str, Any]]:
        """The run lengths of an image's masks at a threshold; `boxes` [n, 4] in the original frame."""
        assert raw.masks is not None
        height, width = raw.info.height, raw.info.width
        style = self.geometry.mask_paste
        return masks_to_rles(raw.masks, boxes, height, width, method=style, thresh=mask_thresh)


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
