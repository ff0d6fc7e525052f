"""Detecting in single images for tools/: one model on many images, or several models on one."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectune.cli.original import existing_weights, load
from detectune.errors import DataError, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from detectune.engine.inference import Predictor
    from detectune.structures import ClassInfo, Detections

PROPOSAL_WORDS = (
    "MODEL.RPN_ONLY=true",
    "TEST.RPN_PRE_NMS_TOP_N=10000",
    "TEST.RPN_POST_NMS_TOP_N=2000",
)
SAME_OBJECT = 0.5
"""IoU from which a mask or keypoints of one model belong to the box of another."""


def infer_images(
    cfg: str | None,
    weights: str | None,
    place: Path,
    *,
    image_ext: str,
    output_dir: Path,
    output_ext: str,
    always_out: bool,
    thresh: float,
    kp_thresh: float,
) -> None:
    """Draw what one model finds into `output_dir`/<image>.<output_ext>; images without a find only if always_out.

    Raises:
        UserError: at the end, if images could not be read.
    """
    predictor = make_predictor(cfg, weights or "")
    files = find_images(place, image_ext)
    unreadable = []
    for file in files:
        try:
            found = predictor(file)
        except DataError as error:
            unreadable.append(str(error))
            continue
        seen = visible(found, thresh=thresh, kp_thresh=kp_thresh)
        if not len(seen) and not always_out:
            print(f"{file}: nothing found from score {thresh:g} on")
            continue
        target = output_dir / f"{file.name}.{output_ext.lstrip('.')}"
        save_drawn(file, seen, predictor.class_info, target)
        print(f"{file} -> {target}: {len(seen)} found", flush=True)
    if unreadable:
        print("\n".join(unreadable), file=sys.stderr)
        raise UserError(f"{len(unreadable)} of {len(files)} images could not be read; they are named above.")


def infer_with_models(
    image: Path,
    models: Sequence[tuple[str, str]],
    *,
    output_dir: Path,
    proposals: tuple[str, str] | None = None,
    thresh: float = 0.7,
    kp_thresh: float = 2.0,
) -> None:
    """Run (weights, configuration) pairs on one image and draw all that they found as one picture, a PDF.

    Boxes are those of the last model; masks and keypoints those of the last model that has them. `proposals` are
    weights and configuration of a network that proposes for the models that do not do so themselves.
    """
    if not image.is_file():
        raise UserError(f"There is no image {image}; give --im FILE.")
    regions = None if proposals is None else propose(image, *proposals)
    finds: list[tuple[Detections, ClassInfo]] = []
    for weights, cfg in models:
        predictor = make_predictor(cfg, weights)
        finds.append((predictor(image, regions), predictor.class_info))
    found, class_info = combine(finds)
    target = output_dir / f"{image.name}.pdf"
    seen = visible(found, thresh=thresh, kp_thresh=kp_thresh)
    save_drawn(image, seen, class_info, target)
    print(f"{image} -> {target}: {len(seen)} found")


def propose(image: Path, weights: str, cfg: str) -> Tensor:
    """Proposals of a network for an image, float32 [P, 4] in the original frame, as many as Detectron took."""
    predictor = make_predictor(cfg, weights, PROPOSAL_WORDS)
    return predictor(image).boxes


def make_predictor(cfg: str | None, weights: str, words: Sequence[str] = ()) -> Predictor:
    """The detector of a configuration with weights (TEST.WEIGHTS where empty), and its class names."""
    from detectune.engine.inference import Predictor

    given = load(cfg, words, weights=weights)
    chosen = weights or given.config.TEST.WEIGHTS
    if not chosen:
        raise UserError(f"There are no weights for {given.file}: give a file, or set TEST.WEIGHTS.")
    path = existing_weights(chosen)
    if not path.is_file():
        raise UserError(f"There is no weights file {path}.")
    return Predictor(given.config, path)


def find_images(place: Path, image_ext: str) -> list[Path]:
    """The image itself, or the images of a folder whose name ends in `image_ext`."""
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UserError(f"There is no image or folder {place}.")
    files = sorted(place.glob(f"*.{image_ext.lstrip('.')}"))
    if not files:
        raise UserError(f"There is no image *.{image_ext.lstrip('.')} in {place}; see --image-ext.")
    return files


def visible(found: Detections, *, thresh: float, kp_thresh: float) -> Detections:
    """Detections from score `thresh` on, with the logits of their keypoints counted from `kp_thresh`.

    The drawing leaves out points whose third number is not above zero.
    """
    kept = found[found.scores >= thresh]
    if kept.keypoints is None:
        return kept
    points = kept.keypoints.clone()
    points[..., 2] -= kp_thresh
    return dataclasses.replace(kept, keypoints=points)


def save_drawn(file: Path, found: Detections, class_info: ClassInfo, target: Path) -> None:
    """Save an image with its detections in the format that the target's name says, PDF among them."""
    from PIL import Image

    from detectune.data.images import load_image
    from detectune.engine.run_directory import atomic_file, output_errors
    from detectune.engine.visualize import draw_detections

    extension = target.suffix.lower()
    form = Image.registered_extensions().get(extension)
    if form is None or form not in Image.SAVE:
        raise UserError(f"Images cannot be written as *{extension}; use pdf, png or jpg.")
    drawn = Image.fromarray(draw_detections(load_image(file), found, class_info))
    with output_errors(target):
        os.makedirs(target.parent, exist_ok=True)
    with atomic_file(target) as stream:
        drawn.save(stream, form)


