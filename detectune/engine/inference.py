"""From images to detections in original pixels, and from a data set to AP.

`to_original` is the only place that undoes the resize. `Predictor` is for single images, `test` for data sets; both run
the same model in the same way. Files that `test` writes under evaluation/<data set>/:

    detections.json  COCO's result rows        metrics.json  AP overall and per class     curves.json  precision, recall
    images.json      found and missed by image  samples.json  which images are drawn in samples/
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from detectune.config.tree import Config
from detectune.data.images import load_image, resize_image
from detectune.data.loader import ALL_RECORDS, RESIZE, Loader, build_loader
from detectune.engine.acceleration import accelerate
from detectune.engine.precision import choose_compute
from detectune.engine.run_directory import atomic_file, output_errors, write_text
from detectune.engine.visualize import draw_detections, draw_record
from detectune.errors import DataError, UserError, WeightsError
from detectune.evaluation.coco import CocoResult, evaluate_coco
from detectune.evaluation.matches import match_image, worst_first
from detectune.models.build import build_detector
from detectune.models.geometry import GEOMETRIES, Geometry
from detectune.ops.boxes import clip_boxes
from detectune.ops.masks import masks_to_rles
from detectune.structures import ClassInfo, Detections, ImageBatch, ImageInfo, Record
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
        found.keypoints[..., 0] /= info.scale_x
        found.keypoints[..., 1] /= info.scale_y
    if found.masks is not None:
        found.rles = masks_to_rles(
            found.masks, found.boxes, info.height, info.width, method=geometry.mask_paste, thresh=mask_thresh
        )
        found.masks = None
    return found


def coco_rows(
    detections: Detections, info: ImageInfo, class_info: ClassInfo, *, offset: float
) -> list[dict[str, Any]]:
    """COCO's result rows, one per detection; `bbox` is [x, y, w, h], w and h counting the last pixel at offset 1."""
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
        if detections.keypoints is not None:
            row["keypoints"] = detections.keypoints[i, :, :3].reshape(-1).tolist()
            row["keypoint_probabilities"] = detections.keypoints[i, :, 3].tolist()
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
            path = Path(weights or config.TEST.WEIGHTS or "")
            if not path.name:
                raise WeightsError("There are no weights: give a file, or set TEST.WEIGHTS.")
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

    def __call__(self, image: np.ndarray | Path | str, proposals: torch.Tensor | None = None) -> Detections:
        """Detections in the original frame, best first. `image` is uint8 [H, W, 3] RGB or a file.

        `proposals` [P, 4] (original frame, dialect boxes) are for models that make none themselves.
        """
        pixels = load_image(image) if isinstance(image, Path | str) else image
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise DataError(f"An image must be uint8 [H, W, 3] RGB, not {pixels.dtype} {list(pixels.shape)}.")
        resized, scale_x, scale_y = resize_image(
            pixels, short_side=self._short_side, max_size=self._max_size, style=self._style
        )
        height, width = resized.shape[-2:]
        padding = (0, -width % self._stride, 0, -height % self._stride)
        info = ImageInfo(0, "", pixels.shape[0], pixels.shape[1], scale_x, scale_y)
        batch = ImageBatch(
            nn.functional.pad(resized, padding)[None], torch.tensor([[height, width]]), (info,)
        )
        if proposals is not None:
            scale = torch.tensor([scale_x, scale_y, scale_x, scale_y])
            batch.proposals = (proposals.float() * scale)[None]
            batch.proposals_valid = torch.ones(1, len(proposals), dtype=torch.bool)
        return self.predict(batch)[0]

    def predict(self, images: ImageBatch) -> list[Detections]:
        """Detections of a batch in the original frame."""
        found = self.predict_network(images)
        return [
            to_original(d, info, self.geometry, mask_thresh=self._mask_thresh)
            for d, info in zip(found, images.infos, strict=True)
        ]

    def predict_network(self, images: ImageBatch) -> list[Detections]:
        """Detections of a batch in the network frame, with soft masks."""
        with torch.inference_mode():
            found: list[Detections] = self.model.predict(images.to(self.compute.device, non_blocking=True))
        return found

    def rows(self, detections: Detections, *, image_id: int = 0, file_name: str = "") -> list[dict[str, Any]]:
        """COCO's result rows of one image; see `coco_rows`."""
        info = ImageInfo(image_id, file_name, 0, 0)
        return coco_rows(detections, info, self.class_info, offset=self.geometry.offset)


