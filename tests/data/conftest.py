"""A small COCO data set on disk that tests bend out of shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SIZES = {1: (40, 60), 2: (60, 40), 3: (48, 48)}  # image id: height, width


@dataclass
class TinyCoco:
    """`content` is what will be written; `save` writes it."""

    folder: Path
    content: dict[str, Any]
    files: list[Path] = field(default_factory=list)

    def save(self, name: str = "annotations.json") -> Path:
        path = self.folder / name
        path.write_text(json.dumps(self.content))
        return path

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def add(self, **entry: Any) -> dict[str, Any]:
        """One more annotation, correct but for what is given."""
        annotation = {
            "id": 100 + len(self.content["annotations"]),
            "image_id": 1,
            "category_id": 3,
            "bbox": [10, 10, 20, 16],
            "area": 320.0,
            "iscrowd": 0,
            "segmentation": [[10, 10, 30, 10, 30, 26, 10, 26]],
        } | entry
        self.content["annotations"].append({k: v for k, v in annotation.items() if v is not ...})
        return annotation


@pytest.fixture
def tiny_coco(tmp_path: Path) -> TinyCoco:
    """Three images, four objects (one of them a crowd), categories 3 (cat) and 7 (dog)."""
    return make_tiny_coco(tmp_path)


@pytest.fixture
def tiny_coco_at() -> Callable[[Path], TinyCoco]:
    """The same in a folder of the test's choice."""
    return make_tiny_coco


def make_tiny_coco(folder: Path) -> TinyCoco:
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images = []
    for image_id, (height, width) in SIZES.items():
        name = f"{image_id}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(
            folder / "images" / name
        )
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
    tiny = TinyCoco(
        folder,
        {
            "images": images,
            "annotations": [],
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        },
    )
    tiny.add(id=1)
    tiny.add(id=2, category_id=7, bbox=[0, 0, 12, 30], area=180.0, segmentation=[[0, 0, 12, 30, 0, 30]])
    tiny.add(id=3, image_id=2, bbox=[5, 6, 30, 40], area=1200.0,
             segmentation=[[5, 6, 35, 6, 35, 46, 5, 46], [1, 1, 3, 1, 3, 3]])  # fmt: skip
    tiny.add(id=4, image_id=2, iscrowd=1, bbox=[0, 50, 40, 10], area=400.0,
             segmentation={"size": [60, 40], "counts": [50, *[10, 50] * 39, 10]})  # fmt: skip
    return tiny
