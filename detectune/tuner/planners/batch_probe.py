"""Throughput and memory of one batch: `python -m detectune.tuner.planners.batch_probe CONFIG.yaml BATCH STEPS`.

A process of its own, as a process's peak of memory never falls, and one that the system ends for lack of memory must
not take the search with it. Prints one line of JSON: {"images_per_second", "memory"}, or {"out_of_memory": true}.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from detectune.errors import UserError
from detectune.tuner.planners.batches import Measured

WARM_UP = 2  # steps that are not timed


def measure_batch(config: Path, batch: int, *, steps: int) -> Measured:
    """What a process of its own finds out.

    Raises:
        UserError: with what it said, if it failed for another reason than memory.
    """
    done = subprocess.run(
        [sys.executable, "-m", "detectune.tuner.planners.batch_probe", str(config), str(batch), str(steps)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == -9:  # the system's answer to a process that wants too much
        return Measured(batch, None, None)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise UserError(f"A batch of {batch} could not be tried: {said[-1] if said else 'no message'}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found.get("out_of_memory"):
        return Measured(batch, None, None)
    return Measured(batch, found["images_per_second"], found["memory"])


def free_memory(device: str) -> int | None:
    """Bytes that a batch may take: nine tenths of what is free now; None where that cannot be known."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return int(0.9 * torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return int(0.9 * 1024 * sizes["MemAvailable"])


def main(file: str, batch: int, steps: int) -> None:
    import torch

    from detectune.config.load import load_config
    from detectune.engine.run_directory import RunDirectory
    from detectune.engine.starting import start_run
    from detectune.engine.trainer import AnyBatch, train_step
    from detectune.tuner.outcomes import is_out_of_memory
    from detectune.tuner.trial_program import peak_memory

    config = load_config(file, {"TRAIN.IMS_PER_BATCH": batch})
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder))
        try:
            with directory.held():
                run = start_run(config, directory, log=lambda _: None, found=None)
            batches: Iterator[AnyBatch] = iter(run.loader)
            run.model.train()
            for step in range(WARM_UP + steps):
                if step == WARM_UP:
                    began = _now(torch.cuda.is_available())
                train_step(run, batches)
            seconds = _now(torch.cuda.is_available()) - began
        except (RuntimeError, MemoryError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            print(json.dumps({"out_of_memory": True}))
            return
    print(json.dumps({"images_per_second": run.batch * steps / seconds, "memory": peak_memory()}))


def _now(cuda: bool) -> float:
    if cuda:
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
