"""Detectune trains, measures and tunes vision models.

    from detectune import load_config, train, test, Predictor

Names are imported when first used, so that `import detectune` costs nothing and never loads torch by itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detectune.config.load import Config, load_config
    from detectune.engine.classification import ClassPredictor
    from detectune.engine.inference import Predictor
    from detectune.engine.testing import test
    from detectune.engine.trainer import train
    from detectune.models.build import build_detector
    from detectune.structures import Batch, ClassInfo, Detections, ImageBatch, Record, Targets

__version__ = "0.1.0"

_HOMES = {
    "Config": "detectune.config.load",
    "load_config": "detectune.config.load",
    "ClassPredictor": "detectune.engine.classification",
    "Predictor": "detectune.engine.inference",
    "test": "detectune.engine.testing",
    "train": "detectune.engine.trainer",
    "build_detector": "detectune.models.build",
    "Batch": "detectune.structures",
    "ClassInfo": "detectune.structures",
    "Detections": "detectune.structures",
    "ImageBatch": "detectune.structures",
    "Record": "detectune.structures",
    "Targets": "detectune.structures",
}

__all__ = [
    "Batch", "ClassInfo", "ClassPredictor", "Config", "Detections", "ImageBatch", "Predictor", "Record", "Targets",
    "__version__", "build_detector", "load_config", "test", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'detectune' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
