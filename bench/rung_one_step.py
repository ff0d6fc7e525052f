"""A training step of the ladder's first rung ([784, 100, 10], 10 images): ours beside a hand-written PyTorch loop.

    python bench/rung_one_step.py [--rounds 30] [--steps 500]

In alternation, each in a process of its own, on one thread, which is faster than two for all of them:

    loop      what one writes oneself: index the tensor, forward, cross_entropy, backward, torch.optim.SGD
    trainer   the plain trainer: `train_steps` of a run with all its hooks
    member    the lab's step (lab/member.py), as a population uses it
    arithmetic  the five matrix products and the update of that step alone, into memory made before: the floor

Microseconds are medians over rounds of `steps` steps each.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alternation import Contender, alternate, write_result

RUNG = Path(__file__).resolve().parent.parent / "configs" / "mnist" / "1_fully_connected.yaml"
IMAGES, UNITS, CLASSES, INPUTS = 10, 100, 10, 784
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def rung_one(**values: Any) -> Any:
    """The first rung's configuration, on the CPU."""
    from detectune.config.load import load_config

    return load_config(RUNG).with_overrides({"MODEL.DEVICE": "cpu", **values})


def loop(steps: int) -> Callable[[], None]:
    """The peer. The images are float32 beforehand and an order is drawn once for an epoch, both to its advantage."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    from detectune.data.labelled import load_labelled

    data = load_labelled("mnist_train", {})
    images, labels = data.images.float() / 255, data.labels
    network = nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, UNITS), nn.Sigmoid(), nn.Linear(UNITS, CLASSES))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)

    def run() -> None:
        for step in range(steps):
            start = step * IMAGES % len(labels)
            if start == 0:  # an epoch begins
                order = torch.randperm(len(labels))
            rows = order[start : start + IMAGES]
            loss = cross_entropy(network(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()

    return run


def trainer(steps: int) -> Callable[[], None]:
    """The plain trainer's own steps, with all hooks of a run; nothing is evaluated or saved in between."""
    from detectune.engine.interrupt import catch_interrupts
    from detectune.engine.resume import CheckpointHook
    from detectune.engine.run_directory import RunDirectory
    from detectune.engine.starting import order_hooks, start_run
    from detectune.engine.trainer import train_steps

    config = rung_one(**{"TRAIN.EVAL_ITERS": 0, "TRAIN.SNAPSHOT_ITERS": 10**9, "SOLVER.MAX_EPOCHS": 1000})
    stack = contextlib.ExitStack()
    directory = RunDirectory(Path(stack.enter_context(tempfile.TemporaryDirectory())))
    stack.enter_context(directory.held())
    state = start_run(config, directory, log=lambda _: None, found=None)
    hooks = order_hooks(state, [], CheckpointHook(snapshot_iters=10**9, keep_last=1))
    for hook in hooks:
        hook.before_train(state)
    interrupt = stack.enter_context(catch_interrupts())

    def run() -> None:
        state.max_iter = state.iteration + steps
        train_steps(state, hooks, interrupt)

    run.stack = stack  # type: ignore[attr-defined]  # the folder lives as long as the step
    return run


def member(steps: int) -> Callable[[], None]:
    from detectune.data.labelled import load_labelled
    from detectune.lab.member import Member

    config = rung_one(**{"SOLVER.MAX_EPOCHS": 1000})
    trained = Member(config, data=load_labelled("mnist_train", {}), tests={})
    return lambda: _advance(trained, steps)


def _advance(trained: Any, steps: int) -> None:
    trained.advance(trained.iteration + steps)


def arithmetic(steps: int) -> Callable[[], None]:
    """3.2 million operations a step, whose weights and gradients (0.6 MB) stay in a core's cache."""
    import torch

    x, dy = torch.rand(IMAGES, INPUTS), torch.rand(IMAGES, CLASSES)
    first, second = torch.rand(UNITS, INPUTS), torch.rand(CLASSES, UNITS)
    hidden, scores = torch.empty(IMAGES, UNITS), torch.empty(IMAGES, CLASSES)
    first_grad, second_grad = torch.empty_like(first), torch.empty_like(second)

    @torch.no_grad()
    def run() -> None:
        for _ in range(steps):
            torch.mm(x, first.t(), out=hidden)
            torch.mm(hidden, second.t(), out=scores)
            torch.mm(dy.t(), hidden, out=second_grad)
            torch.mm(dy, second, out=hidden)
            torch.mm(hidden.t(), x, out=first_grad)
            first.sub_(first_grad, alpha=1e-9)
            second.sub_(second_grad, alpha=1e-9)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    sides = {"loop": loop, "trainer": trainer, "member": member, "arithmetic": arithmetic}
    contenders = [Contender(name, setup, (arguments.steps,), ONE_THREAD) for name, setup in sides.items()]
    timings = alternate(contenders, rounds=arguments.rounds, warm_up=2)
    each = {name: 1e6 * timing.median / arguments.steps for name, timing in timings.items()}
    result = {
        "what": "microseconds of a training step of rung 1 on one thread, medians",
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "microseconds": {name: round(value, 1) for name, value in each.items()},
        "half_quartile_distance": {
            name: round(1e6 * timing.spread / arguments.steps, 1) for name, timing in timings.items()
        },
        "loop_over": {name: round(each["loop"] / value, 3) for name, value in each.items()},
    }
    print(result["microseconds"], result["loop_over"])
    write_result("rung_one_step", result)


if __name__ == "__main__":
    main()
