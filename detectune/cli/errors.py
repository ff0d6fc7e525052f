"""`detectune errors`: where a run's AP is lost, and which knobs act there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detectune.errors import UserError

if TYPE_CHECKING:
    from detectune.structures import ClassInfo, Record

WIDTH = 76
MOST_CONFUSED = 8
WORDS = {
    "classification": "the right place, the wrong class",
    "localisation": "the right class, a poor place",
    "both": "the wrong class and a poor place",
    "duplicate": "an object found again",
    "background": "nothing is there",
    "missed": "objects that nothing points at",
}


def errors(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A run directory with an evaluation, or a file of COCO result rows."
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which evaluation of the run; of a file: its data set, a known name or annotations.",
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="With a file: the images of its data set, if not beside."),
    ] = None,
    task: Annotated[str, typer.Option(help="bbox or segm.")] = "bbox",
    score: Annotated[
        float, typer.Option(min=0, max=1, help="Detections from here on count in the confusion of classes.")
    ] = 0.5,
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Split lost AP into kinds of error (TIDE), and name the knobs that act on the largest.

    Also AP by size of the objects and which classes are taken for which. Writes errors.json and errors.html.
    """
    from detectune.engine.run_directory import output_errors, write_text
    from detectune.evaluation.coco import evaluate_coco
    from detectune.evaluation.errors import error_report
    from detectune.report.errors_page import write_errors_page

    if task not in ("bbox", "segm"):
        raise UserError(f"--task {task} is unknown; errors are split for bbox and segm.")
    target = target.expanduser()
    if target.is_dir():
        file, records, class_info = _of_run(target, dataset)
    elif dataset is None:
        raise UserError(
            f"{target} is no run directory; of a file of result rows say its data set with --dataset."
        )
    else:
        file = target
        records, class_info = _of_dataset(dataset, images)
    rows = _read_rows(file, records, class_info, task)
    report = error_report(records, rows, class_info, task=task, score_thresh=score)
    metrics = evaluate_coco(records, rows, class_info=class_info, iou_types=[task]).metrics
    report["sizes"] = {name: metrics[f"{task}/{name}"] for name in ("AP", "APs", "APm", "APl")}
    report["file"] = str(file)
    with output_errors(file.parent):
        write_text(file.parent / "errors.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    page = write_errors_page(file.parent / "errors.html", report)
    if json_output:
        print(json.dumps(report, indent=1))
    else:
        print(f"{report_text(report)}\n\nReport: {page}")


def report_text(report: Mapping[str, Any]) -> str:
    """The tables for a terminal of 80 columns."""
    lines = [
        f"{report['task']}: {report['objects']} objects in {report['images']} images, AP50 {report['AP50']:.3f}",
        "",
        f"{'error':<16}{'count':>7}{'AP50 lost':>11}   what it is",
    ]
    for kind in sorted(WORDS, key=lambda kind: -report["gains"][kind]):
        lines.append(f"{kind:<16}{report['counts'][kind]:>7}{report['gains'][kind]:>11.3f}   {WORDS[kind]}")
    for side in ("false positives", "false negatives"):
        lines.append(f"{side:<16}{'':>7}{report['gains'][side]:>11.3f}   all of them together")
    sizes = "   ".join(f"{name} {_show(value)}" for name, value in report["sizes"].items())
    lines += ["", f"By size: {sizes}"]
    confused = confused_pairs(report)
    if confused:
        lines += ["", f"Taken for another class, at scores from {report['score_thresh']:g} on:"]
        lines += [f"  {true} taken for {seen}: {count}" for true, seen, count in confused[:MOST_CONFUSED]]
    if report["largest"]:
        keys = ", ".join(report["knobs"])
        lines += ["", fill(f"Most is lost to {report['largest']}. Knobs that act on it: {keys}.", WIDTH)]
    else:
        lines += ["", "Nothing is lost at an overlap of 0.5."]
    return "\n".join(lines)


def confused_pairs(report: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """(true class, seen class, how often), the most frequent first."""
    names, table = report["classes"], report["confusion"]
    pairs = [
        (names[i], names[j], table[i][j])
        for i in range(1, len(names))
        for j in range(1, len(names))
        if i != j and table[i][j]
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def _of_run(run: Path, name: str | None) -> tuple[Path, list[Record], ClassInfo]:
    """(file of result rows, records, classes) of an evaluation in a run directory."""
    from detectune.config.load import load_config
    from detectune.data.loader import build_loader

    found = sorted((run / "evaluation").glob("*/detections*.json"), key=lambda file: file.stat().st_mtime)
    names = sorted({file.parent.name for file in found})
    if not names:
        raise UserError(
            f"{run} holds no detections: `detectune test` writes evaluation/<data set>/detections.json."
        )
    chosen = name or names[0]
    files = [file for file in found if file.parent.name == chosen]
    if not files:
        raise UserError(f"{run} has no evaluation of {chosen}; it has {', '.join(names)}.")
    if not (run / "config.yaml").is_file():
        raise UserError(
            f"{run} has no config.yaml, so where {chosen} lies is not known; name {files[-1]} and --dataset."
        )
    loader = build_loader(load_config(run / "config.yaml"), training=False, dataset=chosen)
    return files[-1], loader.records, loader.class_info


def _of_dataset(name: str, images: str | None) -> tuple[list[Record], ClassInfo]:
    from detectune.data.datasets import locate_dataset
    from detectune.data.formats import read_places

    (records,), class_info, _ = read_places([locate_dataset(name, images)])
    return records, class_info


def _read_rows(file: Path, records: list[Record], class_info: ClassInfo, task: str) -> list[dict[str, Any]]:
    """COCO's result rows, checked."""
    try:
        rows = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as result rows: {error}.") from error
    part = {"bbox": "bbox", "segm": "segmentation"}[task]
    ids = {record.image_id for record in records}
    needed = ("image_id", "category_id", "score", part)
    if not isinstance(rows, list):
        raise UserError(f"{file} must hold a list of COCO result rows.")
    for number, row in enumerate(rows):
        missing = [name for name in needed if not isinstance(row, dict) or name not in row]
        if missing:
            raise UserError(
                f"{file}: row {number} has no {missing[0]}; --task {task} needs {', '.join(needed)}."
            )
        if row["image_id"] not in ids or row["category_id"] not in class_info.category_ids:
            raise UserError(
                f"{file}: row {number} is of image {row['image_id']} and category {row['category_id']}, which the data "
                "set does not have; name the one that the rows were made on."
            )
    return rows


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
