"""A weights file of one program -> a file of another, by way of our names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from detectune.config.catalogue import KNOBS
from detectune.config.load import config_from_text
from detectune.config.nesting import nested
from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.weights.files import Colours, Loaded, load_file
from detectune.weights.native import save_weights
from detectune.weights.writing import (
    detectron2_pickle,
    detectron2_pth,
    detectron_cfg,
    detectron_pickle,
    names_of_ours,
    torchvision_pth,
    write_whole,
)

FORMATS = {
    "detectune": (".safetensors",), "detectron": (".pkl",), "detectron2": (".pkl", ".pth"), "torchvision": (".pth",),
}  # fmt: skip
_BOX_WEIGHTS = {"MODEL": {"BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0]}}
"""What a configuration must tell Detectron, which takes 1 where it is missing; these are everybody's."""

_NO_DIVISION = (1.0, 1.0, 1.0)


def convert_weights(source: Path, target: Path, *, format: str = "", colours: Colours = "auto") -> str:
    """Read `source`, of any kind, write `target` and say in a sentence what was done.

    Args:
        source: weights of any kind; a checkpoint of a run also has momentum, which Detectron's files keep.
        target: the file to write.
        format: one of FORMATS; where empty, the ending of `target` tells if it can.
        colours: which the first layer of detectron2's weights reads; see `read_weights`.

    Raises:
        UserError: if the format is unknown, does not fit the ending, or has no place for some of the weights.
        WeightsError: if `source` cannot be read.
        OutputError: if `target` cannot be written.
    """
    format = choose_format(target, format)
    loaded = load_file(source, colours=colours)
    if format == "detectune":
        save_weights(target, loaded.state, our_metadata(loaded))
    elif format == "detectron":
        write_whole(target, [_detectron(loaded)])
    elif format == "detectron2":
        write = detectron2_pth if target.suffix == ".pth" else detectron2_pickle
        config = _config(loaded)
        bgr = config is None or config.INPUT.WEIGHTS_COLOURS != "RGB"  # what the file that it came from reads
        write_whole(target, [write(loaded.state, bgr=bgr)])
    else:
        write_whole(target, [torchvision_pth(loaded.state)])
    return _told(loaded, source, target, format)


def _told(loaded: Loaded, source: Path, target: Path, format: str) -> str:
    state, momentum = loaded.state, loaded.momentum
    foreign = [] if format == "detectune" else sorted(state.keys() - names_of_ours(state))
    if format == "detectron":  # which keeps what has no dots in its name
        foreign = [name for name in foreign if "." in name]
    kept = f" with momentum for {len(momentum)} of them" if momentum and format == "detectron" else ""
    count = len(state) - len(foreign)
    text = f"{target}: {count} tensors{kept} in the layout of {format}, from {source} ({loaded.system})."
    if foreign:
        more = ", ..." if len(foreign) > 5 else ""
        text += f" Left out, because no detector has them: {', '.join(foreign[:5])}{more}."
    if momentum and format != "detectron":
        text += " Momentum was left out: of the formats only detectron has it."
    return text


def choose_format(target: Path, format: str) -> str:
    """The format that was asked for, or that the ending of `target` stands for."""
    ending = target.suffix
    fitting = [name for name, endings in FORMATS.items() if ending in endings]
    listing = ", ".join(f"{name} ({' or '.join(endings)})" for name, endings in FORMATS.items())
    if not format and len(fitting) == 1:
        return fitting[0]
    if not format:
        told = (
            f"the ending {ending!r} stands for {' and '.join(fitting)}"
            if fitting
            else f"it ends in {ending!r}"
        )
        raise UserError(f"{target}: add --format, as {told}. Formats are {listing}.")
    if format not in FORMATS:
        raise UserError(f"--format {format} is unknown; choose one of {listing}.")
    if ending not in FORMATS[format]:
        raise UserError(
            f"{target}: --format {format} is written to files that end in {' or '.join(FORMATS[format])}."
        )
    return format


def our_metadata(loaded: Loaded) -> dict[str, str]:
    """What our file says of weights that came from elsewhere; a file of ours keeps what it said."""
    told = {key: value for key, value in loaded.metadata.items() if key != "checkpoint"}
    if loaded.system == "detectune":
        config = _config(loaded)
        if config is not None:
            told |= {"config": config.to_yaml(), "geometry": config.MODEL.GEOMETRY}
    else:
        told["from"] = loaded.system
    return told | {"format": "detectune"}


def _detectron(loaded: Loaded) -> bytes:
    config, cfg = _config(loaded), loaded.metadata.get("cfg")
    stds, upscale = _NO_DIVISION, _upscale(loaded.state)
    if config is not None:
        blue, green, red = config.INPUT.PIXEL_STDS
        stds, upscale = (red, green, blue), config.KRCNN.UP_SCALE
        cfg = detectron_cfg(_detectrons_keys(config))
    return detectron_pickle(
        loaded.state,
        momentum=loaded.momentum,
        cfg=detectron_cfg(_BOX_WEIGHTS) if cfg is None else cfg,
        keypoint_upscale=upscale,
        pixel_stds=stds,
    )


def _config(loaded: Loaded) -> Config | None:
    """The configuration that a file or checkpoint of ours holds."""
    if "checkpoint" in loaded.metadata:
        return Config().with_overrides(json.loads(loaded.metadata["checkpoint"]))
    if "config" in loaded.metadata:
        return config_from_text(loaded.metadata["config"], "the configuration in the weights file")
    return None


def _detectrons_keys(config: Config) -> dict[str, Any]:
    """The tree without the keys that Detectron does not have."""
    return nested(
        {key: value for key, value in config.flat().items() if not KNOBS[key].source.startswith("ours")}
    )


def _upscale(state: Mapping[str, Tensor]) -> int:
    """KRCNN.UP_SCALE where no configuration tells: Detectron's heads enlarge twice."""
    return 2 if any(name.startswith("keypoint_head.") for name in state) else 1
