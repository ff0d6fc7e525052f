"""Inference knobs in seconds: the network runs once over a data set, then thousands of settings are tried on that.

Half of the images choose the setting, the other half reports what it is worth, and a gain is claimed only where the
reporting half shows it beyond its noise. The folder of such a study:

    cache/  raw outputs    trials.json  every setting    verdict.json  what to do    diff.yaml  the keys that change
    best.yaml  the whole configuration to go on with    importance.json  which knob mattered
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectune.config.load import ConfigError
from detectune.config.tree import Config
from detectune.data.datasets import resolve_dataset
from detectune.data.loader import build_loader
from detectune.engine.class_thresholds import KEY as CLASS_THRESHOLDS
from detectune.engine.dialect import in_dialect_of
from detectune.engine.inference import Predictor
from detectune.engine.testing import check_classes
from detectune.errors import UserError
from detectune.structures import Record
from detectune.tuner.history import Space
from detectune.tuner.inference_space import needed_reach, origin_of, outputs_config
from detectune.tuner.many_settings import Tried, search, simplified
from detectune.tuner.operating_point import Goal
from detectune.tuner.posthoc_files import write_study
from detectune.tuner.posthoc_verdict import Halves, judge
from detectune.tuner.raw_files import RawFiles, file_digest
from detectune.tuner.raw_outputs import RawImage, collect
from detectune.tuner.replay import MEASURES, RECALLS, TASKS, Replay
from detectune.tuner.session import held

SETTINGS = 2000  # where nobody says how many
PART_IMAGES = 32
LEAST_IMAGES = 10


@dataclass(frozen=True)
class Question:
    """What a study of inference knobs asks, complete."""

    name: str
    space: Space
    metric: str
    settings: int = SETTINGS
    seed: int = 1
    minutes: float | None = None
    goal: Goal | None = None

    @property
    def task(self) -> str:
        return self.metric.partition("/")[0]


def check_model(config: Config, metric: str) -> None:
    """A `UserError` for what cannot be answered from raw outputs."""
    task, _, name = metric.partition("/")
    heads = {"segm": "MODEL.MASK_ON", "keypoints": "MODEL.KEYPOINTS_ON"}
    known = [*MEASURES, RECALLS[1] if task == "keypoints" else RECALLS[0]]
    if config.MODEL.TYPE == "classifier" or config.MODEL.RPN_ONLY:
        raise UserError(
            "--stage inference is for detectors: a classifier and a network that only proposes have no such knobs."
        )
    if task not in TASKS or name not in known:
        raise UserError(
            f"--stage inference cannot measure {metric}; it is a task and one of {', '.join(known)}, such as bbox/AP."
        )
    if task in heads and not config.flat()[heads[task]]:
        raise UserError(f"{metric} is not measured for this model: {heads[task]} is False.")
    views = [k for k in ("BBOX_AUG", "MASK_AUG", "KPS_AUG") if config.flat()[f"TEST.{k}.ENABLED"]]
    if views:
        raise UserError(
            f"TEST.{views[0]}.ENABLED is True: raw outputs are of one view of each image. Turn it off for this search."
        )
    if config.MODEL.KEYPOINTS_ON and config.KRCNN.NMS_OKS:
        raise UserError(
            "KRCNN.NMS_OKS is True: poses that suppress each other are not replayed. Set it to False."
        )


def run_inference_study(
    question: Question, base: Config, weights: Path, folder: Path, *, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Run the network over the first of TEST.DATASETS where that was not done yet, search, judge; the verdict.

    The same call again goes on where an interrupted one stopped: outputs that are there are not computed again.
    """
    base = in_dialect_of(weights, base, log=log)
    check_model(base, question.metric)
    if question.goal is not None:  # thresholds of an earlier goal give way to those of this one
        base = base.with_overrides({CLASS_THRESHOLDS: {}})
    with held(folder):
        replay, records, files = replay_of(question, base, weights, folder / "cache", log=log)
        if len(records) < LEAST_IMAGES:
            raise UserError(
                f"{base.TEST.DATASETS[0]} has {len(records)} images; half of them must choose and half report, so at "
                f"least {LEAST_IMAGES} are needed."
            )
        verdict = study(question, base, replay, log=log) | {
            "dataset": base.TEST.DATASETS[0],
            "weights": str(weights),
            "cache": {"bytes": files.size, "images": len(replay), "candidates": sum(map(len, replay.images))},
        }
        write_study(
            folder, base, verdict, verdict.pop("trials"),
            name=question.name, metric=question.metric, space=question.space, seed=question.seed,
        )  # fmt: skip
    return verdict


