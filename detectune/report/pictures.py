"""Image files as data URIs, made small enough that a page with all of them stays light."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

ROUNDS = ((900, 85), (720, 80), (560, 75), (420, 70), (320, 65))  # longest side in pixels, JPEG quality
BUDGET = 2_600_000  # bytes of all images together before base64, which adds a third


@dataclass(frozen=True)
class Picture:
    """An inlined image and its size in pixels, which the page reserves before it is decoded."""

    uri: str
    width: int
    height: int


def inline_pictures(paths: Sequence[Path], budget: int = BUDGET) -> dict[Path, Picture]:
    """Every readable image of `paths`, at the largest size of ROUNDS at which all of them fit into `budget`."""
    encoded: dict[Path, tuple[bytes, int, int]] = {}
    for side, quality in ROUNDS:
        encoded = {path: found for path in paths if (found := _encode(path, side, quality)) is not None}
        if sum(len(data) for data, _, _ in encoded.values()) <= budget:
            break
    return {
        path: Picture("data:image/jpeg;base64," + base64.b64encode(data).decode(), width, height)
        for path, (data, width, height) in encoded.items()
    }


def _encode(path: Path, side: int, quality: int) -> tuple[bytes, int, int] | None:
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None  # the page says that the picture is missing
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
    return buffer.getvalue(), small.width, small.height
