"""From knobs to a search space: ranges from the knob table, overridden by a study file, checked together.

A knob that only one choice of another knob reads (MOMENTUM of sgd, GAMMA of a step policy) is conditional on it by
itself, where both are searched.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detectune.config.catalogue import KNOBS, nearest_key
from detectune.config.knob import Knob, Search
from detectune.config.load import ConfigError, load_config
from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.tuner.history import ROLES, Dimension, Space

NEVER: dict[str, str] = {
    "SOLVER.MAX_ITER": "the length of training is the budget, not a knob: more is nearly always better",
    "SOLVER.MAX_EPOCHS": "the length of training is the budget, not a knob: more is nearly always better",
    "RNG_SEED": "a good seed is luck; every trial has its own, and the winner must not depend on it",
    "OUTPUT_DIR": "every trial has a folder of its own",
}
"""Keys that are not searched, and why."""

ENTRY_WORDS = ("low", "high", "scale", "choices", "role", "when", "value")
SCALES = ("linear", "log", "one_minus_log")


class Entry:
    """What a study file says about one knob, and where, for messages."""

    def __init__(self, key: str, content: Mapping[str, Any], place: str) -> None:
        self.key, self.content, self.place = key, content, place

    def refuse(self, sentence: str) -> UserError:
        return UserError(f"{self.place}: {sentence}" if self.place else sentence)


def read_entry(word: str) -> Entry:
    """What --knobs says about one knob: KEY, KEY=LOW:HIGH or KEY=LOW:HIGH:SCALE."""
    key, given, text = word.partition("=")
    entry = Entry(key, {}, "--knobs")
    if not given:
        return entry
    low, _, rest = text.partition(":")
    high, _, scale = rest.partition(":")
    try:
        ends = {"low": _number(low), "high": _number(high)}
    except ValueError:
        raise entry.refuse(f"{word} is no range; write it as {key}=LOW:HIGH or {key}=LOW:HIGH:log.") from None
    return Entry(key, ends | ({"scale": scale} if scale else {}), "--knobs")


def _number(text: str) -> float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def make_space(entries: Sequence[Entry], base: Config) -> Space:
    """The space of `entries` around the configuration `base`.

    Raises:
        UserError: for a key that is unknown, cannot be searched or has no range; for values that are not legal.
    """
    if not entries:
        raise UserError("A study needs at least one knob to search: name some, as --knobs SOLVER.BASE_LR.")
    dimensions = [make_dimension(entry) for entry in entries]
    keys = [dimension.key for dimension in dimensions]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is named twice; a knob is searched once.")
    dimensions = [_with_own_condition(dimension, keys) for dimension in dimensions]
    ordered = _ordered(dimensions, entries)
    for dimension, entry in zip(dimensions, entries, strict=True):
        _check_conditions(dimension, entry, dimensions)
        _check_values(dimension, entry, base)
    return Space(tuple(ordered))


def make_dimension(entry: Entry) -> Dimension:
    """One dimension: what the entry says, and the knob's own suggestion for the rest."""
    knob, content = _known_knob(entry), entry.content
    wrong = next((word for word in content if word not in ENTRY_WORDS), None)
    if wrong is not None:
        near = difflib.get_close_matches(str(wrong), ENTRY_WORDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it can have {', '.join(ENTRY_WORDS)}."
        raise entry.refuse(f"{knob.key}: {wrong} is unknown; {hint}")
    role = content.get("role", "scientific")
    if role not in ROLES:
        raise entry.refuse(f"{knob.key}: role must be one of {', '.join(ROLES)}, fixed, not {role!r}.")
    search, choices = knob.search, content.get("choices")
    given = {word: content[word] for word in ("low", "high", "scale") if word in content}
    condition = _condition_of(entry)
    if choices is not None:
        if given or not isinstance(choices, list) or len(choices) < 2:
            raise entry.refuse(
                f"{knob.key}: choices must be a list of two or more, without low, high and scale."
            )
        return Dimension(knob.key, "choice", choices=tuple(choices), role=role, condition=condition)
    if not given and (listed := _choices_of(knob)) is not None:
        return Dimension(knob.key, "choice", choices=listed, role=role, condition=condition)
    low, high, scale = _interval(entry, knob, search, given)
    if knob.type == "int":
        low, high = round(low), round(high)
    kind: Any = "int" if knob.type == "int" else "float"
    return Dimension(knob.key, kind, low, high, scale, role=role, condition=condition)


def fixed_values(entries: Iterable[Entry]) -> dict[str, Any]:
    """Key -> value of the entries whose role is `fixed`."""
    values = {}
    for entry in entries:
        if entry.content.get("role") == "fixed":
            _known_knob(entry)
            if "value" not in entry.content:
                raise entry.refuse(f"{entry.key}: a knob whose role is fixed needs its value.")
            values[entry.key] = entry.content["value"]
    return values


def _known_knob(entry: Entry) -> Knob:
    if entry.key not in KNOBS:
        near = nearest_key(entry.key)
        hint = f"did you mean {near}?" if near else "`detectune knobs` lists all keys."
        raise entry.refuse(f"{entry.key} is unknown; {hint}")
    if entry.key in NEVER:
        raise entry.refuse(f"{entry.key} is never tuned: {NEVER[entry.key]}.")
    knob = KNOBS[entry.key]
    if knob.obsolete is not None:
        raise entry.refuse(f"{entry.key} is obsolete and has no effect. {knob.obsolete}")
    return knob


def _choices_of(knob: Knob) -> tuple[Any, ...] | None:
    """The values of a knob that has few and no interval."""
    if knob.search is not None:
        return knob.search.choices
    if knob.type == "bool":
        return (False, True)
    return knob.choices if knob.element is None else None


def _interval(
    entry: Entry, knob: Knob, search: Search | None, given: Mapping[str, Any]
) -> tuple[float, float, Any]:
    own = search if search is not None and search.choices is None else None
    low = given.get("low", own.low if own else None)
    high = given.get("high", own.high if own else None)
    scale = given.get("scale", own.scale if own else "linear")
    if knob.type not in ("int", "float"):
        raise entry.refuse(
            f"{knob.key} is no number and has no list of values to try; give them, as "
            f"`{knob.key}: {{choices: [...]}}` under knobs in a study file."
        )
    if low is None or high is None:
        raise entry.refuse(
            f"{knob.key} has no suggested range; give one, as `{knob.key}: {{low: ..., high: ...}}` under knobs in a "
            "study file."
        )
    for word, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise entry.refuse(f"{knob.key}: {word} must be a number, not {value!r}.")
    if scale not in SCALES:
        raise entry.refuse(f"{knob.key}: scale must be one of {', '.join(SCALES)}, not {scale!r}.")
    if not low < high:
        raise entry.refuse(f"{knob.key}: low must be below high, but they are {low:g} and {high:g}.")
    if scale == "log" and low <= 0:
        raise entry.refuse(f"{knob.key}: on a log scale low must be above 0, not {low:g}.")
    if scale == "one_minus_log" and (high >= 1 or knob.type == "int"):
        raise entry.refuse(f"{knob.key}: the scale one_minus_log is for numbers below 1; high is {high:g}.")
    return low, high, scale


def _condition_of(entry: Entry) -> dict[str, tuple[Any, ...]] | None:
    when = entry.content.get("when")
    if when is None:
        return None
    if not isinstance(when, Mapping) or not when:
        raise entry.refuse(f"{entry.key}: when must name keys with values, as {{SOLVER.OPTIMIZER: [sgd]}}.")
    for key in when:
        if key not in KNOBS:
            near = nearest_key(str(key))
            raise entry.refuse(f"{entry.key}: when: {key} is unknown; did you mean {near or 'another'}?")
    return {key: tuple(v) if isinstance(v, list) else (v,) for key, v in when.items()}


def _with_own_condition(dimension: Dimension, keys: Sequence[str]) -> Dimension:
    """The dimension with the condition under which anything reads its knob, if the deciding key is searched."""
    deciding = {"SOLVER.OPTIMIZER", "SOLVER.LR_POLICY"} & set(keys)
    if dimension.condition is not None or not dimension.key.startswith("SOLVER.") or not deciding:
        return dimension
    from detectune.engine.optimizers import USED_BY
    from detectune.engine.solver import POLICY_USES

    condition = {
        decider: table[dimension.key]
        for decider, table in (("SOLVER.OPTIMIZER", USED_BY), ("SOLVER.LR_POLICY", POLICY_USES))
        if decider in deciding and dimension.key in table
    }
    return Dimension(**{**dimension.__dict__, "condition": condition or None})


def _ordered(dimensions: Sequence[Dimension], entries: Sequence[Entry]) -> list[Dimension]:
    """The dimensions with each behind those that its condition names, else as they were given."""
    waiting, ordered = list(dimensions), []
    while waiting:
        searched = {dimension.key for dimension in waiting}
        ready = next((d for d in waiting if not searched & set(d.condition or ())), None)
        if ready is None:
            keys = ", ".join(dimension.key for dimension in waiting)
            raise entries[0].refuse(f"The conditions of {keys} go round in a circle.")
        waiting.remove(ready)
        ordered.append(ready)
    return ordered


def _check_conditions(dimension: Dimension, entry: Entry, others: Sequence[Dimension]) -> None:
    """A condition on a searched knob must be one that can come true."""
    for key, allowed in (dimension.condition or {}).items():
        other = next((other for other in others if other.key == key), None)
        tried_values = None if other is None else other.choices
        if tried_values is not None and not any(value in tried_values for value in allowed):
            tried = ", ".join(map(str, tried_values))
            raise entry.refuse(
                f"{dimension.key} exists only where {key} is {' or '.join(map(str, allowed))}, but {key} is searched "
                f"over {tried}; add one of those or leave {dimension.key} out."
            )


def _check_values(dimension: Dimension, entry: Entry, base: Config) -> None:
    """Both ends, or every choice, must be legal for the knob by itself; what contradicts other keys is found later."""
    knob = KNOBS[dimension.key]
    values = dimension.choices if dimension.choices is not None else (dimension.low, dimension.high)
    for value in values:
        if knob.range is not None and isinstance(value, int | float) and value not in knob.range:
            raise entry.refuse(f"{dimension.key} must be {knob.range}, so {value:g} cannot be tried.")
        if dimension.choices is not None:
            _check_choice(dimension.key, value, entry)


def _check_choice(key: str, value: Any, entry: Entry) -> None:
    """A choice must be one that the knob takes; whether it goes with other keys the trial finds out."""
    try:
        load_config(None, {key: value})
    except ConfigError as error:
        own = tuple(f"{key}{begin}" for begin in ("=", "[", " must ", " has the wrong "))
        sentences = [problem.partition(": ")[2] for problem in error.problems]
        wrong = next((sentence for sentence in sentences if sentence.startswith(own)), None)
        if wrong is not None:
            raise entry.refuse(wrong) from error
