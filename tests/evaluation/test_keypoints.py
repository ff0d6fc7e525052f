"""Keypoint AP: COCO's on persons, with other sigmas for other keypoints, ranked by the score that the row names."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectune.data.coco import read_coco
from detectune.evaluation.coco import KEYPOINT_NAMES, evaluate_coco
from detectune.structures import ClassInfo, Record


def _persons(shared: Path) -> tuple[list[Record], ClassInfo, Path]:
    folder = shared / "data" / "coco_mini"
    file = folder / "annotations" / "person_keypoints_val2017.json"
    records, info, _ = read_coco([file], [folder / "val2017"])
    return records, info, file


def _imperfect_rows(file: Path, seed: int) -> list[dict[str, Any]]:
    """The true poses moved a little, some missing, some doubled, with the boxes of a detector."""
    rng = np.random.default_rng(seed)
    rows = []
    for annotation in json.loads(file.read_text())["annotations"]:
        if annotation["iscrowd"] or rng.random() < 0.2:
            continue
        for _ in range(1 + (rng.random() < 0.2)):
            pose = np.array(annotation["keypoints"], dtype=float).reshape(-1, 3)
            pose[:, :2] += rng.normal(0, 0.03 * annotation["area"] ** 0.5, (len(pose), 2))
            rows.append(
                {"image_id": annotation["image_id"], "category_id": 1, "score": float(rng.random()),
                 "bbox": annotation["bbox"], "keypoints": pose.reshape(-1).tolist()}
            )  # fmt: skip
    return rows


@pytest.mark.parametrize("seed", [0, 1])
def test_all_statistics_equal_pycocotools(shared: Path, seed: int) -> None:
    records, info, file = _persons(shared)
    rows = _imperfect_rows(file, seed)
    result = evaluate_coco(records, rows, class_info=info, iou_types=["bbox", "keypoints"])
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(str(file))
        alone = [{name: value for name, value in row.items() if name != "bbox"} for row in rows]
        reference = COCOeval(ground, ground.loadRes(alone), "keypoints")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    ours = [result.metrics[f"keypoints/{name}"] for name in KEYPOINT_NAMES]
    assert ours == pytest.approx(reference.stats.tolist(), abs=1e-12)
    assert 0.2 < ours[0] < 0.9 and result.per_class["person"]["keypoints/AP"] == pytest.approx(ours[0])


def test_ranking_may_follow_the_keypoints(shared: Path) -> None:
    records, info, file = _persons(shared)
    rows = _imperfect_rows(file, 0)
    by_box = evaluate_coco(records, rows, class_info=info, iou_types=["keypoints"]).metrics["keypoints/AP"]
    ranked = [row | {"keypoint_score": -i} for i, row in enumerate(rows)]
    by_pose = evaluate_coco(records, ranked, class_info=info, iou_types=["keypoints"]).metrics["keypoints/AP"]
    swapped = [row | {"score": -i} for i, row in enumerate(rows)]
    assert by_pose != by_box
    assert (
        by_pose
        == evaluate_coco(records, swapped, class_info=info, iou_types=["keypoints"]).metrics["keypoints/AP"]
    )


def _triangle(shift: float) -> tuple[Record, ClassInfo, dict[str, Any]]:
    corners = np.array([[[10, 30, 2], [20, 10, 2], [30, 30, 1]]], np.float32)
    record = Record(
        image_id=7, file_name="/none.png", height=60, width=60, boxes=np.array([[10, 10, 30, 30]], np.float32),
        labels=np.array([2]), is_crowd=np.array([False]), areas=np.array([2500], np.float32), segmentations=[None],
        keypoints=corners, annotation_ids=np.array([1]),
    )  # fmt: skip
    info = ClassInfo(("square", "triangle"), (1, 2), ("a", "b", "c"), (0, 1, 2), (), (2,))
    pose = corners[0] + np.array([shift, 0, 0])
    row = {"image_id": 7, "category_id": 2, "bbox": [10, 10, 20, 20], "score": 0.9,
           "keypoints": pose.reshape(-1).tolist()}  # fmt: skip
    return record, info, row


def test_other_keypoints_have_other_sigmas() -> None:
    """Three corners off by d pixels of an object of 50 x 50 are similar by exp(-d^2 / (2 * 50^2 * (2 sigma)^2))."""
    for sigmas, shift, similarity in (((), 3.0, 0.8353), ((0.02,) * 3, 3.0, 0.3247), ((), 5.0, 0.6065)):
        record, info, row = _triangle(shift)
        sigma = sigmas[0] if sigmas else 0.05
        assert similarity == pytest.approx(np.exp(-(shift**2) / (2 * 2500 * (2 * sigma) ** 2)), abs=1e-4)
        other = {"image_id": 7, "category_id": 1, "bbox": [40, 40, 9, 9], "score": 0.99}  # without keypoints
        result = evaluate_coco(
            [record], [other, row], class_info=info, iou_types=["keypoints"], sigmas=sigmas
        )
        passed = sum(similarity >= threshold for threshold in np.arange(0.5, 0.96, 0.05))
        assert result.metrics["keypoints/AP"] == pytest.approx(passed / 10)
        assert result.per_class["square"]["keypoints/AP"] is None
