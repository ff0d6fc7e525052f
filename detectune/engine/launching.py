"""Starting one process per device, and ending with one message however they end.

The processes run `python -m detectune <command>` as torchrun would start them; torch's elastic agent watches them and
ends the others when one fails. A process writes its own message where it can; about one that was killed this file does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

LAUNCHED = (
    "DETECTUNE_LAUNCHED"  # in the environment of a started process: the name of the user's configuration
)
LOST = 3  # the exit code of a started process that ends because another has, and says nothing
SAVING_SECONDS = 600  # after a signal, for the step in progress and a checkpoint


class ProcessLostError(RuntimeError):
    """Another process of the team has ended or cannot be reached, so this one cannot go on."""


class ProcessesEndedError(RuntimeError):
    """Processes did not end well. The message is empty if one of them has already told the user."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def launch(
    config_yaml: str, words: Callable[[Path], Sequence[str]], *, num_processes: int, name: str
) -> None:
    """Run `detectune *words(file)` in `num_processes` processes on this machine; `file` then holds `config_yaml`.

    Raises:
        ProcessesEndedError: if they did not all end well.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for logger in list(logging.root.manager.loggerDict):
        if logger.startswith("torch.distributed.elastic"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)  # their messages are about the agent itself
    share = max(1, (os.cpu_count() or 1) // num_processes)
    environment = {
        LAUNCHED: name,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(share)),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SAVING_SECONDS),
    }
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,  # the same command again goes on from the last checkpoint
        monitor_interval=0.1,
    )
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="detectune-") as folder, _variables(environment):
        file = Path(folder) / "config.yaml"
        file.write_text(config_yaml)
        agent = elastic_launch(settings, sys.executable)
        try:
            agent("-m", "detectune", *words(file))
        except SignalException as end:
            raise ProcessesEndedError("", 128 + int(end.sigval)) from end
        except ChildFailedError as end:
            message, code = judge({rank: failure.exitcode for rank, failure in end.failures.items()})
            raise ProcessesEndedError(message, code) from end


def judge(exit_codes: Mapping[int, int]) -> tuple[str, int]:
    """(message, exit code) for what processes ended with, by rank; below 0 it is the signal that killed one.

    The others are ended with SIGTERM or by the loss of it: those are no causes.
    """
    killed = {rank: -code for rank, code in exit_codes.items() if code < 0 and -code != signal.SIGTERM}
    if killed:
        rank, number = min(killed.items())
        why = ", most often for lack of memory" if number == signal.SIGKILL else ""
        return (
            f"Process {rank} was ended by the system with {signal.Signals(number).name}{why}; the others were "
            "stopped. Checkpoints written before are good: give the same command again to go on from the last one.",
            1,
        )
    told = [code for code in exit_codes.values() if code > 0 and code != LOST]
    if told:
        return "", 2 if 2 in told else max(told)
    if all(code == LOST for code in exit_codes.values()):
        return "The processes lost touch with each other; run again with --debug to see where.", 1
    return "A process was ended with SIGTERM; the others were stopped.", 128 + signal.SIGTERM


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Inside, the environment has these values too."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
