"""Reading CONFIG and its overrides for a command, with what loading has to say printed once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detectune.cli.overrides import check_words
from detectune.cli.places import find_config
from detectune.cli.processes import speaks, started_by_us
from detectune.weights.zoo import find_known

if TYPE_CHECKING:
    from detectune.config.load import Config


BASELINES = ("12_2017_baselines", "04_2018_gn_baselines")
"""Folders of configurations whose models compute boxes as Detectron does, which their files do not say."""


def load_for_command(name: str, words: Sequence[str] | None, *, options: Sequence[str]) -> Config:
    """The configuration that CONFIG and the words after it mean; its notices go to stderr.

    CONFIG is a file, a packaged configuration, or the name of a public model, such as detectron/35861858.
    """
    from detectune.config.load import load_config

    file, meant = name, list[str]()
    known = None if Path(name).exists() else find_known(name)
    if known is not None:  # a public model: its configuration, and itself to test
        file = known.config or name
        meant = [f"TEST.WEIGHTS={name}"] + ["MODEL.GEOMETRY=detectron"] * (
            known.config.split("/")[0] in BASELINES
        )
    config = load_config(find_config(file), [*meant, *check_words(words, options=options)])
    for notice in dict.fromkeys(config.notices) if speaks() and not started_by_us() else ():
        print(f"Notice: {notice}", file=sys.stderr)
    return config
