"""The configuration as a JSON schema (draft 2020-12), with which an editor completes and checks YAML.

Put `# yaml-language-server: $schema=detectune.schema.json` into the first line of a YAML file.

The schema describes the present spelling: Detectron's tuples in quotes and old names load too, but an editor that
knows the schema underlines them.
"""

from __future__ import annotations

import json
from typing import Any

from detectune.config.knob import METADATA
from detectune.config.tree import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema as plain containers: sections nested in place, every key with description, default and limits."""
    schema = Config.model_json_schema()
    definitions = schema.pop("$defs", {})
    nested: dict[str, Any] = _unfold(schema, definitions)
    about = {"title": "Detectune configuration", "description": "All keys of a Detectune YAML file."}
    return {"$schema": DIALECT} | nested | about


def schema_text() -> str:
    """The schema as the text of a file."""
    return json.dumps(json_schema(), indent=2, allow_nan=False) + "\n"


def _unfold(node: Any, definitions: dict[str, Any]) -> Any:
    """References replaced by what they name, so that a key is found by its path; empty descriptions left out."""
    if isinstance(node, list):
        return [_unfold(member, definitions) for member in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        named = definitions[node["$ref"].rpartition("/")[2]]
        node = named | {name: value for name, value in node.items() if name != "$ref"}
    unfolded = {name: _unfold(value, definitions) for name, value in node.items()}
    if METADATA in unfolded:
        unfolded[METADATA] = _without_nulls(unfolded[METADATA])
    return unfolded


def _without_nulls(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {name: _without_nulls(value) for name, value in node.items() if value is not None}
