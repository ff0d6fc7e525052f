"""CLASSIFIER, and what a classifier reads of the rest."""

from __future__ import annotations

from observe import classifier_batches, classifier_loss, classifier_weights, updates
from table import Row

SIGMOIDS = ["dense 5", "sigmoid", "dense 10", "sigmoid"]

ROWS = [
    Row("CLASSIFIER.LAYERS", ["dense 5", "relu", "softmax 10"], ["dense 6", "relu", "softmax 10"], classifier_weights),
    Row("CLASSIFIER.INIT", "he", "xavier", classifier_weights),
    Row("CLASSIFIER.INPUT_SHAPE", (1, 8, 8), (1, 6, 6), classifier_weights),
    Row(
        "CLASSIFIER.LOSS", "cross_entropy", "quadratic", classifier_loss, {"CLASSIFIER.LAYERS": SIGMOIDS}
    ),
    Row("CLASSIFIER.LABEL_SMOOTHING", 0.0, 0.1, classifier_loss),
    Row("CLASSIFIER.PIXEL_MEAN", 0.0, 100.0, classifier_loss),
    Row("CLASSIFIER.PIXEL_STD", 255.0, 80.0, classifier_loss),
    Row("CLASSIFIER.SHIFT", 0, 1, classifier_batches),
    Row("CLASSIFIER.ROTATION", 0.0, 10.0, classifier_batches),
    Row("CLASSIFIER.ZOOM", 0.0, 0.2, classifier_batches),
    Row("CLASSIFIER.ELASTIC", 0.0, 1.0, classifier_batches),
    Row("CLASSIFIER.ELASTIC_SMOOTHNESS", 4.0, 2.0, classifier_batches, {"CLASSIFIER.ELASTIC": 1.0}),
    Row("SOLVER.BIAS_LR_FACTOR", 2.0, 1.0, updates),
]  # fmt: skip
