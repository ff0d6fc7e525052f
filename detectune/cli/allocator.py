"""Settings of glibc's allocator that make tensors on a CPU cheaper, and the restart that puts them in force.

Feature maps are larger than the size from which glibc maps fresh pages for every block: each layer of each step
then pays for page faults. Keeping freed memory costs 5 to 15 % more resident memory and saves 12 to 36 % of the
time in eager mode. The allocator reads its settings once, when a process starts; hence the restart.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
}
COMMANDS = {"train", "test", "infer", "demo"}  # those that compute
GUARD = "DETECTUNE_REEXECUTED"  # set in the restarted process: it never restarts again
OPT_OUT = "DETECTUNE_NO_REEXEC"


def restart_with_tuned_allocator(words: Sequence[str]) -> None:
    """Replace this process by itself with the allocator's settings in its environment; return if not needed."""
    environment = tuned_environment(words, os.environ)
    if environment is not None and uses_glibc() and sys.orig_argv and "torch" not in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def tuned_environment(words: Sequence[str], environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment to restart in, or None: another command, already restarted or set, or not wanted."""
    command = next((word for word in words if not word.startswith("-")), None)
    if command not in COMMANDS or {"-h", "--help"} & set(words):
        return None
    if GUARD in environment or environment.get(OPT_OUT, "") not in ("", "0"):
        return None
    if is_tuned(environment):
        return None
    return SETTINGS | dict(environment) | {GUARD: "1"}


def is_tuned(environment: Mapping[str, str]) -> bool:
    """Whether every setting has a value, ours or the user's."""
    return all(name in environment for name in SETTINGS)


def uses_glibc() -> bool:
    """Only glibc reads these variables."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):
        return False  # another C library
