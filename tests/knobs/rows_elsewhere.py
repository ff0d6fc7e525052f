"""Keys that more than one part reads: rows for the parts that the main tables do not look at.

A key may be alive in the loader and dead in the predictor, or alive in one family of detectors and dead in another.
"""

from __future__ import annotations

from observe import detections, losses, second_run, tested_batches, training_batches
from table import Row

PLACES: dict[str, list[Row]] = {
    "the predictor": [
        Row("TEST.SCALE", 96, 64, detections),
        Row("TEST.MAX_SIZE", 192, 80, detections),
        Row("INPUT.RESIZE", "pillow", "detectron", detections),
        Row("INPUT.PIXEL_STDS", (57.375, 57.12, 58.395), (30.0, 30.0, 30.0), detections),
        Row("PIXEL_MEANS", [[[102.9801, 115.9465, 122.7717]]], [[[0.0, 0.0, 0.0]]], detections),
        Row("FPN.COARSEST_STRIDE", 32, 128, detections),
        Row("MODEL.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0), (1.0, 1.0, 1.0, 1.0), detections),
        Row("FPN.ROI_CANONICAL_SCALE", 56, 224, detections),
        Row("MRCNN.ROI_XFORM_SAMPLING_RATIO", 2, 1, detections),
        Row("FAST_RCNN.ROI_XFORM_SAMPLING_RATIO", 2, 1, detections),
    ],
    "training": [
        Row("MODEL.GEOMETRY", "detectron2", "detectron", losses),
        Row("MODEL.GEOMETRY", "detectron2", "torchvision", losses),
        Row("RNG_SEED", 3, 4, losses),
        Row("BBOX_XFORM_CLIP", 4.0, 0.01, losses),
        Row("MODEL.CLS_AGNOSTIC_BBOX_REG", False, True, losses),
        Row("MRCNN.CLS_SPECIFIC_MASK", True, False, losses),
    ],
    "the training data": [
        Row("MODEL.GEOMETRY", "detectron2", "detectron", training_batches),
        Row("MODEL.MASK_ON", True, False, training_batches),
        Row("FPN.COARSEST_STRIDE", 32, 64, training_batches),
    ],
    "the test data": [
        Row("INPUT.RESIZE", "pillow", "detectron", tested_batches),
        Row("MODEL.GEOMETRY", "detectron2", "detectron", tested_batches),
    ],
    "a second run": [
        Row("SOLVER.MAX_ITER", 4, 6, second_run),
    ],
}
