"""Files of ready-made proposals: Detectron's `.pkl` and our `.npz`, read and written.

`.pkl`  {'boxes': [float32 [P, 4] for each image], 'scores': [float32 [P]], 'ids': [image id], 'cfg': text}; boxes are
        inclusive (x2 is the last pixel) in pixels of the original image. Older files say 'indexes' for 'ids'.
        detectron2's say 'objectness_logits' for 'scores' and have a 'bbox_mode' instead of 'cfg'; their boxes are
        continuous, and of the mode 1 (x, y, width, height) or 0 (corners).
`.npz`  numpy's archive of `image_ids` int64 [I], `counts` int64 [I], `boxes` float32 [sum of counts, 4] in the order of
        the images, and `scores` float32 [sum of counts] or none. Boxes are continuous (x2 = x1 + width).

In memory boxes are inclusive, as Detectron's treatment of proposals wants them (`proposals.py`).
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detectune.data.json_file import missing_path
from detectune.errors import DataError
from detectune.pickles import dump_pickle, load_pickle

WHAT = "proposal file"
DETECTRON_ADDRESS = "https://dl.fbaipublicfiles.com/detectron/"
LARGEST_RATIO = 100  # of an archive's contents to the file; ours are not compressed, people's may be


@dataclass(frozen=True)
class Proposals:
    """Boxes of many images, best first where there are scores."""

    image_ids: list[int]
    boxes: list[np.ndarray]  # float32 [P, 4] each, inclusive xyxy, original pixels
    scores: list[np.ndarray] | None  # float32 [P] each

    def __len__(self) -> int:
        return len(self.image_ids)


def proposal_path(named: str, *, root: Path, download_cache: str) -> Path:
    """The file that PROPOSAL_FILES names: a path, or the address of one of Detectron's, kept in DOWNLOAD_CACHE.

    Nothing is downloaded here; a `DataError` says where the file is expected.
    """
    if not named.startswith(("http://", "https://")):
        return root / Path(named).expanduser()
    inside = named.removeprefix(DETECTRON_ADDRESS)
    place = Path(download_cache).expanduser() / inside.partition("://")[2 if "://" in inside else 0]
    if not place.is_file():
        raise DataError(
            f"The proposals of {named} are expected in {place} (DOWNLOAD_CACHE), which does not exist; download the "
            "file there, or name another one in PROPOSAL_FILES."
        )
    return place


def read_proposals(path: Path) -> Proposals:
    """The proposals of a file of either kind.

    Raises:
        DataError: if it cannot be read, is of neither kind or contradicts itself.
    """
    if not path.is_file():
        raise DataError(missing_path(path, WHAT))
    try:
        with open(path, "rb") as file:
            is_archive = file.read(4) == b"PK\x03\x04"
        found = _from_archive(path) if is_archive else _from_pickle(path)
    except OSError as error:
        raise DataError(f"{path}: the {WHAT} cannot be opened ({error.strerror or error}).") from error
    for image_id, boxes in zip(found.image_ids, found.boxes, strict=True):
        if not np.isfinite(boxes).all():
            raise DataError(
                f"{path}: image {image_id} has proposals that are not finite; make the file anew."
            )
    if len(set(found.image_ids)) < len(found):
        twice = Counter(found.image_ids).most_common(1)[0][0]
        raise DataError(f"{path}: image id {twice} occurs twice; give each image one entry.")
    return found


def proposals_to_bytes(proposals: Proposals, suffix: str, *, cfg: str = "") -> bytes:
    """The contents of a `.pkl` (with `cfg`, the configuration as YAML) or of a `.npz` file."""
    if suffix == ".pkl":
        scores = proposals.scores or [np.zeros(len(own), np.float32) for own in proposals.boxes]
        return dump_pickle(
            {"boxes": proposals.boxes, "scores": scores, "ids": list(proposals.image_ids), "cfg": cfg}
        )
    if suffix != ".npz":
        raise DataError(f"Proposals are written as .pkl or .npz, not as {suffix or 'a file without suffix'}.")
    arrays = {
        "image_ids": np.array(proposals.image_ids, dtype=np.int64),
        "counts": np.array([len(own) for own in proposals.boxes], dtype=np.int64),
        "boxes": _joined(proposals.boxes, (0, 4)) + np.array([0, 0, 1, 1], dtype=np.float32),
    }
    if proposals.scores is not None:
        arrays["scores"] = _joined(proposals.scores, (0,))
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _joined(parts: Sequence[np.ndarray], empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(empty, dtype=np.float32)


def _from_pickle(path: Path) -> Proposals:
    content = load_pickle(path, what=WHAT, error=DataError)
    if not isinstance(content, dict):
        raise DataError(f"{path}: a {WHAT} is a dict with 'boxes' and 'ids', not a {type(content).__name__}.")
    ids = content.get("indexes", content.get("ids"))
    boxes, scores = content.get("boxes"), content.get("scores", content.get("objectness_logits"))
    if isinstance(ids, np.ndarray):
        ids = list(ids.ravel())
    if not isinstance(ids, (list, tuple)) or not isinstance(boxes, (list, tuple)):
        has = ", ".join(repr(key)[:40] for key in list(content)[:8]) or "nothing"
        raise DataError(f"{path}: a {WHAT} has the lists 'boxes' and 'ids'; this one has {has}.")
    if len(ids) != len(boxes) or (isinstance(scores, (list, tuple)) and len(scores) not in (0, len(boxes))):
        counts = f"{len(ids)} ids, {len(boxes)} entries of boxes"
        raise DataError(
            f"{path}: the lists of a {WHAT} have one entry for each image, but there are {counts}."
        )
    image_ids = [_image_id(path, value) for value in ids]
    table = [_array(path, i, own, (4,)) for i, own in zip(image_ids, boxes, strict=True)]
    if "objectness_logits" in content or "bbox_mode" in content:
        table = [_inclusive(path, own, content.get("bbox_mode", 0)) for own in table]
    if not isinstance(scores, (list, tuple)) or not scores:
        return Proposals(image_ids, table, None)
    values = [_array(path, i, own, ()) for i, own in zip(image_ids, scores, strict=True)]
    for image_id, own, value in zip(image_ids, table, values, strict=True):
        if len(own) != len(value):
            raise DataError(f"{path}: image {image_id} has {len(own)} proposals and {len(value)} scores.")
    return Proposals(image_ids, table, values)


def _inclusive(path: Path, boxes: np.ndarray, mode: Any) -> np.ndarray:
    """detectron2's boxes [P, 4] as Detectron has them."""
    if mode not in (0, 1):
        raise DataError(
            f"{path}: bbox_mode is {mode!r}; 0 (corners) and 1 (x, y, width, height) can be read."
        )
    if mode == 1:
        boxes = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)
    return boxes - np.array([0, 0, 1, 1], dtype=np.float32)


