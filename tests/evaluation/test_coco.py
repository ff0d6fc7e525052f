"""COCO's numbers: equal to pycocotools on real annotations with imperfect detections, and defined where they can be."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as reference_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectune.data.coco import read_coco
from detectune.evaluation.coco import NAMES, coco_truth, evaluate_coco
from detectune.structures import ClassInfo, Record


def records_of(shared: Path) -> tuple[list[Record], ClassInfo, Path]:
    folder = shared / "data" / "coco_mini"
    file = folder / "annotations" / "instances_val2017.json"
    records, info, _ = read_coco([file], [folder / "val2017"])
    return records, info, file


def imperfect_rows(records: list[Record], info: ClassInfo, file: Path, seed: int) -> list[dict[str, Any]]:
    """Detections made from the truth: moved, some dropped, some doubled, some of a wrong class."""
    rng = np.random.default_rng(seed)
    reference = COCO(str(file))
    rows = []
    for annotation in reference.dataset["annotations"]:
        if rng.random() < 0.2:
            continue
        for _ in range(1 + (rng.random() < 0.2)):
            x, y, w, h = annotation["bbox"]
            dx, dy = rng.normal(0, 0.08, 2) * (w, h)
            rle = reference.annToRLE(annotation)
            shifted = np.roll(reference_mask.decode(rle), int(dx), axis=1)
            encoded = reference_mask.encode(np.asfortranarray(shifted))
            category = annotation["category_id"]
            if rng.random() < 0.1:
                category = info.category_ids[rng.integers(len(info))]
            rows.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": int(category),
                    "bbox": [x + dx, y + dy, w * rng.uniform(0.85, 1.15), h * rng.uniform(0.85, 1.15)],
                    "score": float(rng.random()),
                    "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
                }
            )
    return rows


def reference_stats(truth: dict[str, Any], rows: list[dict[str, Any]], task: str) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = truth
        ground.createIndex()
        own = json.loads(json.dumps(rows))
        for row in own:  # the areas of masks, not of boxes, tell small from large
            if task == "segm":
                row.pop("bbox")
        evaluation = COCOeval(ground, ground.loadRes(own), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", [0, 1])
def test_all_statistics_equal_pycocotools(shared: Path, seed: int) -> None:
    records, info, file = records_of(shared)
    rows = imperfect_rows(records, info, file, seed)
    result = evaluate_coco(records, rows, class_info=info)
    document = json.loads(file.read_text())
    for task in ("bbox", "segm"):
        stats = reference_stats(document, rows, task).stats
        ours = [result.metrics[f"{task}/{name}"] for name in NAMES]
        assert ours == pytest.approx(stats.tolist(), abs=1e-12)
    assert 0.2 < result.metrics["bbox/AP"] < 0.9  # the case is neither empty nor perfect


def test_per_class_ap_and_counts_follow_the_labels(shared: Path) -> None:
    records, info, file = records_of(shared)
    rows = imperfect_rows(records, info, file, 0)
    result = evaluate_coco(records, rows, class_info=info)
    reference = reference_stats(json.loads(file.read_text()), rows, "bbox")
    precision = reference.eval["precision"][:, :, :, 0, 2]
    for k, number in enumerate(reference.params.catIds):
        name = info.names[info.category_ids.index(number)]
        known = precision[:, :, k][precision[:, :, k] > -1]
        expected = pytest.approx(known.mean()) if known.size else None
        assert result.per_class[name]["bbox/AP"] == expected
        assert result.per_class[name]["num_detections"] == sum(r["category_id"] == number for r in rows)
    assert result.per_class["hot dog"] == {
        "num_objects": 0, "num_detections": result.per_class["hot dog"]["num_detections"],
        "bbox/AP": None, "bbox/AP50": None, "segm/AP": None, "segm/AP50": None,
    }  # fmt: skip


def test_recall_of_each_class_is_pycocotools(shared: Path) -> None:
    records, info, file = records_of(shared)
    rows = imperfect_rows(records, info, file, seed=5)
    ours = evaluate_coco(records, rows, class_info=info, iou_types=["bbox"], class_recall=True).per_class
    theirs = reference_stats(json.loads(file.read_text()), rows, "bbox")
    order = list(theirs.params.catIds)
    for name, number in zip(info.names, info.category_ids, strict=True):
        recall = theirs.eval["recall"][:, order.index(number), 0, -1]
        expected = None if (recall < 0).all() else pytest.approx(float(recall[recall > -1].mean()), abs=1e-12)
        assert ours[name]["bbox/AR"] == expected, name
    plain = evaluate_coco(records, rows, class_info=info, iou_types=["bbox"]).per_class
    assert all("bbox/AR" not in row for row in plain.values())
    nothing = evaluate_coco([one_square()], [], class_info=ClassInfo(("square",), (1,)), class_recall=True)
    assert nothing.per_class["square"]["segm/AR"] == 0.0


def one_square(label: int = 1) -> Record:
    return Record(
        image_id=7, file_name="/none.png", height=40, width=50,
        boxes=np.array([[10, 10, 30, 30]], np.float32), labels=np.array([label]), is_crowd=np.array([False]),
        areas=np.array([400], np.float32), segmentations=[[np.array([10.0, 10, 30, 10, 30, 30, 10, 30])]],
        keypoints=None, annotation_ids=np.array([1]),
    )  # fmt: skip


def test_classes_keep_their_labels_when_category_ids_are_not_sorted() -> None:
    info = ClassInfo(("late", "early"), (9, 2))
    row = {"image_id": 7, "category_id": 9, "bbox": [10, 10, 20, 20], "score": 0.9}
    result = evaluate_coco([one_square()], [row], class_info=info, iou_types=["bbox"])
    assert result.per_class["late"]["bbox/AP"] == pytest.approx(1.0)
    assert result.per_class["early"]["bbox/AP"] is None
    assert result.curves["bbox"]["per_class_50"]["early"] is None


def test_nothing_found_is_zero_and_nothing_to_find_is_undefined() -> None:
    info = ClassInfo(("square",), (1,))
    assert evaluate_coco([one_square()], [], class_info=info).metrics["bbox/AP"] == 0.0
    empty = one_square()
    empty = Record(
        image_id=1, file_name="/none.png", height=4, width=4, boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64), is_crowd=np.zeros(0, bool), areas=np.zeros(0, np.float32),
        segmentations=[], keypoints=None, annotation_ids=np.zeros(0, np.int64),
    )  # fmt: skip
    assert evaluate_coco([empty], [], class_info=info).metrics["bbox/AP"] is None
    row = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "score": 0.9}
    result = evaluate_coco([empty], [row], class_info=info, iou_types=["bbox"])
    assert result.metrics["bbox/AP"] is None
    json.dumps(result.curves, allow_nan=False)


def test_the_document_made_of_records_has_their_masks(shared: Path) -> None:
    records, info, file = records_of(shared)
    ours = {a["area"] for a in coco_truth(records, info)["annotations"]}
    theirs = {np.float32(a["area"]).item() for a in json.loads(file.read_text())["annotations"]}
    assert ours == theirs
