"""The program of a worker: `python -m detectune.tuner.worker`. It imports torch once and forks a process per trial.

Lines of JSON come in on stdin and go out on stdout; everything that is printed goes to the trial's log.txt.

    in:   {"job": {...}}                      to the worker, while no trial runs
          {"answer": null or a reason}        to the trial, after each evaluation that asks
          {"stop": true}                      to the trial: finish the step, save, end
    out:  {"event": "ready"}, {"event": "started", "pid"}, {"event": "evaluated", "step", "metrics", "asks"},
          {"event": "ended", "outcome" | "fault" | "halt" | nothing, if it was stopped},
          {"event": "exited", "code", "signal", "peak_memory"}

When the study dies its pipe closes: a trial then saves and ends by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectune.tuner.outcomes import Fault, Halt, Outcome
from detectune.tuner.trial_job import Job


class Line:
    """Lines of JSON over two file descriptors, unbuffered: a worker and its trial read from the same one in turn."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming, self.outgoing = incoming, outgoing

    def send(self, message: Mapping[str, Any]) -> None:
        """One line, in one write. A study that is gone hears nothing; its trials notice by themselves."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.outgoing, (json.dumps(message) + "\n").encode())

    def receive(self) -> dict[str, Any] | None:
        """The next line; None when the study is gone."""
        text = b""
        while not text.endswith(b"\n"):
            byte = os.read(self.incoming, 1)
            if not byte:
                return None
            text += byte
        message: dict[str, Any] = json.loads(text)
        return message


class Study:
    """The study as a trial sees it. A thread listens, as the trial is busy."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.answers: queue.Queue[str | None] = queue.Queue()
        self.gone = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while (message := self.line.receive()) is not None:
            if "answer" in message:
                self.answers.put(message["answer"])
            elif message.get("stop"):
                os.kill(os.getpid(), signal.SIGTERM)  # the engine finishes the step and saves
        self.gone.set()
        self.answers.put(None)
        os.kill(os.getpid(), signal.SIGTERM)

    def started(self) -> None:
        self.line.send({"event": "started", "pid": os.getpid()})

    def evaluated(self, step: int, metrics: Mapping[str, float], *, asks: bool) -> str | None:
        """Tell what was measured; the reason to stop, if the study is asked and gives one."""
        self.line.send({"event": "evaluated", "step": step, "metrics": dict(metrics), "asks": asks})
        return self.answers.get() if asks and not self.gone.is_set() else None


def serve(line: Line) -> None:
    """Run the trials that come in, one after the other, each in a process forked from this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the study's to handle
    # What every trial needs is imported once, and must not have started threads by then.
    import torch.utils.tensorboard  # noqa: F401

    import detectune.tuner.trial_program  # noqa: F401

    line.send({"event": "ready"})
    while (message := line.receive()) is not None:
        if "job" not in message:
            continue  # an answer for a trial that died before it came
        job = Job.from_json(message["job"])
        child = os.fork()
        if child == 0:
            _run(job, line)
        _, status, usage = os.wait4(child, 0)
        line.send(
            {
                "event": "exited",
                "code": os.waitstatus_to_exitcode(status),
                "peak_memory": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            }
        )


def _run(job: Job, line: Line) -> None:
    """The forked process, from its first line to its end."""
    from detectune.tuner.trial_program import peak_memory, run_trial

    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        Path(job.run).mkdir(parents=True, exist_ok=True)
        log = os.open(Path(job.run) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        study = Study(line)
        outcome = run_trial(
            job,
            started=study.started,
            evaluated=lambda step, metrics, over: study.evaluated(step, metrics, asks=job.asks and not over),
            log=lambda text: print(text, flush=True),
        )
        line.send({"event": "ended", "peak_memory": peak_memory(), **describe_end(outcome)})
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # nothing of the worker's is closed or flushed twice


def describe_end(outcome: Outcome | Fault | Halt | None) -> dict[str, Any]:
    if isinstance(outcome, Outcome):
        return {"outcome": outcome.as_json()}
    if isinstance(outcome, Fault):
        return {"fault": outcome.reason}
    return {"halt": outcome.message} if isinstance(outcome, Halt) else {}


def main() -> None:
    outgoing = os.dup(1)
    os.dup2(2, 1)  # what anything prints must not look like a message
    serve(Line(0, outgoing))


if __name__ == "__main__":
    main()
