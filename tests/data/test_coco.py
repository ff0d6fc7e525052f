"""COCO JSON -> records: what is read, what is mended, what is refused, and with which words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask
from pycocotools.coco import COCO

from detectune.data.coco import original_image_id, read_coco
from detectune.data.problems import KINDS
from detectune.data.segmentation import unpacked_pixels
from detectune.errors import DataError


def read(tiny):
    return read_coco([tiny.save()], [tiny.images])


def test_labels_follow_rising_category_ids_and_all_images_stay(tiny_coco):
    records, info, problems = read(tiny_coco)
    assert info.names == ("cat", "dog") and info.category_ids == (3, 7)
    assert [r.image_id for r in records] == [1, 2, 3]
    assert [r.labels.tolist() for r in records] == [[1, 2], [1, 1], []]
    assert records[2].boxes.shape == (0, 4)
    assert records[1].is_crowd.tolist() == [False, True]
    np.testing.assert_array_equal(records[0].boxes[0], [10, 10, 30, 26])
    assert not problems


def test_outlines_keep_polygons_and_pack_runs(tiny_coco):
    records, _, _ = read(tiny_coco)
    assert len(records[1].segmentations[0]) == 2
    rle = records[1].segmentations[1]
    pixels = mask.decode(rle)
    assert pixels.shape == (60, 40) and pixels[50:].all() and not pixels[:50].any()


BAD_ANNOTATIONS = {
    "unknown_category": {"category_id": 99},
    "unknown_image": {"image_id": 77},
    "degenerate_box": {"bbox": [3, 3, 0, 5]},
    "invalid_box": {"bbox": [3, 3, 4]},
    "box_outside": {"bbox": [200, 3, 4, 5]},
    "zero_area": {"area": 0},
    "ignored": {"ignore": 1},
}


@pytest.mark.parametrize(("kind", "change"), BAD_ANNOTATIONS.items())
def test_a_bad_annotation_is_named_and_left_out(tiny_coco, kind, change):
    tiny_coco.add(id=55, **change)
    records, _, problems = read(tiny_coco)
    assert problems.counts == {kind: 1}
    assert "annotation 55" in problems.line(kind)
    assert 55 not in np.concatenate([r.annotation_ids for r in records])


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("no_segmentation", {"segmentation": ...}),
        ("no_segmentation", {"segmentation": []}),
        ("invalid_segmentation", {"segmentation": [[1, 2, 3, 4]]}),
        ("invalid_segmentation", {"segmentation": [[1, 2, 3, 4, 5, "x"]]}),
        ("invalid_segmentation", {"segmentation": {"size": [40, 60], "counts": [3, 4]}}),
        ("invalid_segmentation", {"segmentation": {"size": [40, 60], "counts": "zzzzzz"}}),
        ("invalid_segmentation", {"segmentation": {"size": [40, 60], "counts": "PS24"}}),
        ("rle_size", {"segmentation": {"size": [60, 40], "counts": [2400]}}),
    ],
)
def test_a_bad_outline_is_named_and_the_box_stays(tiny_coco, kind, change):
    tiny_coco.add(id=55, **change)
    records, _, problems = read(tiny_coco)
    assert problems.counts == {kind: 1}
    row = records[0].annotation_ids.tolist().index(55)
    assert records[0].segmentations[row] is None


@pytest.mark.parametrize("seed", range(20))
def test_the_pixels_of_a_packed_rle_are_counted_without_unpacking_it(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 300, 2)
    pixels = np.asfortranarray(
        rng.random((height, width)) < rng.choice([0, 0.001, 0.1, 0.5, 1]), dtype=np.uint8
    )
    counts = mask.encode(pixels)["counts"].decode()
    assert unpacked_pixels(counts) == height * width
    assert unpacked_pixels(counts + "1") != height * width


def test_boxes_are_cut_at_the_border_and_named_beyond_a_pixel(tiny_coco):
    tiny_coco.add(id=55, bbox=[-4, 30, 20, 20])
    tiny_coco.add(id=56, bbox=[40, 20, 20.6, 20])
    records, _, problems = read(tiny_coco)
    np.testing.assert_allclose(records[0].boxes[2:], [[0, 30, 16, 40], [40, 20, 60, 40]])
    assert problems.counts == {"box_partly_outside": 1}


def test_a_missing_area_is_counted_on_the_raster(tiny_coco):
    tiny_coco.add(id=55, area=..., segmentation=[[10, 10, 20, 10, 20, 15, 10, 15]])
    tiny_coco.add(id=56, area=..., segmentation=..., bbox=[1, 1, 4, 5])
    records, _, problems = read(tiny_coco)
    assert records[0].areas[2:].tolist() == [50, 20]
    assert problems.counts["missing_area"] == 2


def test_duplicates_are_named(tiny_coco):
    tiny_coco.add(id=1)
    tiny_coco.content["images"].append({"id": 2, "file_name": "3.png", "height": 48, "width": 48})
    records, _, problems = read(tiny_coco)
    assert problems.counts == {"duplicate_annotation_id": 1, "duplicate_image_id": 1}
    assert len(records) == 3 and len(records[0]) == 3
    with pytest.raises(DataError, match=r"1 image ids occur twice \(2: 3.png and .*2.png\)"):
        problems.raise_if_fatal("tiny")


def test_missing_images_are_counted_and_the_first_few_named(tiny_coco):
    for i in range(10, 20):
        tiny_coco.content["images"].append({"id": i, "file_name": f"no_{i}.jpg", "height": 5, "width": 5})
    _, _, problems = read(tiny_coco)
    with pytest.raises(DataError) as caught:
        problems.raise_if_fatal("tiny")
    assert "10 image files are missing" in str(caught.value)
    assert "no_10.jpg" in str(caught.value) and "and 5 more" in str(caught.value)


def test_every_fatal_kind_stops_and_no_other_does(tiny_coco):
    _, _, problems = read(tiny_coco)
    for kind in KINDS:
        problems.counts, problems.examples = {}, {}
        problems.add(kind, "case")
        if KINDS[kind].fatal:
            with pytest.raises(DataError, match="case"):
                problems.raise_if_fatal("x")
        else:
            problems.raise_if_fatal("x")


def test_broken_json_is_placed(tmp_path: Path):
    path = tmp_path / "broken.json"
    path.write_text('{"images": [],\n "annotations": [1, }')
    with pytest.raises(DataError, match=r"broken.json:2:21: this is not valid JSON"):
        read_coco([path], [tmp_path])


def test_a_missing_file_names_the_nearest(tiny_coco):
    tiny_coco.save()
    with pytest.raises(DataError, match=r"Did you mean .*annotations.json"):
        read_coco([tiny_coco.folder / "anotations.json"], [tiny_coco.images])
    with pytest.raises(DataError, match=r"folder of images .* Did you mean .*images"):
        read_coco([tiny_coco.save()], [tiny_coco.folder / "image"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": [], "info": {}}, "'annotations', 'categories' are missing .it has 'images', 'info'"),
        ([{"image_id": 1, "score": 0.5}], "holds a list; a list is what detections are saved as"),
        ({"images": [], "annotations": [], "categories": []}, "'categories' is empty"),
        ({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}, "'images' is empty"),
        ({"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}, "file_name"),
    ],
)
def test_what_is_not_coco_is_described(tmp_path: Path, content, words):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        read_coco([path], [tmp_path])


def test_files_are_joined_and_their_image_ids_made_unique(tmp_path, tiny_coco_at):
    first, second = tiny_coco_at(tmp_path / "a"), tiny_coco_at(tmp_path / "b")
    second.content["categories"] = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
    records, info, _ = read_coco([first.save(), second.save()], [first.images, second.images])
    assert info.names == ("cat", "dog")
    assert len({r.image_id for r in records}) == 6
    assert [original_image_id(r.image_id) for r in records] == [1, 2, 3, 1, 2, 3]
    assert [r.labels.tolist() for r in records] == [[1, 2], [1, 1], [], [2, 1], [2, 2], []]
    assert Path(records[3].file_name).parent == second.images


def test_files_whose_ids_contradict_each_other_are_refused(tmp_path, tiny_coco_at):
    first, second = tiny_coco_at(tmp_path / "a"), tiny_coco_at(tmp_path / "b")
    second.content["categories"] = [{"id": 3, "name": "horse"}, {"id": 7, "name": "dog"}]
    with pytest.raises(DataError, match=r"category id 3 is 'cat' in the first and 'horse' in the second"):
        read_coco([first.save(), second.save()], [first.images, second.images])


def test_new_classes_of_a_second_file_are_added(tmp_path, tiny_coco_at):
    first, second = tiny_coco_at(tmp_path / "a"), tiny_coco_at(tmp_path / "b")
    second.content["categories"] = [
        {"id": 5, "name": "horse"},
        {"id": 3, "name": "cat"},
        {"id": 7, "name": "dog"},
    ]
    _, info, _ = read_coco([first.save(), second.save()], [first.images, second.images])
    assert info.names == ("cat", "horse", "dog")


def test_keypoints_flip_by_their_names(tiny_coco):
    tiny_coco.content["categories"][1] |= {
        "keypoints": ["nose", "left_ear", "right_ear", "left_only"],
        "skeleton": [[1, 2], [1, 3]],
    }
    tiny_coco.add(id=55, keypoints=[11, 12, 2, 13, 14, 1, 0, 0, 0, 0, 0, 0])
    tiny_coco.add(id=56, keypoints=[1, 2, 2])
    records, info, problems = read(tiny_coco)
    assert info.keypoint_flip == (0, 2, 1, 3)
    assert info.keypoint_skeleton == ((0, 1), (0, 2))
    assert records[0].keypoints.shape == (4, 4, 3)
    np.testing.assert_array_equal(records[0].keypoints[2, :2], [[11, 12, 2], [13, 14, 1]])
    assert not records[0].keypoints[3].any()
    assert problems.counts == {"invalid_keypoints": 1}


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_coco_mini_equals_what_pycocotools_reads(shared: Path, split: str):
    folder = shared / "data/coco_mini"
    for name in (f"instances_{split}", f"person_keypoints_{split}"):
        path = folder / "annotations" / f"{name}.json"
        records, info, problems = read_coco([path], [folder / split])
        assert not problems.fatal()
        coco = COCO(path)
        assert len(records) == len(coco.imgs)
        label = {category: i + 1 for i, category in enumerate(sorted(coco.getCatIds()))}
        assert list(info.category_ids) == sorted(label)
        for record in records:
            rows = coco.loadAnns(coco.getAnnIds(imgIds=[record.image_id]))
            assert record.annotation_ids.tolist() == [row["id"] for row in rows]
            assert record.labels.tolist() == [label[row["category_id"]] for row in rows]
            assert record.is_crowd.tolist() == [bool(row["iscrowd"]) for row in rows]
            np.testing.assert_array_equal(record.areas, np.float32([row["area"] for row in rows]))
            for outline, row in zip(record.segmentations, rows, strict=True):
                if isinstance(outline, list):
                    assert [ring.tolist() for ring in outline] == row["segmentation"]


def test_penn_fudan_is_clean(shared: Path):
    folder = shared / "data/penn_fudan"
    records, info, problems = read_coco([folder / "instances_train.json"], [folder / "images"])
    assert (len(records), sum(map(len, records)), info.names) == (120, 292, ("person",))
    assert not problems
