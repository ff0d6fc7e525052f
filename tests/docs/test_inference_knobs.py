"""docs/inference_knobs.md names the keys that can be tried and the knobs of each kind of error, as the code does."""

from __future__ import annotations

import re
from pathlib import Path

from detectune.config.load import load_config
from detectune.evaluation.errors import KNOBS
from detectune.tuner.inference_space import within_reach


def rows(root: Path, head: str) -> list[tuple[str, list[str]]]:
    """(first cell, keys in back quotes) of the table under a head."""
    text = (root / "docs" / "inference_knobs.md").read_text()
    table = text[text.index(f"| {head} |") :].split("\n\n")[0].splitlines()[2:]
    return [(line.split("|")[1].strip(), re.findall(r"`([A-Z_.]+)`", line)) for line in table]


def test_keys_within_reach(root: Path) -> None:
    configs = [
        load_config(root / f"configs/getting_started/{name}.yaml") for name in ("shapes", "retinanet_shapes")
    ]
    want = {key for config in configs for task in ("bbox", "segm") for key in within_reach(config, task)}
    assert {key for _, keys in rows(root, "key") for key in keys} == want


def test_knobs_of_errors(root: Path) -> None:
    assert {kind: tuple(keys) for kind, keys in rows(root, "kind")} == KNOBS
