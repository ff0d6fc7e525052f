"""32 networks of the ladder's first rung ([784, 100, 10], 10 images): a population beside one training after another.

    python bench/population.py [--members 32] [--steps 2500] [--rounds 4] [--alone 4]

In alternation, each in a process of its own:

    loop         a hand-written PyTorch loop (bench/rung_one_step.py), one thread
    loop, all    the same with torch's own number of threads
    trainer      `train(config)`, the whole run without evaluation
    population   `train_population(config, members)`: processes started, data read, weights and metrics written

Of the networks that are trained one after another only `alone` are run, and their time is multiplied. A population is
given twice: as a whole, with the start of its processes, and in its steps alone (`steps`: the largest sum, over
processes, of the processor seconds that members spent in updates).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alternation import Contender, alternate, write_result
from rung_one_step import CLASSES, IMAGES, INPUTS, ONE_THREAD, UNITS, arithmetic, loop, rung_one

OPERATIONS = 2 * IMAGES * (2 * (INPUTS * UNITS + UNITS * CLASSES) + UNITS * CLASSES)
"""Of one network and step: outputs, weight gradients, and the gradient that reaches the hidden layer."""


def trainer(steps: int, count: int) -> Callable[[], None]:
    def run() -> None:
        from detectune.engine.trainer import train

        for seed in range(count):
            with tempfile.TemporaryDirectory() as folder:
                train(config_of(steps, RNG_SEED=seed), output_dir=folder, log=lambda _: None)

    return run


def loops(steps: int, count: int) -> Callable[[], None]:
    once = loop(steps)

    def run() -> None:
        for _ in range(count):
            once()

    return run


def population(steps: int, count: int, step_seconds: str) -> Callable[[], None]:
    """Writes the seconds spent in steps to the file `step_seconds`, a line for each call."""

    def run() -> None:
        from detectune.data.loader import available_cpus
        from detectune.lab.population import train_population

        members = [{"RNG_SEED": seed} for seed in range(count)]
        with tempfile.TemporaryDirectory() as folder:
            results = train_population(config_of(steps), members, output_dir=folder, log=lambda _: None)
        workers = min(available_cpus(), count)
        blocks = [sum(r.seconds for r in results[first::workers]) for first in range(workers)]
        with open(step_seconds, "a") as file:
            file.write(json.dumps(max(blocks)) + "\n")

    return run


def config_of(steps: int, **values: Any) -> Any:
    """Rung 1 for `steps` updates, not evaluated."""
    changes = {"SOLVER.MAX_EPOCHS": 0, "SOLVER.MAX_ITER": steps, "TRAIN.EVAL_ITERS": 0, "TEST.DATASETS": []}
    return rung_one(**changes, **values)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--alone", type=int, default=4)
    arguments = parser.parse_args()
    members, steps, alone = arguments.members, arguments.steps, arguments.alone
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seconds.jsonl"
        contenders = [
            Contender("loop", loops, (steps, alone), ONE_THREAD),
            Contender("loop, all", loops, (steps, alone)),
            Contender("trainer", trainer, (steps, alone), ONE_THREAD),
            Contender("population", population, (steps, members, str(file))),
            Contender("arithmetic", arithmetic, (steps,), ONE_THREAD),
        ]
        timings = alternate(contenders, rounds=arguments.rounds, warm_up=1)
        in_steps = [json.loads(line) for line in file.read_text().splitlines()][1:]  # without the warm-up
    cores = len(os.sched_getaffinity(0))
    whole = {name: timings[name].median * members / alone for name in ("loop", "loop, all", "trainer")}
    whole |= {"population": timings["population"].median, "population, steps": statistics.median(in_steps)}
    floor = timings["arithmetic"].median * members / cores
    best_loop = min(whole["loop"], whole["loop, all"])
    result = {
        "what": f"seconds for {members} networks of {steps} steps each; medians of {arguments.rounds} rounds",
        "cores": cores,
        "seconds": {name: round(value, 2) for name, value in whole.items()},
        "microseconds_per_member_step": {
            name: round(1e6 * value / members / steps, 1) for name, value in whole.items()
        },
        "loop_over_population": round(best_loop / whole["population"], 2),
        "loop_over_population_steps": round(best_loop / whole["population, steps"], 2),
        "trainer_over_population": round(whole["trainer"] / whole["population"], 2),
        "floor": {
            "operations_per_member_step": OPERATIONS,
            "bytes_per_member_step": 4 * 5 * (INPUTS * UNITS + UNITS * CLASSES),
            "seconds_of_the_arithmetic_alone": round(floor, 2),
            "population_steps_over_floor": round(whole["population, steps"] / floor, 2),
        },
    }
    print(json.dumps(result, indent=1))
    write_result("population", result)


if __name__ == "__main__":
    main()
