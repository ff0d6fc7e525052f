"""From a document or command-line words to settings: one known key, one value, one place to point at.

Unknown, renamed and deprecated keys end here; whether a value is legal is `load.py`'s question.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from detectune.config import messages
from detectune.config.catalogue import KNOBS, SECTIONS
from detectune.config.legacy import DEPRECATED_KEYS, RENAMED_KEYS, modern_value
from detectune.config.yaml_reader import REFUSED, Document, KeyPath, read_yaml

DATASETS = "DATASETS"


@dataclass(frozen=True)
class Origin:
    """Where settings come from, for messages and for paths relative to it.

    Attributes:
        name: a file, or `override KEY=VALUE`.
        lines: path of a key -> line in the file.
        folders: where a relative path is looked for, in this order; the first is taken when it is nowhere.
    """

    name: str
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()

    def line(self, path: KeyPath) -> int:
        """The line of the longest known part of a key's path; 0 where none is known."""
        known = (path[:length] for length in range(len(path), 0, -1) if path[:length] in self.lines)
        return next((self.lines[part] for part in known), 0)

    def place(self, path: KeyPath) -> str:
        """`train.yaml:12`, or the name alone where no line is known."""
        line = self.line(path)
        return f"{self.name}:{line}" if line else self.name

    def problem(self, path: KeyPath, sentence: str) -> Problem:
        """The problem of a key."""
        return Problem(self.line(path), f"{self.place(path)}: {sentence}")


class Problem(NamedTuple):
    """One line for the user, and the line of the file for putting them in order (0: none)."""

    line: int
    text: str


@dataclass(frozen=True)
class Setting:
    """A known key with the value that somebody gave it, still unchecked.

    `path` is how the key was written; (DATASETS, name) means that one data set alone.
    """

    key: str
    value: Any
    origin: Origin
    path: KeyPath

    @property
    def place(self) -> str:
        return self.origin.place(self.path)


@dataclass
class Settings:
    """What a source gives: settings in order, problems that make it unusable, notices that do not."""

    settings: list[Setting] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def take(self, value: Any, origin: Origin, path: KeyPath) -> None:
        """Walks down the sections of a nested value and takes the keys in it."""
        key = ".".join(path)
        if value is REFUSED:
            return
        if not path or key in SECTIONS:
            if isinstance(value, Mapping):
                for name, inner in value.items():
                    self.take(inner, origin, (*path, str(name)))
            elif value is not None:  # an empty section is one whose keys are all commented out
                self._complain(origin, path, messages.section_for_key(key, value))
        elif key in KNOBS:
            self._take_value(key, value, origin, path)
        elif key.startswith(DATASETS + "."):
            self._take_data_set(key, value, origin, path)
        elif key in RENAMED_KEYS:
            present, advice = RENAMED_KEYS[key]
            also = f" Also {advice}." if advice else ""
            self._complain(origin, path, f"{key} was renamed to {present}; please use that.{also}")
        elif key in DEPRECATED_KEYS:
            self._notice(origin, path, f"{key} is deprecated and has no effect: {DEPRECATED_KEYS[key]}.")
        else:
            self._complain(origin, path, messages.unknown_key(key))

    def _take_value(self, key: str, value: Any, origin: Origin, path: KeyPath) -> None:
        knob = KNOBS[key]
        value = modern_value(value, knob)
        if value is None and key == DATASETS:
            value = {}
        if value is None:
            self._complain(origin, path, messages.no_value(knob))
            return
        if knob.obsolete is not None and value != knob.default:
            self._notice(origin, path, f"{key} is obsolete and has no effect. {knob.obsolete}")
        self.settings.append(Setting(key, value, origin, path))

    def _take_data_set(self, key: str, value: Any, origin: Origin, path: KeyPath) -> None:
        """`DATASETS.cells={...}` or `DATASETS.cells.images=...`; a name may contain dots."""
        name = key.removeprefix(DATASETS + ".")
        stem, _, last = name.rpartition(".")
        if isinstance(value, Mapping):
            content = {name: dict(value)}
        elif stem and isinstance(value, str):
            name, content = stem, {stem: {last: value}}
        else:
            form = "a data set is {images: folder, annotations: file.json}"
            self._complain(origin, path, f"{key} cannot be {messages.show(value)}; {form}.")
            return
        self.settings.append(Setting(DATASETS, content, origin, (DATASETS, name)))

    def _complain(self, origin: Origin, path: KeyPath, sentence: str) -> None:
        self.problems.append(origin.problem(path, sentence))

    def _notice(self, origin: Origin, path: KeyPath, sentence: str) -> None:
        self.notices.append(f"{origin.place(path)}: {sentence}")


