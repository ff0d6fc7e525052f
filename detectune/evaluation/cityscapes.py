"""Cityscapes' instance-level AP (Cordts et al. 2016, arXiv:1604.01685, section 4.2) by its authors' own library.

The library (cityscapesscripts, not a dependency of ours) reads results from files: for each frame a text file with a
line `masks/NAME.png LABEL SCORE` for each object, and its mask as a picture. Its AP leaves out regions under 100 pixels
and forgives what lies in groups and void, so it differs a little from COCO's on the same masks.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask
from PIL import Image

from detectune.errors import DataError


def library_is_installed() -> bool:
    """Whether `evaluate_cityscapes` can run."""
    return importlib.util.find_spec("cityscapesscripts") is not None


def write_results(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    frames: Mapping[int, str],
    labels: Mapping[int, int],
) -> None:
    """The files of every frame: `frames` are names by image id (aachen_000000_000019), `labels` Cityscapes' label ids
    by category id.
    """
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    lines: dict[int, list[str]] = {image_id: [] for image_id in frames}
    for row in rows:
        own = lines[row["image_id"]]
        name = f"masks/{frames[row['image_id']]}_{len(own):04d}.png"
        pixels = np.asarray(coco_mask.decode(row["segmentation"])) * np.uint8(255)
        Image.fromarray(pixels).save(folder / name)
        own.append(f"{name} {labels[row['category_id']]} {row['score']:.6f}\n")
    for image_id, frame in frames.items():
        (folder / f"{frame}_pred.txt").write_text("".join(lines[image_id]))


def evaluate_cityscapes(results: Path, truth: Sequence[Path]) -> dict[str, float | None]:
    """cityscapes/AP and cityscapes/AP50 of the files that `write_results` left; `truth` are pictures of instance ids.

    None where the library cannot tell: without objects, or where every find of a class lies in what it forgives.

    Raises:
        DataError: if the library refuses the files.
    """
    from cityscapesscripts.evaluation import (
        evalInstanceLevelSemanticLabeling as library,  # noqa: N813 - a module, whatever its name looks like
    )

    arguments = library.args
    arguments.predictionPath = str(results.resolve())
    arguments.predictionWalk = None
    arguments.JSONOutput = arguments.colorized = False
    arguments.quiet = True
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(said), _in1d():
        arguments.gtInstancesFile = str(
            Path(folder) / "instances.json"
        )  # its cache would outlive changed files
        pictures = [str(path.resolve()) for path in truth]
        try:
            predictions = [library.getPrediction(picture, arguments) for picture in pictures]
            averages = _averages(library, predictions, pictures)
        except SystemExit as error:  # how it reports mistakes
            last = (said.getvalue().strip().splitlines() or ["no reason given"])[-1]
            raise DataError(f"{results}: cityscapesscripts cannot evaluate these results: {last}") from error
    return {
        f"cityscapes/{ours}": float(averages[theirs]) if np.isfinite(averages[theirs]) else None
        for ours, theirs in (("AP", "allAp"), ("AP50", "allAp50%"))
    }


def _averages(library: Any, predictions: Sequence[str], pictures: Sequence[str]) -> dict[str, float]:
    """The steps of the library's own `evaluateImgLists`, but for the matches.json that it leaves in the working
    directory (and cannot write with numpy 2)."""
    arguments = library.args
    library.setInstanceLabels(arguments)
    truth = library.getGtInstances(pictures, arguments)
    matches = library.matchGtWithPreds(predictions, pictures, truth, arguments)
    try:
        scores = library.evaluateMatches(matches, arguments)
    except IndexError:  # with all finds of a class in forgiven regions it asks for the last one of none
        return {"allAp": math.nan, "allAp50%": math.nan}
    averages: dict[str, float] = library.computeAverages(scores, arguments)
    return averages


@contextlib.contextmanager
def _in1d() -> Iterator[None]:
    """The library (2.3) calls `numpy.in1d`, which numpy 2.4 removed; it is there again while the library runs."""
    if hasattr(np, "in1d"):
        yield
        return
    np.in1d = np.isin  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del np.in1d  # type: ignore[attr-defined]
