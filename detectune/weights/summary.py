"""What `detectune weights show` prints: what a file is, who wrote it, what it holds. Nothing here needs torch."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from detectune.weights.architecture import guess_architecture
from detectune.weights.recognise import System, WeightsFile

_PROGRAMS: dict[System, str] = {
    "detectune": "Detectune", "detectron": "Detectron", "detectron2": "detectron2", "torchvision": "torchvision",
    "unknown": "a program not known here",
}  # fmt: skip
_CONTAINERS = {
    "safetensors": "safetensors file", "torch file": "file of torch.save",
    "old torch file": "file of torch.save before 1.6", "pickle": "pickle",
}  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """A weights file in words and numbers."""

    path: str
    program: str
    container: str
    file_bytes: int
    network: str
    num_classes: int
    num_keypoints: int
    geometry: str  # the dialect of its boxes; empty where the file does not tell
    num_tensors: int
    num_parameters: int  # all numbers, statistics of norms included
    tensor_bytes: int
    dtypes: dict[str, int]  # type -> tensors
    num_momentum: int
    config: str  # the configuration in the file, as text
    classes: tuple[str, ...]  # their names
    iteration: str
    entry: str
    others: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def to_text(self) -> str:
        rows = [("network", self.network)]
        if self.classes:
            rows.append(("classes", _listing(self.classes)))
        if self.geometry:
            rows.append(("boxes as", f"MODEL.GEOMETRY={self.geometry}"))
        types = ", ".join(
            name if len(self.dtypes) == 1 else f"{count} {name}" for name, count in self.dtypes.items()
        )
        size = f"{self.num_parameters:,} numbers, {_megabytes(self.tensor_bytes)}, {types}"
        rows.append(("weights", f"{self.num_tensors} tensors, {size}"))
        if self.num_momentum:
            rows.append(("momentum", f"for {self.num_momentum} of them"))
        if self.iteration:
            rows.append(("trained", f"{self.iteration} iterations"))
        if self.config:
            rows.append(("config", f"{len(self.config.splitlines())} lines; --config prints them"))
        if self.entry:
            beside = f", beside {_listing(self.others)}" if self.others else ""
            rows.append(("found in", f"entry {self.entry!r}{beside}"))
        head = f"{self.path}: a {self.container} of {_megabytes(self.file_bytes)}, weights of {self.program}"
        return "\n".join([head, *(f"  {name:<10}{value}" for name, value in rows)])


def summarise(file: WeightsFile) -> Summary:
    """What there is to say about a recognised file; no tensor is read."""
    arrays = file.arrays.values()
    network = guess_architecture({name: array.shape for name, array in file.arrays.items()}, file.system)
    told = file.metadata
    classes = json.loads(told["classes"])["names"] if "classes" in told else ()
    return Summary(
        path=str(file.path),
        program=_PROGRAMS[file.system],
        container=_CONTAINERS[file.container],
        file_bytes=file.size,
        network=str(network),
        num_classes=network.num_classes,
        num_keypoints=network.num_keypoints,
        geometry=told.get("geometry", ""),
        num_tensors=len(file.arrays),
        num_parameters=sum(array.numel for array in arrays),
        tensor_bytes=sum(array.nbytes for array in arrays),
        dtypes=dict(Counter(array.dtype for array in arrays).most_common()),
        num_momentum=len(file.momentum),
        config=told.get("config") or told.get("cfg") or _pretty(told.get("checkpoint", "")),
        classes=tuple(classes),
        iteration=told.get("iteration", ""),
        entry=file.entry,
        others=file.others,
    )


def _pretty(text: str) -> str:
    return json.dumps(json.loads(text), indent=2) if text else ""


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count:,} bytes"


def _listing(words: Any, limit: int = 8) -> str:
    return ", ".join(words[:limit]) + (f" and {len(words) - limit} more" if len(words) > limit else "")
