"""One small network in training, without run directory: what the lab's comparisons train by the hundred.

Weights, order of images and updates are the plain trainer's (`build_classifier`, `LabelledLoader`, `Solver`), so a
network of a comparison can be trained again with `detectune train` and the same keys.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import torch

from detectune.config.tree import Config
from detectune.data.labelled import LabelledImages, load_labelled
from detectune.data.labelled_loader import LabelledLoader
from detectune.engine.running import seed_globals
from detectune.engine.solver import build_schedule, build_solver
from detectune.models.build_classifier import build_classifier
from detectune.structures import LabelledBatch


class Training:
    """A classifier and its solver.

    `iteration` counts finished updates; `diverged_at` is the update (from 1) whose loss was not finite, where it
    stopped; `seconds` of processor time went into updates.
    """

    def __init__(self, config: Config, *, data: LabelledImages, tests: Mapping[str, LabelledImages]) -> None:
        loader = LabelledLoader(data, config.TRAIN.IMS_PER_BATCH, True, seed=config.RNG_SEED)
        schedule = build_schedule(config, num_images=len(data), log=lambda _: None)
        seed_globals(config.RNG_SEED)
        self.model = build_classifier(
            config, input_shape=tuple(data.images.shape[1:]), num_classes=len(data.class_info)
        )
        self.solver = build_solver(config, self.model, schedule=schedule)
        self.batches: Iterator[LabelledBatch] = iter(loader)
        self.tests = tests
        self.max_iter = schedule.max_iter
        self.iteration = 0
        self.diverged_at: int | None = None
        self.seconds = 0.0

    def advance(self, until: int) -> None:
        """Update until `until` updates are done, or until the loss is not finite."""
        began = time.process_time()
        while self.iteration < until and self.diverged_at is None:
            self.solver.set_lr(self.iteration)
            loss = self.model(next(self.batches))["loss_classification"]
            if not loss.isfinite():
                self.diverged_at = self.iteration + 1
                break
            self.solver.backward(loss)
            self.solver.optimizer.step()
            self.solver.optimizer.zero_grad()
            self.iteration += 1
        self.seconds += time.process_time() - began

    @torch.no_grad()
    def accuracy(self, dataset: str) -> float:
        """The fraction of a test set's images that get their class."""
        test, right = self.tests[dataset], 0
        for start in range(0, len(test), 1000):
            scores = self.model.scores(test.images[start : start + 1000])
            right += int((scores.argmax(1) == test.labels[start : start + 1000]).sum())
        return right / len(test)


def load_data(config: Config) -> tuple[LabelledImages, dict[str, LabelledImages]]:
    """The first of TRAIN.DATASETS, and each of TEST.DATASETS."""
    tests = {name: load_labelled(name, config.DATASETS) for name in config.TEST.DATASETS}
    return load_labelled(config.TRAIN.DATASETS[0], config.DATASETS), tests
