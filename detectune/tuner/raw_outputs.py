"""What a detector says of images before anything is decided, and the settings that can be tried on it afterwards.

The network runs once (`collect`). A candidate is a region and a class whose score is above a floor; its box, mask and
keypoints do not depend on how candidates are suppressed, so every setting is a choice among them (`replay.py`).

Shape legend
    n  candidates of an image    L  levels    k  anchors kept of each level    K  keypoints    M  side of a mask
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from detectune.engine.inference import Predictor, to_original
from detectune.models.detections import frame_scale
from detectune.models.keypoint_head import place_keypoints
from detectune.models.rcnn import RCNN
from detectune.models.retinanet import RetinaNet
from detectune.models.rpn import Proposals
from detectune.structures import Detections, ImageBatch, ImageInfo

CHUNK = 256  # candidates of an image whose masks or keypoints are made at a time


@dataclass(frozen=True)
class RawImage:
    """One image's candidates, on the host.

    Attributes:
        size: int64 [2], height and width in the network frame.
        boxes: float32 [n, 4], in the frame in which they are suppressed.
        scores, labels: float32 [n], int64 [n].
        place: int64 [n]. Where the candidate comes from: of proposals before suppression their row in L * k, of others
            their rank; of RetinaNet's anchors the level.
        proposals, logits: float32 [L, k, 4] and [L, k], where proposals are kept before suppression.
        rles: masks in the original frame, of one threshold.
        masks: float32 [n, M, M], probabilities in the box, where any threshold is to be tried instead.
        keypoints: float32 [n, K, 4], original frame.
    """

    info: ImageInfo
    size: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    place: Tensor
    proposals: Tensor | None = None
    logits: Tensor | None = None
    rles: list[dict[str, Any]] | None = None
    masks: Tensor | None = None
    keypoints: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scores)


def collect(
    predictor: Predictor,
    images: ImageBatch,
    *,
    all_proposals: bool,
    shapes: bool,
    mask_thresh: float | None,
) -> list[RawImage]:
    """The candidates of a batch.

    Args:
        predictor: of a configuration whose thresholds are those of the cache: the lowest score, most proposals.
        images: as for `Predictor.predict`.
        all_proposals: look at every anchor that may become a proposal under some setting, not at the proposals.
        shapes: make masks and keypoints too.
        mask_thresh: probability from which a pixel belongs to a mask; None to keep the probabilities.
    """
    images = images.to(predictor.compute.device, non_blocking=True)
    with torch.inference_mode():
        if isinstance(predictor.model, RetinaNet):
            return _of_anchors(predictor.model, images)
        assert isinstance(predictor.model, RCNN)
        return list(_of_regions(predictor, images, all_proposals, shapes, mask_thresh))


def _of_anchors(model: RetinaNet, images: ImageBatch) -> list[RawImage]:
    out, anchors = model.score(images)
    raw = []
    for i, (info, size) in enumerate(zip(images.infos, images.sizes, strict=True)):
        seen = model.candidates(out, anchors, i, info, size)
        boxes, scores, labels, levels = (t.cpu() for t in seen)
        raw.append(RawImage(info, size.cpu(), boxes, scores, labels, levels))
    return raw


def _of_regions(
    predictor: Predictor, images: ImageBatch, all_proposals: bool, shapes: bool, mask_thresh: float | None
) -> Iterator[RawImage]:
    model = predictor.model
    features = model.features_of(images)
    boxes = logits = None
    if all_proposals:
        scored = model.score_anchors(model.rpn, features, images)
        boxes, logits = model.rpn.candidates(scored, model.clipping_sizes(images.sizes), model.rpn.test_rule)
        flat = logits.flatten(1)
        proposals = Proposals(boxes.flatten(1, 2), flat, flat > -torch.inf)
    else:
        proposals = model.propose(features, images)
    found, places = [], []
    for i, scored in enumerate(model.score(features, proposals, images)):
        place, box, score, label = model.candidates(scored, images.infos[i], images.sizes[i])
        if len(scored.boxes) < proposals.boxes.shape[1]:  # rows that only pad were dropped
            place = proposals.valid[i].nonzero()[:, 0][place]
        found.append(Detections(box, score, label))
        places.append(place)
    rule = model.detection_rule
    network = [
        replace(d, boxes=d.boxes * frame_scale(info, d.boxes)) if rule.original_frame else d
        for d, info in zip(found, images.infos, strict=True)
    ]
    shaped = _shapes(predictor, features, network, images, mask_thresh) if shapes else [Shapes()] * len(found)
    for i, (d, own) in enumerate(zip(found, shaped, strict=True)):
        yield RawImage(
            images.infos[i], images.sizes[i].cpu(), d.boxes.cpu(), d.scores.cpu(), d.labels.cpu(), places[i].cpu(),
            None if boxes is None else boxes[i].cpu(), None if logits is None else logits[i].cpu(),
            own.rles, own.masks, own.keypoints,
        )  # fmt: skip


@dataclass(frozen=True)
class Shapes:
    """Masks and keypoints of an image's candidates, as `RawImage` has them; None without a head for them."""

    rles: list[dict[str, Any]] | None = None
    masks: Tensor | None = None
    keypoints: Tensor | None = None


def _shapes(
    predictor: Predictor,
    features: Any,
    found: Sequence[Detections],
    images: ImageBatch,
    mask_thresh: float | None,
) -> list[Shapes]:
    model = predictor.model
    soft = model.mask_head is not None and mask_thresh is None
    cut = model.mask_head is not None and not soft
    rles: list[list[dict[str, Any]]] = [[] for _ in found]
    masks: list[list[Tensor]] = [[] for _ in found]
    points: list[list[Tensor]] = [[] for _ in found]
    alone = replace(model.pose_rule, oks_thresh=1.0)  # poses do not suppress each other here
    for start in range(0, max(1, *(len(d) for d in found)), CHUNK):
        rows = torch.arange(start, start + CHUNK)
        part = [d[rows[rows < len(d)]] for d in found]
        if model.mask_head is not None:
            part = model.add_masks(features, part)
            if soft:
                for own, d in zip(masks, part, strict=True):
                    assert d.masks is not None
                    own.append(d.masks.float().cpu())
                part = [replace(d, masks=None) for d in part]  # so that none is cut below
        if model.keypoint_head is not None:
            maps = model.keypoint_maps(features, part)
            part = [
                place_keypoints(own, d, (info.scale_x, info.scale_y), alone)
                for own, d, info in zip(maps, part, images.infos, strict=True)
            ]
        for i, (d, info) in enumerate(zip(part, images.infos, strict=True)):
            numbered = replace(d, labels=torch.arange(len(d)))
            original = to_original(numbered, info, predictor.geometry, mask_thresh=mask_thresh or 0.0)
            kept = original.labels.tolist()  # boxes that are empty in the original frame are never shown
            if original.rles is not None:
                here = dict(zip(kept, original.rles, strict=True))
                nothing = {"size": [info.height, info.width], "counts": ""}
                rles[i] += [here.get(row, nothing) for row in range(len(d))]
            if original.keypoints is not None:
                placed = original.keypoints.new_zeros((len(d), *original.keypoints.shape[1:]))
                placed[kept] = original.keypoints
                points[i].append(placed)
    return [
        Shapes(
            rles[i] if cut else None,
            torch.cat(masks[i]) if soft else None,
            torch.cat(points[i]) if model.keypoint_head is not None else None,
        )
        for i in range(len(found))
    ]
