"""VIS: every tested image with its detections, one file each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detectune.engine.drawing import draw_every_image
from detectune.structures import ClassInfo, Detections, Record


def record(image_id: int, file: Path) -> Record:
    return Record(
        image_id, str(file), 60, 80, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool),
        np.zeros(0, np.float32), [], None, np.zeros(0, np.int64),
    )  # fmt: skip


def test_images_of_the_same_name_get_their_own_file_and_weak_detections_are_left_out(tmp_path: Path) -> None:
    records = []
    for number, folder in ((4, "a"), (9, "b")):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(tmp_path / folder / "photo.png")
        records.append(record(number, tmp_path / folder / "photo.png"))
    box = torch.tensor([[10.0, 10.0, 50.0, 40.0]])
    found = {
        4: Detections(box, torch.tensor([0.8]), torch.tensor([1])),
        9: Detections(box, torch.tensor([0.3]), torch.tensor([1])),
    }
    draw_every_image(records, found, ClassInfo(("cell",), (1,)), tmp_path / "drawn", score_thresh=0.5)
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["4_photo.jpg", "9_photo.jpg"]
    strong, weak = (np.asarray(Image.open(tmp_path / "drawn" / f"{i}_photo.jpg")) for i in (4, 9))
    assert strong.shape == (60, 80, 3) and strong.std() > 5
    assert weak.std() == 0


def test_nothing_to_draw_leaves_an_empty_folder(tmp_path: Path) -> None:
    draw_every_image([], {}, ClassInfo(("cell",), (1,)), tmp_path / "drawn", score_thresh=0.5)
    assert list((tmp_path / "drawn").iterdir()) == []
