"""Beginning, going on with and joining a study: its folder, its lock, its storage, its pool."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from detectune.config.load import load_config
from detectune.config.tree import Config
from detectune.engine.run_directory import output_errors, write_text
from detectune.errors import OutputError, UserError
from detectune.tuner.history import History
from detectune.tuner.ledger import open_ledger, stored_spec
from detectune.tuner.spec import Spec, as_document, differences, to_yaml
from detectune.tuner.storage import hide_password, open_database, open_journal, patiently
from detectune.tuner.study import BASE, NOT_ASKED, SPEC, TRIALS, Session, owner_name
from detectune.tuner.workers import Pool


def run_study(
    spec: Spec | None,
    base: Config | None,
    folder: Path,
    *,
    workers: int,
    url: str | None = None,
    log: Callable[[str], None],
    make_pool: Callable[[], contextlib.AbstractContextManager[Pool]],
    changed: Callable[[History], None] = lambda _: None,
) -> History:
    """Work on a study in `folder` until it is done; the same call goes on with it.

    Args:
        spec, base: the study and the configuration around which is searched; both None to join the one at `url`.
        make_pool: makes where trials run, `workers` at a time.
        url: a PostgreSQL database that several machines share; None: a journal in the folder.

    Raises:
        UserError: if the folder holds another study, or for what stops every trial.
        StudyInterruptedError: after Ctrl-C or SIGTERM.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with held(folder):
        storage = open_journal(folder, log=log) if url is None else open_database(url)
        name = spec.name if spec is not None else only_study(storage, url or "")
        found = patiently(lambda: stored_spec(storage, name), log=log)
        if spec is None or base is None:
            assert found is not None
            spec, base = found[0], load_stored(folder, found[1])
        elif found is not None:
            refuse_other_study(folder, found, spec, base)
        write_text(folder / BASE, base.to_yaml())
        shared = {} if url is None else {"storage": hide_password(url)}
        write_text(folder / SPEC, to_yaml(as_document(spec) | shared))
        settings = base.flat()
        ledger = patiently(
            lambda: open_ledger(storage, spec, base.to_yaml(), settings, owner=owner_name()), log=log
        )
        with make_pool() as pool:
            session = Session(
                spec, base, folder, ledger, pool, workers, log,
                shared=url is not None, spent=seconds_spent(folder), changed=changed,
            )  # fmt: skip
            return session.run()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the study's folder and hold its lock, which the system drops when its holder dies."""
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a+")  # noqa: SIM115 - closed below
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{folder} is in use by another `detectune tune`; wait for it to end, or choose another --output."
            ) from None
        yield


def refuse_other_study(folder: Path, found: tuple[Spec, str], spec: Spec, base: Config) -> None:
    """A `UserError` unless `spec` and `base` ask what the study that was found asks."""
    changed = differences(found[0], spec)
    before, after = load_stored(folder, found[1]).flat(), base.flat()
    changed += [
        f"{key} was {before[key]!r}, is {after[key]!r}"
        for key in before
        if key not in NOT_ASKED and before[key] != after[key]
    ]
    if changed:
        more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"{folder} holds a study that asks something else: {'; '.join(changed[:3])}{more}. Give another --output; "
            "only trials, minutes, trial_minutes, workers and the size of a population may change."
        )


def load_stored(folder: Path, text: str) -> Config:
    """The configuration that a storage holds as YAML."""
    file = folder / BASE
    write_text(file, text)
    return load_config(file)


def only_study(storage: BaseStorage, url: str) -> str:
    """The name of the one study in a database; a `UserError` if there is none or a choice."""
    names = [study.study_name for study in storage.get_all_studies()]
    if len(names) == 1:
        return names[0]
    if not names:
        raise UserError(
            f"{hide_password(url)} holds no study yet; begin one: detectune tune CONFIG --knobs ... --join URL."
        )
    raise UserError(f"{hide_password(url)} holds several studies: {', '.join(names)}; choose with --name.")


def seconds_spent(folder: Path) -> float:
    """How long earlier sessions in this folder worked."""
    try:
        return float(json.loads((folder / TRIALS).read_text()).get("seconds", 0.0))
    except FileNotFoundError:
        return 0.0
