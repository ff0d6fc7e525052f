"""A trained detector as a program that runs without this package: torch.export's (.pt2) or ONNX (.onnx).

The whole detector is in it, from a resized image of any size to detections in the original image; what it takes and
gives is written in `models.program` and, for whoever runs it, in a JSON file of the same name beside it. A .pt2 needs
torch and torchvision, an .onnx any ONNX runtime.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detectune.config.tree import Config
from detectune.data.images import load_image, resize_image
from detectune.data.loader import RESIZE
from detectune.engine.inference import Predictor
from detectune.engine.run_directory import atomic_file, output_errors, write_text
from detectune.errors import UserError
from detectune.models.build_program import build_program
from detectune.models.geometry import GEOMETRIES
from detectune.models.program import Program
from detectune.ops.class_nms import onnx_class_nms, onnx_translations, spread_class_nms
from detectune.structures import ClassInfo

SUFFIXES = (".pt2", ".onnx")
OPSET = 21
"""ONNX's operations as of version 1.16: the newest whose RoIAlign onnxruntime has."""

EXAMPLE_SIZE = (296, 404)
"""An image of which even the coarsest level, of stride 128, has several cells a side; other sizes run too."""

TOLERANCE = 1e-3
"""Of scores, and of boxes as a part of the image's side."""

Inputs = tuple[Tensor, Tensor, Tensor]
"""What a program takes: the resized image [1, 3, H, W], its original size [2], the factors [2]."""

INPUTS = {
    "image": "float32 [1, 3, height, width]: RGB, 0..255, resized by the rule below, not padded or normalised",
    "size": "int64 [2]: height and width of the original image",
    "scale": "float32 [2]: the factors by which x and y grew when the image was resized",
}
OUTPUTS = {
    "boxes": "float32 [N, 4]: x1, y1, x2, y2 in the original image, best first",
    "scores": "float32 [N]",
    "labels": "int64 [N]: 1 is the first class",
    "masks": "float32 [N, side, side]: probabilities inside the box, row first",
    "keypoints": "float32 [N, points, 4]: x, y in the original image, logit, probability",
}


def has_onnx() -> bool:
    """Whether the optional packages for ONNX are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxscript"))


def check_target(path: Path) -> None:
    """Whether a program can be written as `path`, before anything costs time.

    Raises:
        UserError: for an unknown suffix, and for ONNX without its packages.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} must end in .onnx (for an ONNX runtime) or .pt2 (for torch.export.load).")
    if path.suffix == ".onnx" and not has_onnx():
        raise UserError("ONNX needs more packages: pip install 'detectune[export]'.")


def export_detector(model: nn.Module, config: Config, class_info: ClassInfo, path: Path) -> list[str]:
    """Save a detector of this configuration as `path` (.pt2 or .onnx), and what to feed it as `path` (.json).

    Returns the names of its outputs.

    Raises:
        UserError: see `check_target` and `build_program`.
    """
    check_target(path)
    as_onnx = path.suffix == ".onnx"
    suppress = onnx_class_nms(max(len(class_info) + 1, _most_levels(config))) if as_onnx else spread_class_nms
    program = build_program(model.cpu(), config, suppress=suppress)
    names, recorded = list(program.output_names), record(program)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if as_onnx:
        _save_onnx(recorded, names, path)
    else:
        with atomic_file(path) as file:
            torch.export.save(recorded, file)
    write_text(path.with_suffix(".json"), json.dumps(describe(config, class_info, names), indent=1) + "\n")
    return names


def record(program: Program) -> torch.export.ExportedProgram:
    """A program recorded for images of any size."""
    height, width = EXAMPLE_SIZE
    pixels = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 255
    example = (pixels, torch.tensor([height, width]), torch.ones(2))
    any_size = torch.export.Dim.DYNAMIC
    shapes = {"image": {2: any_size, 3: any_size}, "size": None, "scale": None}
    program.eval()
    with torch.no_grad(), _quiet():
        return torch.export.export(program, example, dynamic_shapes=shapes, strict=False)


