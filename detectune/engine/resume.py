"""Going on where a run stopped: what a checkpoint of a run holds, and when it may be continued.

A continued run ends with the weights of an uninterrupted one, bit for bit, so a checkpoint holds everything
that changes while training; what would change the rest of the run (another rate, another data set) refuses
to continue and says which keys differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectune.config.catalogue import KNOBS
from detectune.data.labelled_loader import LabelledLoader
from detectune.data.loader import Loader
from detectune.engine.checkpoint import checkpoint_path, newest_valid, prune_checkpoints, save_checkpoint
from detectune.engine.hooks import Hook, HookLike, hook_states, restore_hook_states
from detectune.engine.run_directory import RunDirectory
from detectune.engine.running import Run, random_states, restore_random_states
from detectune.errors import UserError

FORMAT = 1
MAY_DIFFER = {"SOLVER.MAX_ITER", "SOLVER.MAX_EPOCHS", "OUTPUT_DIR", "MODEL.DEVICE", "DATASETS"}
"""Keys that may change although their stage is training: a longer run, another place. The data itself is
compared.
"""


STEP_SHARES = ("NUM_GPUS", "TRAIN.IMS_PER_BATCH")
"""Keys that may change as long as their product, the images of a step, stays: other processes, the same steps."""


class CheckpointHook(Hook):
    """Saves every `snapshot_iters` steps, after an evaluation, and at the end; keeps the last `keep_last`."""

    def __init__(self, *, snapshot_iters: int, keep_last: int) -> None:
        self.snapshot_iters = snapshot_iters
        self.keep_last = keep_last
        self.hooks: Sequence[HookLike] = ()  # all of the run, whose states are saved; set by the trainer

    def after_step(self, run: Run) -> None:
        due = self.snapshot_iters > 0 and run.iteration % self.snapshot_iters == 0
        evaluated = run.config.TRAIN.EVAL_ITERS > 0 and run.iteration % run.config.TRAIN.EVAL_ITERS == 0
        # Also before the final evaluation: should that fail, training need not be repeated.
        if due or evaluated or run.iteration == run.max_iter or run.stop_reason is not None:
            self.save(run)

    def after_train(self, run: Run) -> None:
        self.save(run)

    def save(self, run: Run) -> Path:
        """Write checkpoints/iter_*.pt for the present moment; of several processes the first does."""
        run.finite.settle()
        path = checkpoint_path(run.directory.checkpoints, run.iteration)
        if run.team.first:
            save_checkpoint(path, run_state(run, self.hooks))
            prune_checkpoints(run.directory.checkpoints, keep=self.keep_last)
        return path


def run_state(run: Run, hooks: Sequence[HookLike]) -> dict[str, Any]:
    """Everything of a run that training changes, and what identifies the run."""
    return {
        "format": FORMAT,
        "iteration": run.iteration,
        "stop_reason": run.stop_reason,
        "config": config_json(run),
        "data": run.data,
        "metrics_rows": len(run.directory.read_metrics()),
        "precision": run.compute.precision,
        "memory_format": run.compute.memory_format,
        "model": run.model.state_dict(),
        "solver": run.solver.state_dict(),
        "average": None if run.average is None else run.average.state_dict(),
        "loader": {"left_out": dict(run.loader.left_out)},
        "random": random_states(),
        "hooks": hook_states(hooks),
    }


def resume(run: Run, hooks: Sequence[HookLike], found: tuple[Path, dict[str, Any]]) -> None:
    """Put a checkpoint's state into `run` and `hooks`; a `UserError` if it is of another run."""
    path, state = found
    changed = config_changes(json.loads(state["config"]), json.loads(config_json(run)))
    refuse_other_run(path, state, run, changed)
    run.model.load_state_dict(state["model"])
    run.solver.load_state_dict(state["solver"])
    if run.average is not None:
        run.average.load_state_dict(state["average"])
    run.iteration = state["iteration"]
    run.stop_reason = None if changed else state["stop_reason"]
    run.loader.left_out.update(state["loader"]["left_out"])
    restore_random_states(state["random"])
    restore_hook_states(hooks, state["hooks"])
    if run.team.first:
        run.directory.keep_metrics(state["metrics_rows"])
    for key, (old, new) in changed.items():
        run.log(f"Going on with {key} {old} -> {new}.")
    run.log(f"Going on from {path} at iteration {run.iteration} of {run.max_iter}.")


