"""Average recall of proposals against a slow reference and cases that a person can work out."""

from __future__ import annotations

import numpy as np
import pytest

from detectune.evaluation.proposals import average_recall, evaluate_proposals, paired_overlaps
from detectune.structures import ClassInfo, Record

INFO = ClassInfo(("cat", "dog"), (1, 2))


def record(image_id: int, boxes, labels=None, crowd=None, areas=None) -> Record:
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    count = len(boxes)
    sides = boxes[:, 2:] - boxes[:, :2]
    return Record(
        image_id=image_id,
        file_name=f"{image_id}.jpg",
        height=500,
        width=500,
        boxes=boxes,
        labels=np.array(labels if labels is not None else [1] * count, dtype=np.int64),
        is_crowd=np.array(crowd if crowd is not None else [False] * count, dtype=bool),
        areas=np.array(areas, dtype=np.float32) if areas is not None else sides.prod(1),
        segmentations=[None] * count,
        keypoints=None,
        annotation_ids=np.arange(count),
    )


def slow_recall(records, proposals, *, limit, low=0.0, high=1e10, label=None) -> float | None:
    """Detectron's procedure in inclusive pixels, one number at a time."""
    found, total = [], 0
    for own in records:
        rows = [
            i
            for i in range(len(own))
            if not own.is_crowd[i] and low <= own.areas[i] <= high and label in (None, own.labels[i])
        ]
        objects = [own.boxes[i].astype(float) - [0, 0, 1, 1] for i in rows]
        boxes = [b.astype(float) - [0, 0, 1, 1] for b in proposals.get(own.image_id, [])[:limit]]
        total += len(objects)
        free_boxes, free_objects = set(range(len(boxes))), set(range(len(objects)))
        while free_boxes and free_objects:
            best = max(
                ((overlap(boxes[b], objects[g]), -g, -b) for g in free_objects for b in free_boxes),
            )
            found.append(best[0])
            free_objects.remove(-best[1])
            free_boxes.remove(-best[2])
    if total == 0:
        return None
    thresholds = [0.5 + 0.05 * i for i in range(10)]
    return sum(sum(v >= t - 1e-9 for v in found) / total for t in thresholds) / 10


def overlap(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    common = max(0, width) * max(0, height)
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return common / (sum(areas) - common)


def random_case(seed: int):
    rng = np.random.default_rng(seed)
    records, proposals = [], {}
    for image_id in range(6):
        count = int(rng.integers(0, 6))
        corner = rng.integers(0, 300, (count, 2))
        side = rng.integers(5, 150, (count, 2))
        boxes = np.concatenate([corner, corner + side], 1)
        records.append(
            record(image_id, boxes, rng.integers(1, 3, count), rng.random(count) < 0.2, side.prod(1) * 0.7)
        )
        near = np.repeat(boxes, 3, axis=0) + rng.integers(-12, 13, (3 * count, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        far = np.tile([[400, 400, 420, 430]], (4, 1))
        every = np.concatenate([near, far]).astype(np.float32)
        if image_id != 4:
            proposals[image_id] = every[rng.permutation(len(every))]
    return records, proposals


@pytest.mark.parametrize("seed", range(5))
def test_against_the_slow_reference(seed: int):
    records, proposals = random_case(seed)
    result = evaluate_proposals(records, proposals, class_info=INFO, class_specific=True)
    sizes = {"": (0, 1e10), "s": (0, 1024), "m": (1024, 9216), "l": (9216, 1e10)}
    for limit in (10, 100, 1000):
        for suffix, (low, high) in sizes.items():
            expected = slow_recall(records, proposals, limit=limit, low=low, high=high)
            assert result.metrics[f"proposal/AR{suffix}{limit}"] == pytest.approx(expected)
        by_class = [slow_recall(records, proposals, limit=limit, label=label) for label in (1, 2)]
        for name, expected in zip(INFO.names, by_class, strict=True):
            assert result.per_class[name][f"proposal/AR{limit}"] == pytest.approx(expected)
        assert result.metrics[f"proposal/class_AR{limit}"] == pytest.approx(np.mean(by_class))
    assert 0 < result.metrics["proposal/AR10"] < result.metrics["proposal/AR1000"]


def test_an_overlap_of_six_tenths_reaches_three_thresholds():
    records = [record(1, [[0, 0, 10, 10]])]
    result = evaluate_proposals(records, {1: np.array([[0, 0, 10, 6.0]])}, class_info=INFO)
    assert result.metrics["proposal/AR10"] == pytest.approx(0.3)
    assert result.metrics["proposal/ARs10"] == pytest.approx(0.3)
    assert result.metrics["proposal/ARl10"] is None
    assert "proposal/class_AR10" not in result.metrics
    assert result.per_class["dog"] == {"num_objects": 0}


def test_each_box_serves_one_object():
    objects = np.array([[0, 0, 10, 10], [0, 0, 10, 9.0]])
    np.testing.assert_allclose(paired_overlaps(objects[:1], objects), [1, 0])
    np.testing.assert_allclose(paired_overlaps(objects, objects), [1, 1])
    assert paired_overlaps(np.zeros((0, 4)), objects).tolist() == [0, 0]
    assert len(paired_overlaps(objects, np.zeros((0, 4)))) == 0


def test_no_objects_is_undefined():
    assert average_recall([]) is None
    result = evaluate_proposals([record(1, [])], {}, class_info=INFO, class_specific=True)
    assert set(result.metrics.values()) == {None}


def test_images_without_proposals_count_their_objects():
    records = [record(1, [[0, 0, 10, 10]]), record(2, [[0, 0, 10, 10]])]
    result = evaluate_proposals(records, {1: np.array([[0, 0, 10, 10.0]])}, class_info=INFO)
    assert result.metrics["proposal/AR100"] == pytest.approx(0.5)
