"""`detectune data`: is this data set what I think it is (`check`, `show`), and which anchors cover it (`anchors`)?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from detectune.cli.data_anchors import anchors

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, add_completion=False)
app.command("anchors")(anchors)

FileArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="Annotations (COCO or LVIS JSON, VOC's list of names or folder of XML files), or a known name such as "
        "shapes_train or coco_2017_val.",
    ),
]
ImagesOption = Annotated[
    str | None, typer.Option("--images", metavar="DIR", help="Folder of its images; looked for if not given.")
]


@app.command("check")
def check(
    file: FileArgument,
    images: ImagesOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not open the images, only look that they exist.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Count what a data set contains and name what is wrong with it.

    Exit code 2 if something would stop training.
    """
    from detectune.data.check import check_dataset
    from detectune.data.datasets import locate_dataset
    from detectune.data.loader import available_cpus
    from detectune.errors import DataError

    place = locate_dataset(file, images)
    report = check_dataset(
        place.annotations,
        place.images,
        format=place.format,
        read_images=not quick,
        num_threads=available_cpus(),
        progress=_progress if sys.stderr.isatty() else None,
    )
    print(json.dumps(report.to_json(), indent=2) if as_json else report.to_text())
    if report.fatal:
        counts = ", ".join(f"{kind} ({report.problems.counts[kind]})" for kind in report.fatal)
        raise DataError(
            f"{place.annotations} cannot be trained on as it is: {counts}; the report says what to do."
        )


@app.command("show")
def show(
    file: FileArgument,
    images: ImagesOption = None,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where the pictures go.")] = Path(
        "shown"
    ),
    num: Annotated[int, typer.Option("--num", min=1, help="How many images, spread over the data set.")] = 12,
) -> None:
    """Draw images with their boxes, outlines and names."""
    import numpy as np
    from PIL import Image

    from detectune.data.datasets import locate_dataset
    from detectune.data.formats import read_places
    from detectune.data.images import load_image
    from detectune.engine.visualize import draw_record
    from detectune.errors import OutputError

    place = locate_dataset(file, images)
    (records,), class_info, problems = read_places([place])
    for line in problems.lines():
        print(f"Notice: {line}", file=sys.stderr)
    chosen = np.unique(np.linspace(0, len(records) - 1, min(num, len(records))).round().astype(int))
    try:
        output.mkdir(parents=True, exist_ok=True)
        for i in chosen:
            record = records[i]
            drawn = draw_record(load_image(record.file_name), record, class_info)
            target = output / f"{Path(record.file_name).stem}.png"
            Image.fromarray(drawn).save(target)
            print(target)
    except OSError as error:
        raise OutputError(f"{output}: the pictures cannot be written ({error.strerror or error}).") from error


@app.command("cityscapes")
def cityscapes(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where leftImg8bit/ and gtFine/ are unpacked.")
    ],
    splits: Annotated[
        str, typer.Option("--splits", metavar="NAMES", help="Which parts, with commas between.")
    ] = "train,val",
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Where the files go. Default: FOLDER/annotations."),
    ] = None,
) -> None:
    """Convert Cityscapes' pictures of instances to COCO files, for the names cityscapes_fine_instanceonly_seg_*."""
    from detectune.data.cityscapes import convert_cityscapes
    from detectune.errors import OutputError

    target = output or folder / "annotations"
    for split in (name.strip() for name in splits.split(",")):
        document = convert_cityscapes(folder, split, progress=_progress if sys.stderr.isatty() else None)
        file = target / f"instancesonly_gtFine_{split}.json"
        try:
            target.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            part.write_text(json.dumps(document))
            part.replace(file)
        except OSError as error:
            raise OutputError(f"{file} cannot be written ({error.strerror or error}).") from error
        print(f"{file}: {len(document['images'])} images, {len(document['annotations'])} objects and groups")


@app.command("proposals")
def proposals(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Proposals: Detectron's .pkl or our .npz.")],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write them there too, as .pkl or .npz.")
    ] = None,
) -> None:
    """Count what a proposal file holds; convert it to the other kind."""
    import numpy as np

    from detectune.data.proposal_files import proposals_to_bytes, read_proposals
    from detectune.errors import OutputError

    found = read_proposals(file)
    counts = [len(boxes) for boxes in found.boxes] or [0]
    scored = "with scores" if found.scores is not None else "without scores"
    print(f"{file}: {sum(counts)} boxes {scored} for {len(found)} images")
    print(f"Boxes per image: {min(counts)} to {max(counts)}, median {np.median(counts):g}")
    if output is not None:
        content = proposals_to_bytes(found, output.suffix)
        try:
            part = output.with_name(f".{output.name}.part")
            part.write_bytes(content)
            part.replace(output)
        except OSError as error:
            raise OutputError(f"{output} cannot be written ({error.strerror or error}).") from error
        print(output)


def _progress(done: int, of: int) -> None:
    end = "\n" if done == of else ""
    print(f"\rReading images {done}/{of}", end=end, file=sys.stderr, flush=True)
