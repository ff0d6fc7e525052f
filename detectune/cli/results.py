"""Texts about a finished run for the terminal: AP tables, where files are, what to try next.

Lines stay below 60 columns where file names allow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from detectune.report.findings import find
from detectune.report.run import Evaluation, read_run, score

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
ACCURACY = "classification/accuracy"
MOST_CLASSES = 20  # more of them are left to the report
WIDTH = 60
FILES = (
    ("report.html", "report"),
    ("model_final.safetensors", "weights"),
    ("metrics.jsonl", "metrics"),
    ("evaluation", "detections"),
    ("tensorboard", "curves"),
)


def ap_table(run_dir: Path, names: Sequence[str] | None = None) -> list[str]:
    """One table per evaluation in a run directory, of the named data sets only if `names` is given."""
    evaluations = read_run(run_dir).evaluations
    return [evaluation_table(e) for e in evaluations if names is None or e.dataset in names]


def evaluation_table(evaluation: Evaluation) -> str:
    """Overall metrics, then AP (of a classifier: accuracy) of each class."""
    if "classification/accuracy" in evaluation.metrics:
        return classification_table(evaluation)
    images = f", {evaluation.num_images} images" if evaluation.num_images else ""
    lines = [f"{evaluation.dataset}{images}", " " * 9 + "".join(f"{name:>7}" for name in METRICS)]
    for task in evaluation.tasks:
        values = "".join(f"{_show(evaluation.metrics.get(f'{task}/{name}')):>7}" for name in METRICS)
        lines.append(f"{TASKS[task]:<9}{values}")
    recalls = {name: value for name, value in evaluation.metrics.items() if name.startswith("proposal/")}
    if recalls:
        lines = [
            lines[0],
            *(f"{name.removeprefix('proposal/'):<13}{_show(v):>7}" for name, v in recalls.items()),
        ]
    return "\n".join(lines + _class_lines(evaluation))


def classification_table(evaluation: Evaluation) -> str:
    """Accuracy and loss, then the accuracy of each class, worst first."""
    accuracy, loss = (evaluation.metrics[f"classification/{name}"] for name in ("accuracy", "loss"))
    lines = [f"{evaluation.dataset}, {evaluation.num_images} images"]
    lines.append(f"accuracy {_percent(accuracy)}   loss {_show(loss)}")
    rows = sorted(evaluation.per_class.items(), key=lambda item: score(item[1].get(ACCURACY)) or 0.0)
    shown = rows[:MOST_CLASSES]
    width = min(26, max(9, *(len(name) + 1 for name, _ in shown))) if shown else 9
    lines += ["", "class".ljust(width) + f"{'accuracy':>10}{'images':>9}"]
    lines += [
        f"{name[: width - 1]:<{width}}{_percent(score(row.get(ACCURACY))):>10}{row.get('num_objects', '-'):>9}"
        for name, row in shown
    ]
    if len(rows) > len(shown):
        lines.append(f"(the worst; the report has all {len(rows)})")
    return "\n".join(lines)


def describe_files(run_dir: Path) -> str:
    """What a run left and where, one line each."""
    kept = [(name, what) for name, what in FILES if (run_dir / name).exists()]
    return "\n".join(f"{what.capitalize():<11}{run_dir / name}" for name, what in kept)


def next_steps(run_dir: Path, *, config_name: str) -> str:
    """What the numbers suggest, then commands that go on from here."""
    remarks = []
    for finding in find(read_run(run_dir))[:4]:
        keys = f" ({', '.join(finding.keys)})" if finding.keys else ""
        remarks.append(_wrap(finding.text + keys))
    weights = run_dir / "model_final.safetensors"
    commands = [
        f"detectune infer {config_name} --weights {weights} --output {run_dir / 'drawn'} IMAGE...",
        "detectune knobs SOLVER        # what the keys mean",
        f"detectune train {config_name} --output {run_dir}_b KEY=VALUE",
    ]
    said = ["What the numbers say", *remarks, ""] if remarks else []
    return "\n".join([*said, "What to try next", *(f"  {command}" for command in commands)])


def _wrap(text: str) -> str:
    return fill(
        text,
        WIDTH,
        initial_indent="- ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _class_lines(evaluation: Evaluation) -> list[str]:
    classes = evaluation.per_class
    if len(classes) < 2:
        return []
    tasks = evaluation.tasks

    def first_ap(name: str) -> float:
        return score(classes[name].get(f"{tasks[0]}/AP")) or 0.0 if tasks else 0.0

    shown = sorted(classes, key=first_ap, reverse=True)
    dropped = len(shown) - MOST_CLASSES
    if dropped > 0:
        shown = shown[: MOST_CLASSES // 2] + shown[-MOST_CLASSES // 2 :]
    measures = ("AP", "AR") if any(f"{t}/AR" in row for t in tasks for row in classes.values()) else ("AP",)
    columns = [(t, measure) for t in tasks for measure in measures]
    column = 12 if len(measures) == 1 else 9
    longest = max(9, min(26, WIDTH - 9 - column * len(columns)))
    width = min(longest, max(9, *(len(name) + 1 for name in shown)))
    heads = "".join(f"{f'{TASKS[t]} {measure}':>{column}}" for t, measure in columns)
    lines = ["", "class".ljust(width) + heads + f"{'objects':>9}"]
    for name in shown:
        row = classes[name]
        values = "".join(f"{_show(score(row.get(f'{t}/{measure}'))):>{column}}" for t, measure in columns)
        label = name if len(name) < width else name[: width - 2] + "~"
        lines.append(f"{label:<{width}}{values}{row.get('num_objects', '-'):>9}")
    if dropped > 0:
        lines.append(f"(best and worst; the report has all {len(classes)})")
    return lines


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