def _from_archive(path: Path) -> Proposals:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > LARGEST_RATIO * path.stat().st_size:
            raise DataError(f"{path}: this {WHAT} unpacks to {unpacked} bytes, which no list of boxes does.")
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, MemoryError, RuntimeError) as error:
        raise DataError(
            f"{path}: this {WHAT} is no archive of arrays ({error}); it may be cut off."
        ) from error
    for name in ("image_ids", "counts", "boxes"):
        if not isinstance(arrays.get(name), np.ndarray):
            raise DataError(f"{path}: a {WHAT} (.npz) has image_ids, counts and boxes; {name} is missing.")
    image_ids = [_image_id(path, value) for value in arrays["image_ids"].ravel()]
    counts = arrays["counts"].ravel()
    boxes = _array(path, None, arrays["boxes"], (4,)) - np.array([0, 0, 1, 1], dtype=np.float32)
    scores = None if "scores" not in arrays else _array(path, None, arrays["scores"], ())
    if (
        counts.dtype.kind not in "iu"
        or (counts < 0).any()
        or (counts > len(boxes)).any()  # their sum could overflow
        or len(counts) != len(image_ids)
        or counts.sum() != len(boxes)
        or (scores is not None and len(scores) != len(boxes))
    ):
        raise DataError(
            f"{path}: {len(image_ids)} image_ids, {len(counts)} counts that add up to {counts.sum()} and {len(boxes)} "
            "boxes contradict each other; there is one count for each image, and they add up to the boxes."
        )
    ends = np.cumsum(counts)[:-1]
    return (
        Proposals(image_ids, np.split(boxes, ends), None if scores is None else np.split(scores, ends))
        if image_ids
        else Proposals([], [], None)
    )


def _image_id(path: Path, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or abs(int(value)) >= 2**62:
        shown = repr(value[:40]) if isinstance(value, str) else f"of the kind {type(value).__name__}"
        raise DataError(f"{path}: an image id {shown} is no whole number, as COCO's ids are.")
    return int(value)


def _array(path: Path, image_id: int | None, value: Any, last: tuple[int, ...]) -> np.ndarray:
    """float32 [P, *last]; nothing at all is P = 0, and a column of scores is a list of them."""
    place = "" if image_id is None else f"image {image_id}: "
    if not isinstance(value, (np.ndarray, list)) or (
        isinstance(value, np.ndarray) and value.dtype.kind not in "iuf"
    ):
        raise DataError(f"{path}: {place}an array of numbers belongs here, not a {type(value).__name__}.")
    if isinstance(value, np.ndarray) and value.ndim == 0:
        raise DataError(f"{path}: {place}a list of numbers belongs here, not a single one.")
    if len(value) == 0:
        return np.zeros((0, *last), dtype=np.float32)
    if isinstance(value, list) and not all(_is_row(row, last) for row in value):
        raise DataError(f"{path}: {place}the entries are no numbers{', four for each box' if last else ''}.")
    try:
        with np.errstate(over="ignore"):  # infinity is complained about by name
            array = np.asarray(value).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {place}the entries are no numbers ({error}).") from error
    if last == () and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape[1:] != last:
        raise DataError(f"{path}: {place}the shape is {list(array.shape)}, not [P{', 4' if last else ''}].")
    return array


def _is_row(row: Any, last: tuple[int, ...]) -> bool:
    """Looked at before numpy does, which would follow nested lists for ever."""
    if last == ():
        return isinstance(row, (int, float, np.number))
    return isinstance(row, (list, tuple)) and len(row) == last[0] and all(_is_row(v, ()) for v in row)
