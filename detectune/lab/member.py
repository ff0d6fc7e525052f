"""One network of a population: trained as the plain trainer trains it, number for number, with nothing around a step.

Initial weights, order of images, random numbers, learning rates and updates are the engine's own (`build_classifier`,
`LabelledLoader`, `step_generator`, `Solver`). What is left out costs more than a small network's arithmetic: autograd
(`models/backprop.py` is in its place), hooks, and looking at the loss after each step; here that happens once for each
block of batches, and a block in which it was not finite is undone. Parameters of a group lie in one vector, so that an
update is the same few operations whatever the number of layers.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detectune.config.tree import Config
from detectune.data.labelled import LabelledImages
from detectune.data.labelled_loader import LabelledLoader, build_labelled_loader, make_loader
from detectune.engine.classification import measure
from detectune.engine.ema import WeightAverage
from detectune.engine.precision import Compute
from detectune.engine.running import seed_globals, step_generator
from detectune.engine.solver import Solver, build_schedule, solver_for, trained_groups
from detectune.models.backprop import Backprop, targets_of
from detectune.models.build_classifier import build_classifier
from detectune.models.classifier import Classifier

# Of gradients, at most: fewer than of the plain trainer, as a norm costs a fifth of a small update.
NORMS_IN_A_ROW = 20

CPU = Compute(torch.device("cpu"))


class Member:
    """A network in training.

    `iteration` counts finished updates. `diverged_at` is the update (from 1) whose loss was not finite: from then on
    the weights stay what they were before the block of batches in which that happened.
    """

    def __init__(self, config: Config, *, data: LabelledImages, tests: Mapping[str, LabelledImages]) -> None:
        self.config = config
        self.loader: LabelledLoader = make_loader(config, data, training=True)
        self.tests = {name: make_loader(config, images, training=False) for name, images in tests.items()}
        self.class_info = data.class_info
        schedule = build_schedule(config, num_images=self.loader.num_images, log=_say_nothing)
        seed_globals(config.RNG_SEED)
        self.model: Classifier = build_classifier(
            config, input_shape=tuple(data.images.shape[1:]), num_classes=len(data.class_info)
        )
        self.flats, self.solver = flat_solver(config, self.model, schedule=schedule)
        decay = config.SOLVER.EMA_DECAY
        self.average = WeightAverage(self.model, decay=decay) if decay > 0 else None
        self.backprop = Backprop(self.model, batch_size=config.TRAIN.IMS_PER_BATCH)
        self.max_iter = schedule.max_iter
        self.iteration = 0
        self.norm_stride = norm_stride(config, max_iter=self.max_iter)
        # Of gradients before clipping, of the updates since `advance` was called.
        self.norms: list[Tensor] = []
        self.diverged_at: int | None = None
        self.seconds = 0.0  # of processor time, spent in updates: the same on a busy machine

    @property
    def finished(self) -> bool:
        return self.diverged_at is not None or self.iteration >= self.max_iter

    def advance(self, until: int) -> float:
        """Update until `until` updates are done, or until the loss is not finite; the mean loss of these updates."""
        started = time.process_time()
        total, count = 0.0, 0
        self.norms = []
        self.model.train()
        while self.iteration < until and not self.finished:
            losses = self._block(until - self.iteration)
            total, count = total + float(losses.sum()), count + len(losses)
        self.seconds += time.process_time() - started
        return total / max(1, count)

    @torch.no_grad()
    def _block(self, limit: int) -> Tensor:
        """The updates of the next block of batches, `limit` at most; the loss of each, float32 [number of updates].

        Where one is not finite the block is undone and nothing is returned but the losses before it.
        """
        size, model = self.config.TRAIN.IMS_PER_BATCH, self.model
        block = self.loader.block(self.iteration)
        number = min(limit, len(block) // size)
        assert block.labels is not None
        images, labels = model.inputs(block.images[: number * size]), block.labels[: number * size]
        targets = targets_of(model, labels)
        scores = images.new_empty(number, size, model.num_classes)
        weights: list[Tensor] = [*self.flats, *([] if self.average is None else self.average.shadow)]
        before, norms_before = [tensor.clone() for tensor in weights], len(self.norms)
        batches = zip(torch.split(images, size), torch.split(targets, size), scores.unbind(), strict=True)
        for iteration, (x, target, kept) in enumerate(batches, start=self.iteration):
            kept.copy_(self._update(iteration, x, target))
        each = model.loss_of(
            scores.flatten(0, 1), labels, label_smoothing=model.label_smoothing, reduction="none"
        )
        losses: Tensor = each.view(number, size).mean(1)
        if all(bool(flat.isfinite().all()) for flat in self.flats) and bool(losses.isfinite().all()):
            self.iteration += number
            return losses
        finite = int(losses.isfinite().long().cumprod(0).sum())
        self.diverged_at = self.iteration + finite + 1
        torch._foreach_copy_(weights, before)
        del self.norms[norms_before:]
        return losses[:finite]

    def _update(self, iteration: int, x: Tensor, target: Tensor) -> Tensor:
        """One update, in the order of `engine/trainer.py::train_step`; the scores [B, K] before it."""
        solver = self.solver
        solver.set_lr(iteration)
        generator = (
            step_generator(self.config.RNG_SEED, iteration, 0, CPU.device) if self.model.draws else None
        )
        scores = self.backprop.step(x, target, generator)
        kept = (iteration + 1) % self.norm_stride == 0
        if kept or solver.clip_gradient_norm > 0:
            norm = solver.gradient_norm()
            if kept:
                self.norms.append(norm)
            if solver.clip_gradient_norm > 0:
                nn.utils.clip_grads_with_norm_(solver.parameters, solver.clip_gradient_norm, norm)
        solver.update()
        if self.average is not None:
            self.average.update(iteration)
        return scores

    @property
    def gradient_norms(self) -> Sequence[float]:
        """Norms of the gradient in evenly spaced updates since `advance` was called, before clipping."""
        return torch.stack(self.norms).tolist() if self.norms else []

    @property
    def lr(self) -> float:
        """The learning rate of the last update."""
        return self.solver.lr

    @property
    def epoch(self) -> float:
        """How often every image was seen, on average."""
        return self.iteration * self.config.TRAIN.IMS_PER_BATCH / self.loader.num_images

    def evaluated_weights(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the model has the weights that are evaluated and published: the average if there is one."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    def evaluate(self, dataset: str) -> dict[str, float]:
        """Accuracy and loss on one of the test sets, as the plain trainer measures them."""
        with self.evaluated_weights():
            return measure(self.model, self.tests[dataset], CPU)

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs."""
        return {
            "iteration": self.iteration,
            "diverged_at": self.diverged_at,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "solver": self.solver.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration, self.diverged_at = state["iteration"], state["diverged_at"]
        self.seconds = state["seconds"]
        self.model.load_state_dict(state["model"])  # copies into the flat vectors
        self.solver.load_state_dict(state["solver"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def norm_stride(config: Config, *, max_iter: int) -> int:
    """Every how many updates the gradient's norm is kept: a row of metrics holds NORMS_IN_A_ROW at most."""
    return math.ceil(min(config.TRAIN.EVAL_ITERS or max_iter, max_iter) / NORMS_IN_A_ROW)


def load_data(config: Config) -> tuple[LabelledImages, dict[str, LabelledImages]]:
    """Training images, and those of each of TEST.DATASETS."""
    tests = {
        name: build_labelled_loader(config, training=False, dataset=name).data
        for name in config.TEST.DATASETS
    }
    return build_labelled_loader(config, training=True).data, tests


def flat_solver(config: Config, model: nn.Module, *, schedule: Any) -> tuple[list[nn.Parameter], Solver]:
    """SOLVER's solver for one vector per parameter group, in which the model's parameters and gradients then lie.

    Optimisers that work element by element give the same numbers so, for fewer operations.
    """
    groups = trained_groups(config, model)
    elementwise = config.SOLVER.OPTIMIZER != "muon"  # which looks at a weight as a matrix
    flats: list[nn.Parameter] = []
    for group in groups:
        parameters = group["params"]
        if not elementwise:
            flats += parameters
            continue
        flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
        flat.grad = torch.zeros_like(flat)
        sizes = [p.numel() for p in parameters]
        views = zip(parameters, torch.split(flat.detach(), sizes), torch.split(flat.grad, sizes), strict=True)
        for parameter, value, gradient in views:
            parameter.data = value.view_as(parameter)
            parameter.grad = gradient.view_as(parameter)
        group["params"] = [flat]
        flats.append(flat)
    return flats, solver_for(config, groups, schedule=schedule)


def _say_nothing(_: str) -> None:
    """What the configuration means is said once, by the population."""
