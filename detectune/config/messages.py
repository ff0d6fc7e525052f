"""What is wrong with a key or a value, in one sentence that says what is allowed and what is nearest."""

from __future__ import annotations

import difflib
import re
from typing import Any

from detectune.config.catalogue import KNOBS, SECTIONS, nearest_key
from detectune.config.knob import Knob

TYPES = {"bool": "True or False", "int": "an integer", "float": "a number", "str": "a text"}
MEMBERS = {"bool": "True or False", "int": "integers", "float": "numbers", "str": "texts", "Any": "lists"}

WORD = re.compile(r"[\w./:-]+")  # what may be put into brackets as it is


def unknown_key(key: str) -> str:
    """`SOLVER.BASE_LRR is unknown; did you mean SOLVER.BASE_LR?`"""
    near = nearest_key(key)
    if near is not None:
        return f"{key} is unknown; did you mean {near}?"
    section = key.rpartition(".")[0]
    if section in SECTIONS:
        inside = [known.removeprefix(section + ".") for known in KNOBS if known.startswith(section + ".")]
        return f"{key} is unknown; {section} has {', '.join(inside)}."
    return f"{key} is unknown; `detectune knobs` lists all keys."


def section_for_key(section: str, value: Any) -> str:
    """A value stands where keys of a section belong."""
    example = next(key for key in KNOBS if key.startswith(section + "."))
    return f"{section} is a section and cannot be {show(value)}; set one of its keys, such as {example}."


def no_value(knob: Knob) -> str:
    """Nothing or null stands where a value belongs."""
    return f"{knob.key} has no value; it must be {allowed(knob)}."


def wrong_value(knob: Knob, error: Any) -> str:
    """The sentence for an error of pydantic (an `ErrorDetails`) about one knob's value."""
    inner = error["loc"][knob.key.count(".") + 1 :]
    if knob.type == "mapping" and knob.element is None:
        return _wrong_data_set(knob, error, inner)
    if knob.type == "mapping" and inner:
        return f"{knob.key}: {inner[0]} must be {_allowed_member(knob)}, not {show(error['input'])}."
    name = knob.key + "".join(f"[{index}]" for index in inner if isinstance(index, int))
    value, kind = error["input"], error["type"]
    if kind == "string_pattern_mismatch":
        return f"{name}={show(value)} is unknown. {knob.doc}"
    if kind == "literal_error" and isinstance(value, str):
        return f"{name}={show(value)} is unknown; {_choices(knob, value)}."
    if kind in ("tuple_type", "list_type") and inner and knob.default:
        return f"{name} must be a list, such as {show(list(knob.default[0]))}, not {show(value)}."
    if kind in ("too_short", "too_long", "missing"):
        return f"{knob.key} has the wrong length; it must be {allowed(knob)}."
    if knob.type != "mapping" and knob.element is not None and not inner and WORD.fullmatch(str(value)):
        return f"{name} must be {allowed(knob, example=False)}, not {show(value)}; write [{value}]."
    return f"{name} must be {_allowed_member(knob) if inner else allowed(knob)}, not {show(value)}."


def allowed(knob: Knob, *, example: bool = True) -> str:
    """Which values a knob takes, as it follows `must be`."""
    if knob.type == "mapping" and knob.element is None:
        return "a mapping from names to {images: folder, annotations: file}"
    if knob.element is None:
        return _allowed_member(knob)
    bounds = f" {knob.range}" if knob.range else ""
    if knob.type == "mapping":
        return f"a mapping from names to {MEMBERS[knob.element]}{bounds}"
    members = f"of: {', '.join(map(str, knob.choices))}" if knob.choices else MEMBERS[knob.element] + bounds
    if knob.default and isinstance(knob.default[0], tuple):
        members = f"lists of {members}"
    return f"a list of {members}" + (
        f", such as {show(list(knob.default))}" if example and knob.default else ""
    )


def show(value: Any) -> str:
    """A value as it is quoted in messages: short."""
    text = repr(value)
    return text if len(text) <= 80 else text[:76] + " ..."


def _allowed_member(knob: Knob) -> str:
    if knob.choices:
        return f"one of: {', '.join(map(str, knob.choices))}"
    kind = knob.element or knob.type
    return TYPES.get(kind, "a list") + (f" {knob.range}" if knob.range else "")


def _choices(knob: Knob, value: str) -> str:
    names = [str(choice) or repr("") for choice in knob.choices or ()]
    near = difflib.get_close_matches(value, names, n=1)
    return (f"did you mean {near[0]}? Otherwise " if near else "") + f"choose one of: {', '.join(names)}"


def _wrong_data_set(knob: Knob, error: Any, inner: tuple[str | int, ...]) -> str:
    name = ".".join(map(str, (knob.key, *inner)))
    form = "a data set is {images: folder, annotations: file.json}"
    if error["type"] == "missing":
        return f"{name} is missing; {form}."
    if error["type"] == "literal_error":
        return f"{name} must be one of {error['ctx']['expected']}, not {show(error['input'])}."
    if error["type"] == "extra_forbidden":
        return f"{name} is unknown; {form}."
    if len(inner) == 2:
        return f"{name} must be a text, not {show(error['input'])}; {form}."
    return f"{name} cannot be {show(error['input'])}; {form}."
