"""Files and overrides -> `Config`, and back to YAML.

All that is wrong with a file and its overrides is said at once, each problem in one line: where, which key, which
value, what is allowed, what is nearest. The steps: `yaml_reader.py` gives values and lines, `settings.py` known
keys, `legacy.py` present-day values, the models of `tree.py` check each value, `rules.py` all of them together.
"""

from __future__ import annotations

import difflib
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from detectune.config import messages
from detectune.config.catalogue import KNOBS
from detectune.config.detectron2 import from_document, is_detectron2
from detectune.config.detectron2_zoo import zoo_name, zoo_tree
from detectune.config.legacy import infer
from detectune.config.nesting import nested
from detectune.config.rules import contradictions
from detectune.config.settings import (
    DATASETS,
    Origin,
    Problem,
    Setting,
    Settings,
    from_mapping,
    from_words,
    from_yaml,
    merge_data_sets,
)
from detectune.config.tree import Config
from detectune.config.yaml_reader import Document, read_text, read_yaml
from detectune.errors import UserError

__all__ = [
    "Config",
    "ConfigError",
    "apply_overrides",
    "config_from_text",
    "dump_diff",
    "dump_yaml",
    "load_config",
]


class ConfigError(UserError):
    """A configuration that cannot be used. The text has one line for each of `problems`."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


def load_config(path: str | Path | None, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """The configuration of a YAML file (None: the defaults) with overrides on top.

    Args:
        path: one of our files, an original one of Detectron or detectron2, or a name in detectron2's model zoo.
        overrides: words of a command line, `KEY=VALUE` or `KEY`, `VALUE`; or full keys with Python values.

    Raises:
        ConfigError: with all problems of the file and of the overrides.
    """
    source = None if path is None else str(path)
    layers = [Settings() if path is None else read_settings(path), _read_overrides(overrides, source)]
    return _build(Config().flat(), layers, source, notices=())


def config_from_text(text: str, name: str) -> Config:
    """The configuration of a YAML text, called `name` in messages: what a weights file says of itself.

    Raises:
        ConfigError: with all problems of the text.
    """
    return _build(Config().flat(), [from_yaml(read_yaml(text), name, ()), Settings()], None, notices=())


def apply_overrides(config: Config, overrides: Sequence[str] | Mapping[str, Any]) -> Config:
    """A new validated configuration with full keys, or words of a command line, on top; source and notices are kept.

    Raises:
        ConfigError: with all problems of the overrides.
    """
    layer = _read_overrides(overrides, config.source)
    return _build(
        config.flat(), [Settings(), layer], config.source, notices=config.notices, given=config.given
    )


def dump_yaml(config: Config) -> str:
    """Every key as YAML that loads back equal: sections as blocks, lists on one line."""
    return _to_yaml(config.tree())


def dump_diff(config: Config) -> str:
    """What differs from the defaults as YAML that loads back equal; `{}` when nothing does."""
    return _to_yaml(nested({key: value for key, (_, value) in config.diff().items()}))


def read_settings(path: str | Path) -> Settings:
    """The settings of a YAML file, ours, Detectron's or detectron2's, or of a name in detectron2's model zoo."""
    if (name := zoo_name(str(path))) is not None and not Path(path).exists():
        return from_document(Document(zoo_tree(name)), Path(f"detectron2's {name}"))
    path = Path(path)
    try:
        text = read_text(path)
    except FileNotFoundError:
        problem = f"there is no such file.{_nearest_file(path)}"
    except IsADirectoryError:
        problem = f"this is a folder, not a YAML file.{_files_in(path)}"
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8, so this is no YAML text; save the file as UTF-8."
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        problem = f"the file cannot be read ({getattr(error, 'strerror', None) or error})."
    else:
        document = read_yaml(text)
        if is_detectron2(document.value):
            return from_document(document, path)
        return from_yaml(document, str(path), (path.parent,))
    return Settings(problems=[Problem(0, f"{path}: {problem}")])


def _nearest_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        existing = next((parent for parent in folder.parents if parent.is_dir()), Path())
        return f" Not even the folder {folder} exists; the nearest that does is {existing.resolve()}."
    names = {found.name: found for found in sorted(folder.iterdir()) if found.suffix in (".yaml", ".yml")}
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {names[near[0]]}?" if near else _files_in(folder)


def _files_in(folder: Path) -> str:
    names = sorted(found.name for found in folder.iterdir() if found.suffix in (".yaml", ".yml"))
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return f" The YAML files in {folder} are {shown}." if names else f" There is no YAML file in {folder}."


