"""detectron2's YAML files: recognised by their keys, read with their `_BASE_` files, handed on to be translated.

What they leave out has detectron2's defaults, not ours. `detectron2_keys.py` says what each key is here, and
`detectron2_defaults.py` which keys there are.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectune.config import messages
from detectune.config.detectron2_defaults import DEFAULTS, SECTIONS
from detectune.config.detectron2_keys import Given, translate
from detectune.config.legacy import literal
from detectune.config.settings import Origin, Problem, Settings
from detectune.config.yaml_reader import REFUSED, Document, KeyPath, read_text, read_yaml

BASE = "_BASE_"
MOST_BASES = 20

ONLY_THEIRS = {
    *(key.split(".")[1] for key in DEFAULTS if key.startswith("MODEL.")),
} - {"MASK_ON", "DEVICE"}
"""Members of MODEL that no file of ours or of Detectron has."""

PROJECTS = {
    "MODEL.POINT_HEAD": "the point head of PointRend",
    "MODEL.ROI_DENSEPOSE_HEAD": "DensePose",
    "MODEL.ROI_MESH_HEAD": "Mesh R-CNN",
    "MODEL.TENSOR_MASK": "TensorMask",
    "MODEL.PANOPTIC_DEEPLAB": "Panoptic-DeepLab",
    "MODEL.TRIDENT": "TridentNet",
    "MODEL.FCOS": "FCOS",
    "MODEL.CENTERNET": "CenterNet",
    "MODEL.MASK_FORMER": "MaskFormer",
    "MODEL.SWIN": "a Swin transformer as body",
}


def is_detectron2(value: Any) -> bool:
    """Whether the content of a YAML file is one of detectron2's."""
    if not isinstance(value, Mapping):
        return False
    model = value.get("MODEL")
    return (
        "VERSION" in value or BASE in value or (isinstance(model, Mapping) and bool(ONLY_THEIRS & set(model)))
    )


def from_document(document: Document, path: Path) -> Settings:
    """The settings, in our keys, of a file of detectron2 that has been read as `document`."""
    found = Settings()
    given: dict[str, Given] = {}
    _collect(document, path, given, found, ())
    if not found.problems:
        everything = {key: Given(value, None, ()) for key, value in DEFAULTS.items()} | given
        translate(everything, Origin(str(path), document.lines, (path.parent,)), found)
    return found


def _collect(
    document: Document, path: Path, given: dict[str, Given], found: Settings, above: tuple[Path, ...]
) -> None:
    """Puts the keys of a file over those of its base; `above` are the files whose base it is."""
    origin = Origin(str(path), document.lines, (path.parent,))
    for place, sentence in document.problems:
        line = int(place.partition(":")[0] or 0)
        found.problems.append(Problem(line, ":".join(filter(None, (str(path), place))) + f": {sentence}"))
    if not isinstance(document.value, Mapping):
        if document.value is not None and document.value is not REFUSED:
            found.problems.append(
                Problem(0, f"{path}: a configuration is a mapping, but this is a single value.")
            )
        return
    bases = document.value.get(BASE, [])
    for base in bases if isinstance(bases, list) else [bases]:
        _collect_base(base, origin, path, given, found, (*above, path.resolve()))
    _take({key: value for key, value in document.value.items() if key != BASE}, origin, (), given, found)


def _collect_base(
    base: Any, origin: Origin, path: Path, given: dict[str, Given], found: Settings, above: tuple[Path, ...]
) -> None:
    if not isinstance(base, str):
        found.problems.append(
            origin.problem((BASE,), f"{BASE} must be the path of a file, not {messages.show(base)}.")
        )
        return
    file = Path(base).expanduser()
    file = file if file.is_absolute() else path.parent / file
    if file.resolve() in above or len(above) > MOST_BASES:
        found.problems.append(
            origin.problem((BASE,), f"{BASE} {base} leads back to a file that it is the base of.")
        )
        return
    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        sentence = f"{BASE} {base} cannot be read ({reason}); it is looked for at {file}."
        found.problems.append(origin.problem((BASE,), sentence))
        return
    _collect(read_yaml(text), file, given, found, above)


def _take(value: Any, origin: Origin, path: KeyPath, given: dict[str, Given], found: Settings) -> None:
    """Walks down the sections and notes every known key."""
    key = ".".join(path)
    if value is REFUSED:
        return
    if not path or key in SECTIONS:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                _take(inner, origin, (*path, str(name)), given, found)
        elif value is not None:
            sentence = f"{key} is a section of detectron2's and cannot be {messages.show(value)}."
            found.problems.append(origin.problem(path, sentence))
        return
    if key not in DEFAULTS:
        found.problems.append(origin.problem(path, _unknown(key)))
        return
    default = DEFAULTS[key]
    if isinstance(value, str) and not isinstance(default, str):
        value = literal(value)  # tuples are written as texts there
    if fits(value, default):
        given[key] = Given(value, origin, path)
    else:
        sentence = f"{key} must be {_kind(default)}, not {messages.show(value)}."
        found.problems.append(origin.problem(path, sentence))


def fits(value: Any, default: Any) -> bool:
    """Whether a value is of its default's type, as yacs asks for: a whole number may stand for any other number."""
    if isinstance(default, list):
        return isinstance(value, list | tuple) and all(_fits_inside(member, default) for member in value)
    if default is None:
        return value is None or isinstance(value, int | float)
    if isinstance(default, bool) or isinstance(value, bool):
        return type(value) is type(default)
    if isinstance(default, int | float):
        return isinstance(value, int) or (isinstance(value, float) and isinstance(default, float))
    return isinstance(value, type(default))


def _fits_inside(member: Any, default: list[Any]) -> bool:
    """Whether a member may stand in a list; numbers of both kinds stand for each other there."""
    if not default:
        return not isinstance(member, list | tuple)
    example = default[0]
    return fits(member, float(example) if type(example) is int else example)


def _kind(default: Any) -> str:
    if isinstance(default, list):
        return f"a list such as {messages.show(default)}"
    return messages.TYPES["float" if default is None else type(default).__name__]


def _unknown(key: str) -> str:
    project = next((what for prefix, what in PROJECTS.items() if (key + ".").startswith(prefix + ".")), None)
    if project is not None:
        return f"{key} belongs to {project}, which is not here."
    near = difflib.get_close_matches(key, DEFAULTS, n=1)
    hint = f"did you mean {near[0]}?" if near else "it is none of version 0.6."
    return f"{key} is unknown among detectron2's keys; {hint}"
