"""What the command lines of tools/ share: Detectron's parsers, its folders, its dialect, and our exit codes.

The tools take Detectron's flags and the `KEY VALUE` pairs behind them, and hand over to the commands of `detectune`.
They compute in Detectron's geometry unless the weights, the file or a pair says otherwise.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detectune.cli.places import find_config
from detectune.errors import UserError

if TYPE_CHECKING:
    from detectune.config.load import Config

GEOMETRY = "MODEL.GEOMETRY"
WAIT_SECONDS = 10.0


def run(main: Callable[[list[str]], None]) -> None:
    """Call `main` with the words of the command line and leave with 0; 2 for a user's mistake, 1 for a failure."""
    words = [word for word in sys.argv[1:] if word != "--debug"]
    debug = len(words) < len(sys.argv[1:])
    try:
        main(words)
        sys.exit(0)
    except UserError as error:
        code, message, trace = 2, str(error), traceback.format_exc()
    except KeyboardInterrupt:
        code, message, trace = 130, "Stopped.", traceback.format_exc()
    except Exception as error:
        code, trace = 1, traceback.format_exc()
        message = f"Failure: {type(error).__name__}: {str(error).strip() or 'no message'}"
        message += "" if debug else "\nRun again with --debug for the traceback."
    sys.stdout.flush()
    print((trace if debug else "") + message, file=sys.stderr)
    sys.exit(code)


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """The parsed words; without any, the help, as Detectron's tools showed it."""
    if not words:
        parser.print_help(sys.stderr)
        sys.exit(2)
    return parser.parse_args(words)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The `KEY VALUE` pairs at the end of a line."""
    parser.add_argument(
        "opts",
        metavar="KEY VALUE",
        nargs=argparse.REMAINDER,
        help="settings that replace those of the file, after all flags; `detectune knobs` lists the keys",
    )


@dataclass(frozen=True)
class Given:
    """A configuration as a tool was given it: the file, all settings on top of it, and what they make."""

    file: Path
    words: list[str]
    config: Config


def load(cfg: str | None, opts: Sequence[str], *, weights: str = "") -> Given:
    """Read --cfg with the pairs on top, in the geometry of `weights` (or TEST.WEIGHTS), else in Detectron's.

    Raises:
        UserError: with all that is wrong with the file and the pairs.
    """
    from detectune.config.load import load_config

    if cfg is None:
        raise UserError(
            "There is no configuration: give --cfg FILE, such as --cfg configs/12_2017_baselines/"
            "e2e_mask_rcnn_R-50-FPN_1x.yaml."
        )
    for word in opts:
        if word.startswith("--"):
            raise UserError(
                f"{word} stands among the KEY VALUE pairs; write all flags before the first pair."
            )
    file = find_config(cfg)
    words = list(opts)
    config = load_config(file, words)
    if not _sets_geometry(file, words):
        dialect = _geometry_of_weights(weights or config.TEST.WEIGHTS) or "detectron"
        words.append(f"{GEOMETRY}={dialect}")
        config = load_config(file, words)
    for notice in dict.fromkeys(config.notices):
        print(f"Notice: {notice}", file=sys.stderr)
    return Given(file, words, config)


def original_folder(config: Config, datasets: Sequence[str], *, training: bool) -> Path:
    """Where Detectron put a run: OUTPUT_DIR/train or test/<data sets joined by colons>/<MODEL.TYPE>."""
    kind = "train" if training else "test"
    return Path(config.OUTPUT_DIR).expanduser() / kind / ":".join(datasets) / config.MODEL.TYPE


def existing_weights(given: str) -> Path:
    """The weights file that `given` means: model_final.pkl of an earlier line is now model_final.safetensors."""
    path = Path(given).expanduser()
    found = _ours_beside(path)
    if found != path:
        print(f"Notice: there is no {path}; taking {found.name} beside it.", file=sys.stderr)
    return found


def wait_for(path: Path, *, seconds: float = WAIT_SECONDS) -> None:
    """Return when `path` exists; says once that it waits."""
    if not path.exists():
        print(f"Waiting for {path} to exist ...", flush=True)
    while not path.exists():
        time.sleep(seconds)


def command(words: Sequence[str | Path]) -> None:
    """Run `detectune WORDS` in this process; a command that does not end well ends the tool with its exit code."""
    from detectune.cli.main import main

    try:
        main([str(word) for word in words])
    except SystemExit as end:
        if end.code not in (None, 0):
            raise


def _ours_beside(path: Path) -> Path:
    ours = path.with_suffix(".safetensors")
    return ours if path.suffix == ".pkl" and not path.exists() and ours.is_file() else path


def _sets_geometry(file: Path, words: Sequence[str]) -> bool:
    from detectune.config.load import read_settings
    from detectune.config.settings import from_words

    settings = [*read_settings(file).settings, *from_words(list(words), (Path(),)).settings]
    return any(setting.key == GEOMETRY for setting in settings)


def _geometry_of_weights(weights: str) -> str | None:
    """The dialect of whoever wrote a weights file; None where there is none to read."""
    from detectune.errors import WeightsError
    from detectune.weights.recognise import recognise

    path = _ours_beside(Path(weights).expanduser()) if weights else None
    if path is None or not path.is_file():
        return None
    try:
        return recognise(path).metadata.get("geometry")
    except WeightsError:
        return None  # whoever loads the weights says what is wrong with them
