"""Raw outputs on disk: compressed parts that a later session reads or goes on from.

    cache/cache.json       what was run: weights, data, settings of the network; what the parts can answer
    cache/part_00000.npz   the candidates of some images

A part appears whole or not at all, so an interrupted collection goes on behind its last part. Parts hold arrays only.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detectune.engine.run_directory import atomic_file, output_errors, write_text
from detectune.errors import UserError
from detectune.structures import ImageInfo
from detectune.tuner.raw_outputs import RawImage

FORMAT = 1


@dataclass(frozen=True)
class Reach:
    """Which settings the candidates can answer.

    Attributes:
        score_floor: candidates score above it.
        proposals: most that were looked at (TEST.RPN_POST_NMS_TOP_N, RETINANET.PRE_NMS_TOP_N).
        anchors: most of a level that were looked at (TEST.RPN_PRE_NMS_TOP_N), 0 where proposals were suppressed before.
        shapes: whether there are masks and keypoints.
        soft_masks: whether masks are probabilities, for any threshold.
    """

    score_floor: float
    proposals: int
    anchors: int
    shapes: bool
    soft_masks: bool = False

    def covers(self, other: Reach) -> bool:
        """Whether everything that `other` can answer is answered by this too, and alike."""
        more = (
            self.score_floor <= other.score_floor
            and self.shapes >= other.shapes
            and self.soft_masks >= other.soft_masks
        )
        if not other.anchors:
            return more and not self.anchors and self.proposals >= other.proposals
        return more and self.anchors >= other.anchors


class RawFiles:
    """The parts in a folder, for one network on one data set.

    Args:
        folder: made if it is not there.
        origin: what the outputs depend on, plain values; outputs of another origin are refused.
        reach: what is needed; a folder that reaches further is taken as it is.

    Raises:
        UserError: if the folder holds outputs of something else, or of a smaller reach.
    """

    def __init__(self, folder: Path, origin: Mapping[str, Any], reach: Reach) -> None:
        self.folder, self.reach = folder, reach
        file = folder / "cache.json"
        if not file.is_file():
            with output_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            made = {"format": FORMAT, "origin": dict(origin), "reach": asdict(reach)}
            write_text(file, json.dumps(made, indent=1) + "\n")
            return
        content = _read(file)
        before, now = content["origin"], json.loads(json.dumps(dict(origin)))
        other = [key for key in {**now, **before} if before.get(key) != now.get(key)]
        if other:
            raise UserError(
                f"{folder} holds the raw outputs of another network or data set ({', '.join(other[:3])} differ); give "
                "another --output, or delete that folder."
            )
        kept = Reach(**content["reach"])
        if not kept.covers(reach):
            raise UserError(
                f"{folder} was made for a narrower search ({_said(kept)}; needed: {_said(reach)}); give another "
                "--output, or delete that folder to run the network again."
            )
        self.reach = kept

    def parts(self) -> list[Path]:
        """The finished parts, in the order in which they were written."""
        return sorted(self.folder.glob("part_*.npz"))

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.stat().st_size for part in self.parts())

    def image_ids(self) -> set[int]:
        """The images that are there."""
        done: set[int] = set()
        for part in self.parts():
            with _opened(part) as arrays:
                done |= set(arrays["image_id"].tolist())
        return done

    def write(self, images: Sequence[RawImage]) -> Path:
        """One more part."""
        part = self.folder / f"part_{len(self.parts()):05d}.npz"
        with atomic_file(part) as file:
            np.savez_compressed(file, **_as_arrays(images))  # type: ignore[arg-type]  # arrays by name
        return part

    def read(self) -> list[RawImage]:
        """All images, by rising id."""
        images: dict[int, RawImage] = {}
        for part in self.parts():
            with _opened(part) as arrays:
                images |= {
                    raw.info.image_id: raw for raw in _from_arrays({k: arrays[k] for k in arrays.files})
                }
        return [images[image_id] for image_id in sorted(images)]


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_arrays(images: Sequence[RawImage]) -> dict[str, np.ndarray]:
    infos = [raw.info for raw in images]
    arrays = {
        "image_id": np.array([info.image_id for info in infos]),
        "file_name": np.array([info.file_name for info in infos]),
        "frame": np.array(
            [(info.height, info.width, info.scale_y, info.scale_x) for info in infos], dtype=np.float64
        ),
        "size": torch.stack([raw.size for raw in images]).numpy(),
        "count": np.array([len(raw) for raw in images]),
    }
    for name in ("boxes", "scores", "labels", "place"):
        arrays[name] = torch.cat([getattr(raw, name) for raw in images]).numpy()
    for name in ("proposals", "logits"):
        if getattr(images[0], name) is not None:
            for i, raw in enumerate(images):  # images of different sizes have different numbers of anchors
                arrays[f"{name}_{i}"] = getattr(raw, name).numpy()
    for name in ("masks", "keypoints"):
        if getattr(images[0], name) is not None:
            arrays[name] = torch.cat([getattr(raw, name) for raw in images]).numpy()
    if images[0].rles is not None:
        counts = [rle["counts"].encode() for raw in images for rle in raw.rles or ()]
        arrays["rle_bytes"] = np.frombuffer(b"".join(counts), dtype=np.uint8)
        arrays["rle_lengths"] = np.array([len(count) for count in counts], dtype=np.int64)
    return arrays


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> list[RawImage]:
    rows = np.concatenate(([0], np.cumsum(arrays["count"])))
    letters = b"" if "rle_bytes" not in arrays else arrays["rle_bytes"].tobytes()
    ends = np.concatenate(([0], np.cumsum(arrays.get("rle_lengths", np.zeros(0, dtype=np.int64)))))
    images = []
    for i, (height, width, scale_y, scale_x) in enumerate(arrays["frame"].tolist()):
        own = slice(rows[i], rows[i + 1])
        info = ImageInfo(
            int(arrays["image_id"][i]), str(arrays["file_name"][i]), int(height), int(width), scale_x, scale_y
        )
        rles = None
        if "rle_lengths" in arrays:
            rles = [
                {"size": [info.height, info.width], "counts": letters[ends[j] : ends[j + 1]].decode()}
                for j in range(own.start, own.stop)
            ]
        images.append(
            RawImage(
                info,
                torch.from_numpy(arrays["size"][i]),
                _tensor(arrays["boxes"][own]),
                _tensor(arrays["scores"][own]),
                _tensor(arrays["labels"][own]),
                _tensor(arrays["place"][own]),
                _tensor(arrays.get(f"proposals_{i}")),
                _tensor(arrays.get(f"logits_{i}")),
                rles,
                *(_tensor(arrays[name][own]) if name in arrays else None for name in ("masks", "keypoints")),
            )
        )
    return images


def _tensor(array: np.ndarray | None) -> Any:
    return None if array is None else torch.from_numpy(array)


def _opened(part: Path) -> Any:
    try:
        return np.load(part, allow_pickle=False)
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(
            f"{part} cannot be read ({error}); delete it, and its images are run again."
        ) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        content["origin"], content["reach"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read ({error}); delete its folder, and the network runs again."
        ) from error
    return content


def _said(reach: Reach) -> str:
    anchors = f", {reach.anchors} anchors a level" if reach.anchors else ""
    shapes = ", with masks and keypoints" if reach.shapes else ""
    soft = ", masks for any threshold" if reach.soft_masks else ""
    return f"scores above {reach.score_floor:g}, {reach.proposals} proposals{anchors}{shapes}{soft}"
