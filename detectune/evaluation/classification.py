"""What a classifier gets right: accuracy, loss, confusions. Pure; labels are 0..K-1.

Shape legend
    N  images    K  classes
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ClassificationResult:
    """`metrics` are classification/accuracy, a fraction 0..1, and classification/loss, its mean."""

    metrics: dict[str, float]
    confusion: np.ndarray  # int64 [K, K]: rows are true classes, columns what was said
    per_class: dict[
        str, dict[str, Any]
    ]  # class name -> classification/accuracy (None without images), num_objects
    mistakes: list[dict[str, Any]]  # index, label, predicted, probability; surest first


def evaluate_classification(
    probabilities: np.ndarray, labels: np.ndarray, losses: np.ndarray, *, names: tuple[str, ...]
) -> ClassificationResult:
    """Measures of float32 [N, K] probabilities, of which the largest is the answer, and losses float32 [N]."""
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    right, counts = confusion.diagonal(), confusion.sum(axis=1)
    per_class = {
        name: {
            "classification/accuracy": float(right[k] / counts[k]) if counts[k] else None,
            "num_objects": int(counts[k]),
        }
        for k, name in enumerate(names)
    }
    wrong = np.flatnonzero(predicted != labels)
    sureness = probabilities[wrong, predicted[wrong]]
    mistakes = [
        {
            "index": int(i),
            "label": int(labels[i]),
            "predicted": int(predicted[i]),
            "probability": float(probabilities[i, predicted[i]]),
        }
        for i in wrong[np.argsort(-sureness, kind="stable")]
    ]
    accuracy = 1 - len(wrong) / len(labels)
    metrics = {
        "classification/accuracy": accuracy,
        "classification/loss": float(losses.astype(np.float64).mean()),
    }
    return ClassificationResult(metrics, confusion, per_class, mistakes)


def binomial_error(accuracy: float, num_images: int) -> float:
    """The deviation of an accuracy that was measured on `num_images` independent images."""
    return math.sqrt(accuracy * (1 - accuracy) / num_images)
