"""Detections on disk, for tools/: writing Detectron's result files, evaluating saved ones again, drawing them."""

from __future__ import annotations

import json
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectune.errors import DataError, UserError

if TYPE_CHECKING:
    from detectune.config.load import Config
    from detectune.structures import ClassInfo, Detections, Record

Row = dict[str, Any]


def write_results(
    config: Config, dataset: str, rows: Sequence[Row], folder: Path, *, images: slice = slice(None)
) -> Path:
    """Write detections.pkl and Detectron's JSON files into `folder`; with a range of images only its pickle.

    Returns the pickle.
    """
    from detectune.engine.run_directory import atomic_file, output_errors, write_text
    from detectune.evaluation.detectron_results import detections_pickle, pack_detections, task_rows

    records, class_info = read_dataset(config, dataset)
    tested = sorted(record.image_id for record in records)[images]
    content = pack_detections(
        rows, image_ids=tested, num_classes=len(class_info) + 1, config_yaml=config.to_yaml()
    )
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    is_part = images != slice(None)
    name = f"detection_range_{images.start}_{images.stop}.pkl" if is_part else "detections.pkl"
    with atomic_file(folder / name) as file:
        file.write(detections_pickle(content))
    if not is_part:
        suffix = "" if config.TEST.COMPETITION_MODE else f"_{uuid.uuid4()}"
        for task, found in task_rows(rows).items():
            write_text(folder / f"{task}_{dataset}_results{suffix}.json", json.dumps(found) + "\n")
    return folder / name


def evaluate_again(
    output_dir: Path, *, dataset: str, cfg: str | None, comp: bool, words: Sequence[str] = ()
) -> None:
    """Evaluate the detections saved in `output_dir` by the rules of their data set's format, and print the table.

    The configuration is the one saved with the detections, or --cfg.
    """
    from detectune.cli.results import evaluation_table
    from detectune.data.datasets import resolve_dataset
    from detectune.engine.dataset_evaluation import evaluate_dataset
    from detectune.report.run import Evaluation

    file = find_detections(output_dir, dataset)
    config = configuration_for(file, cfg)
    if comp:
        config = config.with_overrides({"TEST.COMPETITION_MODE": True})
    records, class_info = read_dataset(config, dataset)
    rows = read_rows(file, records, class_info, keypoint_confidence=config.KRCNN.KEYPOINT_CONFIDENCE)
    tasks = [task for task, key in _TASKS.items() if any(key in row for row in rows)] or ["bbox"]
    result = evaluate_dataset(
        resolve_dataset(dataset, config.DATASETS, download_cache=config.DOWNLOAD_CACHE),
        records,
        rows,
        name=dataset,
        class_info=class_info,
        tasks=tasks,
        sigmas=config.KRCNN.OKS_SIGMAS,
        folder=output_dir,
        coco_rules=config.TEST.FORCE_JSON_DATASET_EVAL,
        plain_names=config.TEST.COMPETITION_MODE,
    )
    table = Evaluation(
        dataset, len(records), len(rows), result.metrics, result.per_class, None, result.curves, [], []
    )
    print(f"Detections: {file}\n\n{evaluation_table(table)}")
    write_results(config, dataset, rows, output_dir)
    print(f"\nResult files: {output_dir}")


_TASKS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


def draw_saved(
    detections: Path, *, dataset: str, cfg: str | None, thresh: float, output_dir: Path, first: int
) -> int:
    """Draw saved detections from score `thresh` on into `output_dir`/vis; returns the number of images."""
    from detectune.cli.infer import draw

    if not detections.is_file():
        raise UserError(f"There is no file of detections {detections}; give --detections FILE.")
    config = configuration_for(detections, cfg)
    records, class_info = read_dataset(config, dataset)
    rows = [row for row in read_rows(detections, records, class_info) if row["score"] >= thresh]
    by_image: dict[int, list[Row]] = {}
    for row in rows:
        by_image.setdefault(row["image_id"], []).append(row)
    in_order = sorted(records, key=lambda record: record.image_id)  # as Detectron numbers them
    chosen = in_order[:first] if first > 0 else in_order
    for number, record in enumerate(chosen):
        found = detections_of(by_image.get(record.image_id, []))
        name = f"{number}_{Path(record.file_name).stem}.jpg"
        draw(Path(record.file_name), found, class_info, output_dir / "vis" / name)
    return len(chosen)


