"""A trained detector as a program that runs without this package: its dense part, by torch.export, or as ONNX.

The dense part is what a fixed grid of numbers flows through: pixels are normalised, the body and the pyramid make
features, and the proposal network says of every anchor how likely it is an object and where its box should move. What
follows (choosing proposals, pooling regions, the heads, suppression) has shapes that depend on values and stays in
Python. The program is for images of one size.

Shape legend
    B  images, as many as in the example    H, W  pixels, multiples of the coarsest stride    A  anchors
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detectune.engine.run_directory import output_errors
from detectune.errors import UserError


class DensePart(nn.Module):
    """float32 RGB pixels [B, 3, H, W], 0..255 -> `p<level>`, `logits` [B, A], `deltas` [B, A, 4], `anchors`."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.rpn = getattr(model, "rpn", None)
        self.register_buffer("pixel_mean", model.pixel_mean.clone())
        self.register_buffer("pixel_std", model.pixel_std.clone())

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """All outputs by name."""
        features = self.backbone((pixels - self.pixel_mean) / self.pixel_std)
        out = {f"p{level}": value for level, value in features.items()}
        if self.rpn is not None:
            scored = self.rpn(features, (pixels.shape[-2], pixels.shape[-1]))
            out |= {"logits": scored.logits, "deltas": scored.deltas, "anchors": scored.anchors}
        return out


def export_dense(model: nn.Module, example: Tensor, path: Path) -> dict[str, tuple[int, ...]]:
    """Save the dense part for images like `example` [B, 3, H, W] as `path` (.pt2); {output: shape}."""
    dense = DensePart(model).eval()
    with torch.no_grad():
        program = torch.export.export(dense, (example,), strict=False)
        outputs = {name: tuple(value.shape) for name, value in dense(example).items()}
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.export.save(program, path)
    return outputs


def largest_difference(model: nn.Module, path: Path, pixels: Tensor) -> float:
    """The largest difference of any output of the saved program from the model's own, relative to its largest value."""
    program = torch.export.load(path).module()
    with torch.no_grad():
        ours, theirs = DensePart(model).eval()(pixels), program(pixels)
    return max(
        float((ours[name] - theirs[name]).abs().max() / ours[name].abs().max().clamp(min=1e-6))
        for name in ours
    )


def has_onnx() -> bool:
    """Whether the optional packages for ONNX are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxscript"))


def export_onnx(model: nn.Module, example: Tensor, path: Path) -> None:
    """Save the dense part as ONNX.

    Raises:
        UserError: if the optional packages are missing.
    """
    if not has_onnx():
        raise UserError("ONNX needs two more packages: pip install 'detectune[export]'.")
    dense = DensePart(model).eval()
    with torch.no_grad():
        names = list(dense(example))
        program = torch.onnx.export(
            dense, (example,), dynamo=True, input_names=["pixels"], output_names=names, verbose=False
        )
    assert program is not None
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(path)
