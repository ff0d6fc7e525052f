"""Categories of one or several COCO files become one list of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectune.data.problems import Problems
from detectune.errors import DataError
from detectune.structures import ClassInfo


def join_categories(
    files: Sequence[tuple[Path, list[Any]]], problems: Problems
) -> tuple[ClassInfo, list[dict[int, int]]]:
    """The classes, by rising category id, and for each file {its category_id: label in 1..K}.

    Files are joined by name. An id may mean different names in two files only if both files list the same
    names; then the first file's ids are kept.
    """
    tables = [_read_categories(path, entries) for path, entries in files]
    ids: dict[str, int] = {}
    owner: dict[int, tuple[str, Path]] = {}
    for (path, _), table in zip(files, tables, strict=True):
        for category_id, entry in table.items():
            name = entry["name"]
            if name in ids:
                continue
            if category_id in owner:
                other, where = owner[category_id]
                raise DataError(
                    f"{where} and {path} cannot be joined: category id {category_id} is {other!r} in the first and "
                    f"{name!r} in the second. Give the same classes the same names, or other classes other ids."
                )
            ids[name] = category_id
            owner[category_id] = (name, path)
    names = sorted(ids, key=lambda name: ids[name])
    label = {name: i + 1 for i, name in enumerate(names)}
    entries = [entry for table in tables for entry in table.values()]
    keypoints, skeleton = _keypoints(entries, problems)
    info = ClassInfo(
        names=tuple(names),
        category_ids=tuple(ids[name] for name in names),
        keypoint_names=keypoints,
        keypoint_flip=flip_permutation(keypoints),
        keypoint_skeleton=skeleton,
        keypoint_labels=tuple(sorted({label[entry["name"]] for entry in entries if entry.get("keypoints")})),
    )
    return info, [{number: label[entry["name"]] for number, entry in table.items()} for table in tables]


def flip_permutation(names: Sequence[str]) -> tuple[int, ...]:
    """Where keypoint i goes in a mirror: 'left' and 'right' in its name change places, if both exist."""
    places = {name: i for i, name in enumerate(names)}
    return tuple(places.get(_mirrored(name), i) for i, name in enumerate(names))


def check_num_classes(num_classes: int, class_info: ClassInfo, *, source: str = "the data") -> None:
    """`DataError` unless MODEL.NUM_CLASSES (background included, -1 for 'as the data') fits the data."""
    needed = len(class_info) + 1
    if num_classes not in (-1, needed):
        shown = ", ".join(class_info.names[:8]) + (", ..." if len(class_info) > 8 else "")
        raise DataError(
            f"MODEL.NUM_CLASSES is {num_classes}, but {source} has {len(class_info)} classes ({shown}); with the "
            f"background that makes {needed}. Set MODEL.NUM_CLASSES to {needed}, or to -1 to take it from the data."
        )


def _mirrored(name: str) -> str:
    return name.replace("left", "\0").replace("right", "left").replace("\0", "right")


def _read_categories(path: Path, entries: list[Any]) -> dict[int, dict[str, Any]]:
    table: dict[int, dict[str, Any]] = {}
    names: set[str] = set()
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int) or "name" not in entry:
            raise DataError(f"{path}: categories[{place}] needs a whole number 'id' and a 'name': {entry!r}.")
        entry = {**entry, "name": str(entry["name"])}
        if entry["id"] in table or entry["name"] in names:
            raise DataError(
                f"{path}: categories[{place}] repeats an id or a name: {entry['id']}, {entry['name']!r}; "
                "each category needs its own."
            )
        table[entry["id"]] = entry
        names.add(entry["name"])
    if not table:
        raise DataError(f"{path}: 'categories' is empty; list at least one class.")
    return dict(sorted(table.items()))


def _keypoints(
    entries: list[dict[str, Any]], problems: Problems
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Names and skeleton (0-based) of the first category that has keypoints; other lists are a problem."""
    names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    for entry in entries:
        own = tuple(str(name) for name in entry.get("keypoints") or ())
        if own and not names:
            names = own
            pairs = entry.get("skeleton") or ()
            skeleton = tuple((a - 1, b - 1) for a, b in pairs if min(a, b) >= 1 and max(a, b) <= len(own))
        elif own and own != names:
            problems.add("other_keypoints", f"{entry['name']}: {len(own)} keypoints, not {len(names)}")
    return names, skeleton
