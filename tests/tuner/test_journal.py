"""The journal survives what happens to its writers: torn lines, killed holders of its lock, a full disk."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from detectune.errors import UserError
from detectune.tuner import storage as storages
from detectune.tuner.journal import StudyJournal


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def quiet(_: str) -> None:
    return


def test_a_line_that_a_killed_writer_left_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    journal = StudyJournal(path, log=quiet)
    journal.append_logs([{"a": 1}, {"b": "x" * 9000}])
    with open(path, "a") as file:
        file.write('{"torn": "' + "y" * 9000)
    assert [*StudyJournal(path, log=quiet).read_logs(0)] == [{"a": 1}, {"b": "x" * 9000}]
    StudyJournal(path, log=quiet).append_logs([{"c": 3}])
    assert entries(path) == [{"a": 1}, {"b": "x" * 9000}, {"c": 3}]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """The system refuses to let the file grow, in the middle of a write, as a full disk does."""
    path = tmp_path / "journal.log"
    program = f"""
import resource, signal
from pathlib import Path
from detectune.errors import OutputError
from detectune.tuner.journal import StudyJournal
journal = StudyJournal(Path({str(path)!r}), log=print)
journal.append_logs([{{"a": "x" * 100}}])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    journal.append_logs([{{"b": "y" * 2000}}])
except OutputError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append_logs([{{"c": 1}}])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "larger than the system allows" in done.stdout and "the same command again" in done.stdout
    assert entries(path) == [{"a": "x" * 100}, {"c": 1}]


def test_the_lock_of_a_killed_process_falls_with_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    path.touch()
    program = f"""
import fcntl, sys, time
file = open({str(path)!r}, "r+b")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    journal = StudyJournal(path, log=quiet)
    writer = threading.Thread(target=journal.append_logs, args=([{"a": 1}],))
    writer.start()
    writer.join(0.2)
    assert writer.is_alive() and path.read_text() == "", "it must wait for the lock"
    os.kill(holder.pid, signal.SIGKILL)
    writer.join(10)
    assert entries(path) == [{"a": 1}]
    holder.communicate()


def test_a_locked_journal_is_waited_for_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detectune.tuner.journal.SAY_AFTER", 0.05)
    path, said = tmp_path / "journal.log", list[str]()
    journal = StudyJournal(path, log=said.append)
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = threading.Thread(target=journal.append_logs, args=([{"a": 1}],))
        writer.start()
        time.sleep(0.3)
        fcntl.flock(file, fcntl.LOCK_UN)
    writer.join(10)
    assert said == [f"{path} is locked by another process; waiting for it."] and entries(path) == [{"a": 1}]


def test_optuna_reads_the_same_file(tmp_path: Path) -> None:
    """As its dashboard does."""
    study = optuna.create_study(storage=storages.open_journal(tmp_path, log=quiet), study_name="s")
    study.ask({"SOLVER.BASE_LR": optuna.distributions.FloatDistribution(0.1, 1.0)})
    theirs = JournalStorage(JournalFileBackend(str(tmp_path / storages.JOURNAL)))
    assert optuna.load_study(storage=theirs, study_name="s").trials[0].params.keys() == {"SOLVER.BASE_LR"}


def test_a_storage_that_does_not_answer_is_waited_for() -> None:
    answers = [optuna.exceptions.StorageInternalError("server closed the connection")] * 2
    said: list[str] = []

    def call() -> str:
        if answers:
            raise answers.pop()
        return "back"

    assert storages.patiently(call, log=said.append, pause=0.0) == "back"
    assert len(said) == 1 and "server closed the connection" in said[0]


def test_patience_ends_with_a_sentence() -> None:
    def call() -> None:
        raise optuna.exceptions.StorageInternalError("no route to host")

    with pytest.raises(UserError, match="Nothing that was finished is lost"):
        storages.patiently(call, log=quiet, patience=0.0, pause=0.0)


def test_passwords_are_not_shown() -> None:
    assert storages.hide_password("postgresql://me:secret@host/db") == "postgresql://me@host/db"
    with pytest.raises(UserError) as refused:
        storages.open_database("mysql://me:secret@host/db")
    assert "secret" not in str(refused.value)
