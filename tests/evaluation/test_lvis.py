"""LVIS's average precision against a slow reference of its rules."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from detectune.evaluation.lvis import evaluate_lvis
from detectune.structures import ClassInfo

INFO = ClassInfo(("axe", "bun", "cup"), (2, 5, 9))


def case(seed: int):
    rng = np.random.default_rng(seed)
    images = [
        {
            "id": 10 * i,
            "height": 100,
            "width": 100,
            "neg_category_ids": [2] if i % 2 else [5],
            "not_exhaustive_category_ids": [9] if i % 3 == 0 else [],
        }
        for i in range(1, 9)
    ]
    annotations, rows = [], []
    for number in range(24):
        x, y = rng.integers(0, 60, 2).tolist()
        w, h = rng.integers(10, 40, 2).tolist()
        annotations.append(
            {
                "id": number + 1,
                "image_id": 10 * int(rng.integers(1, 9)),
                "category_id": int(rng.choice([2, 5, 9])),
                "bbox": [x, y, w, h],
                "area": w * h,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
        )
    for a in annotations:
        if rng.random() < 0.8:
            shift = rng.integers(-2, 3, 4).tolist()
            bbox = [float(v + s) for v, s in zip(a["bbox"], shift, strict=True)]
            rows.append({"image_id": a["image_id"], "category_id": a["category_id"], "bbox": bbox,
                         "score": float(rng.random())})  # fmt: skip
    for _ in range(25):
        rows.append({"image_id": 10 * int(rng.integers(1, 9)), "category_id": int(rng.choice([2, 5, 9])),
                     "bbox": [5.0, 5.0, 30.0, 30.0], "score": float(rng.random())})  # fmt: skip
    categories = [
        {"id": number, "name": name, "frequency": frequency}
        for number, name, frequency in zip((2, 5, 9), INFO.names, "rcf", strict=True)
    ]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}, rows


def slow_ap(document, rows, category_id: int, thresh: float) -> float | None:
    """Precision at 101 recalls over the images that were searched for the class."""
    marks, count = [], 0
    for image in document["images"]:
        truth = [
            a["bbox"]
            for a in document["annotations"]
            if a["image_id"] == image["id"] and a["category_id"] == category_id
        ]
        if not truth and category_id not in image["neg_category_ids"]:
            continue
        count += len(truth)
        free = list(range(len(truth)))
        own = [r for r in rows if r["image_id"] == image["id"] and r["category_id"] == category_id]
        for r in sorted(own, key=lambda r: -r["score"]):
            overlaps = {g: overlap(r["bbox"], truth[g]) for g in free}
            best = max(overlaps, key=overlaps.get, default=None)
            if best is not None and overlaps[best] >= thresh:
                free.remove(best)
                marks.append((r["score"], True))
            elif category_id not in image["not_exhaustive_category_ids"]:
                marks.append((r["score"], False))
    if count == 0:
        return None
    points, right = [], 0
    for place, (_, good) in enumerate(sorted(marks, key=lambda m: -m[0]), start=1):
        right += good
        points.append((right / count, right / place))
    levels = np.linspace(0, 1, 101)
    return float(np.mean([max((p for rec, p in points if rec >= level), default=0) for level in levels]))


def overlap(a, b) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(0, width) * max(0, height)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


@pytest.mark.parametrize("seed", range(4))
def test_against_the_slow_reference(seed: int):
    document, rows = case(seed)
    given = copy.deepcopy((document, rows))
    result = evaluate_lvis(document, rows, class_info=INFO, iou_types=["bbox"])
    assert (document, rows) == given
    table = {
        (name, t): slow_ap(document, rows, number, round(0.5 + 0.05 * t, 2))
        for name, number in zip(INFO.names, INFO.category_ids, strict=True)
        for t in range(10)
    }
    of_class = {name: np.mean([table[name, t] for t in range(10)]) for name in INFO.names}
    for name in INFO.names:
        assert result.per_class[name]["bbox/AP"] == pytest.approx(of_class[name])
        assert result.per_class[name]["bbox/AP50"] == pytest.approx(table[name, 0])
        assert result.per_class[name]["num_objects"] == sum(
            a["category_id"] == INFO.category_ids[INFO.names.index(name)] for a in document["annotations"]
        )
    assert result.metrics["bbox/AP"] == pytest.approx(np.mean(list(of_class.values())))
    for metric, name in (("APr", "axe"), ("APc", "bun"), ("APf", "cup")):
        assert result.metrics[f"bbox/{metric}"] == pytest.approx(of_class[name])
    assert 0 < result.metrics["bbox/AP"] < result.metrics["bbox/AP50"] < 1
    assert result.metrics["bbox/APl"] is None and 0 < result.metrics["bbox/AR300"] < 1
    assert len(result.curves["bbox"]["precision_50"]) == 101


def test_masks_too():
    document, rows = case(0)
    for row in rows:
        x, y, w, h = row["bbox"]
        row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    result = evaluate_lvis(document, rows, class_info=INFO)
    assert result.metrics["segm/AP50"] == pytest.approx(result.metrics["bbox/AP50"], abs=0.05)
    assert set(result.curves) == {"bbox", "segm"}


def test_nothing_found():
    document, _ = case(0)
    result = evaluate_lvis(document, [], class_info=INFO)
    assert result.metrics["bbox/AP"] == result.metrics["segm/AP50"] == 0
    assert all(row["bbox/AP"] == 0 for row in result.per_class.values())
