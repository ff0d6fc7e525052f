"""Our own weights files (safetensors), and fitting a state dict into a model with a report of what did not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from detectune.errors import WeightsError
from detectune.weights.writing import write_whole

_ONLY_FOR_TRAINING = ("num_batches_tracked", "loss_normalizer")
_SHOWN = 5  # names listed of each kind before "and N more"


@dataclass(frozen=True)
class FitReport:
    """How a state dict fitted a model. `str` says it in sentences."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]  # in the model only; these keep their values
    unexpected: tuple[str, ...]  # in the file only
    mismatched: tuple[
        tuple[str, tuple[int, ...], tuple[int, ...]], ...
    ]  # name, shape in the file, in the model

    @property
    def complete(self) -> bool:
        """Every tensor of the model was filled."""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors matched"]
        if self.mismatched:
            shapes = [
                f"{name} (file {list(there)}, model {list(here)})" for name, there, here in self.mismatched
            ]
            parts.append(f"{len(shapes)} have another shape: {_some(shapes)}")
        if self.missing:
            parts.append(f"{len(self.missing)} are missing from the file: {_some(self.missing)}")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} of the file are not in the model: {_some(self.unexpected)}")
        return "; ".join(parts) + "."


def save_weights(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file; a reader sees the old file or the whole new one, never a part.

    Equal contents give equal files.
    """
    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    write_whole(path, _in_order(save(_unshared(tensors), metadata=dict(metadata))))


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file that `save_weights` wrote, on the CPU, and its metadata."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such weights file.")
    try:
        with safe_open(str(path), framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            return state, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: this is not a readable safetensors file ({error}); it may be cut off or of another kind."
        ) from error


@torch.no_grad()
def fit_weights(model: nn.Module, state: Mapping[str, Tensor]) -> FitReport:
    """Copies every tensor of `state` whose name and shape the model has, and reports the rest.

    What only training keeps (counters of batch norm, RetinaNet's average of the loss) is never reported.
    """
    own = model.state_dict()
    matched, unexpected, mismatched = [], [], []
    for name, value in state.items():
        if name not in own:
            if not name.endswith(_ONLY_FOR_TRAINING):
                unexpected.append(name)
        elif own[name].shape != value.shape:
            mismatched.append((name, tuple(value.shape), tuple(own[name].shape)))
        else:
            own[name].copy_(value)
            matched.append(name)
    missing = [name for name in own if name not in state and not name.endswith(_ONLY_FOR_TRAINING)]
    return FitReport(tuple(matched), tuple(missing), tuple(unexpected), tuple(mismatched))


def _in_order(data: bytes) -> list[bytes | memoryview]:
    """The same safetensors file with its metadata sorted: the library writes it in the order of a hash table.

    A file is the length of its header as 8 bytes, the header in JSON, the tensors; offsets count from the tensors.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return [len(text).to_bytes(8, "little"), text, memoryview(data)[8 + length :]]


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory become copies, which the format demands."""
    seen: set[int] = set()
    out = {}
    for name, value in tensors.items():
        pointer = value.data_ptr()
        out[name] = value.clone() if pointer in seen else value
        seen.add(pointer)
    return out


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
