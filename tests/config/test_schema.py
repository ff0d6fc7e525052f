"""The JSON schema says the same as the models: a small checker of our own reads it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest

from detectune.config.catalogue import KNOBS
from detectune.config.load import Config, ConfigError, load_config
from detectune.config.schema import json_schema, schema_text

SCHEMA = json_schema()
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "number": int | float,
    "integer": int,
}
CHECKED = {
    "type", "enum", "pattern", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "minItems",
    "maxItems", "items", "prefixItems", "properties", "required", "additionalProperties", "anyOf",
}  # fmt: skip
SHOWN = {"$schema", "title", "description", "default", "deprecated", "x-knob"}


def complaints(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Where a value breaks a schema, by the words of JSON schema that ours uses."""
    assert set(schema) <= CHECKED | SHOWN, (
        f"{path}: this checker does not know {set(schema) - CHECKED - SHOWN}"
    )
    if "anyOf" in schema and all(list(complaints(value, one, path)) for one in schema["anyOf"]):
        yield f"{path} is none of the alternatives"
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        yield f"{path} is no {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path} is none of the choices"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path} does not match"
    bounds = {
        "minimum": lambda bound: value >= bound,
        "exclusiveMinimum": lambda bound: value > bound,
        "maximum": lambda bound: value <= bound,
        "exclusiveMaximum": lambda bound: value < bound,
        "minItems": lambda bound: len(value) >= bound,
        "maxItems": lambda bound: len(value) <= bound,
    }
    for word, holds in bounds.items():
        if word in schema and not holds(schema[word]):
            yield f"{path} breaks {word}"
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        for index, member in enumerate(value):
            yield from complaints(
                member, first[index] if index < len(first) else schema.get("items", {}), f"{path}[{index}]"
            )
    if isinstance(value, dict):
        others = schema.get("additionalProperties", {})
        for name in schema.get("required", []):
            if name not in value:
                yield f"{path}.{name} is missing"
        for name, inner in value.items():
            if name in schema.get("properties", {}):
                yield from complaints(inner, schema["properties"][name], f"{path}.{name}")
            elif others is False:
                yield f"{path}.{name} is unknown"
            else:
                yield from complaints(inner, others, f"{path}.{name}")


def nested(key: str, value: Any) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def as_json(tree: Any) -> Any:
    return json.loads(json.dumps(tree, allow_nan=False))


def at(key: str) -> dict[str, Any]:
    node = SCHEMA
    for name in key.split("."):
        node = node["properties"][name]
    return node


def test_every_key_is_found_by_its_path_and_described() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for key, knob in KNOBS.items():
        node = at(key)
        assert node["description"] == knob.doc
        if key != "ROOT_DIR":  # the working directory: no business of a file that is passed on
            assert node["default"] == as_json(knob.default), key
        if knob.choices is not None and knob.element is None:
            named = node["anyOf"][0] if "anyOf" in node else node  # and what a pattern allows besides
            assert named["enum"] == list(knob.choices), key
        assert node["x-knob"]["kind"] == knob.kind
        assert node.get("deprecated", False) == (knob.obsolete is not None)


def test_sections_are_closed_and_nothing_is_referred_to() -> None:
    def objects(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            if node.get("type") == "object":
                yield node
            for inner in node.values():
                yield from objects(inner)

    closed = [node for node in objects(SCHEMA) if "properties" in node]
    assert len(closed) >= 20 and all(node["additionalProperties"] is False for node in closed)
    assert "$ref" not in schema_text() and "$defs" not in schema_text()
    assert json.loads(schema_text()) == as_json(SCHEMA)


def test_configurations_pass() -> None:
    changed = load_config(
        None,
        {
            "SOLVER.STEPS": [0, 5],
            "TRAIN.DATASETS": ["a"],
            "MODEL.DEVICE": "cuda:1",
            "DATASETS": {"a": {"images": "/i", "annotations": "/a"}},
        },
    )
    for tree in ({}, Config().tree(), changed.tree()):
        assert list(complaints(as_json(tree), SCHEMA)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.BASE_LRR", 0.1),
        ("SOLVR.BASE_LR", 0.1),
        ("SOLVER", 3),
        ("SOLVER.BASE_LR", 0),
        ("SOLVER.BASE_LR", "fast"),
        ("SOLVER.BASE_LR", True),
        ("SOLVER.MAX_ITER", 1.5),
        ("SOLVER.MAX_ITER", 0),
        ("SOLVER.LR_POLICY", "stepp"),
        ("SOLVER.STEPS", [0, -1]),
        ("SOLVER.STEPS", 5),
        ("SOLVER.BETAS", [0.9]),
        ("SOLVER.BETAS", [0.9, 1.0]),
        ("MODEL.DEVICE", "gpu"),
        ("TRAIN.FREEZE_AT", 1),
        ("TRAIN.SCALES", []),
        ("TEST.SOFT_NMS.METHOD", "cubic"),
        ("PIXEL_MEANS", [[[1.0, 2.0]]]),
        ("TEST.SCORE_THRESH_PER_CLASS", {"cat": 1.5}),
        ("TEST.SCORE_THRESH_PER_CLASS", {"cat": True}),
        ("DATASETS", {"a": {"images": "i"}}),
        ("DATASETS", {"a": {"images": "i", "annotations": "a", "x": "y"}}),
    ],
)
def test_what_the_loader_refuses_the_schema_refuses(key: str, value: Any) -> None:
    assert list(complaints(nested(key, value), SCHEMA))
    with pytest.raises(ConfigError):
        load_config(None, {key: value})


def test_bounds_are_those_of_the_knobs() -> None:
    words = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
    for key, knob in KNOBS.items():
        if knob.range is not None and knob.element is None:
            for name, word in words.items():
                bound = getattr(knob.range, name)
                assert at(key).get(word) == bound or (bound is None and word not in at(key)), key
                assert bound is None or math.isfinite(bound)
