"""Training a stack to its end: each member leaves the folder that it would leave trained by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from detectune.config.tree import Config
from detectune.data.labelled import LabelledImages
from detectune.data.labelled_loader import LabelledLoader
from detectune.engine.checkpoint import list_checkpoints, load_checkpoint
from detectune.engine.run_directory import RunDirectory
from detectune.engine.schedule import lr_at
from detectune.lab.member_records import (
    InTraining,
    next_stop,
    nothing_to_look_at,
    publish,
    record_interval,
    save,
)
from detectune.lab.stack import Stack
from detectune.models.classifier import Classifier
from detectune.structures import ClassInfo


class StackedSolver:
    """The numbers of a stack's update for member k, under the names that a `Solver` has for them; to look at."""

    def __init__(self, stack: Stack, k: int) -> None:
        self.schedule = stack.schedules[k]
        clip = torch.inf if stack.clip is None else float(stack.clip[k])
        self.clip_gradient_norm = clip if clip < torch.inf else 0.0
        self.param_groups = [
            _group(name, {key: float(value[k]) for key, value in values.items()})
            for name, values in stack.values.items()
        ]

    @property
    def optimizer(self) -> StackedSolver:
        """Where a `Solver` keeps its groups."""
        return self


class StackedMember:
    """Member k of a stack, as what is written about a member sees it."""

    def __init__(self, stack: Stack, k: int) -> None:
        self.stack, self.k = stack, k

    @property
    def config(self) -> Config:
        return self.stack.configs[self.k]

    @property
    def model(self) -> Classifier:
        """The network with this member's weights, until another member is asked."""
        self.stack.template.load_state_dict(self.stack.weights_of(self.k))
        return self.stack.template

    @property
    def class_info(self) -> ClassInfo:
        return self.stack.class_info

    @property
    def iteration(self) -> int:
        return self.stack.iteration

    @property
    def max_iter(self) -> int:
        return self.stack.max_iter

    @property
    def epoch(self) -> float:
        return self.iteration * self.config.TRAIN.IMS_PER_BATCH / self.stack.loaders[self.k].num_images

    @property
    def seconds(self) -> float:
        """This member's share of the time spent in updates."""
        return self.stack.seconds

    @property
    def lr(self) -> float:
        return lr_at(self.stack.schedules[self.k], max(0, self.iteration - 1))

    @property
    def gradient_norms(self) -> Sequence[float]:
        return torch.stack(self.stack.norms)[:, self.k].tolist() if self.stack.norms else []

    @property
    def diverged_at(self) -> int | None:
        return self.stack.diverged_at[self.k]

    @property
    def solver(self) -> StackedSolver:
        """What the stack's update uses for this member."""
        return StackedSolver(self.stack, self.k)

    @property
    def loader(self) -> LabelledLoader:
        return self.stack.loaders[self.k]

    @property
    def average(self) -> None:
        """A stack keeps no average of its weights."""

    @property
    def tests(self) -> Sequence[str]:
        return list(self.stack.tests)

    def evaluate(self, dataset: str) -> dict[str, float]:
        return self.stack.evaluate(self.k, dataset)

    def evaluated_weights(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        stack, k = self.stack, self.k
        memory = {name: {key: v[k].cpu() for key, v in own.items()} for name, own in stack.memory.items()}
        return {
            "iteration": stack.iteration,
            "seconds": stack.seconds,
            "diverged_at": stack.diverged_at[k],
            "model": stack.weights_of(k),
            "memory": memory,
        }


def _group(name: str, values: Mapping[str, float]) -> dict[str, Any]:
    """The values of one parameter's update as a group of an optimiser; a stack has no norms."""
    betas = {"betas": (values["beta1"], values["beta2"])} if "beta1" in values else {}
    kind = "bias" if name.rpartition(".")[2] == "bias" else "weight"
    return {"name": kind, "names": [name], **values, **betas}


def train_stack(
    configs: Sequence[Config],
    folders: Sequence[Path],
    *,
    data: LabelledImages,
    tests: Mapping[str, LabelledImages],
    device: torch.device,
    log: Callable[[str], None],
    built: Callable[[int, InTraining], None] = nothing_to_look_at,
) -> None:
    """Train all members together; they go on after the last interval that all of them have saved.

    `built` is called with the number of each member and the member, before any trains.
    """
    stack = Stack(configs, data=data, tests=tests, device=device)
    pairs = [(StackedMember(stack, k), RunDirectory(folder)) for k, folder in enumerate(folders)]
    for k, (member, _) in enumerate(pairs):
        built(k, member)
    go_on(stack, [directory for _, directory in pairs])
    every = configs[0].TRAIN.EVAL_ITERS
    while stack.iteration < stack.max_iter and None in stack.diverged_at:
        stopped = list(stack.diverged_at)
        losses = stack.advance(next_stop(stack.iteration, every=every, max_iter=stack.max_iter)).tolist()
        for (member, directory), loss, before in zip(pairs, losses, stopped, strict=True):
            if before is None:
                record_interval(member, directory, loss=loss, log=log)
            else:
                save(member, directory)
    for member, directory in pairs:
        publish(member, directory)


def go_on(stack: Stack, directories: Sequence[RunDirectory]) -> None:
    """Take over the newest interval that every member has saved, and drop what was written after it."""
    saved = [{path.name for path in list_checkpoints(directory.checkpoints)} for directory in directories]
    name = max(set.intersection(*saved), default=None)
    for k, directory in enumerate(directories):
        state = None if name is None else load_checkpoint(directory.checkpoints / name)
        directory.keep_metrics(0 if state is None else state["rows"])
        if state is not None:
            stack.restore(k, state)
