"""Batch, mini-batch and stochastic gradient descent on the same network: what a noisy gradient costs and saves.

*Descent*: each kind gets the best of four learning rates; its loss on the whole training set is followed over updates,
over examples seen and over seconds of processor time.
*Oscillation*: from the same weights, with the same rate, `NUM_UPDATES` updates with batches of each size B. The loss of
the whole set after each update is a path; its length over its net descent is 1 if it never rises. The spread of its
steps should shrink as 1 / sqrt(B).
*Noise*: the distance of a batch's gradient from the whole set's at the same weights, over batches drawn with
replacement; it must shrink as 1 / sqrt(B).

Shapes: images uint8 [N, C, H, W], labels int64 [N].
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from detectune.data.labelled import LabelledImages
from detectune.lab.update_rules import State, gradient_descent
from detectune.models.classifier import Classifier
from detectune.models.layer_list import parse_layers

TARGET = 0.3  # of the loss
NUM_UPDATES = 100
NUM_BATCHES = 100
SHARED_RATE = 0.1
LAYERS = ("dense 100", "relu", "softmax 10")


@dataclass(frozen=True)
class Kind:
    """A kind of gradient descent. `size` None is the whole set."""

    name: str
    size: int | None
    epochs: int
    rates: tuple[float, ...]


KINDS = (
    Kind("batch", None, 200, (0.1, 0.3, 1.0, 3.0)),
    Kind("mini-batch", 32, 15, (0.03, 0.1, 0.3, 1.0)),
    Kind("stochastic", 1, 3, (0.003, 0.01, 0.03, 0.1)),
)


class Network:
    """The same first weights for a seed, and what can be asked of them on one training set."""

    def __init__(self, data: LabelledImages, *, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = tuple(data.images.shape[1:])
        self.model = Classifier(parse_layers(LAYERS), input_shape=shape, init="he", generator=generator)
        self.parameters = list(self.model.parameters())
        self.images, self.labels = data.images.float(), data.labels

    def gradient(self, rows: Tensor | slice) -> list[Tensor]:
        """Of the mean loss over `rows` of the training set."""
        loss = self.model.loss_of(self.model.scores(self.images[rows]), self.labels[rows])
        return list(torch.autograd.grad(loss, self.parameters))

    @torch.no_grad()
    def loss(self) -> float:
        """Mean over the whole training set."""
        return float(self.model.loss_of(self.model.scores(self.images), self.labels))

    @torch.no_grad()
    def update(self, rows: Tensor | slice, lr: float) -> None:
        """One step of gradient descent."""
        with torch.enable_grad():
            gradients = self.gradient(rows)
        for w, g in zip(self.parameters, gradients, strict=True):
            w.copy_(gradient_descent(w, g, State(), lr=lr)[0])

    def weights(self) -> list[Tensor]:
        return [w.detach().clone() for w in self.parameters]

    @torch.no_grad()
    def restore(self, weights: Sequence[Tensor]) -> None:
        for w, kept in zip(self.parameters, weights, strict=True):
            w.copy_(kept)


def descend(
    data: LabelledImages, kind: Kind, lr: float, *, seed: int, points: int = 40
) -> list[dict[str, float]]:
    """The loss of the whole set at about `points` numbers of updates, evenly spread on a logarithmic scale.

    It ends where the loss is not finite. Looking at the loss is not counted in the seconds.
    """
    network, count = Network(data, seed=seed), len(data)
    size = kind.size or count
    generator = torch.Generator().manual_seed(seed)
    total = kind.epochs * (count // size)
    looked_at = {round(total ** (n / points)) for n in range(points + 1)}
    curve = [{"updates": 0, "examples": 0, "seconds": 0.0, "loss": network.loss()}]
    seconds, done = 0.0, 0
    while done < total:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            began = time.process_time()
            network.update(order[start : start + size] if size < count else slice(None), lr)
            seconds += time.process_time() - began
            done += 1
            if done in looked_at:
                curve.append(
                    {"updates": done, "examples": done * size, "seconds": seconds, "loss": network.loss()}
                )
                if not math.isfinite(curve[-1]["loss"]):
                    return curve[:-1]
    return curve


def reaching(curve: Sequence[dict[str, float]], target: float = TARGET) -> dict[str, float] | None:
    """The first point of a curve at or below the target."""
    return next((point for point in curve if point["loss"] <= target), None)


def oscillation(
    network: Network, size: int, *, lr: float, seed: int, updates: int = NUM_UPDATES
) -> dict[str, float]:
    """What the loss of the whole set does during updates with batches of `size`; the weights are put back."""
    before, generator = network.weights(), torch.Generator().manual_seed(seed)
    losses = [network.loss()]
    for _ in range(updates):
        rows = torch.randint(len(network.labels), (size,), generator=generator)
        network.update(rows, lr)
        losses.append(network.loss())
    network.restore(before)
    steps = [after - earlier for earlier, after in pairwise(losses)]
    descent = losses[0] - losses[-1]
    return {
        "size": size,
        "rising": sum(step > 0 for step in steps) / len(steps),
        "path_over_descent": sum(map(abs, steps)) / descent if descent > 0 else math.inf,
        "spread_of_steps": statistics.pstdev(steps),
        "descent": descent,
    }


def gradient_noise(network: Network, size: int, *, seed: int, batches: int = NUM_BATCHES) -> float:
    """Root mean square distance of the gradient of `size` examples from that of the whole set."""
    whole = torch.cat([g.flatten() for g in network.gradient(slice(None))])
    generator = torch.Generator().manual_seed(seed)
    squares = []
    for _ in range(batches):
        rows = torch.randint(len(network.labels), (size,), generator=generator)
        part = torch.cat([g.flatten() for g in network.gradient(rows)])
        squares.append(float((part - whole).square().sum()))
    return math.sqrt(statistics.fmean(squares))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The least-squares slope of log(value) over log(size): -0.5 for what shrinks as 1 / sqrt(size)."""
    x, y = [math.log(s) for s in sizes], [math.log(v) for v in values]
    return statistics.linear_regression(x, y).slope


