"""From images to detections in original pixels.

`to_original` is the only place that undoes the resize. `Predictor` runs a detector on single images and on batches;
`engine.testing.test` does so for whole data sets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detectune.config.tree import Config
from detectune.data.coco_names import COCO_CLASSES, COCO_IDS, COCO_PERSON
from detectune.data.collate import single_image, split_images
from detectune.data.datasets import resolve_dataset
from detectune.data.images import load_image
from detectune.data.known_datasets import KNOWN
from detectune.data.loader import KEYPOINT_SHIFT, RESIZE, build_loader
from detectune.data.named_proposals import NamedProposals
from detectune.engine.acceleration import accelerate
from detectune.engine.build_augmentation import build_augmentation
from detectune.engine.class_thresholds import class_thresholds, reaching
from detectune.engine.dialect import in_dialect_of, with_box_weights_of
from detectune.engine.precision import choose_compute
from detectune.errors import DataError, UserError, WeightsError
from detectune.models.build import build_detector
from detectune.models.geometry import GEOMETRIES, Geometry
from detectune.ops.boxes import clip_boxes
from detectune.ops.masks import masks_to_rles
from detectune.structures import ClassInfo, Detections, ImageBatch, ImageInfo
from detectune.weights.downloads import local_weights
from detectune.weights.files import read_weights
from detectune.weights.last_stage import place_last_stage
from detectune.weights.native import fit_weights


def to_original(
    detections: Detections, info: ImageInfo, geometry: Geometry, *, mask_thresh: float = 0.5
) -> Detections:
    """Network frame to original frame: boxes scaled back and clipped, soft masks pasted as RLEs of the whole image."""
    scale = detections.boxes.new_tensor((info.scale_x, info.scale_y, info.scale_x, info.scale_y))
    size = torch.tensor([info.height, info.width], device=scale.device)
    boxes, shown = boxes_to_original(detections.boxes, scale, size, geometry)
    found = Detections(boxes, detections.scores, detections.labels, detections.masks, detections.keypoints)
    if geometry.drop_empty_boxes:
        found = found[shown]
    found = found.to("cpu")
    if found.keypoints is not None:
        found.keypoints = found.keypoints / found.keypoints.new_tensor((info.scale_x, info.scale_y, 1.0, 1.0))
    if found.masks is not None:
        found.rles = masks_to_rles(
            found.masks, found.boxes, info.height, info.width, method=geometry.mask_paste, thresh=mask_thresh
        )
        found.masks = None
    return found


def boxes_to_original(
    boxes: torch.Tensor, scale: torch.Tensor, size: torch.Tensor, geometry: Geometry
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes [N, 4] of the network frame in the original one, clipped, and which of them are shown, bool [N].

    `scale` ([4] or [N, 4]) is network over original pixels, `size` ([2] or [N, 2]) the height and width of the image.
    """
    boxes = clip_boxes(boxes / scale, size, offset=geometry.offset)
    shown = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes, shown if geometry.drop_empty_boxes else torch.ones_like(shown)


def coco_rows(
    detections: Detections,
    info: ImageInfo,
    class_info: ClassInfo,
    *,
    offset: float,
    keypoint_shift: float = 0.0,
    keypoint_confidence: str = "bbox",
) -> list[dict[str, Any]]:
    """COCO's result rows, one per detection; `bbox` is [x, y, w, h], w and h counting the last pixel at offset 1.

    `keypoints` are x, y and the probability of the place, in turn, for classes that have any. COCO's keypoints name
    pixels: `keypoint_shift`, which the loader adds for the dialect, is taken off again. `keypoint_score`, by which
    keypoints are ranked, is there unless it is the box's score (KRCNN.KEYPOINT_CONFIDENCE).
    """
    column = {"bbox": None, "logit": 2, "prob": 3}[keypoint_confidence]
    rows = []
    for i, (box, score, label) in enumerate(
        zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    ):
        x1, y1, x2, y2 = box
        row: dict[str, Any] = {
            "file_name": info.file_name,
            "image_id": info.image_id,
            "label": label,
            "category_id": class_info.category_ids[label - 1],
            "category_name": class_info.names[label - 1],
            "bbox": [x1, y1, x2 - x1 + offset, y2 - y1 + offset],
            "score": score,
        }
        if detections.rles is not None:
            row["segmentation"] = detections.rles[i]
        if detections.keypoints is not None and class_info.has_keypoints(label):
            points = detections.keypoints[i]
            places = torch.cat((points[:, :2] - keypoint_shift, points[:, 3:]), dim=1)
            row["keypoints"] = places.reshape(-1).tolist()
            if column is not None:
                row["keypoint_score"] = float(points[:, column].mean())
            row["keypoint_logits"] = points[:, 2].tolist()
        rows.append(row)
    return rows


