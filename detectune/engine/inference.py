"""From images to detections in original pixels, and from a data set to AP.

`to_original` is the only place that undoes the resize. `Predictor` is for single images, `test` for data sets; both run
the same model in the same way. Files that `test` writes under evaluation/<data set>/:

    detections.json  COCO's result rows        metrics.json  AP overall and per class     curves.json  precision, recall
    images.json      found and missed by image  samples.json  which images are drawn in samples/
    drawn/           every image with its detections, where VIS asks for them

Without TEST.COMPETITION_MODE the rows are in detections_<random>.json, which no other test overwrites.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from detectune.config.tree import Config
from detectune.data.collate import single_image, split_images
from detectune.data.datasets import resolve_dataset
from detectune.data.images import load_image
from detectune.data.loader import ALL_RECORDS, KEYPOINT_SHIFT, RESIZE, Loader, build_loader
from detectune.engine.acceleration import accelerate
from detectune.engine.build_augmentation import build_augmentation
from detectune.engine.dataset_evaluation import evaluate_dataset
from detectune.engine.distributed import ALONE, Team, joined, launched
from detectune.engine.drawing import draw_every_image
from detectune.engine.precision import choose_compute
from detectune.engine.proposals import evaluate_found_proposals
from detectune.engine.run_directory import atomic_file, output_errors, write_text
from detectune.engine.visualize import draw_detections, draw_record
from detectune.errors import DataError, UserError, WeightsError
from detectune.evaluation.coco import CocoResult
from detectune.evaluation.matches import match_image, worst_first
from detectune.models.build import build_detector
from detectune.models.geometry import GEOMETRIES, Geometry
from detectune.ops.boxes import clip_boxes
from detectune.ops.masks import masks_to_rles
from detectune.structures import ClassInfo, Detections, ImageBatch, ImageInfo, Record
from detectune.weights.downloads import local_weights
from detectune.weights.files import read_weights
from detectune.weights.native import fit_weights

NUM_SAMPLES = 12  # images drawn for the report, evenly spread over the data set
NUM_WORST = 6  # and those with the most mistakes
DRAWN_SCORE = 0.5  # detections below it are not drawn, nor counted when images are ranked


def to_original(
    detections: Detections, info: ImageInfo, geometry: Geometry, *, mask_thresh: float = 0.5
) -> Detections:
    """Network frame to original frame: boxes scaled back and clipped, soft masks pasted as RLEs of the whole image."""
    scale = detections.boxes.new_tensor((info.scale_x, info.scale_y, info.scale_x, info.scale_y))
    size = torch.tensor([info.height, info.width], device=scale.device)
    boxes = clip_boxes(detections.boxes / scale, size, offset=geometry.offset)
    found = Detections(boxes, detections.scores, detections.labels, detections.masks, detections.keypoints)
    if geometry.drop_empty_boxes:
        found = found[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    found = found.to("cpu")
    if found.keypoints is not None:
        found.keypoints = found.keypoints / found.keypoints.new_tensor((info.scale_x, info.scale_y, 1.0, 1.0))
    if found.masks is not None:
        found.rles = masks_to_rles(
            found.masks, found.boxes, info.height, info.width, method=geometry.mask_paste, thresh=mask_thresh
        )
        found.masks = None
    return found


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
        if model is None:
            named = weights or config.TEST.WEIGHTS
            if not named:
                raise WeightsError("There are no weights: give a file, or set TEST.WEIGHTS.")
            path = local_weights(named, download_cache=config.DOWNLOAD_CACHE)
            model, class_info = load_detector(config, path, class_info)
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
        self._mask_thresh = config.MRCNN.THRESH_BINARIZE
        self._keypoint_shift = KEYPOINT_SHIFT[config.MODEL.GEOMETRY]
        self._keypoint_confidence = config.KRCNN.KEYPOINT_CONFIDENCE
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

    def predict(self, images: ImageBatch, pixels: Sequence[np.ndarray] | None = None) -> list[Detections]:
        """Detections of a batch in the original frame; `pixels` as for `predict_network`."""
        found = self.predict_network(images, pixels)
        return [
            to_original(d, info, self.geometry, mask_thresh=self._mask_thresh)
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
            return found
        originals = pixels or [load_image(info.file_name) for info in images.infos]
        return [
            self.augmented.predict(original, one)
            for original, one in zip(originals, split_images(images, stride=self._stride), strict=True)
        ]

    def rows(self, detections: Detections, *, image_id: int = 0, file_name: str = "") -> list[dict[str, Any]]:
        """COCO's result rows of one image; see `coco_rows`."""
        return coco_rows(
            detections,
            ImageInfo(image_id, file_name, 0, 0),
            self.class_info,
            offset=self.geometry.offset,
            keypoint_shift=self._keypoint_shift,
            keypoint_confidence=self._keypoint_confidence,
        )


