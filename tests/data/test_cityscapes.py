"""Cityscapes' pictures of instances and polygons as COCO files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hotcoco import mask as coco_mask
from PIL import Image
from typer.testing import CliRunner

from detectune.cli.data import app
from detectune.data.cityscapes import annotations_of, convert_cityscapes, instance_ids
from detectune.data.formats import read_places
from detectune.data.known_datasets import find_known
from detectune.errors import DataError

FRAMES = {"aachen/aachen_000000_000019": "train", "bonn/bonn_000002_000019": "train", "ulm/ulm_1_2": "val"}
HEIGHT, WIDTH = 30, 50


def picture() -> np.ndarray:
    """Road, two cars of which the second hides a part of the first, a group of persons, a caravan."""
    ids = np.full((HEIGHT, WIDTH), 7, dtype=np.int32)
    ids[5:20, 3:25] = 26000
    ids[10:25, 15:40] = 26001
    ids[0:6, 40:50] = 24
    ids[25:30, 0:10] = 29000
    ids[8, 5:9] = 7  # a hole in the first car
    return ids


def make_cityscapes(root: Path, *, pictures: bool = True) -> Path:
    for name, split in FRAMES.items():
        for kind in ("leftImg8bit", "gtFine"):
            (root / kind / split / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(
            root / "leftImg8bit" / split / f"{name}_leftImg8bit.png"
        )
        if pictures:
            Image.fromarray(picture().astype(np.uint16)).save(
                root / "gtFine" / split / f"{name}_gtFine_instanceIds.png"
            )
    return root


def test_objects_are_the_pictures_pixels(tmp_path: Path):
    document = convert_cityscapes(make_cityscapes(tmp_path), "train")
    assert [image["file_name"] for image in document["images"]] == [
        f"train/{name}_leftImg8bit.png" for name, split in FRAMES.items() if split == "train"
    ]
    own = [a for a in document["annotations"] if a["image_id"] == 1]
    assert [(a["category_id"], a["iscrowd"]) for a in own] == [(24, 1), (26, 0), (26, 0)]
    for annotation, value in zip(own, (24, 26000, 26001), strict=True):
        pixels = picture() == value
        np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]).astype(bool), pixels)
        rows, columns = np.nonzero(pixels)
        left, top = columns.min(), rows.min()
        assert annotation["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
        assert annotation["area"] == pixels.sum()
    assert [a["id"] for a in document["annotations"]] == list(range(1, 7))
    json.dumps(document)


def test_the_file_is_read_under_detectrons_name(tmp_path: Path):
    root = make_cityscapes(tmp_path / "cityscapes")
    result = CliRunner().invoke(app, ["cityscapes", str(root), "--splits", "train, val"])
    assert result.exit_code == 0 and "2 images, 6 objects and groups" in result.output
    place = find_known("cityscapes_fine_instanceonly_seg_train", [tmp_path])
    assert place.format == "cityscapes"
    (records,), info, problems = read_places([place])
    assert not problems and len(records) == 2 and info.names[:3] == ("person", "rider", "car")
    assert records[0].is_crowd.tolist() == [True, False, False]


def test_polygons_where_there_is_no_picture(tmp_path: Path):
    root = make_cityscapes(tmp_path, pictures=False)

    def box(x1: int, y1: int, x2: int, y2: int) -> list[list[int]]:
        """PIL fills the last pixel too."""
        return [[x1, y1], [x2 - 1, y1], [x2 - 1, y2 - 1], [x1, y2 - 1]]

    objects = [
        {"label": "road", "polygon": box(0, 0, WIDTH, HEIGHT)},
        {"label": "car", "polygon": box(3, 5, 25, 20)},
        {"label": "car", "polygon": box(15, 10, 40, 25)},
        {"label": "persongroup", "polygon": box(40, 0, 50, 6)},
        {"label": "car", "polygon": box(0, 0, 9, 9), "deleted": 1},
        {"label": "static", "polygon": box(5, 8, 9, 9)},
    ]
    content = {"imgWidth": WIDTH, "imgHeight": HEIGHT, "objects": objects}
    for name, split in FRAMES.items():
        (root / "gtFine" / split / f"{name}_gtFine_polygons.json").write_text(json.dumps(content))
    ids = instance_ids(root / "gtFine/val", "ulm/ulm_1_2")
    wanted = {24, 26000, 26001}
    for value in wanted:
        np.testing.assert_array_equal(ids == value, picture() == value)
    assert {(a["category_id"], a["area"]) for a in annotations_of(ids)} == {
        (value // 1000 or value, int((picture() == value).sum())) for value in wanted
    }


def test_mistakes(tmp_path: Path):
    with pytest.raises(DataError, match=r"leftImg8bit.train does not exist"):
        convert_cityscapes(tmp_path, "train")
    root = make_cityscapes(tmp_path, pictures=False)
    with pytest.raises(DataError, match="neither this nor the picture"):
        convert_cityscapes(root, "train")
    path = root / "gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json"
    for content in (
        "{",
        "[]",
        '{"imgWidth": 3}',
        '{"imgWidth": 3, "imgHeight": 3, "objects": [{"label": "car"}]}',
    ):
        path.write_text(content)
        with pytest.raises(DataError, match="no polygons of Cityscapes"):
            convert_cityscapes(root, "train")
    broken = root / "gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read"):
        convert_cityscapes(root, "train")
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(broken)
    with pytest.raises(DataError, match="one channel"):
        convert_cityscapes(root, "train")
