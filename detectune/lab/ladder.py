"""The MNIST ladder: nine configurations, each differing from the one before by one idea, and what each reaches.

Two figures for every rung. As the source reports it: the accuracy on the test images at the epoch that was best on
the validation images (the last of equals, as network3.py takes it), from one run. As one should: the mean and
deviation of that over seeds, beside the binomial error of 10,000 test images, which no number of seeds can undercut.

Source: Nielsen 2015, "Neural Networks and Deep Learning", chapter 6.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCURACY = "classification/accuracy"


@dataclass(frozen=True)
class Rung:
    """One step of the ladder."""

    number: str
    config: str  # name of a packaged configuration
    about: str
    reported: float | None  # accuracy in percent that the source prints


RUNGS = (
    Rung("1", "mnist/1_fully_connected", "100 sigmoid units", 97.80),
    Rung("2", "mnist/2_one_convolution", "one convolution", 98.78),
    Rung("3", "mnist/3_two_convolutions", "two convolutions", 99.06),
    Rung("4", "mnist/4_relu", "rectified linear units, L2", 99.23),
)


@dataclass(frozen=True)
class Outcome:
    """One run of a rung. Accuracies are fractions 0..1, epochs count from 1."""

    seed: int
    epochs: int
    best_epoch: int
    validation: float  # at the best epoch
    test: float  # there, too
    last_test: float  # after the last epoch


def read_outcome(rows: Sequence[dict[str, Any]], *, validation: str, test: str, seed: int) -> Outcome:
    """What the evaluation rows of a run's metrics.jsonl say; `validation` and `test` name the data sets."""
    tables = {
        name: {row["iteration"]: row[ACCURACY] for row in rows if row.get("dataset") == name}
        for name in (validation, test)
    }
    iterations = sorted(tables[validation])
    best = max(iterations, key=lambda i: (tables[validation][i], i))
    return Outcome(
        seed=seed,
        epochs=len(iterations),
        best_epoch=iterations.index(best) + 1,
        validation=tables[validation][best],
        test=tables[test][best],
        last_test=tables[test][iterations[-1]],
    )


def read_rows(run_dir: Path) -> list[dict[str, Any]]:
    """The evaluation rows of a run directory."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "evaluation"]
