"""YAML text -> plain values and the line of every key.

Only the node graph of ruamel.yaml (YAML 1.2) is used: nothing is ever constructed from a tag but plain values, and
the tags of Detectron's dumps go through `legacy.py`, which makes plain values of them too. All problems of a text are
collected; only a syntax error ends the reading.
"""

from __future__ import annotations

import base64
import binascii
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from detectune.config.legacy import YAML_1_1_BOOLS, UnknownTagError, read_tagged

CORE = "tag:yaml.org,2002:"
BOOLS = {"true": True, "false": False} | YAML_1_1_BOOLS  # the latter under a %YAML 1.1 directive
MOST_NODES = 100_000  # a configuration has a few hundred; more is an alias bomb

KeyPath = tuple[str, ...]


class Refused:
    """Stands for a value about which `Document.problems` already says what is wrong."""


REFUSED = Refused()


@dataclass
class Document:
    """What a text holds.

    Attributes:
        value: dicts, lists, tuples, strings, bytes, numbers, bools, None; `REFUSED` where a problem is.
        lines: path of every mapping key -> its line, counted from 1.
        problems: (place, sentence) of each; the place is "line", "line:column" or empty.
    """

    value: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)


def read_text(path: Path) -> str:
    """The text of a file that must be UTF-8 (a byte order mark is allowed)."""
    return path.read_bytes().decode("utf-8-sig")


def read_yaml(text: str) -> Document:
    """Reads one document. Never raises for what the text holds; see `Document.problems`."""
    document = Document()
    try:
        with warnings.catch_warnings(action="ignore"):  # an anchor may be set again
            root = YAML(typ="safe", pure=True).compose(text)
        document.value = _Builder(document).build(root, ()) if root is not None else None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        document.problems.append((place, _sentence(error)))
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.problems.append(
            (str(line), f"the character {chr(error.character)!r} is not allowed in YAML.")
        )
    except YAMLError as error:
        document.problems.append(("", f"{' '.join(str(error).split())}."))
    except RecursionError:
        document.problems.append(("", "lists and mappings stand too deeply inside each other."))
    else:
        return document
    document.value = REFUSED
    return document


MENDS = {
    r"found character '\t'": "a tab stands where only spaces may; indent with spaces",
    "mapping values are not allowed": "a key with a value cannot stand here; check the indentation, and put "
    "quotes around a text with a colon",
    "found another document": "a second document begins; a configuration is one document, so remove the ---",
    "that cannot start any token": "{problem}; put quotes around the text",
}


def _sentence(error: MarkedYAMLError) -> str:
    """One sentence of ours from the scanner's or parser's fragments."""
    problem = " ".join((error.problem or error.context or "this is no YAML").split())
    problem = problem.replace("'<stream end>'", "the end of the text")
    for fragment, sentence in MENDS.items():
        if fragment in problem:
            return sentence.replace("{problem}", problem) + "."
    if error.problem and error.context and error.context.startswith("while"):
        return f"{problem}, {' '.join(error.context.split())}."
    return f"{problem}."


class _Builder:
    """Makes plain values of nodes and notes lines and problems in the document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.open: set[int] = set()
        self.num_nodes = 0

    def build(self, node: Node, path: KeyPath) -> Any:
        self.num_nodes += 1
        if self.num_nodes > MOST_NODES:
            if self.num_nodes == MOST_NODES + 1:
                self.complain(node, f"aliases unfold to more than {MOST_NODES} values.")
            return REFUSED
        if id(node) in self.open:
            self.complain(node, "an alias stands inside its own anchor.")
            return REFUSED
        self.open.add(id(node))
        try:
            return self._build(node, path)
        finally:
            self.open.discard(id(node))

    def _build(self, node: Node, path: KeyPath) -> Any:
        tag = str(node.tag)
        if tag.startswith(CORE + "python/"):
            try:
                return read_tagged(tag.removeprefix(CORE + "python/"), node, lambda n: self.build(n, path))
            except UnknownTagError as error:
                self.complain(node, str(error))
                return REFUSED
        if isinstance(node, MappingNode):
            return self.mapping(node, path)
        if isinstance(node, SequenceNode):
            members = [self.build(member, path) for member in node.value]
            return REFUSED if any(member is REFUSED for member in members) else members
        return self.scalar(node, tag)

    def mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        values: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            if str(key_node.tag) == CORE + "merge":
                merged = self.merge(value_node, path) | merged
                continue
            if not isinstance(key_node, ScalarNode):
                self.complain(key_node, "a key must be a plain word, not a list or mapping.")
                continue
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in values:
                self.complain(
                    key_node, f"{'.'.join((*path, key))} is given twice; the first is on line {first[key]}."
                )
                continue
            first[key] = line
            self.document.lines[(*path, key)] = line
            values[key] = self.build(value_node, (*path, key))
        return merged | values

    def merge(self, node: Node, path: KeyPath) -> dict[str, Any]:
        """`<<: *other` or `<<: [*one, *another]`: keys of other mappings, the earlier winning."""
        merged: dict[str, Any] = {}
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            if isinstance(source, MappingNode):
                merged = self.build(source, path) | merged
            else:
                self.complain(source, "<< must name a mapping.")
        return merged

    def scalar(self, node: Node, tag: str) -> Any:
        text = str(node.value)
        try:
            match tag.removeprefix(CORE):
                case "null":
                    return None
                case "bool":
                    return BOOLS[text.lower()]
                case "int":
                    return _integer(text)
                case "float":
                    return _real(text)
                case "binary":
                    return base64.b64decode(text)
                case "str" | "timestamp" | "value" | "merge":
                    return text
        except (ValueError, KeyError, binascii.Error):
            self.complain(node, f"{text!r} does not fit its tag {tag.replace(CORE, '!!')}.")
            return REFUSED
        self.complain(node, f"the tag {tag.replace(CORE, '!!')} is not known; write plain values.")
        return REFUSED

    def complain(self, node: Node, sentence: str) -> None:
        self.document.problems.append((str(node.start_mark.line + 1), sentence))


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    based = digits.lstrip("+-")[:2] in ("0x", "0o", "0b")
    return int(digits, 0 if based else 10)


def _real(text: str) -> float:
    return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
