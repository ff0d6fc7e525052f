"""Ctrl-C and SIGTERM: the step in progress is finished and saved; a second Ctrl-C stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterruptedError(KeyboardInterrupt):
    """Training was asked to stop and did, with a checkpoint. The message says how to go on."""

    def __init__(self, number: int, iteration: int, checkpoint: Path) -> None:
        super().__init__(
            f"Stopped by {signal.Signals(number).name} after iteration {iteration}; {checkpoint} is saved. "
            "Give the same command again to go on from there."
        )
        self.exit_code = 128 + number  # the shell's convention; 130 for Ctrl-C
        self.checkpoint = checkpoint


class Interrupts:
    """Whether a signal has come in since training began."""

    def __init__(self, *, says: Sequence[int] = SIGNALS) -> None:
        self.number = 0
        self.says = says
        self.owner = os.getpid()

    def pending(self) -> bool:
        return self.number != 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.owner:
            return  # a loader worker that has just been forked and will have handlers of its own
        if self.pending():
            raise KeyboardInterrupt
        self.number = number
        if number not in self.says:
            return
        # Not sys.stderr: the signal may have come in the middle of a write to it.
        os.write(2, b"\nFinishing this step and saving; press Ctrl-C again to stop at once.\n")


@contextmanager
def catch_interrupts(*, says: Sequence[int] = SIGNALS) -> Iterator[Interrupts]:
    """Inside, the first signal only sets a flag, which is said for those of `says`. Outside the main thread Python
    allows no handlers: none is set.
    """
    interrupts = Interrupts(says=says)
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    previous = {number: signal.signal(number, interrupts.handle) for number in SIGNALS}
    try:
        yield interrupts
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
