"""From a configuration to a `Run` that is ready for its first step. Everything that can be wrong is found
here.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from detectune.config.best_metric import best_metric
from detectune.config.load import dump_diff
from detectune.config.tree import Config
from detectune.data.labelled_loader import LabelledLoader, build_labelled_loader
from detectune.data.loader import build_loader
from detectune.engine.classification import ClassEvaluation
from detectune.engine.distributed import ALONE, Team, share_counts
from detectune.engine.ema import WeightAverage
from detectune.engine.environment import describe_environment
from detectune.engine.evaluating import EvaluationHook, check_test_data
from detectune.engine.finite import FiniteGuard
from detectune.engine.hooks import Hook, HookLike
from detectune.engine.initial_weights import copy_initial_weights, load_initial_weights
from detectune.engine.precision import Compute, choose_compute, set_torch_globals
from detectune.engine.publishing import FinalHook
from detectune.engine.recording import MetricsHook, ProgressHook, Recorder
from detectune.engine.resume import CheckpointHook, data_fingerprint
from detectune.engine.run_directory import RunDirectory
from detectune.engine.running import Run, seed_globals
from detectune.engine.solver import build_schedule, build_solver, solver_notices
from detectune.errors import UserError
from detectune.models.backprop import Backprop
from detectune.models.build import build_detector
from detectune.models.build_classifier import build_classifier
from detectune.models.classifier import Classifier
from detectune.structures import ClassInfo
from detectune.weights.downloads import local_weights


def start_run(
    config: Config,
    directory: RunDirectory,
    *,
    log: Callable[[str], None],
    found: dict[str, Any] | None,
    team: Team = ALONE,
) -> Run:
    """Data, model, solver and records of a run. `found` is a checkpoint that the caller will `resume` from."""
    set_torch_globals()
    seed_globals(config.RNG_SEED)
    for notice in solver_notices(config):
        log(f"Notice: {notice}")
    with team.together():
        compute = settle_compute(config, found)
    first = team.from_first(compute)  # what `auto` measured may differ
    compute = replace(first, device=compute.device)
    if compute.reason:
        log(compute.reason)
    with team.together():
        run = assemble_run(config, directory, log=log, found=found, team=team, compute=compute)
    check_same_data(run)
    team.copy_from_first([*run.model.parameters(), *run.model.buffers()])
    if run.average is not None:
        team.copy_from_first(run.average.shadow)
    return run


def assemble_run(
    config: Config,
    directory: RunDirectory,
    *,
    log: Callable[[str], None],
    found: dict[str, Any] | None,
    team: Team,
    compute: Compute,
) -> Run:
    """The part of `start_run` that each process does by itself."""
    done = 0 if found is None else found["iteration"]
    position = done * config.SOLVER.ACCUMULATE
    build = build_labelled_loader if config.MODEL.TYPE == "classifier" else build_loader
    loader = build(config, training=True, position=position, part=team.rank, parts=team.size)
    for problem in loader.problems:
        log(f"Notice: {problem}")
    if isinstance(loader, LabelledLoader):
        log(f"Data: {loader.data.name}, {loader.num_images} images ({loader.data.source})")
    else:
        check_num_classes(config.MODEL.NUM_CLASSES, loader.class_info)
    schedule = build_schedule(config, num_images=loader.num_images, log=log, num_processes=team.size)
    input_shape = tuple(loader.data.images.shape[1:]) if isinstance(loader, LabelledLoader) else ()
    model = build_model(config, loader.class_info, compute, log, team, input_shape=input_shape)
    exits = contextlib.ExitStack()
    run = Run(
        config=config,
        directory=directory,
        log=log,
        record=Recorder(directory, exits) if team.first else _drop,
        model=model,
        compute=compute,
        solver=build_solver(config, model, schedule=schedule, loss_scaling=compute.needs_loss_scaling()),
        average=WeightAverage(model, decay=config.SOLVER.EMA_DECAY) if config.SOLVER.EMA_DECAY > 0 else None,
        loader=loader,
        data=data_fingerprint(loader),
        class_info=loader.class_info,
        max_iter=schedule.max_iter,
        finite=FiniteGuard(team),
        by_hand=backprop_by_hand(config, model, compute, team),
        team=team,
        exits=exits,
    )
    check_test_data(run)
    if team.first:
        describe_run(run)
        if config.TRAIN.COPY_WEIGHTS and config.TRAIN.WEIGHTS:
            copy_initial_weights(initial_weights(config), directory.path / "initial_weights")
    return run


def backprop_by_hand(config: Config, model: nn.Module, compute: Compute, team: Team) -> Backprop | None:
    """A classifier's hand-written gradients: autograd's bookkeeping costs a small network more than its arithmetic.

    Only where an update is one batch of one process, in fp32 on a CPU, and nothing else looks at the graph.
    """
    suits = (
        compute.device.type == "cpu"
        and compute.precision == "fp32"
        and team.size == 1
        and config.SOLVER.ACCUMULATE == 1
        and not config.SOLVER.COMPILE
    )
    if not isinstance(model, Classifier) or not suits:
        return None
    return Backprop(model, batch_size=config.TRAIN.IMS_PER_BATCH)


def check_same_data(run: Run) -> None:
    """All processes must have read the same images: they may be on several machines."""
    prints = run.team.gather(run.data["sha256"])
    other = next((i for i, sha in enumerate(prints) if sha != prints[0]), None)
    with run.team.together():
        if other is not None and run.team.first:
            raise UserError(
                f"Process {other} reads other training data than process 0: "
                "every machine needs the same images and annotations."
            )


def settle_compute(config: Config, found: dict[str, Any] | None) -> Compute:
    """Device, precision and memory format; a run that goes on keeps what `auto` chose at its beginning."""
    precision, memory_format = config.SOLVER.PRECISION, config.MODEL.MEMORY_FORMAT
    if found is not None and precision == "auto":
        precision = found["precision"]
    if found is not None and memory_format == "auto":
        memory_format = found["memory_format"]
    return choose_compute(device=config.MODEL.DEVICE, precision=precision, memory_format=memory_format)


def initial_weights(config: Config) -> Path:
    """The file that TRAIN.WEIGHTS names, fetched if it is an address."""
    return local_weights(config.TRAIN.WEIGHTS, download_cache=config.DOWNLOAD_CACHE)


def build_model(
    config: Config,
    class_info: ClassInfo,
    compute: Compute,
    log: Callable[[str], None],
    team: Team,
    *,
    input_shape: tuple[int, ...] = (),
) -> nn.Module:
    """The network with its initial weights, where it will run; `input_shape` is that of a classifier's images."""
    model: nn.Module
    if config.MODEL.TYPE == "classifier":
        model = build_classifier(config, input_shape=input_shape, num_classes=len(class_info))
    else:
        model = build_detector(
            config, num_classes=len(class_info) + 1, num_keypoints=len(class_info.keypoint_names) or None
        )
    if config.TRAIN.WEIGHTS:
        log(load_initial_weights(model, initial_weights(config), colours=config.INPUT.WEIGHTS_COLOURS))
    model = compute.place(model)
    if team.size > 1 and any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        if compute.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        else:
            log(
                "Notice: on a CPU batch normalisation takes its statistics from the images of each process alone; "
                "RESNETS.NORM=group does not depend on the batch."
            )
    share_counts(model, team)
    if config.SOLVER.COMPILE:
        model.compile()
    return model


