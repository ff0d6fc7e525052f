"""The fast evaluator equals COCO's own on the same detections: every metric, each class, each task, crowds and ties."""

from __future__ import annotations

import numpy as np
import pytest

from detectune.data.coco import read_coco
from detectune.evaluation.average_precision import AREAS, Found, match, mean_precision, precision_and_recall
from detectune.evaluation.coco import evaluate_coco
from detectune.evaluation.truth import Truth
from detectune.ops.rles import mask_to_rle, segmentation_mask
from detectune.structures import ClassInfo, Record

INFO = ClassInfo(("cat", "dog", "cow"), (3, 1, 8), ("nose", "tail"), (0, 1))
SIGMAS = (0.05, 0.1)


def made(seed: int, num_images: int = 12) -> tuple[list[Record], list[dict]]:
    """Images of objects of three classes, some of them crowds, and detections around them, with equal scores."""
    rng = np.random.default_rng(seed)
    records, rows = [], []
    for number in rng.permutation(num_images).tolist():
        count = int(rng.integers(0, 7))
        corner, side = rng.uniform(0, 120, (count, 2)), rng.choice([20.0, 40.0, 60.0, 110.0], (count, 2))
        boxes = np.concatenate((corner, corner + side), 1).astype(np.float32)
        labels = rng.integers(1, 4, count)
        points = np.concatenate(
            (
                rng.uniform(boxes[:, None, :2], boxes[:, None, 2:], (count, 2, 2)),
                rng.integers(0, 3, (count, 2, 1)),
            ),
            2,
        ).astype(np.float32)
        records.append(
            Record(
                number, f"{number}.jpg", 240, 240, boxes, labels, rng.random(count) < 0.15,
                side.prod(1).astype(np.float32) * 0.8, [None] * count, points, np.arange(count),
            )
        )  # fmt: skip
        for box, label, pose in zip(boxes, labels, points, strict=True):
            for _ in range(int(rng.integers(0, 5))):
                x, y = box[:2] + rng.normal(0, 4, 2)
                w, h = (box[2:] - box[:2]) * rng.uniform(0.8, 1.2, 2)
                moved = pose[:, :2] + rng.normal(0, 3, (2, 2))
                rows.append(
                    {
                        "image_id": number,
                        "category_id": INFO.category_ids[
                            label - 1 if rng.random() < 0.8 else rng.integers(3)
                        ],
                        "bbox": [float(x), float(y), float(w), float(h)],
                        "score": float(rng.integers(1, 12)) / 12,
                        "keypoints": np.concatenate((moved, np.ones((2, 1))), 1).reshape(-1).tolist(),
                    }
                )
    return records, rows


def found_of(truth: Truth, rows: list[dict], info: ClassInfo) -> Found:
    """Result rows as arrays, image by image."""
    label = {number: k for k, number in enumerate(info.category_ids, start=1)}
    parts = []
    for image_id in truth.image_ids:
        own = [row for row in rows if row["image_id"] == image_id]
        labels = np.array([label[row["category_id"]] for row in own], dtype=np.int64)
        geometry: object = np.array([row["bbox"] for row in own], dtype=np.float64).reshape(-1, 4)
        if truth.task == "segm":
            geometry = [row["segmentation"] for row in own]
        elif truth.task == "keypoints":
            geometry = np.array([row["keypoints"] for row in own], dtype=np.float64).reshape(len(own), 2, 3)
        parts.append((image_id, labels, [row["score"] for row in own], geometry))
    pairs = [truth.overlaps(image_id, labels, geometry) for image_id, labels, _, geometry in parts]
    width = max(objects.shape[1] for objects, _ in pairs)

    def wide(array: np.ndarray, fill: float) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)

    return Found(
        np.concatenate([np.full(len(labels), truth.number[image_id]) for image_id, labels, _, _ in parts]),
        np.concatenate([labels for _, labels, _, _ in parts]),
        np.concatenate([np.array(scores, dtype=np.float64) for _, _, scores, _ in parts]),
        np.concatenate([truth.areas(geometry) for _, _, _, geometry in parts]),
        np.concatenate([wide(objects, -1) for objects, _ in pairs]),
        np.concatenate([wide(overlaps, 0) for _, overlaps in pairs]),
    )


