"""The folder of a run: one process at a time, rows that survive a torn write, files whole or absent."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from detectune.engine.run_directory import RunDirectory, atomic_file, output_errors, write_text
from detectune.errors import OutputError

HOLD = """
import sys, time
from pathlib import Path
from detectune.engine.run_directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).held():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with (
            pytest.raises(OutputError, match=f"in use by another training process .pid {first.pid}."),
            RunDirectory(tmp_path).held(),
        ):
            pytest.fail("two processes hold the same folder")
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert first.stdout is not None
        first.stdout.close()
    with RunDirectory(tmp_path).held():
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_unfinished_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    part = tmp_path / "checkpoints" / ".iter_0000004.pt.77.part"
    part.write_bytes(b"half")
    (tmp_path / ".model_final.safetensors.77.part").write_bytes(b"half")
    (tmp_path / "download.part").write_bytes(b"somebody else's")
    with RunDirectory(tmp_path).held():
        assert sorted(p.name for p in tmp_path.rglob("*.part")) == ["download.part"]


def test_rows_come_back_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    rows = [{"iteration": i, "loss": float(i)} for i in range(4)]
    for row in rows:
        directory.append_metrics(row)
    with open(directory.metrics, "a") as file:
        file.write('{"iteration": 4, "lo')
    assert directory.read_metrics() == rows
    directory.keep_metrics(3)
    directory.append_metrics({"iteration": 9})
    assert [row["iteration"] for row in directory.read_metrics()] == [0, 1, 2, 9]
    assert all(json.loads(line) for line in directory.metrics.read_text().splitlines())


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.append_metrics({"a": math.nan, "b": [1.0, math.inf], "c": {"d": -math.inf}, "e": "text"})
    assert directory.read_metrics() == [{"a": None, "b": [1.0, None], "c": {"d": None}, "e": "text"}]


def test_an_atomic_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(ValueError, match="stop"), atomic_file(path) as file:
        file.write(b"new")
        raise ValueError("stop")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write_text(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "not allowed .*Read-only"),
        (errno.EACCES, "not allowed .*Permission denied"),
    ],
)
def test_what_the_system_refuses_is_a_users_mistake(tmp_path: Path, number: int, said: str) -> None:
    with pytest.raises(OutputError, match=f"{tmp_path} cannot be written: .*{said}"), output_errors(tmp_path):
        raise OSError(number, os.strerror(number))


def test_other_errors_of_the_system_pass_through(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output"), output_errors(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OutputError, match="run cannot be written"), RunDirectory(tmp_path / "run").held():
        pytest.fail("a file is no run directory")


def test_earlier_results_are_set_aside_one_after_the_other(tmp_path: Path) -> None:
    with RunDirectory(tmp_path).held() as directory:
        assert directory.set_aside() is None
        for number in (1, 2):
            directory.append_metrics({"iteration": number})
            folder = directory.set_aside()
            assert folder == tmp_path / f"earlier_00{number}"
            assert RunDirectory(folder).read_metrics() == [{"iteration": number}]
        assert not directory.metrics.exists() and directory.checkpoints.is_dir()
