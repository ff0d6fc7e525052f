"""Studies and their workers as processes forked from this one, which has imported everything: a second each, not ten.

    python forked.py     reads lines "FOLDER WORKERS TRIALS [KEY=VALUE of Spec ...]" and runs the study in FOLDER in a
                         process of its own; prints "study PID", then "ended CODE" or "killed"

The study, the workers' protocol, the trials and the storage are the real ones; only `exec` is left out.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard

import detectune.tuner.trial_program
from detectune.config.best_metric import best_metric
from detectune.config.load import load_config
from detectune.tuner import study as rules
from detectune.tuner.session import run_study
from detectune.tuner.space import Entry
from detectune.tuner.spec import Request, complete
from detectune.tuner.worker import Line, serve
from detectune.tuner.workers import LocalPool


class ForkedWorker:
    """What `subprocess.Popen` is to the pool, for a worker that is forked."""

    def __init__(self) -> None:
        to_worker, from_study = os.pipe()
        from_worker, to_study = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.closerange(3, min(to_worker, from_study, from_worker, to_study))
            os.dup2(to_worker, 0)
            os.dup2(to_study, 3)
            os.closerange(4, 256)  # an end kept open would hide from the study that its worker died
            try:
                serve(Line(0, 3))
            finally:
                os._exit(0)
        os.close(to_worker)
        os.close(to_study)
        self.stdin: Any = os.fdopen(from_study, "wb", buffering=0)
        self.stdout: Any = os.fdopen(from_worker, "rb", buffering=0)
        self.code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class ForkedPool(LocalPool):
    def start_worker(self, variables: Mapping[str, str]) -> Any:
        return ForkedWorker()


def study(folder: Path, workers: int, trials: int, options: dict[str, Any]) -> None:
    url = options.pop("url", None)
    if "abandoned" in options:
        rules.ABANDONED = float(options.pop("abandoned"))
        rules.BEAT = rules.ABANDONED / 4
    shared: dict[str, Any] = {
        "workers": workers, "url": url, "make_pool": lambda: ForkedPool(workers),
        "log": lambda text: print(text, file=sys.stderr, flush=True),
    }  # fmt: skip
    if options.pop("join", None):
        run_study(None, None, folder, **shared)
        return
    base = load_config(folder.parent / "digits.yaml")
    knobs = [Entry(key, {}, "") for key in ("SOLVER.BASE_LR", "SOLVER.MOMENTUM")]
    request = Request(knobs=knobs, trials=trials, **options)
    spec = complete(request, base, default_name="digits", default_metric=best_metric(base))
    run_study(spec, base, folder, **shared)


def main() -> None:
    torch.set_num_threads(1)
    assert detectune.tuner.trial_program
    for line in sys.stdin:
        folder, workers, trials, *words = line.split()
        child = os.fork()
        if child == 0:
            os.setsid()
            code = 1
            try:
                study(Path(folder), int(workers), int(trials), dict(word.split("=", 1) for word in words))
                code = 0
            except KeyboardInterrupt as error:
                code = getattr(error, "exit_code", 130)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(f"study {child}", flush=True)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print("killed" if code < 0 else f"ended {code}", flush=True)


if __name__ == "__main__":
    main()