class Predictor:
    """A detector for single images.

        predictor = Predictor(load_config("shapes.yaml"), "model_final.safetensors")
        detections = predictor("photo.jpg")

    Class names come from the weights file, else from the configuration's data sets.

    Raises:
        WeightsError: if the weights cannot be read or do not fit the configuration.
        UserError: if TEST.SCORE_THRESH_PER_CLASS names a class that is none.
    """

    def __init__(
        self,
        config: Config,
        weights: Path | str | None = None,
        *,
        model: nn.Module | None = None,
        class_info: ClassInfo | None = None,
        log: Callable[[str], None] = print,
    ) -> None:
        if config.MODEL.TYPE == "classifier":
            raise UserError("MODEL.TYPE is classifier; Predictor finds objects, so take ClassPredictor.")
        if model is None:
            named = weights or config.TEST.WEIGHTS
            if not named:
                raise WeightsError("There are no weights: give a file, or set TEST.WEIGHTS.")
            path = local_weights(named, download_cache=config.DOWNLOAD_CACHE)
            config = in_dialect_of(path, config, log=log)
            model, class_info = load_detector(config, path, class_info, log=log)
        self.geometry = GEOMETRIES[config.MODEL.GEOMETRY]
        self.class_info = class_info or numbered_classes(config.MODEL.NUM_CLASSES - 1)
        self.compute = choose_compute(
            device=config.MODEL.DEVICE,
            precision=config.TEST.PRECISION,
            memory_format=config.MODEL.MEMORY_FORMAT,
            key="TEST",
        )
        self.model: Any = accelerate(model, self.compute, compiled=config.TEST.COMPILE, log=log)
        self._style = RESIZE[config.MODEL.GEOMETRY] if config.INPUT.RESIZE == "auto" else config.INPUT.RESIZE
        self._short_side, self._max_size = config.TEST.SCALE, config.TEST.MAX_SIZE
        self._stride = config.FPN.COARSEST_STRIDE if config.FPN.FPN_ON else 1
        self._proposal_limit = config.TEST.PROPOSAL_LIMIT
        self.mask_thresh = config.MRCNN.THRESH_BINARIZE
        self._keypoint_shift = KEYPOINT_SHIFT[config.MODEL.GEOMETRY]
        self.keypoint_confidence = config.KRCNN.KEYPOINT_CONFIDENCE
        self.least_scores = (  # by label, float64 [C + 1]; proposals have no classes
            None
            if config.MODEL.RPN_ONLY
            else class_thresholds(config.TEST.SCORE_THRESH_PER_CLASS, self.class_info)
        )
        self.augmented = build_augmentation(
            config,
            self.model,
            style=self._style,
            stride=self._stride,
            keypoint_flip=self.class_info.keypoint_flip,
            log=log,
        )

    def __call__(self, image: np.ndarray | Path | str, proposals: torch.Tensor | None = None) -> Detections:
        """Detections in the original frame, best first. `image` is uint8 [H, W, 3] RGB or a file.

        `proposals` [P, 4] (original frame, dialect boxes) are for models that make none themselves.
        """
        pixels = load_image(image) if isinstance(image, Path | str) else image
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise DataError(f"An image must be uint8 [H, W, 3] RGB, not {pixels.dtype} {list(pixels.shape)}.")
        batch = single_image(
            pixels,
            short_side=self._short_side,
            max_size=self._max_size,
            style=self._style,
            stride=self._stride,
        )
        if proposals is not None:
            info = batch.infos[0]
            scale = torch.tensor([info.scale_x, info.scale_y, info.scale_x, info.scale_y])
            batch.proposals = (proposals.float() * scale)[None]
            batch.proposals_valid = torch.ones(1, len(proposals), dtype=torch.bool)
        return self.predict(batch, [pixels])[0]

    def regions_for(self, pixels: np.ndarray, given: NamedProposals, name: str) -> torch.Tensor:
        """What to call with for an image uint8 [H, W, 3] whose proposals a file has under `name`."""
        height, width = pixels.shape[:2]
        return given.boxes_for(
            name, height=height, width=width, offset=self.geometry.offset, limit=self._proposal_limit
        )

    def predict(self, images: ImageBatch, pixels: Sequence[np.ndarray] | None = None) -> list[Detections]:
        """Detections of a batch in the original frame; `pixels` as for `predict_network`."""
        found = self.predict_network(images, pixels)
        return [
            to_original(d, info, self.geometry, mask_thresh=self.mask_thresh)
            for d, info in zip(found, images.infos, strict=True)
        ]

    def predict_network(
        self, images: ImageBatch, pixels: Sequence[np.ndarray] | None = None
    ) -> list[Detections]:
        """Detections of a batch in the network frame, with soft masks.

        Where images are seen in several views, `pixels` are theirs, uint8 [H, W, 3]; by default the files are read.
        """
        images = images.to(self.compute.device, non_blocking=True)
        if self.augmented is None:
            with torch.inference_mode():
                found: list[Detections] = self.model.predict(images)
        else:
            originals = pixels or [load_image(info.file_name) for info in images.infos]
            found = [
                self.augmented.predict(original, one)
                for original, one in zip(originals, split_images(images, stride=self._stride), strict=True)
            ]
        return found if self.least_scores is None else [self._reaching(one) for one in found]

    def _reaching(self, found: Detections) -> Detections:
        assert self.least_scores is not None
        stays = reaching(found.scores.cpu().numpy(), found.labels.cpu().numpy(), self.least_scores)
        return found[torch.from_numpy(stays).to(found.scores.device)]

    def shown(self, found: Detections, thresh: float) -> torch.Tensor:
        """Which detections are worth drawing, bool [N]: those of `thresh` and above, and all that are left of a class
        with a threshold of its own.
        """
        shown = found.scores >= thresh
        if self.least_scores is not None:
            shown |= torch.from_numpy(self.least_scores > 0)[found.labels]
        return shown

    def rows(self, detections: Detections, *, image_id: int = 0, file_name: str = "") -> list[dict[str, Any]]:
        """COCO's result rows of one image; see `coco_rows`."""
        return coco_rows(
            detections,
            ImageInfo(image_id, file_name, 0, 0),
            self.class_info,
            offset=self.geometry.offset,
            keypoint_shift=self._keypoint_shift,
            keypoint_confidence=self.keypoint_confidence,
        )


