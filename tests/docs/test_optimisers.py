"""docs/optimisers.md says what the code computes: its examples run."""

from __future__ import annotations

import doctest
from pathlib import Path


def test_examples(root: Path) -> None:
    failed, tried = doctest.testfile(str(root / "docs" / "optimisers.md"), module_relative=False)
    assert tried >= 30 and failed == 0
