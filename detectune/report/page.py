"""`write_report`: the page of a run directory. Reads that directory and the knob table, nothing else.

One file, no network: styles, script, charts and pictures are inside, and a content security policy says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from detectune.engine.run_directory import output_errors, write_text
from detectune.report.charts import Chart, Series, line_chart, short, sparkline
from detectune.report.classification import (
    ACCURACY,
    LOSS,
    accuracy_chart,
    classification_view,
    is_classification,
    percent,
)
from detectune.report.findings import find, main_metric, metric_curve
from detectune.report.pictures import inline_pictures
from detectune.report.run import Evaluation, Row, RunRecord, Sample, number, read_run, score

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
TASK_NAMES = {"bbox": "Box", "segm": "Mask", "keypoints": "Keypoint"}
METRICS = {
    "AP": "mean over IoU (keypoints: OKS) 0.50 to 0.95",
    "AP50": "IoU 0.50: found at all",
    "AP75": "IoU 0.75: fits well",
    "APs": "small, below 32² pixels",
    "APm": "medium, 32² to 96²",
    "APl": "large, above 96²",
    "AR1": "recall with 1 detection an image",
    "AR10": "recall with 10",
    "AR100": "recall with 100",
    "AR": "recall of keypoints with 20",
}
UNDEFINED = "\u2013"  # en dash
HEADS = {
    "RETINANET.RETINANET_ON": "RetinaNet",
    "MODEL.RPN_ONLY": "RPN",
    "MODEL.CASCADE_ON": "Cascade R-CNN",
    "MODEL.MASK_ON": "Mask R-CNN",
    "MODEL.KEYPOINTS_ON": "Keypoint R-CNN",
}
NUM_SAMPLES = 12
NUM_WORST = 8
FILES = {
    "model_final.safetensors": "weights, for test and infer",
    "checkpoints/best.safetensors": "weights with the best metric",
    "config.yaml": "every setting; train and test take it as CONFIG",
    "diff.yaml": "settings that differ from the defaults",
    "environment.json": "versions and machine",
    "metrics.jsonl": "all numbers of this page's curves",
    "evaluation": "detections in COCO form, AP, curves, pictures",
    "tensorboard": "the same curves for TensorBoard",
}


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory and return its path.

    Raises:
        UserError: if the directory holds no run, or cannot be written to.
    """
    run_dir = Path(run_dir)
    run = read_run(run_dir)
    target = run_dir / "report.html"
    with output_errors(target):
        write_text(target, render(run))
    return target


def render(run: RunRecord, *, live: bool = False) -> str:
    """The page as text; `live` as `detectune watch` serves it, which asks for itself again."""
    page = make_environment().get_template("page.html")
    return page.render(
        run=run,
        title=run.path.resolve().name,
        status=status(run),
        facts=facts(run),
        tiles=tiles(run),
        findings=find(run),
        charts=[chart for chart in training_charts(run) if chart is not None],
        evaluations=[
            evaluation_view(e) | {"classification": classification_view(run.path, e)} for e in run.evaluations
        ],
        settings=settings_view(run.config),
        files=[(name, what) for name, what in FILES.items() if (run.path / name).exists()],
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup((TEMPLATES / "page.css").read_text()),
        script=Markup("".join((TEMPLATES / name).read_text() for name in ("page.js", "live.js"))),
        live=live,
    )


