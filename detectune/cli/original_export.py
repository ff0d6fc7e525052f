"""A trained detector as a program, for tools/: Caffe2's format is gone, torch.export takes its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detectune.cli.original import existing_weights, load
from detectune.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from detectune.config.load import Config

TOLERANCE = 1e-3


def export_model(
    cfg: str | None, opts: Sequence[str], *, out_dir: Path, net_name: str, test_img: Path | None
) -> None:
    """Write `out_dir`/`net_name`.pt2 (and .onnx where its packages are installed), checked on `test_img` if given."""
    from detectune.engine.export import export_dense, export_onnx, has_onnx, largest_difference
    from detectune.engine.inference import load_detector

    given = load(cfg, opts)
    weights = existing_weights(given.config.TEST.WEIGHTS) if given.config.TEST.WEIGHTS else None
    if weights is None or not weights.is_file():
        named = f"there is no file {weights}" if weights else "none are named"
        raise UserError(f"There are no weights to convert, {named}: add TEST.WEIGHTS FILE to the line.")
    model, _ = load_detector(given.config, weights)
    model.eval()
    pixels = _pixels(given.config, test_img)
    file = out_dir / f"{net_name}.pt2"
    outputs = export_dense(model, pixels, file)
    print(
        "Caffe2 and its .pb files are gone. This is the dense part of the network for torch.export.load: from RGB "
        f"pixels float32 {list(pixels.shape)}, 0..255, to"
    )
    print("\n".join(f"  {name:8} {list(shape)}" for name, shape in outputs.items()))
    print(
        "Choosing proposals, the heads and suppression are not in it: `detectune infer` has the whole detector."
    )
    print(f"Program: {file}")
    if has_onnx():
        export_onnx(model, pixels, file.with_suffix(".onnx"))
        print(f"ONNX:    {file.with_suffix('.onnx')}")
    else:
        print("No ONNX file: pip install 'detectune[export]' for one.")
    if test_img is not None:
        difference = largest_difference(model, file, pixels)
        print(
            f"On {test_img} the program differs from the network by at most {difference:.1e} of its values."
        )
        if difference > TOLERANCE:
            raise RuntimeError(f"the exported program differs by {difference:.1e}, more than {TOLERANCE:g}")


def _pixels(config: Config, image: Path | None) -> Tensor:
    """The test image as the network sees it, or random pixels in landscape format: float32 [1, 3, H, W], padded."""
    import torch

    from detectune.data.images import load_image, resize_image
    from detectune.data.loader import RESIZE

    stride = config.FPN.COARSEST_STRIDE if config.FPN.FPN_ON else 16
    if image is None:
        sides = config.TEST.SCALE, min(config.TEST.MAX_SIZE, config.TEST.SCALE * 4 // 3)
        tensor = torch.rand(3, *sides, generator=torch.Generator().manual_seed(0)) * 255
    else:
        tensor, _, _ = resize_image(
            load_image(image),
            short_side=config.TEST.SCALE,
            max_size=config.TEST.MAX_SIZE,
            style=RESIZE[config.MODEL.GEOMETRY] if config.INPUT.RESIZE == "auto" else config.INPUT.RESIZE,
        )
    height, width = tensor.shape[-2:]
    padded = torch.nn.functional.pad(tensor.float(), (0, -width % stride, 0, -height % stride))
    return padded[None]
