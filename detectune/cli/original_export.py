"""A trained detector as a program, for tools/: Caffe2's format is gone, torch.export and ONNX take its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectune.cli.original import existing_weights, load
from detectune.errors import UserError


def export_model(
    cfg: str | None, opts: Sequence[str], *, out_dir: Path, net_name: str, test_img: Path | None
) -> None:
    """Write `out_dir`/`net_name`.pt2 (and .onnx where its packages are installed), checked on `test_img` if given."""
    from detectune.cli.export import export_checked
    from detectune.engine.export import has_onnx

    given = load(cfg, opts)
    weights = existing_weights(given.config.TEST.WEIGHTS) if given.config.TEST.WEIGHTS else None
    if weights is None or not weights.is_file():
        named = f"there is no file {weights}" if weights else "none are named"
        raise UserError(f"There are no weights to convert, {named}: add TEST.WEIGHTS FILE to the line.")
    print("Caffe2 and its .pb files are gone. This is the whole detector for torch.export.load:")
    export_checked(given.config, str(weights), out_dir / f"{net_name}.pt2", test_img)
    if has_onnx():
        print("And for an ONNX runtime:")
        export_checked(given.config, str(weights), out_dir / f"{net_name}.onnx", test_img)
    else:
        print("No ONNX file: pip install 'detectune[export]' for one.")
