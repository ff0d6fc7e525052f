"""All knobs in one table, and how to find one: by exact key, by part of a key, by a nearly right key.

Knows nothing about files and values (`load.py`) nor about printing (`cli/knobs.py`).
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable
from typing import Any

from detectune.config.knob import Knob, collect_knobs
from detectune.config.tree import Config

KNOBS: dict[str, Knob] = collect_knobs(Config)

SECTIONS: frozenset[str] = frozenset(
    key.rsplit(".", depth)[0] for key in KNOBS for depth in range(1, key.count(".") + 1)
)


def find_knobs(pattern: str | None = None) -> list[Knob]:
    """The knobs that a pattern names, in the order of the tree; case does not matter.

    A full key finds that knob alone, a pattern with `*`, `?` or `[` is matched with whole keys, anything else
    with parts of keys. None finds all.
    """
    if pattern is None:
        return list(KNOBS.values())
    wanted = pattern.upper()
    if wanted in KNOBS:
        return [KNOBS[wanted]]
    if any(sign in wanted for sign in "*?["):
        return [knob for key, knob in KNOBS.items() if fnmatch.fnmatchcase(key, wanted)]
    return [knob for key, knob in KNOBS.items() if wanted in key]


def nearest_keys(key: str, *, count: int = 1) -> list[str]:
    """Known keys and sections that a wrong key may have meant, most likely first; often one, maybe none.

    A misspelt last part in the right section comes first, then the same last part in another section, then whole
    paths that look alike.
    """
    wanted = key.upper().strip()
    section, _, last = wanted.rpartition(".")
    names = [*KNOBS, *SECTIONS]
    siblings = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == section}
    found = [siblings[near] for near in _close(last, siblings, count)]
    found += [name for name in KNOBS if name.rpartition(".")[2] == last]
    found += _close(wanted, names, count)
    if not found:
        lasts = {name.rpartition(".")[2]: name for name in reversed(names)}
        found = [lasts[near] for near in _close(last, lasts, count)]
    return list(dict.fromkeys(found))[:count]


def nearest_key(key: str) -> str | None:
    """The known key that a wrong one most likely meant."""
    return next(iter(nearest_keys(key)), None)


def as_record(knob: Knob) -> dict[str, Any]:
    """The knob as it is published: ten plain values that strict JSON can hold.

    `range` holds the bounds of a number, or `choices`; null means that the type is the only limit.
    """
    record = knob.as_json()
    limits = dict(record["range"] or {})
    if knob.choices is not None:
        limits["choices"] = list(knob.choices)
    doc = f"{knob.doc} Obsolete: {knob.obsolete}" if knob.obsolete else knob.doc
    names = ("key", "default", "type", "doc", "unit", "range", "kind", "stage", "search", "source")
    return {name: record[name] for name in names} | {"doc": doc, "range": limits or None}


def _close(word: str, among: Iterable[str], count: int) -> list[str]:
    return difflib.get_close_matches(word, list(among), n=count, cutoff=0.6)
