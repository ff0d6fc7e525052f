"""What the page of a run says about a classifier's test: accuracy by class, who is taken for whom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectune.report.charts import Chart, Series, line_chart
from detectune.report.run import Evaluation, Row, score

ACCURACY, LOSS = "classification/accuracy", "classification/loss"
MOST_SHOWN = 20  # classes in the table of confusions


def is_classification(evaluation: Evaluation) -> bool:
    """Whether a classifier was tested."""
    return ACCURACY in evaluation.metrics


def percent(value: float | None) -> str:
    """0.97712 -> 97.71 %; a dash for what is not known."""
    return "\u2013" if value is None else f"{100 * value:.2f} %"


def classification_view(run_dir: Path, evaluation: Evaluation) -> dict[str, Any] | None:
    """What the template wants to know about a classifier's evaluation; None for a detector's."""
    if not is_classification(evaluation):
        return None
    names = list(evaluation.per_class)
    return {
        "accuracy": percent(score(evaluation.metrics[ACCURACY])),
        "loss": evaluation.metrics[LOSS],
        "classes": [
            (name, score(row.get(ACCURACY)), percent(score(row.get(ACCURACY))), row.get("num_objects"))
            for name, row in evaluation.per_class.items()
        ],
        "names": names,
        "confusion": _confusion(run_dir / "evaluation" / evaluation.dataset / "confusion.json", names),
    }


def accuracy_chart(rows: Sequence[Row], *, note: str = "") -> Chart | None:
    """Accuracy on each data set over iterations; None without any. What matters happens near the top."""
    names = list(
        dict.fromkeys(str(row.get("dataset")) for row in rows if score(row.get(ACCURACY)) is not None)
    )
    lines = [
        Series(
            name,
            [(float(row["iteration"]), row[ACCURACY]) for row in rows if row.get("dataset") == name],
            slot,
        )
        for slot, name in enumerate(names[:8], start=1)
    ]
    values = sorted(value for line in lines for _, value in line.points)
    if not values:
        return None
    low = min(0.99, max(0.0, 1 - 3 * (1 - values[len(values) // 2])))
    return line_chart("Accuracy", lines, y_limits=(low, 1.0), note=note)


def _confusion(file: Path, names: list[str]) -> list[tuple[str, list[tuple[int, float]]]]:
    """(true class, [(images, share of the largest mistake)]) of each class; empty without the file or for many."""
    if not file.is_file() or len(names) > MOST_SHOWN:
        return []
    table: list[list[int]] = json.loads(file.read_text())
    worst = max((n for i, row in enumerate(table) for j, n in enumerate(row) if i != j), default=0) or 1
    return [
        (name, [(count, 0.0 if i == j else count / worst) for j, count in enumerate(row)])
        for i, (name, row) in enumerate(zip(names, table, strict=True))
    ]