def _read_overrides(overrides: Sequence[str] | Mapping[str, Any], source: str | None) -> Settings:
    # Whoever types a path means the folder they are in; a file's own paths are relative to the file.
    folders = (Path(), *([Path(source).parent] if source is not None else []))
    if isinstance(overrides, Mapping):
        return from_mapping(overrides, folders)
    if isinstance(overrides, str):
        raise TypeError("overrides must be a sequence of words or a mapping, not one string")
    return from_words(overrides, folders)


def _build(
    base: dict[str, Any],
    layers: Sequence[Settings],
    source: str | None,
    *,
    notices: tuple[str, ...],
    given: frozenset[str] = frozenset(),
) -> Config:
    """Puts the layers over `base`, checks them, and collects what each has to say."""
    values, places = dict(base), dict[str, str]()
    problems: list[str] = []
    root = Path(os.path.expanduser(_last_value(layers, "ROOT_DIR") or base["ROOT_DIR"]))
    for layer in layers:
        values = _without_inferred(values)
        legal, wrong = _check(layer.settings, values[DATASETS], root)
        problems += [problem.text for problem in sorted(layer.problems + wrong, key=lambda p: p.line)]
        values |= legal
        places |= {setting.key: setting.place for setting in layer.settings}
    if problems:
        raise ConfigError(problems)
    config = Config.model_validate(nested(values | infer(values)))
    problems = [f"{_place_of(sentence, places, source)}: {sentence}" for sentence in contradictions(config)]
    if problems:
        raise ConfigError(problems)
    said = (*notices, *(notice for layer in layers for notice in layer.notices))
    config._source = source
    config._notices = tuple(dict.fromkeys(said))
    config._given = given | {setting.key for layer in layers for setting in layer.settings}
    return config


def _check(
    settings: Sequence[Setting], data_sets: Mapping[str, Any], root: Path
) -> tuple[dict[str, Any], list[Problem]]:
    """(legal values by full key, what is wrong with the others) of one layer. A later setting of a key wins."""
    values: dict[str, Any] = {}
    origins: dict[tuple[str, ...], Origin] = {}
    for setting in settings:
        value = setting.value
        if setting.key == DATASETS:
            before = values.get(DATASETS, data_sets) if len(setting.path) > 1 else {}
            value = merge_data_sets(before, value, (*setting.origin.folders, root))
        values[setting.key] = value
        origins[setting.path if setting.key == DATASETS else (setting.key,)] = setting.origin
    problems: dict[str, Problem] = {}
    try:
        Config.model_validate(nested(values))
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            path = tuple(map(str, error["loc"]))
            key = next(".".join(path[:n]) for n in range(1, len(path) + 1) if ".".join(path[:n]) in KNOBS)
            origin = origins.get(path[:2]) or origins[(key,)]
            name = ".".join(path) if key == DATASETS else key  # one sentence for each key or data set entry
            problems.setdefault(name, origin.problem(path, messages.wrong_value(KNOBS[key], error)))
            values.pop(key, None)
    return values, list(problems.values())


def _without_inferred(values: dict[str, Any]) -> dict[str, Any]:
    """Values without those that follow from others, so that an override of the others is followed again."""
    return values | {key: KNOBS[key].default for key, value in infer(values).items() if values[key] == value}


def _last_value(layers: Sequence[Settings], key: str) -> str | None:
    given = [setting.value for layer in layers for setting in layer.settings if setting.key == key]
    return given[-1] if given and isinstance(given[-1], str) else None


def _place_of(sentence: str, places: Mapping[str, str], source: str | None) -> str:
    """Where the first key that a contradiction names was set; the file, if none was."""
    for key in re.findall(r"[A-Z_]+(?:\.[A-Z0-9_]+)+", sentence):
        if key in places:
            return places[key]
    return source or "configuration"


PLAIN = re.compile(r"[A-Za-z_/][\w./-]*", re.ASCII)


class _Writer(SafeRepresenter):
    """Lists on one line, everything else in blocks; texts in quotes unless they are plain words or paths."""

    def list_in_flow(self, members: list[Any]) -> Any:
        return self.represent_sequence("tag:yaml.org,2002:seq", members, flow_style=True)

    def text(self, text: str) -> Any:
        style = (
            None if PLAIN.fullmatch(text) else '"'
        )  # ruamel leaves "?0" plain, which reads back as a mapping
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Writer.add_representer(list, _Writer.list_in_flow)
_Writer.add_representer(str, _Writer.text)


def _to_yaml(tree: Mapping[str, Any]) -> str:
    writer = YAML(typ="safe", pure=True)
    writer.Representer = _Writer
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel's initial value is None
    writer.width = 100
    stream = io.StringIO()
    writer.dump(_plain(tree), stream)
    return stream.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    return [_plain(member) for member in value] if isinstance(value, list | tuple) else value