@pytest.mark.parametrize("task", ["bbox", "keypoints"])
@pytest.mark.parametrize("seed", range(6))
def test_every_metric_equals_cocos(seed: int, task: str) -> None:
    records, rows = made(seed)
    want = evaluate_coco(records, rows, class_info=INFO, iou_types=[task], sigmas=SIGMAS)
    truth = Truth(records, INFO, task, sigmas=SIGMAS)
    found = found_of(truth, rows, INFO)
    matched = match(found, truth.objects, limit=truth.limit)
    assert mean_precision(matched) == pytest.approx(want.metrics[f"{task}/AP"], abs=1e-9)
    assert 0.02 < want.metrics[f"{task}/AP"] < 0.98
    assert mean_precision(matched, at=slice(0, 1)) == pytest.approx(want.metrics[f"{task}/AP50"], abs=1e-9)
    assert mean_precision(matched, at=slice(5, 6)) == pytest.approx(want.metrics[f"{task}/AP75"], abs=1e-9)
    precision, recall = precision_and_recall(matched)
    for k, name in enumerate(INFO.names):
        assert np.nanmean(precision[:, k]) == pytest.approx(want.per_class[name][f"{task}/AP"], abs=1e-9)
    total = "AR" if task == "keypoints" else "AR100"
    assert np.nanmean(recall) == pytest.approx(want.metrics[f"{task}/{total}"], abs=1e-9)
    for size in [
        size for size in AREAS if size != "all" and want.metrics.get(f"{task}/AP{size}") is not None
    ]:
        ours = mean_precision(match(found, truth.objects, area=size, limit=truth.limit))
        assert ours == pytest.approx(want.metrics[f"{task}/AP{size}"], abs=1e-9), size


def test_limits_count_by_class_and_image() -> None:
    records, rows = made(3, num_images=6)
    truth = Truth(records, INFO, "bbox")
    found = found_of(truth, rows, INFO)
    want = evaluate_coco(records, rows, class_info=INFO, iou_types=["bbox"])
    for limit in (1, 10):
        recall = precision_and_recall(match(found, truth.objects, limit=limit))[1]
        assert np.nanmean(recall) == pytest.approx(want.metrics[f"bbox/AR{limit}"], abs=1e-9)


def test_masks_of_real_annotations_equal_cocos(shared) -> None:
    folder = shared / "data" / "coco_mini"
    file = folder / "annotations" / "instances_val2017.json"
    records, info, _ = read_coco([file], [folder / "val2017"])
    rng = np.random.default_rng(0)
    rows = []
    for record in records[:25]:
        for i in range(len(record)):
            mask = segmentation_mask(record.segmentations[i], record.height, record.width)
            shifted = np.roll(mask, int(rng.normal(0, 4)), axis=1)
            x1, y1, x2, y2 = record.boxes[i].astype(float)
            rows.append(
                {
                    "image_id": record.image_id,
                    "category_id": info.category_ids[record.labels[i] - 1],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(rng.random()),
                    "segmentation": mask_to_rle(shifted),
                }
            )
    want = evaluate_coco(records, rows, class_info=info, iou_types=["segm"]).metrics
    truth = Truth(records, info, "segm")
    found = found_of(truth, rows, info)
    assert mean_precision(match(found, truth.objects)) == pytest.approx(want["segm/AP"], abs=1e-9)
    small = mean_precision(match(found, truth.objects, area="s"))
    assert small == pytest.approx(want["segm/APs"], abs=1e-9) and 0.1 < small < 0.9


def test_overlaps_of_boxes_of_many_images_at_once() -> None:
    records, rows = made(2)
    truth = Truth(records, INFO, "bbox")
    found = found_of(truth, rows, INFO)
    boxes = np.concatenate(
        [
            np.array([row["bbox"] for row in rows if row["image_id"] == i]).reshape(-1, 4)
            for i in truth.image_ids
        ]
    )
    objects, overlaps = truth.box_overlaps(found.image, found.label, boxes)
    width = objects.shape[1]
    assert (found.objects[:, width:] == -1).all() and (objects >= 0).sum() > 20
    np.testing.assert_array_equal(objects, found.objects[:, :width])
    np.testing.assert_allclose(overlaps, found.overlaps[:, :width], rtol=1e-14)


def test_a_weight_counts_an_image_so_often() -> None:
    records, rows = made(1, num_images=5)
    for number, row in enumerate(rows):
        row["score"] += 1e-4 * number  # the order of equal scores depends on the order of the images
    truth = Truth(records, INFO, "bbox")
    matched = match(found_of(truth, rows, INFO), truth.objects)
    times = [0, 3, 1, 2, 1]
    again, again_rows = [], []
    for record in records:
        for copy in range(times[truth.number[record.image_id]]):
            number = 100 * copy + record.image_id
            again.append(Record(**{**record.__dict__, "image_id": number}))
            again_rows += [{**row, "image_id": number} for row in rows if row["image_id"] == record.image_id]
    want = evaluate_coco(again, again_rows, class_info=INFO, iou_types=["bbox"]).metrics["bbox/AP"]
    assert mean_precision(matched, np.array(times)) == pytest.approx(want, abs=1e-9)


def test_nothing_found_is_zero_and_no_objects_undefined() -> None:
    records, _ = made(0)
    truth = Truth(records, INFO, "bbox")
    none = found_of(truth, [], INFO)
    assert mean_precision(match(none, truth.objects)) == 0.0
    assert np.isnan(mean_precision(match(none, truth.objects), np.zeros(len(records))))
