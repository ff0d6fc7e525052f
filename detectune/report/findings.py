"""What a run's numbers say, in words: what held it back, and which keys to try next. Pure functions of a RunRecord.

Thresholds are rules of thumb, chosen so that a healthy run gets two or three remarks; each remark gives its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from detectune.report.run import Evaluation, Row, RunRecord, number, score

MAIN_METRICS = ("segm/AP", "keypoints/AP", "bbox/AP", "classification/accuracy")


@dataclass(frozen=True)
class Finding:
    """One remark; `keys` are the configuration keys that it names."""

    text: str
    keys: tuple[str, ...] = ()
    warning: bool = False


def find(run: RunRecord) -> list[Finding]:
    """Everything worth saying about a run, most important first."""
    findings = [*_progress(run), *_curves(run), *_speed(run)]
    if run.evaluations:
        findings += _detections(run.evaluations[0])
    return sorted(findings, key=lambda finding: not finding.warning)


def main_metric(names: Sequence[str]) -> str | None:
    """The metric that stands for a run: mask AP where there are masks, else keypoint or box AP, else accuracy."""
    return next((name for name in MAIN_METRICS if name in names), None)


def found_counts(evaluation: Evaluation) -> tuple[int, int, int] | None:
    """(objects found, objects missed, false detections) over all images, if images.json counts them."""
    if not evaluation.images:
        return None
    sums = [
        sum(int(row.get(name) or 0) for row in evaluation.images)
        for name in ("true_positives", "missed", "false_positives")
    ]
    return sums[0], sums[1], sums[2]


def metric_curve(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    """(iteration, value) of a metric where it is defined."""
    return [(float(row["iteration"]), value) for row in rows if (value := score(row.get(name))) is not None]


def _progress(run: RunRecord) -> list[Finding]:
    if run.train_rows and not run.finished:
        return [
            Finding(
                f"The run is not finished: {run.iterations} of {run.planned_iterations} iterations are recorded. "
                "The same command again goes on from its last checkpoint.",
                warning=True,
            )
        ]
    return []


def _curves(run: RunRecord) -> list[Finding]:
    findings: list[Finding] = []
    losses = [value for row in run.train_rows if (value := number(row.get("loss"))) is not None]
    tenth = len(losses) // 10
    if run.finished and tenth >= 2:
        before, after = fmean(losses[-2 * tenth : -tenth]), fmean(losses[-tenth:])
        if after < 0.96 * before:
            findings.append(
                Finding(
                    f"The loss was still falling at the end ({before:.3g} to {after:.3g} over the last tenth): "
                    "a longer run will probably gain.",
                    ("SOLVER.MAX_ITER",),
                )
            )
    first = [
        row for row in run.evaluation_rows if row.get("dataset") == run.evaluation_rows[0].get("dataset")
    ]
    metric = main_metric(list(first[-1])) if first else None
    curve = metric_curve(first, metric) if metric else []
    if metric and len(curve) >= 3:
        best_at, best = max(curve, key=lambda point: point[1])
        if curve[-1][1] < best - 0.01:
            findings.append(
                Finding(
                    f"{metric} was best at iteration {best_at:.0f} ({best:.3f}) and ended at {curve[-1][1]:.3f}; "
                    "checkpoints/best.safetensors has the better weights where TRAIN.KEEP_BEST is on.",
                    ("TRAIN.KEEP_BEST", "TRAIN.EARLY_STOP_PATIENCE"),
                    warning=True,
                )
            )
    validation = metric_curve(first, "val/loss") or metric_curve(first, "classification/loss")
    if len(validation) >= 3 and validation[-1][1] > 1.05 * min(y for _, y in validation):
        findings.append(
            Finding(
                f"The validation loss rose from {min(y for _, y in validation):.3g} to {validation[-1][1]:.3g} while "
                "training went on: a sign of overfitting. More jitter or weight decay, or fewer iterations.",
                ("SOLVER.WEIGHT_DECAY", "TRAIN.SCALES", "SOLVER.MAX_ITER"),
                warning=True,
            )
        )
    return findings


def _speed(run: RunRecord) -> list[Finding]:
    steps = [
        (wait, run.batch / speed)
        for row in run.train_rows
        if (speed := number(row.get("images_per_second")))
        and (wait := number(row.get("data_seconds"))) is not None
    ]
    if not steps:
        return []
    share = sum(wait for wait, _ in steps) / sum(step for _, step in steps)
    if share < 0.15:
        return []
    return [
        Finding(
            f"{share:.0%} of the training time was spent waiting for images; more loader processes may help.",
            ("DATA_LOADER.NUM_THREADS",),
            warning=True,
        )
    ]


def _detections(evaluation: Evaluation) -> list[Finding]:
    findings: list[Finding] = []
    metrics = evaluation.metrics
    counts = found_counts(evaluation)
    if counts is not None and counts[0] + counts[1] > 0:
        found, missed, false = counts
        findings.append(
            Finding(
                f"At a score of 0.5 or more, {found} of {found + missed} objects were found with the right class, "
                f"{missed} were missed, and {false} detections match no object."
            )
        )
    for task, name in (("bbox", "box"), ("segm", "mask")):
        at50, at75 = metrics.get(f"{task}/AP50"), metrics.get(f"{task}/AP75")
        if at50 is not None and at75 is not None and at50 - at75 > 0.3:
            findings.append(
                Finding(
                    f"Objects are found but {name}es fit loosely ({name} AP50 {at50:.2f}, AP75 {at75:.2f})."
                    if task == "bbox"
                    else f"Objects are found but masks fit loosely (mask AP50 {at50:.2f}, AP75 {at75:.2f}).",
                    ("MRCNN.RESOLUTION",) if task == "segm" else ("MODEL.BBOX_REG_WEIGHTS",),
                )
            )
    small, large = metrics.get("bbox/APs"), metrics.get("bbox/APl") or metrics.get("bbox/APm")
    if small is not None and large is not None and small < 0.5 * large:
        findings.append(
            Finding(
                f"Small objects (below 32 x 32 pixels) are the weak spot: AP {small:.2f} against {large:.2f}. "
                "Larger images or smaller anchors may help.",
                ("TRAIN.SCALES", "TEST.SCALE", "FPN.RPN_ANCHOR_START_SIZE"),
            )
        )
    return findings + _classes(evaluation)


def _classes(evaluation: Evaluation) -> list[Finding]:
    findings: list[Finding] = []
    aps = {
        name: value
        for name, row in evaluation.per_class.items()
        if (value := score(row.get("bbox/AP"))) is not None
    }
    overall = evaluation.metrics.get("bbox/AP")
    if overall and len(aps) > 1:
        weak = sorted((name for name in aps if aps[name] < 0.6 * overall), key=lambda name: aps[name])
        if weak:
            shown = ", ".join(f"{name} {aps[name]:.2f}" for name in weak[:4]) + (
                " ..." if len(weak) > 4 else ""
            )
            findings.append(Finding(f"Weakest classes by box AP: {shown}, against {overall:.2f} on average."))
    rare = [name for name, row in evaluation.per_class.items() if 0 < int(row.get("num_objects") or 0) < 20]
    if rare:
        shown = ", ".join(rare[:4]) + (" ..." if len(rare) > 4 else "")
        findings.append(Finding(f"Fewer than 20 test objects of {shown}: their AP is mostly chance."))
    if evaluation.num_images and evaluation.num_images < 50:
        findings.append(
            Finding(
                f"AP was measured on {evaluation.num_images} images only: differences of a few points between runs "
                "mean little."
            )
        )
    return findings