def refuse_other_run(
    path: Path, state: dict[str, Any], run: Run, changed: dict[str, tuple[Any, Any]]
) -> None:
    """Raise a `UserError` unless the checkpoint at `path` can be continued by `run`."""
    mend = "Give another OUTPUT_DIR, or TRAIN.AUTO_RESUME=False to start over (the earlier results are set aside)."
    if state.get("format") != FORMAT:
        raise UserError(f"{path} was written by another version of Detectune and cannot be continued. {mend}")
    decisive = {key: pair for key, pair in changed.items() if decides_training(key)}
    if images_per_step(changed, 0, run) == images_per_step(changed, 1, run):
        decisive = {key: pair for key, pair in decisive.items() if key not in STEP_SHARES}
    if decisive:
        pairs = ", ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in sorted(decisive.items()))
        raise UserError(f"{run.directory.path} holds a run with other settings: {pairs}. {mend}")
    if state["data"] != run.data:
        raise UserError(
            f"{run.directory.path} holds a run on other data: {_describe_data(state['data'])} then, "
            f"{_describe_data(run.data)} now. {mend}"
        )
    if state["iteration"] > run.max_iter:
        raise UserError(
            f"{path} is at iteration {state['iteration']}, beyond SOLVER.MAX_ITER={run.max_iter}; "
            f"raise SOLVER.MAX_ITER to go on. {mend}"
        )


def find_checkpoint(
    directory: RunDirectory, *, auto_resume: bool, log: Callable[[str], None]
) -> tuple[Path, dict[str, Any]] | None:
    """The newest good checkpoint to go on from. Without `auto_resume` an earlier run is moved out of the
    way.
    """
    if not auto_resume and (folder := directory.set_aside()) is not None:
        log(f"TRAIN.AUTO_RESUME is False: the earlier run in {directory.path} was moved to {folder}.")
    found = newest_valid(directory.checkpoints, log=log)
    if found is None:
        directory.keep_metrics(0)  # of a run that ended before its first checkpoint
    return found


def config_json(run: Run) -> str:
    """The configuration as JSON, key by key; tuples and lists are the same there."""
    return json.dumps(run.config.flat(), default=str, sort_keys=True)


def config_changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{key: (old value, new value)} of the keys that both know and that differ."""
    return {key: (old[key], new[key]) for key in new if key in old and old[key] != new[key]}


def decides_training(key: str) -> bool:
    """Whether another value of `key` makes it another training run."""
    return key not in MAY_DIFFER and key in KNOBS and KNOBS[key].stage in ("training", "architecture")


def images_per_step(changed: dict[str, tuple[Any, Any]], which: int, run: Run) -> int:
    """Images of one batch of all processes, before (`which` 0) or after (1) the change of settings."""
    now = {"NUM_GPUS": run.config.NUM_GPUS, "TRAIN.IMS_PER_BATCH": run.config.TRAIN.IMS_PER_BATCH}
    values = [int(changed[key][which] if key in changed else now[key]) for key in STEP_SHARES]
    return values[0] * values[1]


def data_fingerprint(loader: Loader | LabelledLoader) -> dict[str, Any]:
    """What identifies the training data: images, annotations, classes; not where the files lie."""
    if isinstance(loader, LabelledLoader):
        return loader.fingerprint()
    digest = hashlib.sha256()
    for record in loader.records:
        name = Path(record.file_name).name
        digest.update(f"{record.image_id} {name} {record.height} {record.width} ".encode())
        digest.update(record.boxes.tobytes() + record.labels.tobytes())
    objects = sum(len(record) for record in loader.records)
    names = list(loader.class_info.names)
    return {"images": len(loader.records), "objects": objects, "classes": names, "sha256": digest.hexdigest()}


def _describe_data(data: dict[str, Any]) -> str:
    counts = f"{data['images']} images, {data['objects']} objects, {len(data['classes'])} classes"
    return f"{counts} ({data['sha256'][:8]})"
