"""The process that trains a block of a population's members: `python -m detectune.lab.population_worker`.

Its standard input gives it the block, a pickled list of (configuration, folder), when it has loaded its libraries.

All members take one evaluation interval before any takes the next. After each interval a member's folder holds its
metrics and a checkpoint, from which it goes on if it was stopped. One line for each evaluation goes to stdout.
"""

from __future__ import annotations

import contextlib
import importlib
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from detectune.config.tree import Config
from detectune.engine.checkpoint import newest_valid
from detectune.engine.precision import set_torch_globals
from detectune.engine.run_directory import RunDirectory
from detectune.lab.member import Member, load_data
from detectune.lab.member_records import (
    InTraining,
    next_stop,
    nothing_to_look_at,
    publish,
    record_interval,
)


def train_block(
    configs: Sequence[Config],
    folders: Sequence[Path],
    *,
    log: Callable[[str], None],
    built: Callable[[int, InTraining], None] = nothing_to_look_at,
) -> None:
    """Train one member for each configuration, in its folder, to its end.

    `built` is called with the number of each member and the member, once all are built and before any trains.
    """
    data, tests = load_data(configs[0])
    members = [Member(config, data=data, tests=tests) for config in configs]
    pairs = list(zip(members, map(RunDirectory, folders), strict=True))
    for k, member in enumerate(members):
        built(k, member)
    for member, directory in pairs:
        go_on(member, directory, log=log)
    while not all(member.finished for member in members):
        for member, directory in pairs:
            if not member.finished:
                every = member.config.TRAIN.EVAL_ITERS
                loss = member.advance(next_stop(member.iteration, every=every, max_iter=member.max_iter))
                record_interval(member, directory, loss=loss, log=log)
    for member, directory in pairs:
        publish(member, directory)


def go_on(member: Member, directory: RunDirectory, *, log: Callable[[str], None]) -> None:
    """Take over the last checkpoint, if there is one, and drop the rows written after it."""
    found = newest_valid(directory.checkpoints, log=log)
    directory.keep_metrics(0 if found is None else found[1]["rows"])
    if found is not None:
        member.load_state_dict(found[1])


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main() -> None:
    set_torch_globals(threads=1)  # a block belongs to one core
    importlib.import_module(
        "torch._dynamo"
    )  # the first optimiser would: a second, while the parent is busy anyway
    block: list[tuple[Config, Path]] = pickle.load(sys.stdin.buffer)  # from `train_in_processes`, no one else
    train_block([c for c, _ in block], [f for _, f in block], log=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