def test(
    config: Config,
    weights: Path | str | None = None,
    *,
    output_dir: Path | str | None = None,
    model: nn.Module | None = None,
    dataset: str | None = None,
    records: slice = ALL_RECORDS,
    team: Team | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, float]:
    """Measure AP on `dataset` (each of TEST.DATASETS if not given; the first one's metrics are returned).

    Undefined metrics (no objects of that kind) are left out. `model` replaces reading `weights` or TEST.WEIGHTS.
    `records` restricts the test to a range of each data set. The processes of `team` (if not given, those that this
    process was started with) share the images; the first one evaluates and writes, all of them return its metrics.
    """
    if team is None and launched() is not None:
        with joined(device=config.MODEL.DEVICE, num_processes=config.NUM_GPUS) as team:
            return test(
                config, weights, output_dir=output_dir, model=model, dataset=dataset, records=records, team=team,
                log=log,
            )  # fmt: skip
    team = team or ALONE
    names = (dataset,) if dataset else tuple(config.TEST.DATASETS)
    if not names:
        raise UserError("TEST.DATASETS is empty: there is nothing to test on.")
    folder = Path(output_dir or config.OUTPUT_DIR) / "evaluation"
    results = []
    for name in names:
        with team.together():
            loader = build_loader(
                config, training=False, dataset=name, part=team.rank, parts=team.size, records_range=records
            )
            if not loader.records:
                raise DataError(f"{name} has no images in the range {records.start} to {records.stop}.")
            predictor = Predictor(config, weights, model=model, class_info=loader.class_info, log=log)
            check_classes(predictor, loader, config)
        results.append(_test_one(predictor, loader, config, name, folder / name, log, team))
    return {name: value for name, value in results[0].items() if value is not None}


def load_detector(
    config: Config, path: Path, class_info: ClassInfo | None = None
) -> tuple[nn.Module, ClassInfo]:
    """The detector of the configuration with the weights at `path`, every one of them, and its classes."""
    state, metadata = read_weights(path, agnostic_boxes=config.MODEL.CLS_AGNOSTIC_BBOX_REG)
    classes = class_info or _classes_of(metadata) or _classes_of_data(config)
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
    report = fit_weights(model, state)
    if not report.complete:
        raise WeightsError(
            f"{path} does not fit this configuration ({num_classes} classes with background): {report} "
            "Use the configuration that the weights were trained with, or train."
        )
    return model, classes or numbered_classes(num_classes - 1)


def check_classes(predictor: Predictor, loader: Loader, config: Config) -> None:
    """The configuration must count as many classes as the data has."""
    needed = len(loader.class_info) + 1
    if config.MODEL.NUM_CLASSES not in (-1, needed):
        raise DataError(
            f"MODEL.NUM_CLASSES is {config.MODEL.NUM_CLASSES}, but the test data has {needed - 1} classes "
            f"({', '.join(loader.class_info.names[:5])}): set it to {needed} (background included) or to -1."
        )


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


def _classes_of_data(config: Config) -> ClassInfo | None:
    names = (*config.TEST.DATASETS, *config.TRAIN.DATASETS)
    return build_loader(config, training=False, dataset=names[0]).class_info if names else None


def _test_one(
    predictor: Predictor,
    loader: Loader,
    config: Config,
    name: str,
    folder: Path,
    log: Callable[[str], None],
    team: Team,
) -> dict[str, float | None]:
    """Detect with all processes; the first one evaluates and writes one data set's folder."""
    own: list[tuple[ImageInfo, Detections]] = []
    started = time.perf_counter()
    with team.together():
        for batch in loader:
            own += zip(batch.images.infos, predictor.predict(batch.images), strict=True)
    parts = team.gather_to_first(own)
    seconds = (time.perf_counter() - started) / max(1, len(loader.records))
    metrics: dict[str, float | None] = {}
    with team.together():
        if team.first:
            merged = merge_parts(parts)
            metrics = _evaluate_and_write(
                predictor, loader, config, name, folder, merged, seconds, log
            ).metrics
    return team.from_first(metrics)


def merge_parts(
    parts: Sequence[Sequence[tuple[ImageInfo, Detections]]],
) -> dict[int, tuple[ImageInfo, Detections]]:
    """What several processes found, {image id: (image, detections)}; a `DataError` if an image was tested twice."""
    merged: dict[int, tuple[ImageInfo, Detections]] = {}
    for part in parts:
        for info, detections in part:
            if info.image_id in merged:
                raise DataError(
                    f"{info.file_name} (id {info.image_id}) was tested twice: its detections would count double. "
                    "Image ids must be unique, and ranges of images must not overlap."
                )
            merged[info.image_id] = (info, detections)
    return merged