def find_detections(folder: Path, dataset: str) -> Path:
    """The file of detections in a folder of Detectron's or ours.

    Raises:
        UserError: if there is none.
    """
    tried = [
        folder / "detections.pkl",
        folder / "detections.json",
        folder / "evaluation" / dataset / "detections.json",
    ]
    for file in tried:
        if file.is_file():
            return file
    raise UserError(
        f"There are no detections in {folder}: neither detections.pkl nor detections.json nor "
        f"evaluation/{dataset}/detections.json."
    )


def configuration_for(detections: Path, cfg: str | None) -> Config:
    """--cfg, else the configuration saved in detections.pkl, else config.yaml of the run, else the defaults."""
    from detectune.cli.places import find_config
    from detectune.config.load import load_config
    from detectune.evaluation.detectron_results import read_detections_pickle

    if cfg is not None:
        return load_config(find_config(cfg))
    if detections.suffix == ".pkl":
        text = read_detections_pickle(detections).get("cfg", "")
        with tempfile.TemporaryDirectory() as folder:
            saved = Path(folder) / "cfg_saved_with_the_detections.yaml"
            saved.write_text(text.decode() if isinstance(text, bytes) else str(text))
            config = load_config(saved)
        for notice in dict.fromkeys(config.notices):
            print(f"Notice: {notice}", file=sys.stderr)
        return config
    run = next((p / "config.yaml" for p in detections.parents[:3] if (p / "config.yaml").is_file()), None)
    return load_config(run)


def read_dataset(config: Config, dataset: str) -> tuple[list[Record], ClassInfo]:
    """The records of a named data set, in the order of its file, and its classes."""
    from detectune.data.records import DataSettings, load_datasets

    settings = DataSettings(masks=False, keypoints=False, skip_broken=False)
    records, class_info, _ = load_datasets(
        (dataset,), config.DATASETS, settings, download_cache=config.DOWNLOAD_CACHE
    )
    return records, class_info


def read_rows(
    file: Path, records: Sequence[Record], class_info: ClassInfo, *, keypoint_confidence: str = "bbox"
) -> list[Row]:
    """The rows of detections.pkl, or of a file of COCO rows such as detections.json, which keep their own ranks."""
    from detectune.evaluation.detectron_results import read_detections_pickle, unpack_detections

    if file.suffix == ".pkl":
        ids = [record.image_id for record in records]
        content = read_detections_pickle(file)
        return unpack_detections(
            content,
            image_ids=ids,
            class_info=class_info,
            source=str(file),
            keypoint_confidence=keypoint_confidence,
        )
    try:
        rows = json.loads(file.read_text())
        label = {number: k + 1 for k, number in enumerate(class_info.category_ids)}
        return [row | {"label": label[row["category_id"]]} for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: this is no list of detections in COCO's form for this data set ({error!r})."
        ) from error


def detections_of(rows: Sequence[Mapping[str, Any]]) -> Detections:
    """Rows of one image as detections in the original frame, best first; boxes end at their last pixel."""
    import torch

    from detectune.structures import Detections

    rows = sorted(rows, key=lambda row: -row["score"])
    boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2] - 1
    points = None
    if rows and all("keypoints" in row for row in rows):
        points = torch.tensor([row["keypoints"] for row in rows], dtype=torch.float32)
        points = torch.nn.functional.pad(points.reshape(len(rows), -1, 3), (0, 1))
    has_masks = bool(rows) and all("segmentation" in row for row in rows)
    return Detections(
        boxes,
        torch.tensor([row["score"] for row in rows], dtype=torch.float32),
        torch.tensor([row["label"] for row in rows], dtype=torch.int64),
        keypoints=points,
        rles=[row["segmentation"] for row in rows] if has_masks else None,
    )
