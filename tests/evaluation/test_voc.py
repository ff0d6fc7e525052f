"""VOC's average precision against a slow reference in VOC's own pixels, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from detectune.evaluation.voc import (
    VocObjects,
    average_precision,
    best_precision,
    evaluate_voc,
    result_lines,
)
from detectune.structures import ClassInfo

INFO = ClassInfo(("cat", "dog", "cow"), (3, 5, 9))


def objects(boxes=(), labels=(), difficult=()) -> VocObjects:
    return VocObjects(
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(difficult, dtype=bool),
    )


def row(image_id: int, box, score: float, category_id: int = 3) -> dict:
    x1, y1, x2, y2 = box
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": score,
    }


def slow_ap(truth, rows, label: int, category_id: int, thresh: float, eleven: bool) -> float | None:
    """The development kit's procedure, written out."""
    left = {}
    for image_id, t in truth.items():
        rows_of_class = zip(t.boxes, t.labels, t.difficult, strict=True)
        left[image_id] = [[b - [0, 0, 1, 1], d, False] for b, k, d in rows_of_class if k == label]
    count = sum(not d for own in left.values() for _, d, _ in own)
    if count == 0:
        return None
    right = wrong = 0
    points = []
    own_rows = [r for r in rows if r["category_id"] == category_id]
    for r in sorted(own_rows, key=lambda r: -r["score"]):
        x, y, w, h = r["bbox"]
        box = (x, y, x + w - 1, y + h - 1)
        best, match = -1.0, None
        for item in left[r["image_id"]]:
            b = item[0]
            iw = min(box[2], b[2]) - max(box[0], b[0]) + 1
            ih = min(box[3], b[3]) - max(box[1], b[1]) + 1
            if iw > 0 and ih > 0:
                union = w * h + (b[2] - b[0] + 1) * (b[3] - b[1] + 1) - iw * ih
                if iw * ih / union > best:
                    best, match = iw * ih / union, item
        if best > thresh and match[1]:
            pass
        elif best > thresh and not match[2]:
            right, match[2] = right + 1, True
        else:
            wrong += 1
        points.append((right / count, right / (right + wrong) if right + wrong else 0.0))
    if eleven:
        levels = [0.1 * i for i in range(11)]
        return sum(max((p for rec, p in points if rec >= level), default=0) for level in levels) / 11
    area, before = 0.0, 0.0
    for i, (rec, _) in enumerate(points):
        area += (rec - before) * max(p for _, p in points[i:])
        before = rec
    return area


def random_case(seed: int):
    rng = np.random.default_rng(seed)
    truth, rows = {}, []
    for image_id in range(12):
        count = int(rng.integers(0, 5))
        corner = rng.integers(0, 60, (count, 2))
        boxes = np.concatenate([corner, corner + rng.integers(8, 40, (count, 2))], 1)
        labels = rng.integers(1, 3, count)
        truth[image_id] = objects(boxes, labels, rng.random(count) < 0.25)
        for box, label in zip(boxes, labels, strict=True):
            for _ in range(int(rng.integers(0, 4))):
                moved = box + rng.integers(-3, 4, 4)
                moved[2:] = np.maximum(moved[2:], moved[:2] + 2)
                rows.append(row(image_id, moved, float(rng.random()), (3, 5)[label - 1]))
        rows.append(row(image_id, (0, 0, 30, 30), float(rng.random()), int(rng.choice([3, 5, 9]))))
    return truth, rows


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("eleven", [True, False])
def test_against_the_slow_reference(seed: int, eleven: bool):
    truth, rows = random_case(seed)
    result = evaluate_voc(truth, rows, class_info=INFO, eleven_points=eleven)
    table = {}
    for thresh in [0.5 + 0.05 * i for i in range(10)]:
        for label, (name, number) in enumerate(zip(INFO.names, INFO.category_ids, strict=True), start=1):
            table[name, round(thresh, 2)] = slow_ap(truth, rows, label, number, round(thresh, 2), eleven)
    known = {key: value for key, value in table.items() if value is not None}
    assert result.metrics["bbox/AP"] == pytest.approx(np.mean(list(known.values())))
    for metric, thresh in (("AP50", 0.5), ("AP75", 0.75)):
        at = [value for (_, t), value in known.items() if t == thresh]
        assert result.metrics[f"bbox/{metric}"] == pytest.approx(np.mean(at))
    for name in ("cat", "dog"):
        assert result.per_class[name]["bbox/AP50"] == pytest.approx(table[name, 0.5])
    assert result.per_class["cow"]["bbox/AP50"] is None and result.per_class["cow"]["num_objects"] == 0
    assert 0 < result.metrics["bbox/AP75"] < result.metrics["bbox/AP50"] < 1
    curve = result.curves["bbox"]
    assert len(curve["precision_50"]) == len(curve["recall"]) == 101
    assert curve["per_class_50"]["cow"] is None


