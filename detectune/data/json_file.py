"""Reading a COCO JSON file as far as its outer shape: that it exists, is JSON, and has the three lists."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from detectune.errors import DataError

REQUIRED = ("images", "annotations", "categories")


def read_json(path: Path, *, labelled: bool = True) -> dict[str, Any]:
    """The top-level object of a COCO file; `DataError` with file, line and column where it is not one.

    Files of test images have no annotations; not `labelled`, they get an empty list.
    """
    try:
        text = path.read_bytes()
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder; name the annotation file in it (COCO JSON).") from error
    except OSError as error:
        raise DataError(missing_path(path, "annotation file", reason=error.strerror or str(error))) from error
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}:{error.colno}: this is not valid JSON: {error.msg}. The file may be cut off; "
            "copy or export it again."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not a text file (byte {error.start}); COCO annotations are JSON."
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: COCO annotations are one object with 'images', 'annotations' and 'categories', but this file "
            f"holds a {_kind(content)}; a list is what detections are saved as."
        )
    if not labelled:
        content.setdefault("annotations", [])
    absent = [key for key in REQUIRED if not isinstance(content.get(key), list)]
    if absent:
        has = ", ".join(repr(key) for key in list(content)[:8]) or "nothing"
        raise DataError(
            f"{path}: not COCO annotations: the top-level list{'s' if len(absent) > 1 else ''} "
            f"{', '.join(repr(key) for key in absent)} {'are' if len(absent) > 1 else 'is'} missing (it has {has})."
        )
    return content


def missing_path(path: Path, what: str, *, reason: str = "No such file or directory") -> str:
    """One sentence about a path that cannot be opened, with the nearest name that exists."""
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    wanted = path.relative_to(folder).parts[0] if path != folder else path.name
    stems = {
        Path(name).stem: name for name in names if name != wanted
    }  # equal endings would make all names alike
    near = difflib.get_close_matches(Path(wanted).stem, stems, n=1)
    hint = f" Did you mean {folder / stems[near[0]]}?" if near else ""
    if not hint and folder != path.parent:
        hint = f" The folder {folder} exists, {folder / wanted} does not."
    return f"{path}: the {what} cannot be opened ({reason}).{hint}"


def _kind(value: Any) -> str:
    names = {list: "list", str: "string", int: "number", float: "number", bool: "boolean"}
    return names.get(type(value), "null")
