"""Files that are programs or bombs: every route that reads a pickle ends with exit code 2 and one sentence.

Nothing is run (a canary file stays absent) and no large memory is taken.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import PICKLES, PLAIN_VALUES, TORCH_FILES, zipped
from PIL import Image
from weight_families import config_of

from detectune.cli.main import main
from detectune.cli.original_results import evaluate_again
from detectune.config.load import dump_yaml
from detectune.data.proposal_files import read_proposals
from detectune.engine.checkpoint import MARK, TRAILER, DamagedCheckpointError, load_checkpoint
from detectune.engine.inference import load_detector
from detectune.engine.initial_weights import load_initial_weights
from detectune.errors import UserError
from detectune.evaluation.detectron_results import read_detections_pickle

CONFIG = config_of("rpn R-50 FPN")
PEAK = 30 * 2**20  # bytes that refusing a file of some kilobytes may take


def weights_show(file: Path, folder: Path) -> None:
    main(["weights", "show", str(file)])


def weights_convert(file: Path, folder: Path) -> None:
    main(["weights", "convert", str(file), str(folder / "out.safetensors")])


def infer(file: Path, folder: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "image.png")
    (folder / "config.yaml").write_text(dump_yaml(CONFIG))
    main(["infer", str(folder / "config.yaml"), str(folder / "image.png"), "--weights", str(file), "--output",
          str(folder / "drawn")])  # fmt: skip


def infer_proposals(file: Path, folder: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "image.png")
    (folder / "config.yaml").write_text("MODEL: {NUM_CLASSES: 3, DEVICE: cpu, TYPE: generalized_rcnn}\n")
    main(["infer", str(folder / "config.yaml"), str(folder / "image.png"), "--weights", "none.pkl", "--proposals",
          str(file), "--output", str(folder / "drawn")])  # fmt: skip


def training(file: Path, folder: Path) -> None:
    load_initial_weights(torch.nn.Linear(2, 2), file)


def loading(file: Path, folder: Path) -> None:
    load_detector(CONFIG, file)


def proposals(file: Path, folder: Path) -> None:
    read_proposals(file)


def detections(file: Path, folder: Path) -> None:
    read_detections_pickle(file)


def reval(file: Path, folder: Path) -> None:
    (folder / "results").mkdir()
    file.rename(folder / "results" / "detections.pkl")
    evaluate_again(folder / "results", dataset="shapes_val", cfg=None, comp=False)


Route = Callable[[Path, Path], None]
QUICK: list[Route] = [weights_show, weights_convert, training, loading, proposals, detections]
WHOLE: list[Route] = [
    infer,
    infer_proposals,
    reval,
]  # commands that do more before they read, with a part of the kinds
SOME = list(PICKLES)[::6]


def refused(route: Route, file: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the user is told; a command must end with 2, a function with the error that commands print as 2."""
    try:
        route(file, folder)
    except SystemExit as end:
        told = capsys.readouterr().err.strip()
        assert end.code == 2, told
    except UserError as error:
        told = str(error)
    else:
        raise AssertionError("the file was read")
    assert "Traceback" not in told and "\n" not in told and told.endswith("."), told
    assert len(told) < 600
    return told


CASES = [(kind, route) for route in QUICK for kind in PICKLES] + [
    (kind, route) for route in WHOLE for kind in SOME
]


@pytest.mark.parametrize(("kind", "route"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_hostile_pickles(kind: str, route: Route, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canary = tmp_path / "canary"
    file = tmp_path / "given.pkl"
    file.write_bytes(PICKLES[kind](canary))
    tracemalloc.start()
    told = refused(route, file, tmp_path, capsys)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not canary.exists()
    assert "given.pkl" in told or "detections.pkl" in told
    assert peak < PEAK
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("kind", PICKLES)
def test_hostile_pickles_in_torch_files(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "given.pth").write_bytes(zipped(PICKLES[kind](canary)))
    told = refused(weights_show, tmp_path / "given.pth", tmp_path, capsys)
    assert "given.pth" in told and not canary.exists()


@pytest.mark.parametrize("route", [weights_convert, training], ids=lambda route: route.__name__)
@pytest.mark.parametrize("kind", TORCH_FILES)
def test_hostile_torch_files(
    kind: str, route: Route, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "given.pth"
    file.write_bytes(TORCH_FILES[kind]())
    tracemalloc.start()
    told = refused(route, file, tmp_path, capsys)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "given.pth" in told and peak < PEAK


@pytest.mark.parametrize("kind", PLAIN_VALUES)
def test_values_that_explode_when_written_out(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Harmless to hold, endless to print: a message must not."""
    file = tmp_path / "given.pkl"
    file.write_bytes(PLAIN_VALUES[kind](tmp_path / "canary"))
    for route in (weights_show, proposals, detections):
        refused(route, file, tmp_path, capsys)


@pytest.mark.parametrize(
    "kind", ["a call by reduce", "by attribute: setstate", "through torch's lookup", "cut off"]
)
def test_hostile_checkpoints_of_a_run(kind: str, tmp_path: Path) -> None:
    """With a trailer that vouches for them: named as damaged, and an older one is taken."""
    import zlib

    canary = tmp_path / "canary"
    body = zipped(PICKLES[kind](canary))
    path = tmp_path / "iter_0000001.pt"
    path.write_bytes(body + TRAILER.pack(MARK, zlib.crc32(body), len(body)))
    with pytest.raises(DamagedCheckpointError, match="no checkpoint"):
        load_checkpoint(path)
    assert not canary.exists()
