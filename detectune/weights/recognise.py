"""Whose weights these are: which program wrote a file, which of its entries are the model, what else it says.

Programs are told by the names of the weights, not by the file's name or its wrapping: a trainer may have put the state
dict into an entry of its own and a prefix before every name. Nothing here needs torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from detectune.errors import WeightsError
from detectune.weights.contents import Container, Contents, open_contents
from detectune.weights.outline import Stored, arrays_of

System = Literal["detectune", "detectron", "detectron2", "torchvision", "unknown"]
MOMENTUM = "_momentum"  # behind the name of a blob
_WRAPPERS = ("model", "state_dict", "model_state", "model_state_dict", "blobs", "weights", "net", "module")
_PREFIXES = ("module.", "model.", "_orig_mod.")
_BLOB = re.compile(r"[^.]+_(?:[wb]|bn_s|bn_b|gn_s|gn_b|bn_rm|bn_riv)(?:_momentum)?")
_TORCHVISION = re.compile(
    r"backbone\.body\.|backbone\.fpn\.(?:inner|layer)_blocks\.|layer[1-4]\.\d+\.(?:conv|bn|downsample)|features\.\d+\."
)
_DETECTRON2 = re.compile(
    r"backbone\.bottom_up\.|proposal_generator\.|backbone\.fpn_|roi_heads\.|(?:stem\.|res[2-5]\.\d+\.)(?:conv|shortcut)"
)
_OURS = re.compile(
    r"backbone\.fpn\.(?:lateral|output|extra)|rpn\.|box_head\.|box_pooler\.|mask_head\.|keypoint_head\.|layers\."
)


@dataclass(frozen=True)
class WeightsFile:
    """A weights file, recognised. Arrays have their program's names."""

    path: Path
    container: Container
    system: System
    size: int  # bytes on the disk
    arrays: Mapping[str, Stored]
    momentum: Mapping[str, Stored] = field(default_factory=dict)  # by the name of the weight
    metadata: Mapping[str, str] = field(default_factory=dict)
    entry: str = ""  # the one that the weights stand in
    others: tuple[str, ...] = ()  # what stands beside it


def recognise(path: Path) -> WeightsFile:
    """What the weights file at `path` is and holds.

    Raises:
        WeightsError: if it cannot be read or holds no weights.
    """
    contents = open_contents(path)
    if not isinstance(contents.value, Mapping):
        raise WeightsError(
            f"{path}: there are no weights in this file, which holds a {_kind(contents.value)}."
        )
    entry, arrays = _weights_in(contents.value)
    if not arrays:
        keys = ", ".join(str(key)[:40] for key in list(contents.value)[:5]) or "nothing"
        raise WeightsError(
            f"{path}: there are no weights in this {contents.container}, which holds {keys}; give a model of "
            "Detectune, Detectron, detectron2 or torchvision."
        )
    system, arrays = _system(contents, arrays)
    weights = {name: value for name, value in arrays.items() if not name.endswith(MOMENTUM)}
    momentum = {n.removesuffix(MOMENTUM): value for n, value in arrays.items() if n.endswith(MOMENTUM)}
    if system == "detectune":
        momentum |= _velocities(contents.value)
    return WeightsFile(
        path=path,
        container=contents.container,
        system=system,
        size=contents.size,
        arrays=weights,
        momentum=momentum,
        metadata=_metadata(contents, system),
        entry=entry,
        others=tuple(str(key)[:60] for key in contents.value if key != entry) if entry else (),
    )


def _weights_in(value: Mapping[Any, Any]) -> tuple[str, dict[str, Stored]]:
    """The entry with the weights ('' where they stand alone) and its arrays."""
    for wrapper in _WRAPPERS:
        inside = value.get(wrapper)
        if isinstance(inside, Mapping):
            deeper, arrays = _weights_in(inside)
            if arrays:
                return f"{wrapper}.{deeper}" if deeper else wrapper, arrays
    return "", arrays_of(value)


def _system(contents: Contents, arrays: dict[str, Stored]) -> tuple[System, dict[str, Stored]]:
    if contents.metadata.get("format") == "detectune" or _is_checkpoint(contents.value):
        return "detectune", arrays
    system = system_of(arrays)
    if system == "unknown":
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in arrays):
                return _system(contents, {name.removeprefix(prefix): a for name, a in arrays.items()})
    return system, arrays


def system_of(names: Collection[str]) -> System:
    """Whose names these are, by the number of them that only one program gives."""
    counts: dict[System, int] = {
        "detectron": sum(_BLOB.fullmatch(name) is not None for name in names),
        "torchvision": sum(_TORCHVISION.match(name) is not None for name in names),
        "detectron2": sum(
            _DETECTRON2.match(name) is not None and not _TORCHVISION_HEADS.match(name) for name in names
        ),
        "detectune": sum(
            _OURS.match(name) is not None and not _TORCHVISION_HEADS.match(name) for name in names
        ),
    }
    best = max(counts, key=lambda system: counts[system])
    if counts[best]:
        return best
    return "detectune" if any(name.startswith("backbone.") for name in names) else "unknown"


_TORCHVISION_HEADS = re.compile(
    r"rpn\.head\.|roi_heads\.(?:mask_head\.(?:\d+|mask_fcn\d)\.|box_head\.(?:fc[67]\.|\d+\.(?:[01]\.)?\w+$)|keypoint_head\.\d+\.)|roi_heads\."
    r"(?:mask|keypoint)_predictor\."
)


def _is_checkpoint(value: Any) -> bool:
    """A training checkpoint of ours."""
    return isinstance(value, Mapping) and {"format", "iteration", "config", "model", "solver"} <= value.keys()


def _velocities(value: Mapping[Any, Any]) -> dict[str, Stored]:
    """What the optimiser of a checkpoint of ours holds for each weight."""
    if not _is_checkpoint(value):
        return {}
    optimizer = value["solver"]["optimizer"]
    found = {}
    for group in optimizer["param_groups"]:
        for name, number in zip(group["names"], group["params"], strict=True):
            velocity = optimizer["state"].get(number, {}).get("velocity")
            if isinstance(velocity, Stored):
                found[str(name)] = velocity
    return found


def _metadata(contents: Contents, system: System) -> dict[str, str]:
    """What the file says of itself; `geometry` is the dialect of whoever wrote it."""
    told = dict(contents.metadata)
    if system in ("detectron", "detectron2", "torchvision"):
        told.setdefault("geometry", system)
    if not isinstance(contents.value, Mapping) or contents.container == "safetensors":
        return told
    for key, name in (("cfg", "cfg"), ("__author__", "author"), ("iteration", "iteration")):
        if isinstance(contents.value.get(key), (str, int)):
            told[name] = str(contents.value[key])
    if _is_checkpoint(contents.value):
        told["checkpoint"] = str(contents.value["config"])
    return told


def _kind(value: Any) -> str:
    return {"dict": "dictionary", "Stored": "single array"}.get(type(value).__name__, type(value).__name__)