def _evaluate_and_write(
    predictor: Predictor,
    loader: Loader,
    config: Config,
    name: str,
    folder: Path,
    merged: dict[int, tuple[ImageInfo, Detections]],
    seconds: float,
    log: Callable[[str], None],
) -> CocoResult:
    """AP of all detections of a data set, and its folder."""
    found = {image_id: detections for image_id, (_, detections) in merged.items()}
    rows: list[dict[str, Any]] = []
    if config.MODEL.RPN_ONLY:
        recall = evaluate_found_proposals(
            loader.records,
            found,
            class_info=loader.class_info,
            offset=predictor.geometry.offset,
            class_specific=config.TEST.CLASS_SPECIFIC_AR,
            folder=folder,
            configuration=config.to_yaml(),
        )
        result, images = CocoResult(recall.metrics, recall.per_class, {}), []
    else:
        for info, detections in merged.values():
            rows += predictor.rows(detections, image_id=info.image_id, file_name=info.file_name)
        result = _evaluate(loader, rows, config, name, folder, log)
        images = [
            _image_row(record, found[record.image_id], predictor.geometry.offset) for record in loader.records
        ]
    with output_errors(folder):
        (folder / "samples").mkdir(parents=True, exist_ok=True)
    summary = {
        "dataset": name,
        "num_images": len(loader.records),
        "num_detections": sum(len(detections) for detections in found.values()),
        "metrics": result.metrics,
        "per_class": result.per_class,
        "seconds_per_image": seconds,
    }
    samples = _draw_samples(loader.records, found, images, loader.class_info, folder)
    if config.VIS and not config.MODEL.RPN_ONLY:
        draw_every_image(
            loader.records, found, loader.class_info, folder / "drawn", score_thresh=config.VIS_TH
        )
    detections_file = "detections" if config.TEST.COMPETITION_MODE else f"detections_{secrets.token_hex(4)}"
    contents = {detections_file: rows, "curves": result.curves, "images": images, "samples": samples}
    for file, content in (
        contents | {"metrics": summary}
    ).items():  # metrics last: they say that all is there
        write_text(folder / f"{file}.json", json.dumps(content, allow_nan=False) + "\n")
    return result


def _evaluate(
    loader: Loader,
    rows: Sequence[dict[str, Any]],
    config: Config,
    name: str,
    folder: Path,
    log: Callable[[str], None],
) -> CocoResult:
    return evaluate_dataset(
        resolve_dataset(name, config.DATASETS, download_cache=config.DOWNLOAD_CACHE),
        loader.records,
        rows,
        name=name,
        class_info=loader.class_info,
        tasks=["bbox"] + ["segm"] * config.MODEL.MASK_ON + ["keypoints"] * config.MODEL.KEYPOINTS_ON,
        folder=folder,
        sigmas=config.KRCNN.OKS_SIGMAS,
        coco_rules=config.TEST.FORCE_JSON_DATASET_EVAL,
        plain_names=config.TEST.COMPETITION_MODE,
        class_recall=config.TEST.CLASS_SPECIFIC_AR,
        log=log,
    )


def _image_row(record: Record, detections: Detections, offset: float) -> dict[str, Any]:
    boxes = detections.boxes.numpy().copy()
    boxes[:, 2:] += offset
    counts = match_image(
        record, boxes, detections.scores.numpy(), detections.labels.numpy(), score_thresh=DRAWN_SCORE
    )
    return {"image_id": record.image_id, "file_name": record.file_name, **counts}


def _draw_samples(
    records: Sequence[Record],
    found: dict[int, Detections],
    images: list[dict[str, Any]],
    class_info: ClassInfo,
    folder: Path,
) -> list[dict[str, Any]]:
    """Draw truth and detections of a spread of images and of the worst ones."""
    by_id = {record.image_id: record for record in records}
    count = min(NUM_SAMPLES, len(images))
    spread = [images[i * len(records) // count] for i in range(count)] if count else []
    chosen = [(row, False) for row in spread] + [(row, True) for row in worst_first(images)[:NUM_WORST]]
    samples = []
    for number, (row, worst) in enumerate(chosen):
        record = by_id[row["image_id"]]
        image = load_image(record.file_name)
        prefix = f"worst_{number - count:02d}" if worst else f"{number:02d}"
        drawn = {
            "truth": draw_record(image, record, class_info),
            "detections": draw_detections(
                image, found[record.image_id], class_info, score_thresh=DRAWN_SCORE
            ),
        }
        names = {what: f"samples/{prefix}_{what}.jpg" for what in drawn}
        for what, pixels in drawn.items():
            with atomic_file(folder / names[what]) as file:
                Image.fromarray(pixels).save(file, format="JPEG", quality=88)
        caption = (
            f"{row['true_positives']} found, {row['missed']} missed, {row['false_positives']} wrong "
            f"(score >= {DRAWN_SCORE})"
        )
        samples.append(
            {
                "image_id": row["image_id"],
                "file_name": row["file_name"],
                **names,
                "worst": worst,
                "caption": caption,
            }
        )
    return samples