def load_detector(
    config: Config, path: Path, class_info: ClassInfo | None = None, *, log: Callable[[str], None] = print
) -> tuple[nn.Module, ClassInfo]:
    """The detector of the configuration with the weights at `path`, every one of them, and its classes."""
    state, metadata = read_weights(
        path, agnostic_boxes=config.MODEL.CLS_AGNOSTIC_BBOX_REG, colours=config.INPUT.WEIGHTS_COLOURS
    )
    if metadata.get("geometry") == "detectron":
        config = with_box_weights_of(config, metadata, log=log)
    classes = (
        class_info
        or _classes_of(metadata)
        or _classes_of_data(config)
        or _classes_of_torchvision(metadata, config)
    )
    num_classes = len(classes) + 1 if classes else config.MODEL.NUM_CLASSES
    if num_classes < 2:
        raise WeightsError(
            f"{path} does not say which classes it knows and the configuration names no data set: "
            "set MODEL.NUM_CLASSES (background included) or TEST.DATASETS."
        )
    model = build_detector(
        config,
        num_classes=num_classes,
        num_keypoints=(len(classes.keypoint_names) or None) if classes else None,
    )
    report = fit_weights(model, place_last_stage(state, model.state_dict()))
    if not report.complete:
        raise WeightsError(
            f"{path} does not fit this configuration ({num_classes} classes with background): {report} "
            "Use the configuration that the weights were trained with, or train."
        )
    return model, classes or numbered_classes(num_classes - 1)


def numbered_classes(count: int) -> ClassInfo:
    """Stand-in names for weights that do not tell theirs."""
    return ClassInfo(tuple(f"class {i}" for i in range(1, count + 1)), tuple(range(1, count + 1)))


def _classes_of(metadata: dict[str, str]) -> ClassInfo | None:
    if "classes" not in metadata:
        return None
    told = json.loads(metadata["classes"])
    points = told.get("keypoints") or {}
    return ClassInfo(
        tuple(told["names"]),
        tuple(told["category_ids"]),
        tuple(points.get("names", ())),
        tuple(points.get("flip", ())),
        tuple((a, b) for a, b in points.get("skeleton", ())),
        tuple(points.get("labels", ())),
    )


def _classes_of_torchvision(metadata: dict[str, str], config: Config) -> ClassInfo | None:
    """The classes of its published detectors, where the number of classes says that these are such ones."""
    if metadata.get("geometry") != "torchvision":
        return None
    if len(COCO_IDS) + 1 == config.MODEL.NUM_CLASSES:
        return COCO_IDS
    points = len(COCO_PERSON.keypoint_names)
    if config.MODEL.NUM_CLASSES == 2 and config.MODEL.KEYPOINTS_ON and points == config.KRCNN.NUM_KEYPOINTS:
        return COCO_PERSON
    return None


def _classes_of_data(config: Config) -> ClassInfo | None:
    """The classes of the configuration's first data set.

    Files of Detectron and detectron2 name public data sets, which need not be here to look at a picture: then COCO's
    names are taken, if there are as many, or numbers.
    """
    names = (*config.TEST.DATASETS, *config.TRAIN.DATASETS)
    if not names:
        return None
    num_classes = config.MODEL.NUM_CLASSES
    if names[0] in KNOWN and names[0] not in config.DATASETS and num_classes >= 2:
        try:
            resolve_dataset(names[0], config.DATASETS, download_cache=config.DOWNLOAD_CACHE)
        except DataError:
            if num_classes == len(COCO_CLASSES) + 1:
                return COCO_CLASSES
            if num_classes == 2 and config.MODEL.KEYPOINTS_ON:
                return COCO_PERSON
            return numbered_classes(num_classes - 1)
    return build_loader(config, training=False, dataset=names[0]).class_info