def make_environment() -> Environment:
    """Jinja with our templates and filters; a name that a template does not get is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": show_score,
        "value": show_value,
        "duration": show_duration,
        "count": show_count,
    }
    return environment


def status(run: RunRecord) -> tuple[str, str]:
    """(kind, words) of the run's state; kinds are the pill's classes."""
    if not run.train_rows:
        return "good", "evaluation" if run.evaluations else "not started"
    if run.finished:
        return "good", "finished"
    return "warn", f"stopped or running: iteration {run.iterations} of {run.planned_iterations}"


def facts(run: RunRecord) -> list[tuple[str, str]]:
    """The first lines: result, model, data, time, machine."""
    lines: list[tuple[str, str]] = []
    for evaluation in run.evaluations:
        aps = [
            f"{TASK_NAMES[task]} AP {show_score(evaluation.metrics[f'{task}/AP'])}"
            for task in evaluation.tasks
        ]
        if is_classification(evaluation):
            aps = [f"accuracy {percent(evaluation.metrics[ACCURACY])}"]
        images = f" ({evaluation.num_images} images)" if evaluation.num_images else ""
        lines.append(("Result", f"{', '.join(aps) or 'no AP'} on {evaluation.dataset}{images}"))
    if not run.evaluations:
        lines.append(("Result", "not evaluated yet"))
    if run.config:
        geometry = run.config.get("MODEL.GEOMETRY")
        dialect = "" if run.config.get("MODEL.TYPE") == "classifier" else f", {geometry} geometry"
        lines.append(("Model", model_line(run.config) + dialect))
        names = ", ".join(run.config.get("TRAIN.DATASETS") or ())
        images = f" ({run.num_train_images} images)" if run.num_train_images else ""
        if names:
            lines.append(("Trained on", f"{names}{images}"))
    if run.training_seconds is not None:
        epoch = number(run.train_rows[-1].get("epoch"))
        epochs = f", {epoch:.3g} epochs" if epoch else ""
        amount = f"{run.iterations} iterations of {run.batch} images{epochs}"
        lines.append(("Time", f"{show_duration(run.training_seconds)} for {amount}, evaluations not counted"))
    machine = machine_line(run.environment)
    if machine:
        lines.append(("Machine", machine))
    return lines


def model_line(config: Mapping[str, Any]) -> str:
    """FPN.add_fpn_ResNet18_conv5_body with masks -> Mask R-CNN, ResNet18 FPN; a classifier's layers."""
    if config.get("MODEL.TYPE") == "classifier":
        return ", ".join(config.get("CLASSIFIER.LAYERS") or ())
    body = str(config.get("MODEL.CONV_BODY") or "unknown body")
    name = body.rpartition(".")[2].removeprefix("add_").removesuffix("_body").removesuffix("_conv5")
    name = f"{name.removeprefix('fpn_')} FPN" if name.startswith("fpn_") else name
    heads = [words for key, words in HEADS.items() if config.get(key) is True]
    return f"{heads[0] if heads else 'Faster R-CNN'}, {name}"


def machine_line(environment: Mapping[str, Any]) -> str:
    """Processor or GPU, threads, precision and torch version, as far as they are known."""
    devices = environment.get("cuda_devices") or []
    on_gpu = str(environment.get("device", "")).startswith("cuda")
    name = devices[0] if on_gpu and devices else environment.get("processor")
    threads = environment.get("threads")
    libraries = environment.get("libraries") or {}
    parts = [
        str(name) if name else "",
        f"{threads} threads" if threads and not on_gpu else "",
        str(environment.get("precision") or ""),
        f"torch {libraries['torch']}" if libraries.get("torch") else "",
    ]
    return ", ".join(part for part in parts if part)


def tiles(run: RunRecord) -> list[tuple[str, str, str]]:
    """(name, value, remark) of the few numbers that stand in large type."""
    found: list[tuple[str, str, str]] = []
    if run.evaluations:
        first = run.evaluations[0]
        for task in first.tasks:
            at50 = show_score(first.metrics.get(f"{task}/AP50"))
            found.append((f"{TASK_NAMES[task]} AP", show_score(first.metrics[f"{task}/AP"]), f"AP50 {at50}"))
        if is_classification(first):
            found.append(("Accuracy", percent(first.metrics[ACCURACY]), f"on {first.dataset}"))
    last = run.train_rows[-1] if run.train_rows else {}
    if (loss := number(last.get("loss"))) is not None:
        begin = number(run.train_rows[0].get("loss"))
        found.append(("Loss", short(loss), f"from {short(begin)}" if begin is not None else ""))
    if run.training_seconds:
        speed = run.iterations * run.batch / run.training_seconds
        found.append(("Training", show_duration(run.training_seconds), f"{short(speed)} images/s"))
    if run.evaluations and (seconds := run.evaluations[0].seconds_per_image):
        found.append(("Testing", f"{1000 * seconds:.3g} ms", "an image"))
    return found


