"""Keys without a section, INPUT, DATASETS and DATA_LOADER."""

from __future__ import annotations

from observe import (
    detections,
    evaluation,
    first_layer_of_a_foreign_file,
    found_data,
    loader_processes,
    losses,
    place_of_run,
    processes,
    training_batches,
    verdict,
)
from sample import DATA, READY_MADE, SETS, data_set
from table import Row

UNDER_ROOT = {"under": {"images": "under_root/images", "annotations": "under_root/annotations.json"}}

NOT_EXPECTED = [["val", "box", "AP", 0.01]]
NOT_EXPECTED_MEAN = [["val", "box", "AP", 0.05, 0.01]]

ROWS = [
    Row("NUM_GPUS", 1, 2, processes),
    Row("DEDUP_BOXES", 0.0625, 0.0, evaluation, READY_MADE),
    Row("BBOX_XFORM_CLIP", 4.0, 0.01, detections),
    Row("PIXEL_MEANS", [[[102.9801, 115.9465, 122.7717]]], [[[0.0, 0.0, 0.0]]], losses),
    Row("RNG_SEED", 3, 4, training_batches),
    Row("ROOT_DIR", str(DATA / "root_a"), str(DATA / "root_b"), training_batches, {
        "DATASETS": UNDER_ROOT, "TRAIN.DATASETS": ["under"],
    }),
    Row("OUTPUT_DIR", str(DATA / "here"), str(DATA / "there"), place_of_run),
    Row("VIS", False, True, evaluation),
    Row("VIS_TH", 0.9, 0.1, evaluation, {"VIS": True}),
    Row("EXPECTED_RESULTS", [], NOT_EXPECTED, verdict),
    Row("EXPECTED_RESULTS_RTOL", 0.1, 2.0, verdict, {"EXPECTED_RESULTS": NOT_EXPECTED}),
    Row("EXPECTED_RESULTS_ATOL", 0.005, 0.1, verdict, {"EXPECTED_RESULTS": NOT_EXPECTED}),
    Row("EXPECTED_RESULTS_SIGMA_TOL", 4, 10, verdict, {"EXPECTED_RESULTS": NOT_EXPECTED_MEAN}),
    Row("DOWNLOAD_CACHE", str(DATA / "cache_a"), str(DATA / "cache_b"), found_data),
    Row("INPUT.WEIGHTS_COLOURS", "auto", "RGB", first_layer_of_a_foreign_file),
    Row("INPUT.PIXEL_STDS", (1.0, 1.0, 1.0), (57.375, 57.12, 58.395), losses),
    Row("INPUT.BRIGHTNESS", 0.0, 0.5, training_batches),
    Row("INPUT.CONTRAST", 0.0, 0.5, training_batches),
    Row("INPUT.SATURATION", 0.0, 0.5, training_batches),
    Row("INPUT.CROP_MIN_FRACTION", 1.0, 0.5, training_batches),
    Row("INPUT.RESIZE", "auto", "detectron", training_batches),
    Row("DATASETS", SETS, SETS | {"train": data_set("other")}, training_batches),
    Row("DATA_LOADER.NUM_THREADS", 0, 1, loader_processes),
]  # fmt: skip