def combine(finds: Sequence[tuple[Detections, ClassInfo]]) -> tuple[Detections, ClassInfo]:
    """One set of detections from several models' of one image.

    The boxes are the last model's. Where it has no masks (keypoints), each box takes those of the last model that has
    some, from the detection of the same class name that overlaps it most, by SAME_OBJECT at least.
    """
    import torch

    found, info = finds[-1]
    earlier = list(reversed(finds[:-1]))
    if found.rles is None:
        source = next(((f, i) for f, i in earlier if f.rles), None)
        if source is not None and source[0].rles is not None:
            rles = source[0].rles
            partners = partner(found, info, *source)
            empty = _no_pixel(rles[0])
            found = dataclasses.replace(found, rles=[rles[p] if p >= 0 else empty for p in partners])
    if found.keypoints is None:
        source = next(((f, i) for f, i in earlier if f.keypoints is not None), None)
        if source is not None and source[0].keypoints is not None:
            points, their_info = source[0].keypoints, source[1]
            chosen = points.new_zeros((len(found), *points.shape[1:]))
            chosen[..., 2] = -torch.inf  # drawn from kp_thresh on, so never
            for row, p in enumerate(partner(found, info, *source)):
                if p >= 0:
                    chosen[row] = points[p]
            found = dataclasses.replace(found, keypoints=chosen)
            info = dataclasses.replace(
                info,
                keypoint_names=their_info.keypoint_names,
                keypoint_flip=their_info.keypoint_flip,
                keypoint_skeleton=their_info.keypoint_skeleton,
            )
    return found, info


def partner(found: Detections, info: ClassInfo, others: Detections, their_info: ClassInfo) -> list[int]:
    """For each detection the row of the other one of its class that overlaps it most, -1 without any."""
    import torch

    from detectune.ops.boxes import box_iou

    overlap = box_iou(found.boxes, others.boxes)
    names = [info.names[label - 1] for label in found.labels.tolist()]
    theirs = [their_info.names[label - 1] for label in others.labels.tolist()]
    same = torch.tensor([[a == b for b in theirs] for a in names], dtype=torch.bool)
    overlap = overlap * same.reshape(overlap.shape)
    if overlap.numel() == 0:
        return [-1] * len(found)
    best, row = overlap.max(dim=1)
    return [int(r) if b >= SAME_OBJECT else -1 for b, r in zip(best.tolist(), row.tolist(), strict=True)]


def _no_pixel(like: Mapping[str, Any]) -> dict[str, Any]:
    """The mask of no pixel, of the size of another."""
    import numpy as np
    from hotcoco import mask as coco_mask

    height, width = like["size"]
    nothing: dict[str, Any] = coco_mask.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
    return nothing
