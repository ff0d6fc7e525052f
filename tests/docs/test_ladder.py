"""The first table of docs/ladder.md says what bench/results/mnist_ladder.json holds."""

from __future__ import annotations

import json
from pathlib import Path


def test_the_table_is_what_was_measured(root: Path) -> None:
    _, rung, after = (root / "docs" / "ladder.md").read_text().partition("| Rung |")
    lines = (rung + after.partition("\n\n")[0]).splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    said = {row[0]: tuple(row[3:6]) for row in table[2:]}
    measured = json.loads((root / "bench" / "results" / "mnist_ladder.json").read_text())["rungs"]
    assert said == {
        name.removesuffix(" full"): (
            f"{100 * row['mean']:.2f} ± {100 * row['sd']:.2f}",
            str(row["seeds"]),
            f"{100 * row['binomial']:.2f}",
        )
        for name, row in measured.items()
    }
