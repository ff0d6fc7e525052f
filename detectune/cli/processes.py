"""Commands that run in several processes: when to start them, with what, and what to say when they end.

A process that was started, by us or by torchrun, is told from its environment. Nothing here imports torch on the way
to `--help`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detectune.engine.launching import LAUNCHED, LOST, ProcessesEndedError, ProcessLostError

if TYPE_CHECKING:
    from detectune.config.load import Config


def started_by_us() -> bool:
    """Whether this process is one of those that another `detectune` started."""
    return LAUNCHED in os.environ


def speaks() -> bool:
    """Whether this process prints: of several only the first."""
    return int(os.environ.get("RANK", "0")) == 0 or int(os.environ.get("WORLD_SIZE", "1")) == 1


def config_name_of(name: str) -> str:
    """What the user called the configuration, where a started process reads a copy of it."""
    return os.environ.get(LAUNCHED) or name


def launches(settings: Config) -> bool:
    """Whether this process must start others for `settings`, which this machine must have devices for."""
    if settings.NUM_GPUS == 1:
        return False
    from detectune.engine.distributed import check_devices, launched

    if launched() is not None or started_by_us():
        return False
    check_devices(settings.MODEL.DEVICE, settings.NUM_GPUS)
    return True


def run_in_processes(settings: Config, command: Sequence[str], options: Sequence[str], *, name: str) -> None:
    """Run `detectune COMMAND <these settings> OPTIONS` in NUM_GPUS processes; returns when they have ended well."""
    from detectune.engine.launching import launch

    debug = ["--debug"] if "--debug" in sys.argv else []
    launch(
        settings.to_yaml(),
        lambda file: [*command, str(file), *options, *debug],
        num_processes=settings.NUM_GPUS,
        name=name,
    )


def with_processes_for_test(settings: Config) -> Config:
    """The settings with no more processes than the machine has GPUs for: a test gives the same with any number."""
    if settings.NUM_GPUS == 1 or settings.MODEL.DEVICE not in ("auto", "cuda"):
        return settings
    import torch

    from detectune.engine.distributed import launched

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if launched() is not None or count >= settings.NUM_GPUS:
        return settings
    told = f"{count} GPUs" if count > 1 else "1 GPU" if count else "no GPU"
    print(
        f"Notice: NUM_GPUS={settings.NUM_GPUS}, but this machine has {told}: the test takes longer with "
        f"NUM_GPUS={max(1, count)} and gives the same.",
        file=sys.stderr,
    )
    return settings.with_overrides({"NUM_GPUS": max(1, count)})


def is_told(error: BaseException) -> bool:
    """Whether another process has told the user of this error."""
    return getattr(error, "told_elsewhere", False)


def failure_of_processes(error: Exception) -> tuple[int, str] | None:
    """(exit code, message) if `error` is about other processes; None for any other."""
    if isinstance(error, ProcessesEndedError):
        return error.exit_code, str(error)
    if isinstance(error, ProcessLostError):
        return (LOST, "") if started_by_us() else (1, str(error))
    return None
