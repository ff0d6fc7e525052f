"""Many networks of one architecture, trained as one program.

Members differ in RNG_SEED and in any number that does not change the architecture: rates, momentum, betas, decay,
dropout. Each equals the network that the plain trainer makes of its configuration, to rounding, and does not depend on
the others, on how many there are, or on how many processes share the work.

A process for each core keeps a block of members and trains them in turn, an evaluation interval at a time
(lab/member.py): 32 networks [784, 100, 10] are 10 MB, which a step of all of them together streams through the caches,
and one of them is 0.3 MB, which stays in its core's (bench/population.py). On a GPU all members take each step
together, stacked along a new first axis (lab/stack.py).

Every member leaves an ordinary run directory, `members/0007/`: config.yaml, metrics.jsonl, checkpoints/,
model_final.safetensors. Started again on the same folder, a population goes on after the last evaluation.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from detectune.config.load import dump_diff
from detectune.config.tree import Config
from detectune.data.loader import available_cpus
from detectune.engine.precision import choose_device
from detectune.engine.run_directory import RunDirectory, write_text
from detectune.errors import UserError
from detectune.lab.checks import check_members, check_stack
from detectune.lab.member import load_data
from detectune.lab.member_records import InTraining, nothing_to_look_at
from detectune.lab.population_worker import one_thread, train_block
from detectune.lab.stack_run import train_stack
from detectune.models.build_classifier import build_classifier


@dataclass(frozen=True)
class MemberResult:
    """What became of one member. Losses and accuracies are of the first of TEST.DATASETS."""

    directory: Path
    values: Mapping[str, Any]  # in what it differs
    curve: list[
        dict[str, Any]
    ]  # one row per evaluation: iteration, epoch, seconds, loss (training), its metrics
    metrics: dict[str, float]  # of the last evaluation
    diverged_at: int | None  # the update whose loss was not finite
    seconds: float  # spent in its updates
    weights: Path


def train_population(
    config: Config,
    members: Sequence[Mapping[str, Any]],
    *,
    output_dir: Path | str,
    directories: Sequence[Path] | None = None,
    workers: int | None = None,
    log: Callable[[str], None] = print,
    seen: Callable[[int, Config], Config] | None = None,
    built: Callable[[int, InTraining], None] = nothing_to_look_at,
) -> list[MemberResult]:
    """Train `config` once for each entry of `members`, which holds the keys in which that member differs.

    Args:
        config: a classifier; what no member changes.
        members: {"RNG_SEED": 3, "SOLVER.BASE_LR": 0.1}, one for each network.
        output_dir: where `members/0000/` and so on are made.
        directories: folders for the members instead of these, one for each.
        workers: processes on a CPU, by default one for each core; 0 trains in this one, which saves their start.
        log: gets a line for each evaluation.
        seen, built: for a caller that wants to know whether values arrive. `seen` gives the configuration that member
            k is built from, as that member may see it; `built` gets k and the member before anything is trained. Both
            need `workers=0`, or a GPU: members of other processes cannot be shown.

    Raises:
        UserError: before anything is trained, if a member cannot be trained this way (`check_members` says which).
        KeyboardInterrupt: after Ctrl-C, when the processes have ended; the same call goes on from what they saved.
    """
    configs = [config.with_overrides(dict(values)) for values in members]
    check_members(configs)
    device = choose_device(config.MODEL.DEVICE)
    if device.type == "cuda":
        check_stack(config)
    folders = list(directories or (Path(output_dir) / "members" / f"{k:04d}" for k in range(len(configs))))
    count = min(available_cpus() if workers is None else workers, len(folders))
    with worker_processes(0 if device.type == "cuda" else count) as processes:
        for member, folder in zip(configs, folders, strict=True):
            prepare_directory(member, folder)
        if seen is not None:
            configs = [seen(k, member) for k, member in enumerate(configs)]
        data, tests = load_data(config)
        build_classifier(
            config, input_shape=tuple(data.images.shape[1:]), num_classes=len(data.class_info)
        )  # what cannot be built is said here, once
        if device.type == "cuda":
            train_stack(configs, folders, data=data, tests=tests, device=device, log=log, built=built)
        elif count == 0:
            with one_thread():  # as in a process of a block: sums have the same order
                train_block(configs, folders, log=log, built=built)
        else:
            pairs = list(zip(configs, folders, strict=True))
            train_in_processes(processes, [pairs[k::count] for k in range(count)], log=log)
    return [result_of(folder, values) for folder, values in zip(folders, members, strict=True)]


def prepare_directory(config: Config, folder: Path) -> None:
    """Write config.yaml and diff.yaml; a `UserError` if the folder holds another configuration."""
    directory, text = RunDirectory(folder), config.to_yaml()
    with directory.held():
        file = folder / "config.yaml"
        if file.exists() and file.read_text() != text:
            raise UserError(
                f"{folder} holds a network that was trained with another configuration (see its config.yaml); choose "
                "another output folder, or remove this one."
            )
        write_text(file, text)
        directory.write_text("diff.yaml", dump_diff(config))


@contextlib.contextmanager
def worker_processes(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that load what they need and wait for their blocks; none outlives this context, Ctrl-C included."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "detectune.lab.population_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # a block has one core
        )
        for _ in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                assert stream is not None
                with contextlib.suppress(BrokenPipeError):  # of a process that did not take its block
                    stream.close()


def train_in_processes(
    processes: Sequence[subprocess.Popen[bytes]],
    blocks: Sequence[Sequence[tuple[Config, Path]]],
    *,
    log: Callable[[str], None],
) -> None:
    """Give each process its block of members and folders; returns when all have ended.

    Raises:
        RuntimeError: with what the first process that failed has said.
    """
    said: list[list[str]] = [[] for _ in processes]
    readers = []
    for process, block, lines in zip(processes, blocks, said, strict=True):
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        readers += [_reader(process.stdout, log), _reader(process.stderr, lines.append)]
        with contextlib.suppress(BrokenPipeError):  # it has ended: its return code and words say why
            pickle.dump(block, process.stdin)
            process.stdin.flush()
    for process in processes:
        process.wait()
    for reader in readers:
        reader.join()
    for process, lines in zip(processes, said, strict=True):
        if process.returncode != 0:
            words = "\n".join(lines)
            raise RuntimeError(f"A process of the population ended with {process.returncode}:\n{words}")


def _reader(stream: IO[bytes], take: Callable[[str], Any]) -> threading.Thread:
    """A thread that hands over each line of a stream."""

    def read() -> None:
        for line in stream:
            take(line.decode(errors="replace").rstrip("\n"))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def result_of(folder: Path, values: Mapping[str, Any]) -> MemberResult:
    """What a member's folder tells."""
    directory = RunDirectory(folder)
    rows = directory.read_metrics()
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    first = evaluations[0]["dataset"] if evaluations else None
    trained = {
        row["iteration"]: {key: value for key, value in row.items() if key != "gradient_norms"}
        for row in rows
        if row["kind"] == "train"
    }
    curve = [trained[row["iteration"]] | row for row in evaluations if row["dataset"] == first]
    metrics = {name: value for name, value in curve[-1].items() if "/" in name} if curve else {}
    diverged = next((row["iteration"] for row in rows if row["kind"] == "diverged"), None)
    seconds = rows[-1]["seconds"] if rows else 0.0
    return MemberResult(folder, dict(values), curve, metrics, diverged, seconds, directory.final_weights)
