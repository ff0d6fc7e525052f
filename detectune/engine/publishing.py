"""Weights as others get them: `model_final.safetensors` and `best.safetensors`, self-describing.

The metadata says enough to use the file alone: the whole configuration, the classes with the data set's own
category ids, the geometry dialect, how long it was trained. It holds no time and no
output folder, so equal runs write equal files.
"""

from __future__ import annotations

import json
from pathlib import Path

from detectune.engine.hooks import Hook
from detectune.engine.run_directory import output_errors
from detectune.engine.running import Run, Trained
from detectune.models.classifier import Classifier
from detectune.structures import ClassInfo
from detectune.weights.native import save_weights


class FinalHook(Hook):
    """Writes model_final.safetensors when the run has ended."""

    def after_train(self, run: Run) -> None:
        save_published(run, run.directory.final_weights)


def save_published(run: Run, path: Path) -> None:
    """Write the model's present weights, or their moving average if one is kept, to `path`; the first process does."""
    run.finite.settle()
    if not run.team.first:
        return
    with run.evaluated_weights(), output_errors(path):
        save_weights(path, run.model.state_dict(), published_metadata(run))


def published_metadata(run: Trained) -> dict[str, str]:
    """What a weights file says about itself; every value is text, as safetensors wants it."""
    changed = run.config.diff().get("OUTPUT_DIR")  # where a run lay is nobody's business
    config = run.config if changed is None else run.config.with_overrides({"OUTPUT_DIR": changed[0]})
    metadata = {
        "format": "detectune",
        "config": config.to_yaml(),
        "classes": classes_json(run.class_info),
        "iteration": str(run.iteration),
        "geometry": run.config.MODEL.GEOMETRY,
    }
    if isinstance(run.model, Classifier):
        metadata["input_shape"] = json.dumps(run.model.input_shape)
    return metadata


def classes_json(info: ClassInfo) -> str:
    """Names and category ids of labels 1..K, and their keypoints, as JSON."""
    keypoints = {
        "names": info.keypoint_names,
        "flip": info.keypoint_flip,
        "skeleton": info.keypoint_skeleton,
        "labels": info.keypoint_labels,
    }
    return json.dumps({"names": info.names, "category_ids": info.category_ids, "keypoints": keypoints})