def test(
    config: Config,
    weights: Path | str | None = None,
    *,
    output_dir: Path | str | None = None,
    model: nn.Module | None = None,
    dataset: str | None = None,
    records: slice = ALL_RECORDS,
    log: Callable[[str], None] = print,
) -> dict[str, float]:
    """Measure AP on `dataset` (each of TEST.DATASETS if not given; the first one's metrics are returned).

    Undefined metrics (no objects of that kind) are left out. `model` replaces reading `weights` or TEST.WEIGHTS.
    `records` restricts the test to a range of each data set.
    """
    names = (dataset,) if dataset else tuple(config.TEST.DATASETS)
    if not names:
        raise UserError("TEST.DATASETS is empty: there is nothing to test on.")
    folder = Path(output_dir or config.OUTPUT_DIR) / "evaluation"
    results = []
    for name in names:
        loader = build_loader(config, training=False, dataset=name, records_range=records)
        if not loader.records:
            raise DataError(f"{name} has no images in the range {records.start} to {records.stop}.")
        predictor = Predictor(config, weights, model=model, class_info=loader.class_info, log=log)
        check_classes(predictor, loader, config)
        results.append(_test_one(predictor, loader, config, name, folder / name))
    return {name: value for name, value in results[0].metrics.items() if value is not None}


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
    model = build_detector(config, num_classes=num_classes)
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
    )


def _classes_of_data(config: Config) -> ClassInfo | None:
    names = (*config.TEST.DATASETS, *config.TRAIN.DATASETS)
    return build_loader(config, training=False, dataset=names[0]).class_info if names else None


def _test_one(predictor: Predictor, loader: Loader, config: Config, name: str, folder: Path) -> CocoResult:
    """Detect, evaluate and write one data set's folder."""
    found: dict[int, Detections] = {}
    rows: list[dict[str, Any]] = []
    started = time.perf_counter()
    for batch in loader:
        for detections, info in zip(predictor.predict(batch.images), batch.images.infos, strict=True):
            found[info.image_id] = detections
            rows += coco_rows(detections, info, loader.class_info, offset=predictor.geometry.offset)
    seconds = (time.perf_counter() - started) / max(1, len(loader.records))
    tasks = ["bbox"] + ["segm"] * config.MODEL.MASK_ON + ["keypoints"] * config.MODEL.KEYPOINTS_ON
    result = evaluate_coco(loader.records, rows, class_info=loader.class_info, iou_types=tasks)
    images = [
        _image_row(record, found[record.image_id], predictor.geometry.offset) for record in loader.records
    ]
    with output_errors(folder):
        (folder / "samples").mkdir(parents=True, exist_ok=True)
    summary = {
        "dataset": name,
        "num_images": len(loader.records),
        "num_detections": len(rows),
        "metrics": result.metrics,
        "per_class": result.per_class,
        "seconds_per_image": seconds,
    }
    samples = _draw_samples(loader.records, found, images, loader.class_info, folder)
    contents = {"detections": rows, "curves": result.curves, "images": images, "samples": samples}
    for file, content in (
        contents | {"metrics": summary}
    ).items():  # metrics last: they say that all is there
        write_text(folder / f"{file}.json", json.dumps(content, allow_nan=False) + "\n")
    return result


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
    count = min(NUM_SAMPLES, len(records))
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
