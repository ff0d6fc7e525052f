"""`detectune infer`: draw detections into images and write them in COCO's results form."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detectune.errors import DataError, UserError

if TYPE_CHECKING:
    from detectune.config.load import Config
    from detectune.data.named_proposals import NamedProposals
    from detectune.structures import ClassInfo, Detections

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
OPTIONS = ("--weights", "--output", "--thresh", "--proposals", "--set", "--debug", "--help")


def infer(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A YAML file or the name of a packaged one.")
    ],
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE_OR_DIR...", help="Images, or folders that are searched for images."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the drawn images and detections.json.")],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Weights of any program, such as a run's model_final.safetensors, or the name of public ones. "
            "Default: TEST.WEIGHTS.",
        ),
    ] = None,
    thresh: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Least score drawn and written. Default: written all, drawn from VIS_TH on, or from the class's own "
            "in TEST.SCORE_THRESH_PER_CLASS.",
        ),
    ] = None,
    proposals: Annotated[
        Path | None,
        typer.Option(
            help='Regions to look at, for a detector without RPN: JSON {file name: {"boxes": [[x1, y1, x2, y2], ...], '
            '"scores": [...]}} in original pixels, or Detectron\'s .pkl.'
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting to change, such as TEST.NMS=0.6; repeatable."
        ),
    ] = None,
) -> None:
    """Find objects in images: draw boxes, masks, labels and scores; write detections.json.

    A file that cannot be read is named at the end; the others are done.
    """
    from detectune.cli.loading import load_for_command
    from detectune.data.images import load_image
    from detectune.engine.inference import Predictor
    from detectune.engine.run_directory import output_errors, write_text
    from detectune.weights.downloads import local_weights

    settings = load_for_command(config, set_, options=OPTIONS)
    named = weights or settings.TEST.WEIGHTS
    if not named:
        raise UserError("There are no weights: give --weights FILE, or set TEST.WEIGHTS.")
    given = given_proposals(settings, proposals)
    files = find_images(images, beside=output)
    chosen = local_weights(named, download_cache=settings.DOWNLOAD_CACHE)
    if not chosen.is_file():
        raise UserError(f"There is no weights file {chosen}.")
    if settings.MODEL.TYPE == "classifier":
        from detectune.cli.infer_classes import name_images

        name_images(settings, chosen, files, output.expanduser())
        return
    predictor = Predictor(settings, chosen)
    output = output.expanduser()
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    unreadable: list[str] = []
    try:
        for number, (file, name) in enumerate(files, start=1):
            try:
                pixels = load_image(file)
                regions = None if given is None else predictor.regions_for(pixels, given, name)
                found = predictor(pixels, regions)
            except DataError as error:
                unreadable.append(str(error))
                continue
            written = found if thresh is None else found[found.scores >= thresh]
            drawn = written if thresh is not None else written[predictor.shown(written, settings.VIS_TH)]
            rows += predictor.rows(written, image_id=number, file_name=name)
            draw(file, drawn, predictor.class_info, output / drawn_name(name))
            print(f"{number}/{len(files)}  {name}: {len(drawn)} drawn", flush=True)
    finally:  # what was found before an interruption or a full disk stays
        write_text(output / "detections.json", json.dumps(rows, indent=1) + "\n")
    done = len(files) - len(unreadable)
    print(f"{len(rows)} detections in {done} images; drawn images and detections.json are in {output}")
    if unreadable:
        print("\n".join(unreadable), file=sys.stderr)
        raise UserError(f"{len(unreadable)} of {len(files)} images could not be read; they are named above.")


def given_proposals(settings: Config, path: Path | None) -> NamedProposals | None:
    """What --proposals has, where the detector wants it."""
    from detectune.data.named_proposals import read_named_proposals

    model = settings.MODEL
    alone = model.RPN_ONLY or settings.RETINANET.RETINANET_ON or model.TYPE == "classifier"
    proposes = model.FASTER_RCNN or alone
    if path is None and not proposes:
        raise UserError(
            "This detector does not propose regions itself (MODEL.FASTER_RCNN is False): give it some with --proposals "
            "FILE."
        )
    if path is not None and proposes:
        raise UserError(
            "--proposals is for detectors that do not propose regions themselves, which this is not; leave it away, or "
            "set MODEL.FASTER_RCNN to False with --set."
        )
    return None if path is None else read_named_proposals(path.expanduser())


def draw(file: Path, detections: Detections, class_info: ClassInfo, target: Path) -> None:
    """Save the image `file` with its detections drawn as the JPEG `target`."""
    from PIL import Image

    from detectune.data.images import load_image
    from detectune.engine.run_directory import atomic_file, output_errors
    from detectune.engine.visualize import draw_detections

    drawn = Image.fromarray(draw_detections(load_image(file), detections, class_info))
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as stream:
        drawn.save(stream, "JPEG", quality=92)


def find_images(given: Sequence[Path], *, beside: Path) -> list[tuple[Path, str]]:
    """Every image file, with a name that is unique: relative to the folder it was found in.

    What lies in `beside`, the output of an earlier call perhaps, is left out.
    """
    found: dict[str, Path] = {}
    output = beside.expanduser().resolve()
    for place in (path.expanduser() for path in given):
        if not place.exists():
            raise UserError(f"There is no image or folder {place}.")
        files = [place] if place.is_file() else _images_in(place, output)
        if not files:
            raise UserError(f"There is no image in {place}; looked for {', '.join(sorted(SUFFIXES))}.")
        for file in files:
            name = file.name if place.is_file() else file.relative_to(place).as_posix()
            if found.get(name, file) != file:  # the same name in another folder
                name = f"{file.parent.name}/{name}"
            number = 2
            while found.get(name, file) != file:
                name = f"{number}_{name}"
                number += 1
            found[name] = file
    return [(file, name) for name, file in found.items()]


def drawn_name(name: str) -> str:
    """The file name of a drawn image: JPEG, telling apart inputs that differ in their suffix alone."""
    path = Path(name)
    return name if path.suffix.lower() in (".jpg", ".jpeg") else f"{name}.jpg"


def _images_in(folder: Path, output: Path) -> list[Path]:
    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    return sorted(file for file in files if output not in file.resolve().parents)
