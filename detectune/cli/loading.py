"""Reading CONFIG and its overrides for a command, with what loading has to say printed once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detectune.cli.overrides import check_words
from detectune.cli.places import find_config
from detectune.cli.processes import speaks, started_by_us

if TYPE_CHECKING:
    from detectune.config.load import Config


def load_for_command(name: str, words: Sequence[str] | None, *, options: Sequence[str]) -> Config:
    """The configuration that CONFIG and the words after it mean; its notices go to stderr."""
    from detectune.config.load import load_config

    config = load_config(find_config(name), check_words(words, options=options))
    for notice in dict.fromkeys(config.notices) if speaks() and not started_by_us() else ():
        print(f"Notice: {notice}", file=sys.stderr)
    return config
