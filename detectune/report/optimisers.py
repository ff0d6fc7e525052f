"""The page and the tables of `detectune lab optimisers`, from its `optimisers.json` and `sparse.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectune.report.charts import Series, line_chart
from detectune.report.lab_page import Section, write_lab_page

Table = tuple[list[str], list[list[str]]]
NEVER = "\u2013"  # en dash
A_CHART = 4  # lines in one chart


def comparison_table(measured: Mapping[str, Any]) -> Table:
    """Accuracy, cost until the target and width of each optimiser, best first."""
    ranked = sorted(measured["rows"], key=lambda row: -(row["test_accuracy"] or 0))
    return ["optimiser", "accuracy", "sd", "steps", "s", "decades"], [_row(row) for row in ranked]


def _row(row: Mapping[str, Any]) -> list[str]:
    accuracy, spread = row["test_accuracy"], row["test_accuracy_sd"]
    steps, seconds = row["updates_to_target"], row["seconds_to_target"]
    return [
        row["optimiser"] + ("*" if row["at_border"] else ""),
        NEVER if accuracy is None else f"{100 * accuracy:.2f}",
        NEVER if spread is None else f"{100 * spread:.2f}",
        NEVER if steps is None else f"{steps:,}",
        NEVER if seconds is None else f"{seconds:.2g}",
        f"{row['width_decades']:.2f}",
    ]


def settings_table(measured: Mapping[str, Any]) -> Table:
    """The settings each was tuned to."""
    rows = []
    for row in measured["rows"]:
        settings = {
            k.removeprefix("SOLVER."): v for k, v in row["overrides"].items() if k != "SOLVER.OPTIMIZER"
        }
        rows.append([row["optimiser"], ", ".join(f"{key} {value}" for key, value in settings.items())])
    return ["optimiser", "settings"], rows


def sparse_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Loss above the best possible, on rare words and on dense features; lowest on rare words first."""
    ranked = sorted(rows, key=lambda row: row["sparse"])
    return ["rule", "sparse", "dense"], [
        [row["optimiser"], f"{row['sparse']:.4f}", f"{row['dense']:.4f}"] for row in ranked
    ]


def write_optimisers_page(directory: Path) -> Path:
    """Write `optimisers.html` beside the JSON and return its path."""
    measured = json.loads((directory / "optimisers.json").read_text())
    sparse = json.loads((directory / "sparse.json").read_text())
    budget, rows = measured["budget"], measured["rows"]
    charts = [
        line_chart(
            "Accuracy over the rate, in powers of ten",
            [
                Series(
                    row["optimiser"],
                    [(math.log10(lr), accuracy) for lr, accuracy in row["rates"] if accuracy > 0],
                    slot,
                )
                for slot, row in enumerate(rows[first : first + A_CHART], start=1)
            ],
            x_name="learning rate, power of ten",
            y_limits=(0.9, 1.0),
        )
        for first in range(0, len(rows), A_CHART)
    ]
    return write_lab_page(
        directory / "optimisers.html",
        title="Which optimiser should I choose?",
        lead=measured["answer"],
        sections=[
            Section(
                "Every optimiser, tuned with the same budget",
                f"On {measured['dataset']} ({measured['data']}): a hidden layer of 100 units, batches of "
                f"{budget['batch']}, {budget['epochs']} epochs at a constant rate. Each had {budget['trials']} "
                f"quasi-random trials over its own hyper-parameters, then {2 * budget['rates_each_side'] + 1} learning "
                f"rates around the best, then {budget['seeds']} seeds. Accuracy in % on unseen images, its standard "
                f"deviation; updates and processor seconds to {100 * measured['target']:.0f} % on validation images; "
                f"decades of learning rates within {100 * measured['tolerance']:.2f} points of the best.",
                *comparison_table(measured),
                note="A star: the best rate lies in the outer tenth of the range tried. Decades are cut off at the "
                f"{(2 * budget['rates_each_side'] + 1) / 4:.2f} that were looked at.",
            ),
            Section("How forgiving", "Validation accuracy with other learning rates.", charts=charts),
            Section(
                "Rare features",
                "Logistic regression on bags of words that follow Zipf's law, one pass, each rule at the best of 17 "
                "rates: loss on unseen documents above that of the true weights. Dense: the same with normal features. "
                "The rule with lr / sqrt(t) is a control: Adagrad's falling rate without a rate for each feature.",
                *sparse_table(sparse),
            ),
            Section("What each was tuned to", "Keys of SOLVER.", *settings_table(measured)),
        ],
    )
