"""Starts programs in several processes that know each other as torchrun's do, without the time that torchrun takes.

A launcher imports torch once and forks the processes of each job, which are real ones: they meet over gloo, are killed
like any other, and leave files. What a job does is said in JSON, see `JOBS` in the program below.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 60  # after which whatever still runs is killed

PROGRAM = r"""
import json, os, signal, sys, traceback
sys.path.insert(0, sys.argv[1])
import torch
import torch.distributed
import torch.utils.tensorboard
torch.set_num_threads(1)
import tiny_engine
from pathlib import Path
from detectune.config.load import load_config
from detectune.engine.hooks import Hook
from detectune.engine.testing import test
from detectune.engine.trainer import train

class Patch:
    def setattr(self, module, name, value):
        setattr(module, name, value)

class At(Hook):
    def __init__(self, rank, iteration, action):
        self.when = rank, iteration
        self.action = action
    def after_step(self, run):
        if (run.team.rank, run.iteration) == self.when:
            ACTIONS[self.action](run)

def kill(run):
    os.kill(os.getpid(), signal.SIGKILL)

def terminate(run):
    os.kill(os.getpid(), signal.SIGTERM)

def crash(run):
    raise ConnectionAbortedError("crash")

def stop(run):
    run.request_stop(f"process {run.team.rank} has seen enough")

def poison(run):
    for parameter in run.model.parameters():
        parameter.data.mul_(float("nan"))

ACTIONS = {"kill": kill, "terminate": terminate, "crash": crash, "stop": stop, "poison": poison}

def run_tiny(out, changes, hooks, broken=None):
    tiny = tiny_engine.install(Patch())
    if broken is not None and int(os.environ.get("RANK", 0)) == broken[0]:
        tiny.broken_at = broken[1]
    config = tiny_engine.tiny_config(**changes)
    result = train(config, output_dir=Path(out), hooks=[At(*hook) for hook in hooks], log=said.append)
    return {"iterations": result.iterations, "stopped": result.stopped, "metrics": result.metrics}

def run_train(out, config, changes):
    result = train(load_config(config, changes), output_dir=Path(out), log=said.append)
    return {"metrics": result.metrics}

def run_test(out, config, changes, weights, records=(None,)):
    return {"metrics": test(load_config(config, changes), weights, output_dir=Path(out), records=slice(*records))}

JOBS = {"tiny": run_tiny, "train": run_train, "test": run_test}
for line in sys.stdin:
    job = json.loads(line)
    children = []
    for rank in range(job["size"]):
        child = os.fork()
        if child == 0:
            if job["size"] > 1:
                os.environ.update(
                    RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job["size"]), MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=str(job["port"]),
                )
            said = []
            try:
                answer = JOBS[job["do"]](**job["with"])
            except BaseException as error:
                answer = {"error": type(error).__name__, "message": str(error),
                          "told": not getattr(error, "told_elsewhere", False), "trace": traceback.format_exc()}
            Path(job["answers"], f"{rank}.json").write_text(json.dumps(answer | {"said": said}))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    print("done", flush=True)
"""


@dataclass
class Processes:
    """The running launcher. Use `with`."""

    folder: Path  # for answers

    def __enter__(self) -> Processes:
        command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)]
        self.launcher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.launcher.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()

    def run(self, do: str, *, size: int, **arguments: Any) -> list[dict[str, Any]]:
        """What each of `size` processes answered for a job; {} for one that was killed. Fails if they hang."""
        for old in self.folder.glob("*.json"):
            old.unlink()
        assert self.launcher.stdin is not None and self.launcher.stdout is not None
        job = {"do": do, "size": size, "with": arguments, "port": free_port(), "answers": str(self.folder)}
        self.launcher.stdin.write(json.dumps(job) + "\n")
        self.launcher.stdin.flush()
        timer = threading.Timer(SECONDS, self._kill)
        timer.start()
        line = self.launcher.stdout.readline()
        timer.cancel()
        assert line == "done\n", f"{do} in {size} processes did not end"
        files = [self.folder / f"{rank}.json" for rank in range(size)]
        return [json.loads(file.read_text()) if file.exists() else {} for file in files]

    def _kill(self) -> None:
        os.killpg(self.launcher.pid, 9)


def free_port() -> int:
    """A port of this machine that nobody uses at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
