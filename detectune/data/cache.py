"""Generated data on disk: made once, whole or absent, by whichever process comes first."""

from __future__ import annotations

import getpass
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from detectune.errors import OutputError


def cached_folder(name: str, fill: Callable[[Path], None], *, parent: Path | None = None) -> Path:
    """The folder `name` inside `parent` or the cache, filled by `fill(folder)` if it does not exist yet.

    It is filled under another name and renamed, so that nobody sees half of it. Two processes may both fill; the
    second one's work is thrown away.
    """
    candidates = [parent] if parent is not None else cache_folders()
    for folder in candidates:
        if (folder / name).is_dir():
            return folder / name
    failures = []
    for folder in candidates:
        try:
            return _fill_into(folder, name, fill)
        except OSError as error:
            failures.append(f"{folder}: {error.strerror or error}")
    raise OutputError(
        f"There is no place for generated data ({'; '.join(failures)}); free some space, or set DETECTUNE_CACHE to "
        "a folder that can be written."
    )


def cache_folders() -> list[Path]:
    """Where generated data may lie, best place first: DETECTUNE_CACHE, ~/.cache/detectune, a temporary folder."""
    folders = []
    if named := os.environ.get("DETECTUNE_CACHE"):
        folders.append(Path(named).expanduser())
    else:
        base = os.environ.get("XDG_CACHE_HOME")
        folders.append((Path(base) if base else Path("~/.cache").expanduser()) / "detectune")
    return [*folders, Path(tempfile.gettempdir()) / f"detectune-{_user()}"]


def _fill_into(folder: Path, name: str, fill: Callable[[Path], None]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    working = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder))
    try:
        fill(working)
        working.chmod(0o755)  # mkdtemp keeps others out; a cache may be shared
        try:
            working.rename(folder / name)
        except OSError:
            if not (folder / name).is_dir():
                raise
    finally:
        shutil.rmtree(working, ignore_errors=True)  # gone already if it was renamed
    return folder / name


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid()) if hasattr(os, "getuid") else "user"
