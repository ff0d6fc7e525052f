"""From a data set to AP: `test` runs a detector over all images and writes what it found.

Files that `test` writes under evaluation/<data set>/:

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from detectune.config.tree import Config
from detectune.data.datasets import resolve_dataset
from detectune.data.images import load_image
from detectune.data.loader import ALL_RECORDS, Loader, build_loader
from detectune.engine.classification import test_classifier
from detectune.engine.dataset_evaluation import evaluate_dataset
from detectune.engine.dialect import in_dialect_of
from detectune.engine.distributed import ALONE, Team, joined, launched
from detectune.engine.drawing import draw_every_image
from detectune.engine.inference import Predictor
from detectune.engine.proposals import evaluate_found_proposals
from detectune.engine.run_directory import atomic_file, output_errors, write_text
from detectune.engine.visualize import draw_detections, draw_record
from detectune.errors import DataError, UserError
from detectune.evaluation.coco import CocoResult
from detectune.evaluation.matches import match_image, worst_first
from detectune.structures import ClassInfo, Detections, ImageInfo, Record

NUM_SAMPLES = 12  # images drawn for the report, evenly spread over the data set
NUM_WORST = 6  # and those with the most mistakes
DRAWN_SCORE = 0.5  # detections below it are not drawn, nor counted when images are ranked


@dataclass(frozen=True)
class InTest:
    """What a data set is tested with."""

    predictor: Predictor
    loader: Loader


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
    used: Callable[[InTest], object] = lambda _: None,
) -> dict[str, float]:
    """Measure AP (of a classifier: accuracy) on `dataset` or each of TEST.DATASETS; returned are the first one's.

    Undefined metrics (no objects of that kind) are left out. `model` replaces reading `weights` or TEST.WEIGHTS.
    `records` restricts the test to a range of each data set. The processes of `team` (if not given, those that this
    process was started with) share the images; the first one evaluates and writes, all of them return its metrics.
    `used` is told what each data set is tested with, for callers that look whether settings arrive there.
    """
    if team is None and launched() is not None:
        with joined(device=config.MODEL.DEVICE, num_processes=config.NUM_GPUS) as team:
            return test(
                config, weights, output_dir=output_dir, model=model, dataset=dataset, records=records, team=team,
                log=log, used=used,
            )  # fmt: skip
    if config.MODEL.TYPE == "classifier":
        return test_classifier(
            config, weights, output_dir=Path(output_dir or config.OUTPUT_DIR), model=model, dataset=dataset
        )
    team = team or ALONE
    if model is None:
        with team.together():
            config = in_dialect_of(
                weights or config.TEST.WEIGHTS, config, log=log if team.first else (lambda _: None)
            )
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
            used(InTest(predictor, loader))
        results.append(_test_one(predictor, loader, config, name, folder / name, log, team))
    return {name: value for name, value in results[0].items() if value is not None}


def check_classes(predictor: Predictor, loader: Loader, config: Config) -> None:
    """The configuration must count as many classes as the data has."""
    needed = len(loader.class_info) + 1
    if config.MODEL.NUM_CLASSES not in (-1, needed):
        raise DataError(
            f"MODEL.NUM_CLASSES is {config.MODEL.NUM_CLASSES}, but the test data has {needed - 1} classes "
            f"({', '.join(loader.class_info.names[:5])}): set it to {needed} (background included) or to -1."
        )


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
