"""Opening the storage of a study: its journal file, or a PostgreSQL database that many machines share.

A storage that does not answer, because its server restarts or the network is gone, is waited for: `patiently`
repeats what failed until it succeeds or patience ends. Trials go on meanwhile.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import optuna
from optuna.storages import BaseStorage, JournalStorage
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from detectune.errors import UserError
from detectune.tuner.journal import StudyJournal

Result = TypeVar("Result")

JOURNAL = "journal.log"
PATIENCE = 600.0  # seconds; a database server restarts in less


def open_journal(folder: Path, *, log: Callable[[str], None]) -> BaseStorage:
    """The storage of the study in `folder`."""
    return JournalStorage(StudyJournal(folder / JOURNAL, log=log))


def open_database(url: str) -> BaseStorage:
    """The database at `url`, as postgresql://user@host/name.

    Raises:
        UserError: if it is of another kind, its driver is missing or it cannot be reached now.
    """
    if not url.startswith(("postgresql://", "postgresql+psycopg://")):
        raise UserError(
            f"A study is joined through PostgreSQL, as postgresql://user@host/database, not {hide_password(url)!r}."
        )
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise UserError(
            "Joining a study through PostgreSQL needs its driver: pip install 'detectune[postgresql]'."
        ) from None
    full = url.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        # A connection is tried before it is used: the server may have restarted since.
        return optuna.storages.RDBStorage(full, engine_kwargs={"pool_pre_ping": True})
    except (SQLAlchemyError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"The database {hide_password(url)} cannot be used: {first}") from error


def hide_password(url: str) -> str:
    """The address without the password that may stand in it, for messages and files."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1@", url)


def patiently(
    call: Callable[[], Result], *, log: Callable[[str], None], patience: float = PATIENCE, pause: float = 1.0
) -> Result:
    """What `call` returns, tried again while the storage cannot be reached.

    Raises:
        UserError: when `patience` seconds were not enough.
    """
    began, told = time.monotonic(), False
    while True:
        try:
            return call()
        except (optuna.exceptions.StorageInternalError, DBAPIError) as error:
            cause = str(error.__cause__ or error).splitlines()[0]
            if time.monotonic() - began > patience:
                raise UserError(
                    f"The study's storage has not answered for {patience:.0f} seconds ({cause}). Nothing that was "
                    "finished is lost: give the same command again when it is back."
                ) from error
            if not told:
                log(f"The study's storage does not answer ({cause}); waiting for it.")
                told = True
            time.sleep(pause)
