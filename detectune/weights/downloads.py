"""Weights that a configuration names by address: looked up in DOWNLOAD_CACHE, fetched once, checked where a digest is.

A file lies in the cache as Detectron's does: below the part of the address behind `.../detectron/`, or behind the
host for others. Detectron's server keeps `<address>.md5sum` beside every file; where there is one it must agree.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from detectune.errors import OutputError, WeightsError

DETECTRON_ADDRESSES = (
    "https://dl.fbaipublicfiles.com/detectron/",
    "https://s3-us-west-2.amazonaws.com/detectron/",
)
SCHEMES = ("http://", "https://")
TIMEOUT = 30.0  # seconds without a byte


def local_weights(named: str | Path, *, download_cache: str) -> Path:
    """The file that a weights key names: a path as it is, an address as its file in `download_cache`.

    Raises:
        WeightsError: if the file is not in the cache and cannot be fetched, or is not what its digest says.
        OutputError: if the cache cannot be written.
    """
    address = str(named)
    if not address.startswith(SCHEMES):
        return Path(named).expanduser()
    place = cached_place(address, download_cache)
    if not place.is_file():
        _fetch(address, place)
    return place


def cached_place(address: str, download_cache: str) -> Path:
    """Where the file of an address lies, or will."""
    inside = next((address.removeprefix(a) for a in DETECTRON_ADDRESSES if address.startswith(a)), None)
    if inside is None:
        inside = address.partition("://")[2]
    parts = [part for part in inside.partition("?")[0].split("/") if part not in ("", ".", "..")]
    return Path(download_cache).expanduser().joinpath(*parts)


def _fetch(address: str, place: Path) -> None:
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
        _check_digest(address, Path(part))
        os.replace(part, place)  # whole or absent, also for a second process
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        raise WeightsError(
            f"{address} could not be downloaded ({getattr(error, 'reason', None) or error}). Put the file into {place} "
            "by hand, name a file that is here, or leave the key empty for fresh weights."
        ) from error
    finally:
        Path(part).unlink(missing_ok=True)


def _check_digest(address: str, part: Path) -> None:
    try:
        with urllib.request.urlopen(f"{address}.md5sum", timeout=TIMEOUT) as answer:
            words = answer.read(200).decode("ascii", "replace").split()
    except (OSError, HTTPException):
        return  # most servers keep none: nothing to compare with
    expected = words[0].lower() if words else ""
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if expected != found:
        raise WeightsError(
            f"{address} arrived with the MD5 digest {found}, but its server says {expected or 'nothing'}; "
            "nothing was kept. Try again later."
        )