def training_charts(run: RunRecord) -> list[Chart | None]:
    """Losses, learning rate, AP, speed and what the heads sampled, over iterations."""
    rows, tests = run.train_rows, run.evaluation_rows
    names = sorted({name for row in rows for name in row if name.startswith("loss_")})
    datasets = list(dict.fromkeys(str(row.get("dataset")) for row in tests))
    first = [row for row in tests if datasets and str(row.get("dataset")) == datasets[0]]
    tasks = [task for task in TASK_NAMES if any(f"{task}/AP" in row for row in first)]
    aps = [Series(f"{TASK_NAMES[t]} AP", metric_curve(first, f"{t}/AP"), i + 1) for i, t in enumerate(tasks)]
    accuracy = [("stat_box_accuracy", "box class"), ("stat_mask_accuracy", "mask pixel")]
    once = "One evaluation so far; TRAIN.EVAL_ITERS gives a curve." if len(first) == 1 else ""
    return [
        line_chart(
            "Loss",
            [
                Series("training", curve(rows, "loss"), 1),
                Series("validation", curve(first, "val/loss") or curve(first, LOSS), 2),
            ],
        ),
        line_chart(
            "Parts of the loss",
            [
                Series(loss_name(name), curve(rows, name), slot)
                for slot, name in enumerate(names[:8], start=1)
            ],
        ),
        line_chart("AP" + (f" on {datasets[0]}" if datasets else ""), aps, y_limits=(0.0, 1.0), note=once),
        accuracy_chart(tests, note=once),
        line_chart("Learning rate", [Series("learning rate", curve(rows, "lr"), 1)]),
        line_chart("Images per second", [Series("images/s", curve(rows, "images_per_second"), 1)]),
        line_chart(
            "Accuracy on sampled regions",
            [Series(words, curve(rows, name), slot) for slot, (name, words) in enumerate(accuracy, start=1)],
            y_limits=(0.0, 1.0),
        ),
        line_chart("Gradient norm", [Series("gradient norm", curve(rows, "gradient_norm"), 1)]),
    ]