def from_text(text: str, origin_name: str, folders: tuple[Path, ...]) -> Settings:
    """The settings of a YAML text."""
    return from_yaml(read_yaml(text), origin_name, folders)


def from_yaml(document: Document, origin_name: str, folders: tuple[Path, ...]) -> Settings:
    """The settings of a YAML text that has been read."""
    found = Settings()
    for place, sentence in document.problems:
        line = int(place.partition(":")[0] or 0)
        found.problems.append(Problem(line, ":".join(filter(None, (origin_name, place))) + f": {sentence}"))
    if document.value is None or document.value is REFUSED:
        return found
    if not isinstance(document.value, Mapping):
        kind = "list" if isinstance(document.value, list) else "single value"
        form = "a configuration is a mapping such as SOLVER: {BASE_LR: 0.01}"
        found.problems.append(Problem(0, f"{origin_name}: {form}, but this is a {kind}."))
        return found
    found.take(document.value, Origin(origin_name, document.lines, folders), ())
    return found


def from_mapping(overrides: Mapping[str, Any], folders: tuple[Path, ...]) -> Settings:
    """Full keys with Python values."""
    found = Settings()
    for key, value in overrides.items():
        label = f"override {key}" if isinstance(value, Mapping) else f"override {key}={_brief(value)}"
        found.take(value, Origin(label, folders=folders), tuple(str(key).split(".")))
    return found


def from_words(words: Sequence[str], folders: tuple[Path, ...]) -> Settings:
    """`KEY=VALUE` words and Detectron's `KEY VALUE` pairs, mixed. Values are read as YAML."""
    found = Settings()
    for key, text in _pairs(words, found):
        origin = Origin(f"override {key}={text}", folders=folders)
        path = tuple(key.split("."))
        knob = KNOBS.get(key)
        is_path = path[0] == DATASETS and len(path) > 2 and not text.startswith("{")
        if ((knob is not None and knob.type == "str") or is_path) and text.lower() not in ("null", "~"):
            found.take(text, origin, path)  # a path or name need not be YAML
            continue
        document = read_yaml(text)
        if document.problems:
            value = text if knob is None else modern_value(text, knob)  # 'a', 'b' is Python but no YAML
            if isinstance(value, str):
                said = " ".join(sentence for _, sentence in document.problems)
                found.problems.append(origin.problem(path, f"{text!r} is no valid value: {said}"))
                continue
        else:
            value = document.value
        found.take(value, origin, path)
    return found


def _pairs(words: Sequence[str], found: Settings) -> Iterable[tuple[str, str]]:
    queue = list(words)
    while queue:
        word = queue.pop(0)
        key, equals, text = word.partition("=")
        wrong = ""
        if word.startswith("-"):
            wrong = (
                "this looks like an option, but there is none of that name; settings are written KEY=VALUE."
            )
            if not equals and queue and not _begins_setting(queue[0]):
                queue.pop(0)  # what was meant as the option's value
        elif not key or key != key.strip():
            wrong = "write KEY=VALUE without spaces around the equals sign."
        elif equals:
            yield key, text
        elif queue and not _begins_setting(queue[0]):
            yield key, queue.pop(0)
        elif key in KNOBS:
            wrong = f"the value is missing; write {word}=VALUE or {word} VALUE."
        else:
            wrong = messages.unknown_key(key)
        if wrong:
            found.problems.append(Problem(0, f"override {word}: {wrong}"))


def _begins_setting(word: str) -> bool:
    return word.partition("=")[0] in KNOBS


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else messages.show(value)


def merge_data_sets(base: Any, given: Any, folders: Iterable[Path]) -> Any:
    """Data sets by name with those of one setting put over them, whose relative paths become absolute.

    What is no mapping comes back unchanged, to be refused by the models.
    """
    if not isinstance(base, Mapping) or not isinstance(given, Mapping):
        return base if isinstance(given, Mapping) else given
    merged = {name: dict(files) if isinstance(files, Mapping) else files for name, files in base.items()}
    folders = tuple(folders)
    for name, files in given.items():
        if not isinstance(files, Mapping):
            merged[str(name)] = files
            continue
        resolved = {
            role: _absolute(path, folders) if isinstance(path, str) and role != "format" else path
            for role, path in files.items()
        }
        before = merged.get(str(name))
        merged[str(name)] = (before if isinstance(before, dict) else {}) | resolved
    return merged


def _absolute(path: str, folders: tuple[Path, ...]) -> str:
    wanted = os.path.expanduser(path)  # unlike Path's, it leaves an unknown ~user as it is
    places = [Path(os.path.abspath(folder / wanted)) for folder in folders]
    return str(next((place for place in places if place.exists()), places[0]))
