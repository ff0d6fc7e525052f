"""`detectune weights show` and `convert`: what a weights file is, and writing it for another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, add_completion=False)


@app.command("show")
def show(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Weights of any program, whatever the file is called, or the name of public ones.",
        ),
    ],
    config: Annotated[
        bool, typer.Option("--config", help="Print only the configuration that is in the file.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what a weights file is: who wrote it, which network, how many classes, what else it holds.

    Nothing of a pickle is run, and no tensor is read.
    """
    from detectune.errors import WeightsError
    from detectune.weights.recognise import recognise
    from detectune.weights.summary import summarise

    summary = summarise(recognise(_local(file)))
    if config and not summary.config:
        raise WeightsError(f"{file}: there is no configuration in this file.")
    print(summary.config if config else summary.to_json() if as_json else summary.to_text())


@app.command("convert")
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN", help="Weights of any program, a checkpoint of a run, or the name of public weights."
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="Whose layout: detectune (.safetensors), detectron (.pkl), detectron2 (.pkl or .pth), torchvision "
            "(.pth). Default: the one that OUT's ending stands for.",
        ),
    ] = "",
    rgb: Annotated[
        bool,
        typer.Option(
            "--rgb",
            help="IN is of detectron2 and reads RGB (its INPUT.FORMAT), which no file says of itself.",
        ),
    ] = False,
) -> None:
    """Write weights in the layout of another program."""
    from detectune.engine.converting import convert_weights

    colours: Literal["RGB", "auto"] = "RGB" if rgb else "auto"
    print(convert_weights(_local(source), target.expanduser(), format=format_, colours=colours))


def _local(named: str) -> Path:
    """The file that a path, an address or a public name means; those are fetched into DOWNLOAD_CACHE."""
    path = Path(named).expanduser()
    if path.exists():  # a file is shown without what fetches files
        return path
    from detectune.weights.downloads import SCHEMES, local_weights
    from detectune.weights.zoo import find_known

    if not named.startswith(SCHEMES) and find_known(named) is None:
        return path
    from detectune.config.tree import Config

    return local_weights(named, download_cache=Config().DOWNLOAD_CACHE)
