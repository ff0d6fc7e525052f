"""The records that Detectron trains on, from its own goldens: boxes, classes, areas, crowds, keypoints, mirrors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from detectune.data.coco import read_coco
from detectune.data.records import training_records
from detectune.data.transforms import flip_objects, inclusive_boxes, objects_of


def cases(shared: Path, function: str) -> list[dict]:
    rows = json.loads((shared / "golden/detectron/units/json_dataset.json").read_text())
    return [row for row in rows if row["function"].endswith(function)]


def records_of(case: dict, tmp_path: Path):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(case["in_json"]["coco"]))
    records, info, _ = read_coco([path], [tmp_path])
    kept = training_records(records, gt_min_area=-1, min_side=1.0, need_keypoints=False, source="golden")
    return sorted(kept, key=lambda record: record.image_id), info


def test_get_roidb(shared: Path, tmp_path: Path):
    arrays = np.load(shared / "golden/detectron/units/json_dataset.npz")
    compared = 0
    for case in cases(shared, "get_roidb"):
        records, info = records_of(case, tmp_path)
        class_map = {int(key): value for key, value in case["out_json"]["class_map"].items()}
        assert dict(zip(info.category_ids, range(1, len(info) + 1), strict=True)) == class_map
        for i, record in enumerate(records):
            prefix = f"{case['case']}/out/entry{i}/"
            expected = case["out_json"][f"entry{i}/info"]
            assert (record.image_id, record.height, record.width) == tuple(
                expected[key] for key in ("id", "height", "width")
            )
            np.testing.assert_allclose(
                inclusive_boxes(record.boxes, 1.0), arrays[prefix + "boxes"], atol=1e-4, rtol=0
            )
            np.testing.assert_array_equal(record.labels, arrays[prefix + "gt_classes"])
            np.testing.assert_array_equal(record.areas, arrays[prefix + "seg_areas"])
            np.testing.assert_array_equal(record.is_crowd, arrays[prefix + "is_crowd"].astype(bool))
            for ours, theirs in zip(record.segmentations, case["out_json"]["segms"][i], strict=True):
                if isinstance(ours, list):
                    assert [ring.tolist() for ring in ours] == theirs
            if prefix + "gt_keypoints" in arrays:
                theirs = arrays[prefix + "gt_keypoints"].transpose(0, 2, 1)
                np.testing.assert_array_equal(record.keypoints, theirs)
            compared += len(record)
    assert compared > 30


def test_mirrored_entries(shared: Path, tmp_path: Path):
    """After N entries Detectron's training set has the same N mirrored; ground truth stands first in each."""
    arrays = np.load(shared / "golden/detectron/units/json_dataset.npz")
    compared = 0
    for case in cases(shared, "(steps)"):
        with_keypoints = case["cfg"]["MODEL.KEYPOINTS_ON"]
        records, info = records_of(case, tmp_path)
        prefix = f"{case['case']}/out/entry"
        entries = sorted({int(key[len(prefix) :].split("/")[0]) for key in arrays if key.startswith(prefix)})
        by_id = {record.image_id: record for record in records}
        for i in entries:
            told = case["out_json"][f"entry{i}/info"]
            record = by_id[told["id"]]
            objects = objects_of(record, masks=False, keypoints=with_keypoints, keypoint_shift=0)
            if told["flipped"]:
                objects = flip_objects(
                    objects, record.width, keypoint_flip=info.keypoint_flip, keypoint_shift=0
                )
            classes = arrays[f"{prefix}{i}/gt_classes"]
            truth = arrays[f"{prefix}{i}/boxes"][classes > 0]
            np.testing.assert_allclose(inclusive_boxes(objects.boxes, 1.0), truth, atol=1e-4, rtol=0)
            if with_keypoints:
                theirs = arrays[f"{prefix}{i}/gt_keypoints"].transpose(0, 2, 1)
                np.testing.assert_array_equal(objects.keypoints, theirs)
            compared += len(truth) * told["flipped"]
    assert compared > 20


def test_images_without_visible_keypoints_are_left_out(shared: Path, tmp_path: Path):
    checked = 0
    for case in cases(shared, "get_roidb"):
        records, info = records_of(case, tmp_path)
        if not info.keypoint_names:
            continue
        expected = [
            told["id"]
            for key, told in case["out_json"].items()
            if key.endswith("/info") and told["has_visible_keypoints"]
        ]
        kept = training_records(records, gt_min_area=-1, min_side=1.0, need_keypoints=True, source="golden")
        assert [record.image_id for record in kept] == expected
        checked += 1
    assert checked
