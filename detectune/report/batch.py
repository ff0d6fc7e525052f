"""The page and the tables of `detectune lab batch`, from its `batch.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectune.report.charts import Series, line_chart
from detectune.report.lab_page import Section, write_lab_page

NEVER = "\u2013"  # en dash
Table = tuple[list[str], list[list[str]]]
AGAINST = {
    "updates": "updates, power of ten",
    "examples": "examples seen, power of ten",
    "seconds": "seconds, power of ten",
}


def descent_table(measured: Mapping[str, Any]) -> Table:
    """What each kind needed to reach the target loss."""
    rows = []
    for row in measured["kinds"]:
        reached = row["reached"]
        cells = (
            [f"{reached['updates']:,}", f"{reached['examples']:,}", f"{reached['seconds']:.2g}"]
            if reached
            else [NEVER, NEVER, NEVER]
        )
        rows.append([row["kind"], f"{row['size']:,}", f"{row['rate']:g}", *cells])
    return ["kind", "batch", "rate", "updates", "examples", "seconds"], rows


def oscillation_table(measured: Mapping[str, Any]) -> Table:
    """How much the loss swings at the same rate, by batch size, and the noise of the gradient."""
    noise = {row["size"]: row["distance"] for row in measured["noise"]}
    first = measured["noise"][0]["distance"]
    rows = [
        [
            f"{wave['size']:,}",
            f"{100 * wave['rising']:.0f} %",
            f"{wave['path_over_descent']:.2f}" if math.isfinite(wave["path_over_descent"]) else "no descent",
            f"{noise[wave['size']]:.3f}" if wave["size"] in noise else NEVER,
            f"{first / wave['size'] ** 0.5:.3f}" if wave["size"] in noise else NEVER,
        ]
        for wave in measured["oscillation"]
    ]
    return ["batch", "rising", "path/descent", "noise", "1/sqrt(B)"], rows


def write_batch_page(directory: Path) -> Path:
    """Write `batch.html` beside `batch.json` and return its path."""
    measured = json.loads((directory / "batch.json").read_text())
    charts = [
        line_chart(
            f"Loss against {against}, in powers of ten",
            [
                Series(
                    row["kind"],
                    [
                        (math.log10(point[against]), point["loss"])
                        for point in row["curve"]
                        if point[against] > 0
                    ],
                    slot,
                )
                for slot, row in enumerate(measured["kinds"], start=1)
            ],
            x_name=words,
        )
        for against, words in AGAINST.items()
    ]
    return write_lab_page(
        directory / "batch.html",
        title="Batch, mini-batch and stochastic gradient descent",
        lead=f"The same network and first weights on {measured['images']:,} images of {measured['dataset']} "
        f"({measured['data']}), each kind at the best of four learning rates.",
        sections=[
            Section(
                f"Down to a loss of {measured['target']}",
                "The loss is that of all images. A large batch makes the most of an update, a small one of an example; "
                "what an update costs decides the time.",
                *descent_table(measured),
                charts=charts,
            ),
            Section(
                "How much it swings",
                f"From the same weights, at the rate {measured['shared_rate']}: how often an update raises the loss of "
                "all images, and how much longer the way down is than the descent (1 if it never rises). Noise is the "
                "distance of a batch's gradient from the true one, beside what 1 / sqrt(B) predicts from B = 1.",
                *oscillation_table(measured),
                note=f"The noise falls as B to the power {measured['noise_exponent']:.3f} (prediction: -0.5), the "
                f"spread of the loss's steps as {measured['oscillation_exponent']:.3f}.",
            ),
        ],
    )
