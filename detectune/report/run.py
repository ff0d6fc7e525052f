"""What a run directory says, read into plain records. Nothing is required: a run may be interrupted, untested, or
have no training in it at all; a damaged line or file is left out and named in `problems`.

Iterations count finished updates; seconds are wall time. Knows nothing about pages (`page.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectune.errors import UserError

Row = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One image drawn twice."""

    file_name: str
    truth: Path | None  # drawn with its annotations; None where the file is missing
    detections: Path | None
    worst: bool
    caption: str


@dataclass(frozen=True)
class Evaluation:
    """One folder of `evaluation/`."""

    dataset: str
    num_images: int | None
    num_detections: int | None
    metrics: dict[str, float | None]  # bbox/AP ... segm/AR100; None where undefined
    per_class: dict[str, Row]  # class name -> bbox/AP, bbox/AP50, segm/AP, num_objects, num_detections
    seconds_per_image: float | None
    curves: dict[str, Any]  # task -> recall, precision_50, precision_75, precision_mean, per_class_50
    images: list[Row]  # per image: true_positives, false_positives, missed, f1
    samples: list[Sample]

    @property
    def tasks(self) -> list[str]:
        """bbox, segm, keypoints: those with an AP, in this order."""
        return [task for task in ("bbox", "segm", "keypoints") if f"{task}/AP" in self.metrics]


@dataclass(frozen=True)
class RunRecord:
    """Everything that a run directory holds, as far as it could be read."""

    path: Path
    train_rows: list[Row] = field(default_factory=list)
    evaluation_rows: list[Row] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    config: dict[str, Any] = field(
        default_factory=dict
    )  # full key -> value; empty if there is no config.yaml
    environment: dict[str, Any] = field(default_factory=dict)
    finished: bool = False  # model_final.safetensors exists
    problems: list[str] = field(default_factory=list)

    @property
    def iterations(self) -> int:
        """Updates done, as far as metrics.jsonl knows."""
        return max(
            (int(row.get("iteration", 0)) for row in self.train_rows + self.evaluation_rows), default=0
        )

    @property
    def planned_iterations(self) -> int:
        """SOLVER.MAX_ITER, or what the time left says where epochs or batch scaling replaced it."""
        if not self.train_rows:
            return 0
        last = self.train_rows[-1]
        speed = number(last.get("images_per_second"))
        left = number(last.get("eta_seconds"))
        if speed and left is not None:
            return int(last["iteration"]) + round(left * speed / self.batch)
        return int(self.config.get("SOLVER.MAX_ITER") or self.iterations)

    @property
    def batch(self) -> int:
        """Images of one update."""
        return int(self.config.get("TRAIN.IMS_PER_BATCH") or 1) * int(
            self.config.get("SOLVER.ACCUMULATE") or 1
        )

    @property
    def training_seconds(self) -> float | None:
        """Time of the updates, without evaluations and pauses between interrupted parts."""
        seconds, before = 0.0, 0
        for row in self.train_rows:
            speed = number(row.get("images_per_second"))
            if speed:
                seconds += (int(row["iteration"]) - before) * self.batch / speed
            before = int(row["iteration"])
        return seconds or None

    @property
    def num_train_images(self) -> int | None:
        """Images of the training data, from iteration and epoch."""
        last = self.train_rows[-1] if self.train_rows else {}
        epoch = number(last.get("epoch"))
        return round(int(last["iteration"]) * self.batch / epoch) if epoch else None