def curve(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    """(iteration, value) of the rows that have a finite number under `name`."""
    return [(float(row["iteration"]), value) for row in rows if (value := number(row.get(name))) is not None]


def loss_name(name: str) -> str:
    """loss_rpn_cls -> RPN class."""
    words = name.removeprefix("loss_").replace("cls", "class").replace("bbox", "box").split("_")
    return " ".join({"rpn": "RPN", "retnet": "RetinaNet"}.get(word, word) for word in words)


def evaluation_view(evaluation: Evaluation) -> dict[str, Any]:
    """One evaluation as the template wants it."""
    tasks = evaluation.tasks
    samples = [s for s in evaluation.samples if not s.worst][:NUM_SAMPLES]
    worst = [s for s in evaluation.samples if s.worst][:NUM_WORST]
    files = [path for s in samples + worst for path in (s.truth, s.detections) if path is not None]
    pictures = inline_pictures(files)
    return {
        "evaluation": evaluation,
        "tasks": [(task, TASK_NAMES[task]) for task in tasks],
        "metrics": [
            (name, what, [evaluation.metrics.get(f"{task}/{name}") for task in tasks])
            for name, what in METRICS.items()
            if any(f"{task}/{name}" in evaluation.metrics for task in tasks)
        ],
        "classes": class_rows(evaluation),
        "charts": [chart for task in tasks if (chart := precision_recall(evaluation, task)) is not None],
        "samples": [sample_view(s, pictures) for s in samples],
        "worst": [sample_view(s, pictures) for s in worst],
        "metric": main_metric(list(evaluation.metrics)),
    }


def class_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Classes by falling box AP, those without an AP last."""
    rows = []
    for name, row in evaluation.per_class.items():
        curves = (evaluation.curves.get("bbox") or {}).get("per_class_50") or {}
        rows.append(
            {
                "name": name,
                "objects": row.get("num_objects"),
                "detections": row.get("num_detections"),
                "scores": [
                    (score(row.get(f"{t}/AP")), score(row.get(f"{t}/AP50"))) for t in evaluation.tasks
                ],
                "spark": sparkline(
                    [score(y) for y in curves[name]], label=f"precision over recall of {name} at box IoU 0.50"
                )
                if curves.get(name)
                else "",
            }
        )
    return sorted(rows, key=lambda row: tuple(-(s if s is not None else -1.0) for s, _ in row["scores"]))


def precision_recall(evaluation: Evaluation, task: str) -> Chart | None:
    """Precision over recall at IoU 0.50, 0.75 and on average."""
    curves = evaluation.curves.get(task) or {}
    recall = curves.get("recall") or []
    series = []
    for slot, (name, words) in enumerate(
        [("precision_50", "IoU 0.50"), ("precision_75", "IoU 0.75"), ("precision_mean", "mean 0.50 to 0.95")],
        start=1,
    ):
        values = [score(y) for y in curves.get(name) or ()]
        points = [(float(x), y) for x, y in zip(recall, values, strict=False) if y is not None]
        series.append(Series(words, points, slot))
    title = f"{TASK_NAMES[task]} precision over recall"
    areas = [show_score(fmean(y for _, y in s.points)) if s.points else "" for s in series]
    return line_chart(
        title, series, x_name="recall", y_limits=(0.0, 1.0), x_limits=(0.0, 1.0), legend_values=areas
    )


def sample_view(sample: Sample, pictures: Mapping[Path, Any]) -> dict[str, Any]:
    """A pair of pictures with their alternative texts; a picture is None where its file is missing."""
    return {
        "file_name": sample.file_name,
        "caption": sample.caption,
        "sides": [
            (
                "truth",
                pictures.get(sample.truth) if sample.truth else None,
                f"{sample.file_name} with its annotations",
            ),
            (
                "detected",
                pictures.get(sample.detections) if sample.detections else None,
                f"{sample.file_name} with what the model detected. {sample.caption}",
            ),
        ],
    }


def settings_view(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that differ from the defaults, and all of them by section, each with its knob's description."""
    from detectune.config.catalogue import KNOBS

    changed: list[Row] = []
    sections: dict[str, list[Row]] = {}
    for key, value in config.items():
        knob = KNOBS.get(key)
        default = _plain(knob.default) if knob else None
        differs = knob is None or _plain(value) != default
        row = {
            "key": key,
            "value": show_value(value),
            "default": show_value(default) if knob else "no such key in this version",
            "doc": knob.doc if knob else "",
            "unit": (knob.unit or "") if knob else "",
            "stage": knob.stage if knob else "",
            "kind": knob.kind if knob else "",
            "obsolete": (knob.obsolete or "") if knob else "",
            "differs": differs,
        }
        if differs and key != "OUTPUT_DIR":
            changed.append(row)
        sections.setdefault(key.rpartition(".")[0] or "general", []).append(row)
    return {"changed": changed, "sections": sections}


def _plain(value: Any) -> Any:
    """Tuples as lists, at every depth: YAML knows only lists."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def show_score(value: float | None) -> str:
    """Three digits, or a dash where undefined."""
    return UNDEFINED if value is None else f"{value:.3f}"


def show_count(value: Any) -> str:
    found = number(value)
    return UNDEFINED if found is None else f"{found:.0f}"


def show_value(value: Any) -> str:
    """A setting as it would stand in YAML."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {show_value(item)}" for key, item in value.items()) + "}"
    return "''" if value == "" else str(value)


def show_duration(seconds: float) -> str:
    """2 h 5 min, 3 min 20 s, 12.3 s."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
