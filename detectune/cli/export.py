"""`detectune export`: a trained detector as one file for torch.export or an ONNX runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detectune.errors import UserError

if TYPE_CHECKING:
    from detectune.config.load import Config

OPTIONS = ("--weights", "--output", "--check", "--debug", "--help")


def export(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A YAML file or the name of a packaged one.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings that replace those of the file; KEY VALUE works too.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(help="Weights file, such as a run's model_final.safetensors. Default: TEST.WEIGHTS."),
    ] = "",
    output: Annotated[
        Path, typer.Option(help="The file to write: .onnx, or .pt2 for torch.export.load.")
    ] = Path("model.onnx"),
    check: Annotated[
        Path | None, typer.Option(help="An image on which the written program is compared with the detector.")
    ] = None,
) -> None:
    """Write the whole detector as a program that runs without Detectune, for images of any size.

    What to feed it stands in a JSON file of the same name beside it.
    """
    from detectune.cli.loading import load_for_command
    from detectune.engine.export import check_target

    check_target(output)
    settings = load_for_command(config, overrides, options=OPTIONS)
    named = weights or settings.TEST.WEIGHTS
    if not named:
        raise UserError("There are no weights to export: give --weights FILE, or set TEST.WEIGHTS.")
    export_checked(settings, named, output.expanduser(), check)


def export_checked(settings: Config, weights: str, output: Path, check: Path | None) -> None:
    """Write the program, say what it is, and compare it on an image if there is one."""
    from detectune.engine.dialect import in_dialect_of
    from detectune.engine.export import INPUTS, OUTPUTS, export_detector, program_differences
    from detectune.engine.inference import Predictor, load_detector
    from detectune.weights.downloads import local_weights

    settings = settings.with_overrides(
        {"MODEL.DEVICE": "cpu", "TEST.COMPILE": False, "TEST.PRECISION": "fp32"}
    )
    file = local_weights(weights, download_cache=settings.DOWNLOAD_CACHE)
    settings = in_dialect_of(file, settings, log=print)
    model, class_info = load_detector(settings, file)
    names = export_detector(model, settings, class_info, output)
    for title, said, shown in (("from", INPUTS, list(INPUTS)), ("to", OUTPUTS, names)):
        print("\n".join((title, *(f"  {name:9} {said[name]}" for name in shown))))
    print(f"Program: {output}\nWhat to feed it: {output.with_suffix('.json')}")
    if check is not None:
        predictor = Predictor(settings, model=model, class_info=class_info)
        found = program_differences(output, predictor, settings, check)
        print(f"On {check} the program finds what the detector does: {found}")