def test_by_hand():
    """Three objects, found at ranks 1 and 3: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3."""
    truth = {1: objects([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], [1, 1, 1], [False] * 3)}
    rows = [row(1, (0, 0, 10, 10), 0.9), row(1, (60, 0, 70, 10), 0.8), row(1, (20, 0, 30, 10), 0.7)]
    area = evaluate_voc(truth, rows, class_info=INFO, eleven_points=False)
    assert area.metrics["bbox/AP50"] == pytest.approx(1 / 3 + 2 / 9)
    eleven = evaluate_voc(truth, rows, class_info=INFO, eleven_points=True)
    assert eleven.metrics["bbox/AP50"] == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)


def test_difficult_objects_count_neither_way():
    truth = {1: objects([[0, 0, 10, 10], [20, 0, 30, 10]], [1, 1], [False, True])}
    rows = [row(1, (20, 0, 30, 10), 0.9), row(1, (20, 0, 30, 10), 0.8), row(1, (0, 0, 10, 10), 0.7)]
    assert evaluate_voc(truth, rows, class_info=INFO, eleven_points=False).metrics["bbox/AP50"] == 1
    assert evaluate_voc(truth, rows[:2], class_info=INFO, eleven_points=False).metrics["bbox/AP50"] == 0


def test_a_second_detection_is_wrong_and_half_is_not_enough():
    truth = {1: objects([[0, 0, 10, 10], [50, 50, 60, 60]], [1, 1], [False, False])}
    twice = [row(1, (0, 0, 10, 10), 0.9), row(1, (0, 0, 10, 9), 0.8), row(1, (50, 50, 60, 60), 0.7)]
    assert evaluate_voc(truth, twice, class_info=INFO, eleven_points=False).metrics[
        "bbox/AP50"
    ] == pytest.approx(0.5 + 0.5 * 2 / 3)
    half = [row(1, (0, 0, 10, 5), 0.9)]
    assert evaluate_voc(truth, half, class_info=INFO, eleven_points=False).metrics["bbox/AP50"] == 0


def test_nothing_found_and_nothing_there():
    truth = {1: objects([[0, 0, 10, 10]], [1], [False])}
    result = evaluate_voc(truth, [], class_info=INFO, eleven_points=True)
    assert result.metrics == {"bbox/AP": 0.0, "bbox/AP50": 0.0, "bbox/AP75": 0.0}
    result = evaluate_voc({1: objects()}, [row(1, (0, 0, 5, 5), 0.5)], class_info=INFO, eleven_points=True)
    assert set(result.metrics.values()) == {None} and result.per_class["cat"]["num_detections"] == 1


def test_curves():
    recall, precision = np.array([0.0, 0.5, 0.5, 1.0]), np.array([0.0, 0.5, 0.4, 0.6])
    assert best_precision(recall, precision, np.array([0, 0.5, 0.6, 1])).tolist() == [0.6] * 4
    assert average_precision(recall, precision, eleven_points=False) == pytest.approx(0.6)
    assert best_precision(recall[:0], precision[:0], np.array([0.0, 1])).tolist() == [0, 0]


def test_result_lines_count_pixels_from_one():
    rows = [row(7, (0, 1, 10, 21), 0.25), row(7, (5, 5, 6, 6), 0.5, 5), row(8, (2.25, 0, 4, 4), 1.0)]
    assert result_lines(rows, {7: "000007", 8: "2008_000008"}, 3) == (
        "000007 0.250000 1.0 2.0 10.0 21.0\n2008_000008 1.000000 3.2 1.0 4.0 4.0\n"
    )
