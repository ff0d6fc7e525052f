"""Whose box arithmetic to use: where the configuration does not say, the weights do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectune.config.tree import Config
from detectune.weights.downloads import local_weights
from detectune.weights.recognise import recognise

KEY = "MODEL.GEOMETRY"
OF_A_DETECTOR = re.compile(
    r"(^|[._])(rpn|retnet|cls_score|bbox_pred|proposal_generator|roi_heads|cls_logits)"
)
"""Names of weights that a body alone does not have: what was trained on images alone has no dialect."""


def in_dialect_of(weights: Path | str, config: Config, *, log: Callable[[str], None]) -> Config:
    """The configuration with MODEL.GEOMETRY as the detector at `weights` (a file, an address; nothing: none) was made
    for, unless a file or an override sets the key.

    Raises:
        WeightsError: if the weights cannot be read.
    """
    if KEY in config.given or not str(weights) or config.MODEL.TYPE == "classifier":
        return config
    path = local_weights(weights, download_cache=config.DOWNLOAD_CACHE)
    file = recognise(path)
    dialect = file.metadata.get("geometry")
    if dialect in (None, config.MODEL.GEOMETRY) or not any(map(OF_A_DETECTOR.search, file.arrays)):
        return config
    log(f"{KEY} is {dialect}, as the weights {path} are made for; set it to choose another.")
    return config.with_overrides({KEY: dialect})


def with_box_weights_of(
    config: Config, metadata: Mapping[str, str], *, log: Callable[[str], None] = print
) -> Config:
    """The configuration for a test of weights that say `metadata` of themselves.

    Detectron's first models learnt boxes by their mean and deviation, which it folded into the weights later on. The
    configuration that such a file holds does not know MODEL.BBOX_REG_WEIGHTS, and Detectron takes 1 for all of them,
    whatever is asked for.
    """
    saved = metadata.get("cfg", "")
    wanted = (1.0, 1.0, 1.0, 1.0)
    if not saved or "BBOX_REG_WEIGHTS" in saved or tuple(config.MODEL.BBOX_REG_WEIGHTS) == wanted:
        return config
    log(
        "MODEL.BBOX_REG_WEIGHTS is 1, 1, 1, 1, as Detectron takes it for weights that are older than that key."
    )
    return config.with_overrides({"MODEL.BBOX_REG_WEIGHTS": wanted})


def in_dialect_of_run(checkpoint: Mapping[str, Any], config: Config) -> Config:
    """The configuration with MODEL.GEOMETRY as the run that goes on began, unless a file or an override sets it."""
    if KEY in config.given:
        return config
    return config.with_overrides({KEY: json.loads(checkpoint["config"])[KEY]})
