"""Fetching a file once: whole and checked, or not at all. Who needs it says what the check is and what else to do."""

from __future__ import annotations

import os
import shutil
import tempfile
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from detectune.errors import OutputError

TIMEOUT = 30.0  # seconds without a byte


class DownloadError(Exception):
    """The file did not arrive. The text is the reason alone."""


def fetch(address: str, place: Path, *, check: Callable[[Path], None]) -> None:
    """Put the file of an address at `place`, once `check` has let the copy pass that it is given.

    Raises:
        DownloadError: if it does not arrive whole.
        OutputError: if the folder of `place` cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
    except OSError as error:
        raise OutputError(
            f"{place.parent} (DOWNLOAD_CACHE) cannot be written ({error.strerror or error})."
        ) from error
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            shutil.copyfileobj(answer, file)
            expected = answer.headers.get("Content-Length")
            if expected is not None and file.tell() != int(expected):
                raise OSError(f"{file.tell()} of {expected} bytes arrived")
        check(Path(part))
        os.replace(part, place)  # whole or absent, also for a second process
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        raise DownloadError(str(getattr(error, "reason", None) or error)) from error
    finally:
        Path(part).unlink(missing_ok=True)
