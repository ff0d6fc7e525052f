"""`detectune tune CONFIG --stage inference`: inference knobs on the raw outputs of one pass of the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectune.errors import UserError

if TYPE_CHECKING:
    from detectune.config.load import Config
    from detectune.tuner.spec import Request


def tune_inference(
    request: Request, base: Config, *, name: str, weights: str | None, goal: str | None, output: Path | None
) -> None:
    """Search, say which setting is best and whether that is sure, and write the page."""
    from detectune.cli.places import choose_run_directory
    from detectune.cli.test import choose_weights
    from detectune.config.best_metric import best_metric
    from detectune.report.posthoc_page import write_inference_report
    from detectune.tuner.inference_space import inference_space
    from detectune.tuner.operating_point import read_goal
    from detectune.tuner.posthoc import SETTINGS, Question, check_model, run_inference_study
    from detectune.tuner.spec import read_objectives

    for option, given in (
        ("workers", request.workers),
        ("sampler", request.sampler),
        ("pruner", request.pruner),
    ):
        if given is not None:
            raise UserError(f"--{option} is for trials that train; leave it out with --stage inference.")
    objectives = read_objectives(request.objectives, best_metric(base), "")
    if len(objectives) > 1:
        raise UserError("--stage inference looks at one metric at a time; give one --objective.")
    metric = objectives[0].metric
    check_model(base, metric)
    if objectives[0].direction == "minimize":
        raise UserError(f"--stage inference looks for the highest {metric}; leave out minimize.")
    searched = [entry for entry in request.knobs if entry.content.get("role") != "fixed"]
    question = Question(
        name=request.name or f"{name}_inference",
        space=inference_space(searched, base, metric.partition("/")[0]),
        metric=metric,
        settings=request.trials or SETTINGS,
        seed=1 if request.seed is None else request.seed,
        minutes=request.minutes,
        goal=None if goal is None else read_goal(goal),
    )
    chosen = choose_weights(base, weights, run_directory=choose_run_directory(base, output=None, name=name))
    folder = (output or Path("studies") / question.name).expanduser()
    print(f"Weights: {chosen}\nStudy directory: {folder}", flush=True)
    verdict = run_inference_study(question, base, chosen, folder, log=lambda text: print(text, flush=True))
    print("\n" + verdict_text(verdict))
    print(f"Its configuration: {folder / 'best.yaml'}; what differs: {folder / 'diff.yaml'}.")
    print(f"Report: {write_inference_report(folder)}", flush=True)


def verdict_text(verdict: Mapping[str, Any]) -> str:
    """Both halves' figures, what changes, and the sentence."""
    from detectune.report.posthoc_page import CLASS_THRESHOLDS, WITHOUT_THRESHOLDS

    lines = [f"{verdict['metric']:<12}{'images':>8}{'before':>9}{'after':>9}{'gain':>9}   95 % interval"]
    for half, name in (("tune", "choosing"), ("report", "reporting")):
        d = verdict["halves"][half]
        lines.append(
            f"{name:<12}{d['images']:>8}{d['before']:>9.4f}{d['after']:>9.4f}{d['after'] - d['before']:>+9.4f}   "
            f"{d['low']:+.4f} to {d['high']:+.4f}"
        )
    lines.append("")
    for key, (before, after) in verdict["changes"].items():
        lines.append(f"{key}: {_show(before)} -> {_show(after)}")
    point = verdict.get("operating_point")
    if point is not None:
        lines += ["", f"Score thresholds for {point['goal']}, on the reporting half:"]
        lines.append(f"{'class':<16}{'threshold':>10}{'precision':>11}{'recall':>8}{'F':>8}")
        for row in point["classes"]:
            counts = row["report"]
            values = (
                ""
                if counts is None
                else "".join(f"{counts[k]:>{w}.3f}" for k, w in (("precision", 11), ("recall", 8), ("f", 8)))
            )
            threshold = "-" if row["threshold"] is None else f"{row['threshold']:.3f}"
            lines.append(f"{row['class'][:15]:<16}{threshold:>10}{values}")
        lines += [
            f"best.yaml has them as {CLASS_THRESHOLDS}: `infer` and `test` leave out what is below. The AP above is",
            f"without them, as `test` gives it with {WITHOUT_THRESHOLDS}.",
        ]
    return "\n".join([*lines, "", verdict["sentence"]])


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