def order_hooks(run: Run, hooks: Sequence[HookLike], checkpoint: CheckpointHook) -> list[HookLike]:
    """The hooks of a run in their order, whose reasons `hooks.py` gives."""
    train, solver, model = run.config.TRAIN, run.config.SOLVER, run.config.MODEL
    classifies = model.TYPE == "classifier"
    evaluation = EvaluationHook(
        eval_iters=train.EVAL_ITERS,
        best_metric=best_metric(run.config),
        keep_best=train.KEEP_BEST,
        patience=train.EARLY_STOP_PATIENCE,
        evaluate=ClassEvaluation() if classifies else None,
        others=hooks,
    )
    shown = run.team.first  # all processes need equally many hooks: they meet between them
    progress = ProgressHook(lr_change_threshold=solver.LOG_LR_CHANGE_THRESHOLD) if shown else Hook()
    return [MetricsHook(train.LOG_ITERS), progress, *hooks, evaluation, checkpoint, FinalHook()]


def _drop(row: dict[str, Any]) -> None:
    """Records nothing: the first process does."""


def check_num_classes(num_classes: int, class_info: ClassInfo) -> None:
    """MODEL.NUM_CLASSES counts the background; -1 takes it from the data."""
    needed = len(class_info) + 1
    if num_classes not in (-1, needed):
        shown = ", ".join(class_info.names[:10]) + (", ..." if len(class_info) > 10 else "")
        raise UserError(
            f"MODEL.NUM_CLASSES={num_classes}, but the training data has {len(class_info)} classes ({shown}): "
            f"with the background it must be {needed}, or -1 to take it from the data."
        )


def describe_run(run: Run) -> None:
    """Write config.yaml, diff.yaml and environment.json."""
    run.directory.write_text("config.yaml", run.config.to_yaml())
    run.directory.write_text("diff.yaml", dump_diff(run.config))
    run.directory.write_text(
        "environment.json",
        json.dumps(describe_environment(run.compute, num_processes=run.team.size), indent=2) + "\n",
    )