def read_run(path: Path) -> RunRecord:
    """The record of a run directory.

    Raises:
        UserError: if there is no such folder, or nothing of a run in it.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}; give the folder of a run, for example runs/shapes.")
    problems: list[str] = []
    rows = read_rows(path / "metrics.jsonl", problems)
    folders = sorted(path.glob("evaluation/*/metrics.json"))
    if not folders and (path / "metrics.json").is_file():
        folders = [path / "metrics.json"]  # the folder of one evaluation itself
    config = _read_config(path / "config.yaml", problems)
    evaluations = [e for e in (_read_evaluation(file.parent, problems) for file in folders) if e is not None]
    names = list(config.get("TEST.DATASETS") or ())
    evaluations.sort(key=lambda e: (names.index(e.dataset) if e.dataset in names else len(names), e.dataset))
    if not rows and not evaluations and not config:
        raise UserError(
            f"{path} holds no run: there is no metrics.jsonl, config.yaml or evaluation/*/metrics.json in it. "
            "Give the folder that `detectune train` or `detectune test` named."
        )
    return RunRecord(
        path=path,
        train_rows=[row for row in rows if row.get("kind") == "train"],
        evaluation_rows=[row for row in rows if row.get("kind") == "evaluation"],
        evaluations=evaluations,
        config=config,
        environment=read_json(path / "environment.json", problems, dict) or {},
        finished=(path / "model_final.safetensors").is_file(),
        problems=problems,
    )


def number(value: Any) -> float | None:
    """A finite number, or None: null stands for undefined, and COCO's tools write -1 for it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if value == value and abs(value) != float("inf") else None


def score(value: Any) -> float | None:
    """A metric in 0..1, or None where it is undefined (null or negative)."""
    found = number(value)
    return found if found is not None and found >= 0 else None


def read_rows(path: Path, problems: list[str]) -> list[Row]:
    if not path.is_file():
        return []
    rows, damaged = [], 0
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            damaged += 1
            continue
        if isinstance(row, dict) and isinstance(row.get("iteration"), int):
            rows.append(row)
        else:
            damaged += 1
    if damaged:
        problems.append(f"metrics.jsonl: {damaged} damaged line(s) left out")
    return rows


def _read_config(path: Path, problems: list[str]) -> dict[str, Any]:
    """Full keys and values. Read as plain YAML, so that a run of another version is shown too."""
    if not path.is_file():
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from detectune.config.catalogue import KNOBS

    try:
        tree = YAML(typ="safe").load(path.read_text())
    except (YAMLError, OSError, UnicodeDecodeError) as error:
        problems.append(f"config.yaml cannot be read: {str(error).splitlines()[0]}")
        return {}
    return _flatten(tree, "", frozenset(KNOBS)) if isinstance(tree, Mapping) else {}


def _flatten(tree: Mapping[str, Any], prefix: str, keys: frozenset[str]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in keys:
            flat |= _flatten(value, f"{key}.", keys)
        else:
            flat[key] = value
    return flat


def read_json(path: Path, problems: list[str], kind: type) -> Any:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return None
    if not isinstance(content, kind):
        problems.append(f"{path.name} is not a {kind.__name__}")
        return None
    return content


def _read_evaluation(folder: Path, problems: list[str]) -> Evaluation | None:
    content = read_json(folder / "metrics.json", problems, dict)
    if content is None:
        return None
    samples = read_json(folder / "samples.json", problems, list) or []
    return Evaluation(
        dataset=str(content.get("dataset") or folder.name),
        num_images=content.get("num_images"),
        num_detections=content.get("num_detections"),
        metrics={name: score(value) for name, value in (content.get("metrics") or {}).items()},
        per_class=content.get("per_class") or {},
        seconds_per_image=number(content.get("seconds_per_image")),
        curves=read_json(folder / "curves.json", problems, dict) or {},
        images=read_json(folder / "images.json", problems, list) or [],
        samples=[_sample(folder, row) for row in samples if isinstance(row, Mapping)],
    )


def _sample(folder: Path, row: Mapping[str, Any]) -> Sample:
    def existing(name: Any) -> Path | None:
        file = folder / str(name)
        return file if name and file.is_file() else None

    return Sample(
        file_name=Path(str(row.get("file_name") or row.get("image_id") or "")).name,
        truth=existing(row.get("truth")),
        detections=existing(row.get("detections")),
        worst=bool(row.get("worst")),
        caption=str(row.get("caption") or ""),
    )
