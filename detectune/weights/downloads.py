"""Weights that a configuration names by address or public name: looked up in DOWNLOAD_CACHE, fetched once, checked.

A file lies in the cache as Detectron's does: below the part of the address behind `.../detectron/`, or behind the
host for others. torchvision's and detectron2's files have the first digits of their digest in their names; Detectron's
server keeps `<address>.md5sum` beside every file. Where there is one it must agree.
"""

from __future__ import annotations

import hashlib
import urllib.request
from http.client import HTTPException
from pathlib import Path

from detectune.downloads import TIMEOUT, DownloadError, fetch
from detectune.errors import WeightsError
from detectune.weights.zoo import digest_in, find_known

DETECTRON_ADDRESSES = (
    "https://dl.fbaipublicfiles.com/detectron/",
    "https://s3-us-west-2.amazonaws.com/detectron/",
)
SCHEMES = ("http://", "https://")


def local_weights(named: str | Path, *, download_cache: str) -> Path:
    """The file that a weights key names: a path as it is, an address or a public name as its file in `download_cache`.

    Raises:
        WeightsError: if the file is not in the cache and cannot be fetched, or is not what its digest says.
        OutputError: if the cache cannot be written.
    """
    address = str(named)
    if not address.startswith(SCHEMES):
        path = Path(named).expanduser()
        known = None if path.exists() else find_known(address)
        if known is None:
            return path
        address = known.address
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
        fetch(address, place, check=lambda part: _check_digest(address, part))
    except DownloadError as error:
        raise WeightsError(
            f"{address} could not be downloaded ({error}). Put the file into {place} by hand, name a file that is "
            "here, or leave the key empty for fresh weights."
        ) from error


def _check_digest(address: str, part: Path) -> None:
    named = digest_in(address)
    if named is not None:
        kind, digits = named
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        if not found.startswith(digits):
            raise WeightsError(
                f"{address} arrived with the {kind.upper()} digest {found}, which does not begin with {digits} as its "
                "name says; nothing was kept. Try again later."
            )
        return
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