def load_program(path: Path) -> Callable[[Inputs], dict[str, Tensor]]:
    """A saved program as a function, run by torch or by onnxruntime."""
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()

        def run(inputs: Inputs) -> dict[str, Tensor]:
            with torch.no_grad():
                return dict(module(*inputs))

        return run
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError("Running an ONNX file needs onnxruntime: pip install 'detectune[export]'.")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run_onnx(inputs: Inputs) -> dict[str, Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}
        return {
            name: torch.from_numpy(value) for name, value in zip(names, session.run(None, feed), strict=True)
        }

    return run_onnx


def program_inputs(pixels: np.ndarray, config: Config) -> Inputs:
    """What to feed a program for an image uint8 [H, W, 3]."""
    resized, scale_x, scale_y = resize_image(
        pixels, short_side=config.TEST.SCALE, max_size=config.TEST.MAX_SIZE, style=_style(config)
    )
    return resized[None].float(), torch.tensor(pixels.shape[:2]), torch.tensor([scale_x, scale_y])


def program_differences(path: Path, predictor: Predictor, config: Config, image: Path) -> str:
    """How the saved program and the detector that it was made of differ on an image, in words.

    Raises:
        RuntimeError: if they differ by more than rounding does.
    """
    pixels = load_image(image)
    ours, theirs = predictor(pixels), load_program(path)(program_inputs(pixels, config))
    if len(ours) != len(theirs["scores"]):
        raise RuntimeError(
            f"the program finds {len(theirs['scores'])} objects in {image}, the detector {len(ours)}"
        )
    if not len(ours):
        return "nothing."
    scores = float((ours.scores - theirs["scores"]).abs().max())
    boxes = float((ours.boxes - theirs["boxes"]).abs().max())
    said = f"{len(ours)} objects; scores differ by at most {scores:.1e}, boxes by {boxes:.1e} pixels."
    if scores > TOLERANCE or boxes > TOLERANCE * max(pixels.shape):
        raise RuntimeError(said)
    return said


def describe(config: Config, class_info: ClassInfo, outputs: list[str]) -> dict[str, Any]:
    """What stands in the JSON file beside a program."""
    geometry = GEOMETRIES[config.MODEL.GEOMETRY]
    said: dict[str, Any] = {
        "inputs": INPUTS,
        "outputs": {name: OUTPUTS[name] for name in outputs},
        "resize": {
            "short_side": config.TEST.SCALE,
            "max_size": config.TEST.MAX_SIZE,
            "style": _style(config),
            "rule": "the shorter side becomes short_side, but the longer one at most max_size; bilinear",
        },
        "boxes": "x2 and y2 are the last pixel" if geometry.offset else "x2 and y2 are where the box ends",
        "classes": list(class_info.names),
        "category_ids": list(class_info.category_ids),
        "geometry": config.MODEL.GEOMETRY,
    }
    if "masks" in outputs:
        said["mask_threshold"] = config.MRCNN.THRESH_BINARIZE
    if "keypoints" in outputs:
        said["keypoints"] = list(class_info.keypoint_names)
    return said


def _save_onnx(recorded: torch.export.ExportedProgram, names: list[str], path: Path) -> None:
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            recorded, dynamo=True, input_names=list(INPUTS), output_names=names, opset_version=OPSET,
            custom_translation_table=onnx_translations(), verbose=False,
        )  # fmt: skip
    assert program is not None
    with output_errors(path):
        program.save(path)


def _style(config: Config) -> Any:
    return RESIZE[config.MODEL.GEOMETRY] if config.INPUT.RESIZE == "auto" else config.INPUT.RESIZE


def _most_levels(config: Config) -> int:
    """At least as many labels as proposals have, which are suppressed by level."""
    return config.FPN.RPN_MAX_LEVEL + 1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the recorders' remarks on their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
