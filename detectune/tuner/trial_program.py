"""One trial in its own process: an ordinary `train` with the values that were proposed, and what it tells the study.

The configuration is the study's base with the proposed values, the trial's seed and its folder on top, so the run can
be repeated alone from its config.yaml. How it ended is also written to `outcome.json` in the run directory, before the
study hears of it: whoever takes up a trial that has one need not run it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectune.config.load import load_config
from detectune.config.tree import Config
from detectune.engine.hooks import Hook
from detectune.engine.interrupt import TrainingInterruptedError
from detectune.engine.recording import peak_memory_mb
from detectune.engine.run_directory import RunDirectory, write_text
from detectune.engine.running import Run
from detectune.engine.trainer import train
from detectune.errors import OutputError
from detectune.tuner.arrived import check_built, check_used, watch
from detectune.tuner.outcomes import PRUNED, Fault, Halt, Outcome, outcome_of_error, outcome_of_run
from detectune.tuner.trial_job import Job

OUTCOME = "outcome.json"
ARRIVED = "arrived.json"
LATENCY = "seconds_per_image"
WAIT_FOR_FOLDER = 60.0  # seconds that a predecessor may still need to save and leave


class TrialHook(Hook):
    """Checks that the sampled values have arrived, and tells the study what was measured.

    Args:
        evaluated: called with (iteration, metrics, whether it was the last) after each evaluation; the text it
            returns ends the run.
    """

    def __init__(
        self,
        job: Job,
        reads: Mapping[str, str],
        evaluated: Callable[[int, Mapping[str, float], bool], str | None],
    ) -> None:
        self.job, self.reads, self.evaluated = job, reads, evaluated
        self.arrived: dict[str, dict[str, Any]] = {}
        self.steps = 0

    def before_train(self, run: Run) -> None:
        self.steps = run.iteration
        self.arrived = check_built(run, self.job.sampled, self.reads)
        self._record(run)

    def after_step(self, run: Run) -> None:
        self.steps = run.iteration

    def after_evaluation(self, run: Run) -> None:
        """Called by the engine when metrics are known and before they are saved."""
        waiting = {key: value for key, value in self.job.sampled.items() if key not in self.arrived}
        if waiting:
            self.arrived |= check_used(run, waiting, self.reads)
            self._record(run)
        over = run.iteration >= run.max_iter or run.stop_reason is not None
        measured = with_latency(run.metrics, run.directory, run.config)
        reason = self.evaluated(run.iteration, measured, over)
        if reason is not None:
            run.request_stop(PRUNED + reason)

    def _record(self, run: Run) -> None:
        run.directory.write_text(ARRIVED, json.dumps(self.arrived, indent=2) + "\n")


def run_trial(
    job: Job,
    *,
    started: Callable[[], None],
    evaluated: Callable[[int, Mapping[str, float], bool], str | None],
    log: Callable[[str], None],
) -> Outcome | Fault | Halt | None:
    """Run a trial, or go on with it. None: it was asked to stop and can be gone on with."""
    directory = RunDirectory(Path(job.run))
    hook: TrialHook | None = None
    try:
        found = read_outcome(directory.path)
        if found is not None:
            return found
        wait_until_free(directory)
        config, reads = watch(load_config(job.base, {**job.settings, **job.sampled}))
        hook = TrialHook(job, reads, evaluated)
        started()
        result = train(config, output_dir=directory.path, hooks=[hook], log=log)
        outcome: Outcome | Fault | Halt = outcome_of_run(
            with_latency(result.metrics, directory, config),
            job.metrics,
            steps=result.iterations,
            stopped=result.stopped,
        )
    except TrainingInterruptedError:
        return None
    except Exception as error:
        log(f"{type(error).__name__}: {error}")
        outcome = outcome_of_error(error, steps=hook.steps if hook else 0, peak_memory=peak_memory())
        if isinstance(outcome, Outcome) and outcome.state == "failed":
            import traceback

            log(traceback.format_exc())
    if isinstance(outcome, Outcome):
        try:
            write_text(directory.path / OUTCOME, json.dumps(outcome.as_json()) + "\n")
        except OutputError as error:
            return Halt(str(error))
    return outcome


def with_latency(metrics: Mapping[str, float], directory: RunDirectory, config: Config) -> dict[str, float]:
    """Metrics, and the seconds that an image took in the last test: what else an objective may be."""
    if not config.TEST.DATASETS:
        return dict(metrics)
    file = directory.path / "evaluation" / config.TEST.DATASETS[0] / "metrics.json"
    try:
        seconds = json.loads(file.read_text()).get(LATENCY)
    except FileNotFoundError:
        return dict(metrics)
    return {**metrics, LATENCY: seconds} if isinstance(seconds, float) else dict(metrics)


def read_outcome(folder: Path) -> Outcome | None:
    """How the trial in a run directory ended, if it has."""
    try:
        return Outcome.from_json(json.loads((folder / OUTCOME).read_text()))
    except FileNotFoundError:
        return None


def wait_until_free(directory: RunDirectory) -> None:
    """Wait while a process of an earlier session, whose study was killed, still saves and leaves."""
    deadline = time.monotonic() + WAIT_FOR_FOLDER
    while True:
        try:
            with directory.held():
                return
        except OutputError as error:
            if not isinstance(error.__cause__, BlockingIOError) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def peak_memory() -> int:
    """The most memory that this process has used, in bytes: the device's if it used one."""
    import torch

    used = torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
    return int(peak_memory_mb(torch.device("cuda" if used else "cpu")) * 2**20)
