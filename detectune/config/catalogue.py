"""All knobs in one table, and how to find one: by exact key, by part of a key, by a nearly right key.

Knows nothing about files and values (`load.py`) nor about printing (`cli/knobs.py`).
"""

from __future__ import annotations

import difflib
import fnmatch
from typing import Any

from detectune.config.knob import Knob, collect_knobs
from detectune.config.tree import Config

KNOBS: dict[str, Knob] = collect_knobs(Config)

SECTIONS: frozenset[str] = frozenset(
    key.rsplit(".", depth)[0] for key in KNOBS for depth in range(1, key.count(".") + 1)
)

LEAST_LIKENESS = 0.65  # of the last parts of two keys, by difflib; below it a proposal would only confuse
SAME_SECTION, LIKE_SECTION = 0.15, 0.05  # what a right and a similar section add to that


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

    The last part decides, the section tips the balance: SOLVER.BASE_LRR means SOLVER.BASE_LR, and TRAIN.MAX_ITERS
    means SOLVER.MAX_ITER rather than TRAIN.EVAL_ITERS.
    """
    section, _, last = key.upper().strip().rpartition(".")
    scores: dict[str, float] = {}
    for name in (*KNOBS, *sorted(SECTIONS)):
        its_section, _, its_last = name.rpartition(".")
        likeness = _likeness(last, its_last)
        if likeness >= LEAST_LIKENESS:
            same = SAME_SECTION if section == its_section else 0.0
            scores[name] = likeness + same + LIKE_SECTION * _likeness(section, its_section)
    return sorted(scores, key=scores.__getitem__, reverse=True)[:count]


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
    if knob.search is not None and knob.search.choices is not None:
        record["search"] = {"choices": list(knob.search.choices)}
    doc = f"{knob.doc} Obsolete: {knob.obsolete}" if knob.obsolete else knob.doc
    names = ("key", "default", "type", "doc", "unit", "range", "kind", "stage", "search", "source")
    return {name: record[name] for name in names} | {"doc": doc, "range": limits or None}


def _likeness(word: str, other: str) -> float:
    return difflib.SequenceMatcher(None, word, other).ratio() if word != other else 1.0
