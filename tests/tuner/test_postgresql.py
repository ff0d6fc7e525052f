"""One study, two machines (here: two sessions with folders of their own), through PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import postgresql
import pytest
from launching import Launcher, ends, kill_tree, launched, wait_for

from detectune.errors import UserError
from detectune.tuner.history import History
from detectune.tuner.storage import open_database

pytestmark = pytest.mark.skipif(postgresql.missing() is not None, reason=str(postgresql.missing()))
TRIALS = 10


@pytest.fixture
def cluster() -> Iterator[postgresql.Cluster]:
    with postgresql.Cluster() as cluster:
        yield cluster


@pytest.fixture
def second_launcher() -> Iterator[Launcher]:
    with launched() as launcher:
        yield launcher


@pytest.mark.slow
def test_sessions_share_a_study_through_a_restart_and_a_kill(
    digits: Path,
    cluster: postgresql.Cluster,
    launcher: Launcher,
    second_launcher: Launcher,
    history_of: Callable[[Path], History],
) -> None:
    one, two = digits.parent / "one", digits.parent / "two"
    shared = {"url": cluster.url, "abandoned": "4"}
    first = launcher.start(one, workers=1, trials=TRIALS, sampler="sobol", **shared)
    wait_for(lambda: len(ends(one)) >= 1)
    second_launcher.start(two, workers=1, trials=TRIALS, join="yes", **shared)
    wait_for(lambda: len(ends(two)) >= 1)
    cluster.stop()  # trials go on; both sessions wait
    time.sleep(1.0)
    cluster.start()
    wait_for(lambda: len(ends(one)) + len(ends(two)) >= 4)
    kill_tree(first)
    assert launcher.line() == "killed"
    assert second_launcher.line() == "ended 0", "the session that lives takes what the dead one had begun"
    history = history_of(two)
    assert [(t.number, t.state) for t in history.trials] == [(n, "complete") for n in range(TRIALS)]
    twice = set(ends(one)) & set(ends(two))
    # The first may have died between a trial's end and its word to the study; then the other had to run it.
    assert len(twice) <= 1 and set(ends(one)) | set(ends(two)) == set(range(TRIALS))


def test_a_database_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(UserError) as refused:
        open_database("postgresql://tuner:secret@127.0.0.1:1/none")
    assert "cannot be used" in str(refused.value) and "secret" not in str(refused.value)