def measure_batches(
    data: LabelledImages,
    *,
    seed: int,
    kinds: Sequence[Kind] = KINDS,
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Everything `detectune lab batch` shows, as plain values."""
    rows = []
    for kind in kinds:
        curves = {}
        for lr in kind.rates:
            log(f"{kind.name}, learning rate {lr:g}")
            curves[lr] = descend(data, kind, lr, seed=seed)
        lr, curve = min(
            curves.items(), key=lambda item: item[1][-1]["loss"] if len(item[1]) > 1 else math.inf
        )
        rows.append(
            {
                "kind": kind.name,
                "size": kind.size or len(data),
                "rate": lr,
                "rates": list(kind.rates),
                "reached": reaching(curve),
                "final": curve[-1],
                "curve": curve,
            }
        )
    network = Network(data, seed=seed)
    for start in range(0, min(len(data), 1600), 32):  # away from the first weights, where all gradients agree
        network.update(slice(start, start + 32), SHARED_RATE)
    sizes = [1, 4, 16, 64, 256]
    log("oscillation")
    waves = [oscillation(network, size, lr=SHARED_RATE, seed=seed) for size in (*sizes, len(data))]
    log("noise of the gradient")
    noise = [gradient_noise(network, size, seed=seed) for size in sizes]
    return {
        "data": data.source,
        "dataset": data.name,
        "images": len(data),
        "seed": seed,
        "target": TARGET,
        "shared_rate": SHARED_RATE,
        "kinds": rows,
        "oscillation": waves,
        "oscillation_exponent": exponent(sizes, [wave["spread_of_steps"] for wave in waves[: len(sizes)]]),
        "noise": [{"size": size, "distance": value} for size, value in zip(sizes, noise, strict=True)],
        "noise_exponent": exponent(sizes, noise),
    }


def first_images(data: LabelledImages, count: int) -> LabelledImages:
    """The first `count` images of a data set."""
    return LabelledImages(data.name, data.images[:count], data.labels[:count], data.class_info, data.source)
