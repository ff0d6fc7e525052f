"""Training and testing for tools/: the commands of `detectune`, with Detectron's folders and result files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from detectune.cli.original import Given, command, existing_weights, load, original_folder, wait_for
from detectune.cli.original_results import write_results
from detectune.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectune.config.load import Config


def train_and_test(cfg: str | None, opts: Sequence[str], *, skip_test: bool) -> None:
    """`detectune train`, which also tests; then Detectron's result files of what the test found."""
    given = load(cfg, opts)
    config = given.config
    folder = original_folder(config, config.TRAIN.DATASETS, training=True)
    words = [*given.words, *(["TEST.DATASETS=[]", "TEST.PROPOSAL_FILES=[]"] if skip_test else [])]
    command(["train", given.file, "--output", folder, *words])
    if not skip_test:
        _export(config, folder)


def test_weights(
    cfg: str | None,
    opts: Sequence[str],
    *,
    image_range: Sequence[int] | None,
    vis: bool,
    wait: bool,
    multi_gpu_testing: bool,
) -> None:
    """`detectune test` of TEST.WEIGHTS, then Detectron's result files; or detections of a range of images alone."""
    from detectune.weights.downloads import local_weights

    extra = (["VIS=true"] if vis else []) + ([] if multi_gpu_testing else ["NUM_GPUS=1"])
    given = load(cfg, [*opts, *extra])
    if not given.config.TEST.WEIGHTS:
        raise UserError("There are no weights to test: add TEST.WEIGHTS FILE to the line.")
    named = local_weights(given.config.TEST.WEIGHTS, download_cache=given.config.DOWNLOAD_CACHE)
    weights = existing_weights(str(named))
    if wait:
        wait_for(weights)
    folder = Path(given.config.OUTPUT_DIR).expanduser() / "test"
    if image_range is not None:
        _test_range(given, weights, image_range)
        return
    command(["test", given.file, "--weights", weights, "--output", folder, *given.words])
    _export(given.config, folder)


def _test_range(given: Given, weights: Path, image_range: Sequence[int]) -> None:
    from detectune.engine.testing import test

    config = given.config
    start, stop = image_range
    if not 0 <= start < stop:
        raise UserError(
            f"--range {start} {stop} names no image: give the first index, counted from 0, and the one after the "
            "last, such as --range 0 100."
        )
    images = slice(start, stop)
    for name in config.TEST.DATASETS:
        folder = original_folder(config, [name], training=False) / f"range_{start}_{stop}"
        test(config, weights, output_dir=folder, dataset=name, records=images)
        found = folder / "evaluation" / name
        print(f"Detections: {_write_originals(config, name, found, folder.parent, images=images)}")


def _export(config: Config, run: Path) -> None:
    """Detectron's files of each data set that was tested into `run`/evaluation."""
    for name in config.TEST.DATASETS:
        target = original_folder(config, [name], training=False)
        written = _write_originals(config, name, run / "evaluation" / name, target)
        print(f"Detectron's result files: {written.parent}")


def _write_originals(
    config: Config, dataset: str, found: Path, target: Path, *, images: slice = slice(None)
) -> Path:
    """Detectron's pickle of what a test left in `found`: proposals, or detections with their JSON files."""
    from detectune.engine.run_directory import output_errors

    if not config.MODEL.RPN_ONLY:
        files = found.glob("detections*.json")  # with a random part where TEST.COMPETITION_MODE is False
        rows = json.loads(max(files, key=lambda file: file.stat().st_mtime_ns).read_text())
        return write_results(config, dataset, rows, target, images=images)
    part = "" if images == slice(None) else f"_range_{images.start}_{images.stop}"
    file = target / f"rpn_proposals{part}.pkl"
    with output_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found / "rpn_proposals.pkl", file)
    return file
