"""The process that trains a block of a study's trials: `python -m detectune.cli.population_program`.

One line of JSON comes in, {"jobs": [...]}; one goes out when a trial has ended, as a worker's does, with the trial's
number. When the study dies its pipe closes, and this process ends with what was saved.

Each trial is left as the trial of a worker of its own leaves it: run directory, arrived.json, outcome.json.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectune.cli.population_pool import LOCK
from detectune.config.load import load_config
from detectune.config.tree import Config
from detectune.engine.environment import describe_environment
from detectune.engine.precision import choose_compute, set_torch_globals
from detectune.engine.run_directory import RunDirectory, output_errors, write_text
from detectune.errors import OutputError, UserError
from detectune.lab.checks import check_members
from detectune.lab.member_records import InTraining
from detectune.lab.population import MemberResult, train_population
from detectune.tuner.arrived import NotArrivedError, check_built, check_used, watch
from detectune.tuner.outcomes import Fault, Halt, Outcome, is_out_of_memory, outcome_of_error, outcome_of_run
from detectune.tuner.trial_job import Job
from detectune.tuner.trial_program import ARRIVED, OUTCOME, peak_memory, read_outcome
from detectune.tuner.worker import Line, describe_end

End = Outcome | Fault | Halt


class Arrival:
    """Whether the sampled values of a block's trials reach the networks that they are for, as `TrialHook` has it."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.reads: list[Mapping[str, str]] = [{} for _ in jobs]
        self.found: list[dict[str, dict[str, Any]]] = [{} for _ in jobs]
        self.members: dict[int, InTraining] = {}

    def seen(self, k: int, config: Config) -> Config:
        """The configuration of trial k, watched."""
        watched, self.reads[k] = watch(config)
        return watched

    def built(self, k: int, member: InTraining) -> None:
        """Look at the network of trial k before it trains."""
        self.members[k] = member
        self.found[k] = check_built(member, self.jobs[k].sampled, self.reads[k])
        self._record(k)

    def trained(self, k: int) -> None:
        """Look at what trial k has read in all."""
        waiting = {key: value for key, value in self.jobs[k].sampled.items() if key not in self.found[k]}
        self.found[k] |= check_used(self.members[k], waiting, self.reads[k])
        self._record(k)

    def _record(self, k: int) -> None:
        write_text(Path(self.jobs[k].run) / ARRIVED, json.dumps(self.found[k], indent=2) + "\n")


def run_block(jobs: Sequence[Job], *, ended: Callable[[Job, End], None], log: Callable[[str], None]) -> None:
    """Run trials, or go on with them; `ended` is called once for each.

    Trials of a study are one population. Runs that are given, and may differ in anything, are as many as they need.
    """
    populations: list[list[tuple[Job, Config]]] = []
    for job in jobs:
        if (known := read_outcome(Path(job.run))) is not None:
            ended(job, known)
            continue
        try:
            config = load_config(job.base).with_overrides(values_of(job))
            check_members([config])
        except UserError as error:
            finish(job, Outcome("infeasible", f"Refused: {error}", steps=0), ended)
            continue
        own = next((found for found in populations if belongs(job, config, found)), None)
        if own is None:
            populations.append([(job, config)])
        else:
            own.append((job, config))
    for population in populations:
        run_population([job for job, _ in population], ended=ended, log=log)


def belongs(job: Job, config: Config, population: Sequence[tuple[Job, Config]]) -> bool:
    """Whether a trial can be a member of the population."""
    first, first_config = population[0]
    if job.base != first.base:
        return False
    try:
        check_members([first_config, config])
    except UserError:
        return False
    return True


def run_population(
    jobs: Sequence[Job], *, ended: Callable[[Job, End], None], log: Callable[[str], None]
) -> None:
    """Train the members together."""
    base = load_config(jobs[0].base)
    arrival = Arrival(jobs)
    try:
        results = train_population(
            base,
            [values_of(job) for job in jobs],
            output_dir=base.OUTPUT_DIR,
            directories=[Path(job.run) for job in jobs],
            workers=0,
            log=log,
            seen=arrival.seen,
            built=arrival.built,
        )
        describe(base, jobs)
    except Exception as error:
        log(f"{type(error).__name__}: {error}")
        for job in jobs:
            finish(job, end_of_error(error, len(jobs)), ended)
        return
    for k, (job, result) in enumerate(zip(jobs, results, strict=True)):
        try:
            arrival.trained(k)
            finish(job, end_of(result, job), ended)
        except (NotArrivedError, OutputError) as error:
            finish(job, end_of_error(error, len(jobs)), ended)


def values_of(job: Job) -> dict[str, Any]:
    """What the trial's network has of its own. Its folder is not said: a study may be moved and gone on with."""
    return {"RNG_SEED": job.settings["RNG_SEED"], **job.sampled}


def end_of(result: MemberResult, job: Job) -> Outcome:
    """How a member that was trained ended as a trial."""
    if result.diverged_at is not None:
        reason = f"Diverged: the loss was not finite in update {result.diverged_at}."
        return Outcome("infeasible", reason, steps=result.diverged_at - 1)
    steps = result.curve[-1]["iteration"] if result.curve else None
    return outcome_of_run(result.metrics, job.metrics, steps=steps or 0, stopped=None)


def end_of_error(error: Exception, size: int) -> End:
    """The end that an error of the whole population makes of each of its trials."""
    if is_out_of_memory(error):
        return Halt(
            f"There is not enough memory for {size} networks in one process: {str(error).splitlines()[0]} Take a "
            "smaller --population."
        )
    return outcome_of_error(error, steps=0, peak_memory=peak_memory())


def finish(job: Job, end: End, ended: Callable[[Job, End], None]) -> None:
    """Keep the end in the run directory before the study hears of it."""
    if isinstance(end, Outcome):
        folder = Path(job.run)
        try:
            with output_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / OUTCOME, json.dumps(end.as_json()) + "\n")
        except OutputError as error:
            end = Halt(str(error))
    ended(job, end)


def describe(base: Config, jobs: Sequence[Job]) -> None:
    """Write environment.json, as every run has it."""
    compute = choose_compute(
        device=base.MODEL.DEVICE, precision=base.SOLVER.PRECISION, memory_format=base.MODEL.MEMORY_FORMAT
    )
    text = json.dumps(describe_environment(compute), indent=2) + "\n"
    for job in jobs:
        RunDirectory(Path(job.run)).write_text("environment.json", text)


def leave_with_study(line: Line) -> None:
    """Wait for the end of the study's pipe, then end this process."""
    while line.receive() is not None:
        continue
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    line = Line(0, os.dup(1))
    os.dup2(2, 1)  # what anything prints must not look like a message
    message = line.receive()
    if message is None:
        return
    jobs = [Job.from_json(job) for job in message["jobs"]]
    threading.Thread(target=leave_with_study, args=(line,), daemon=True).start()
    with open(Path(jobs[0].run).parent.parent / LOCK, "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        set_torch_globals(threads=1)  # a block belongs to one core
        run_block(
            jobs,
            ended=lambda job, end: line.send(
                {"event": "ended", "number": job.number, "peak_memory": peak_memory(), **describe_end(end)}
            ),
            log=lambda text: print(text, file=sys.stderr, flush=True),
        )


if __name__ == "__main__":
    main()
