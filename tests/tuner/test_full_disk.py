"""A study whose folder lies on a disk that fills up while it runs: nothing finished is lost, and it goes on later."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from launching import Launcher, ends, wait_for

from detectune.tuner.history import History

TRIALS = 6


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_study_on_a_disk_that_fills_loses_nothing_and_goes_on_when_there_is_room(
    digits: Path, small_disk: Path, launcher: Launcher, history_of: Callable[[Path], History]
) -> None:
    (small_disk / "digits.yaml").write_text(digits.read_text())
    folder, filler = small_disk / "study", small_disk / "filler"
    launcher.start(folder, workers=2, trials=TRIALS, sampler="sobol")
    wait_for(lambda: len(ends(folder)) >= 2)
    fill(filler)
    ended = launcher.line()
    finished = ends(folder)
    assert ended == "ended 1", "forked.py ends with 1 for every error"
    assert 2 <= len(finished) < TRIALS, "the disk was full too late"
    fill(small_disk / "more")  # what was removed half written has left some room
    launcher.start(folder, workers=2, trials=TRIALS, sampler="sobol")
    assert launcher.line() == "ended 1", "there is still no room"
    assert ends(folder) == finished
    filler.unlink()
    launcher.start(folder, workers=2, trials=TRIALS, sampler="sobol")
    assert launcher.line() == "ended 0"
    after = ends(folder)
    assert {number: after[number] for number in finished} == finished, "a finished trial was run again"
    history = history_of(folder)
    assert [(t.number, t.state) for t in history.trials] == [(n, "complete") for n in range(TRIALS)]


def fill(file: Path) -> None:
    """Write until the disk has no byte left."""
    with open(file, "wb", buffering=0) as stream:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    stream.write(b"\0" * size)
            except OSError:
                continue