def replay_of(
    question: Question, base: Config, weights: Path, cache: Path, *, log: Callable[[str], None] = print
) -> tuple[Replay, list[Record], RawFiles]:
    """The raw outputs of the first of TEST.DATASETS for the question, run or read, with their truth."""
    if not base.TEST.DATASETS:
        raise UserError(
            "TEST.DATASETS is empty; name the data set to tune on, as TEST.DATASETS='[shapes_val]'."
        )
    name = base.TEST.DATASETS[0]
    place = resolve_dataset(name, base.DATASETS, download_cache=base.DOWNLOAD_CACHE)
    _check_rules(base, name, place.format)
    reach = needed_reach(question.space, base, question.task)
    origin = {"weights": file_digest(weights), "dataset": name} | origin_of(base, question.space.keys)
    if place.annotations.is_file():
        origin["annotations"] = file_digest(place.annotations)
    files = RawFiles(cache, origin, reach)
    config = outputs_config(base, files.reach)
    loader = build_loader(config, training=False, dataset=name)
    done = files.image_ids()
    missing = [record for record in loader.records if record.image_id not in done]
    if missing:
        log(f"Running the network over {len(missing)} of {len(loader.records)} images of {name}.")
        predictor = Predictor(config, weights, class_info=loader.class_info, log=log)
        check_classes(predictor, loader, config)
        _collect(predictor, loader, config, files, done, log)
    log(f"Raw outputs: {files.folder}, {files.size / 2**20:.1f} MiB for {len(loader.records)} images.")
    images = [raw for raw in files.read() if raw.info.image_id in {r.image_id for r in loader.records}]
    replay = Replay(images, loader.records, loader.class_info, base, all_proposals=bool(files.reach.anchors))
    return replay, loader.records, files


def _collect(
    predictor: Predictor,
    loader: Any,
    config: Config,
    files: RawFiles,
    done: set[int],
    log: Callable[[str], None],
) -> None:
    """Write what is missing, part by part."""
    waiting: list[RawImage] = []
    count, started = len(done), time.monotonic()
    for batch in loader:  # batches are those of `test`, so that padding is the same
        if all(info.image_id in done for info in batch.images.infos):
            continue
        raw = collect(
            predictor,
            batch.images,
            all_proposals=bool(files.reach.anchors),
            shapes=files.reach.shapes,
            mask_thresh=None if files.reach.soft_masks else config.MRCNN.THRESH_BINARIZE,
        )
        waiting += [one for one in raw if one.info.image_id not in done]
        if len(waiting) >= PART_IMAGES:
            files.write(waiting)
            count, waiting = count + len(waiting), []
            seconds = time.monotonic() - started
            log(f"{count} of {len(loader.records)} images, {files.size / 2**20:.1f} MiB, {seconds:.0f} s")
    if waiting:
        files.write(waiting)


def study(
    question: Question, base: Config, replay: Replay, *, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Search on one half of the images, judge on the other; the verdict, with every setting under `trials`."""
    flat = base.flat()
    halves = Halves.of(len(replay), seed=question.seed)

    def score(values: Mapping[str, Any]) -> float:
        try:
            config = base.with_overrides(values)
        except ConfigError:
            return float("nan")
        return replay.measure(config, question.metric, halves.tune)

    best = float("-inf")

    def told(tried: Tried) -> None:
        nonlocal best
        if tried.score > best:
            best = tried.score
            changed = "  ".join(f"{key}={_short(value)}" for key, value in tried.values.items())
            log(
                f"Setting {tried.number}: {question.metric} {best:.4f}  {changed or 'the configuration as it is'}"
            )

    started = time.monotonic()
    seconds = None if question.minutes is None else 60 * question.minutes
    tried = search(
        question.space,
        flat,
        score,
        settings=question.settings,
        seed=question.seed,
        seconds=seconds,
        told=told,
    )
    spent = time.monotonic() - started
    log(f"{len(tried)} settings in {spent:.1f} s, {1000 * spent / len(tried):.1f} ms each.")
    top = max(tried, key=lambda one: (one.score == one.score, one.score))
    changes, _ = simplified(top.values, top.score, flat, score)
    verdict = judge(
        question.metric, question.space, base, changes, replay, halves, seed=question.seed, goal=question.goal
    )
    return verdict | {
        "name": question.name,
        "settings": len(tried),
        "seconds": round(spent, 3),
        "seconds_per_setting": spent / len(tried),
        "best_on_tune": {"number": top.number, "value": top.score, "params": dict(top.values)},
        "trials": tried,
    }


def _check_rules(base: Config, name: str, kind: str) -> None:
    if kind == "unlabelled":
        raise UserError(
            f"{name} has no annotations, so no setting can be measured on it; name another data set."
        )
    if kind in ("voc", "lvis") and not base.TEST.FORCE_JSON_DATASET_EVAL:
        raise UserError(
            f"{name} is measured by rules of its own ({kind}), which are not replayed; set "
            "TEST.FORCE_JSON_DATASET_EVAL=True to tune by COCO's."
        )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
