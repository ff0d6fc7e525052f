"""Cityscapes' own AP by the real library, where it is installed; it is no dependency of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hotcoco import mask as coco_mask
from PIL import Image

from detectune.errors import DataError
from detectune.evaluation.cityscapes import evaluate_cityscapes, write_results


def test_the_library_counts_as_its_paper_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One car found with IoU 0.825, which is enough for 7 of the 10 thresholds; one person not found at all."""
    pytest.importorskip(
        "cityscapesscripts", reason="cityscapesscripts is not installed (pip install cityscapesscripts)"
    )
    monkeypatch.chdir(tmp_path)
    frame = "ulm_000000_000019"
    ids = np.full((60, 100), 7, np.uint16)
    ids[10:35, 10:50], ids[40:55, 60:80], ids[0:8, 0:30] = (
        26000,
        24000,
        24,
    )  # a car, a person, a group of persons
    picture = tmp_path / f"{frame}_gtFine_instanceIds.png"
    Image.fromarray(ids).save(picture)
    masks = np.zeros((3, 60, 100), np.uint8)
    masks[0, 10:35, 10:43] = 1
    masks[1, 0:8, 0:20] = 1  # in the group: forgiven
    masks[2, 40:48, 80:92] = 1  # 96 pixels on the road: under the 100 that a region needs to count
    rows = [
        {
            "image_id": 1,
            "category_id": number,
            "score": score,
            "segmentation": coco_mask.encode(np.asfortranarray(mask)),
        }
        for mask, number, score in zip(masks, (3, 1, 1), (0.9, 0.8, 0.7), strict=True)
    ]
    write_results(tmp_path / "found", rows, frames={1: frame}, labels={1: 24, 3: 26})
    before = sorted(tmp_path.iterdir())
    metrics = evaluate_cityscapes(tmp_path / "found", [picture])
    assert metrics == {"cityscapes/AP": pytest.approx(0.7 / 2), "cityscapes/AP50": pytest.approx(1 / 2)}
    assert sorted(tmp_path.iterdir()) == before, "nothing is left in the working directory"
    write_results(tmp_path / "forgiven", rows[1:2], frames={1: frame}, labels={1: 24})
    assert evaluate_cityscapes(tmp_path / "forgiven", [picture]) == {
        "cityscapes/AP": None, "cityscapes/AP50": None,
    }  # fmt: skip
    (tmp_path / "found" / f"{frame}_pred.txt").unlink()
    with pytest.raises(DataError, match="cityscapesscripts cannot evaluate"):
        evaluate_cityscapes(tmp_path / "found", [picture])
