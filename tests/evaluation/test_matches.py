"""Which objects of an image were found."""

from __future__ import annotations

import numpy as np

from detectune.evaluation.matches import coverage, iou, match_image, worst_first
from detectune.structures import Record


def record(boxes: list[list[float]], labels: list[int], crowd: list[bool]) -> Record:
    count = len(labels)
    return Record(
        1, "/x.png", 100, 100, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64),
        np.array(crowd, bool), np.ones(count, np.float32), [None] * count, None, np.arange(count),
    )  # fmt: skip


def match(
    truth: Record, boxes: list[list[float]], scores: list[float], labels: list[int]
) -> dict[str, float]:
    found = np.array(boxes, np.float32).reshape(-1, 4)
    return match_image(truth, found, np.array(scores), np.array(labels))


def test_one_object_is_found_once() -> None:
    truth = record([[0, 0, 10, 10]], [1], [False])
    counts = match(truth, [[0, 0, 10, 10], [0, 0, 10, 9]], [0.9, 0.8], [1, 1])
    assert (counts["true_positives"], counts["false_positives"], counts["missed"]) == (1, 1, 0)


def test_a_wrong_class_and_a_low_score_do_not_count() -> None:
    truth = record([[0, 0, 10, 10]], [1], [False])
    assert match(truth, [[0, 0, 10, 10]], [0.9], [2])["missed"] == 1
    low = match(truth, [[0, 0, 10, 10]], [0.4], [1])
    assert (low["num_detections"], low["missed"]) == (0, 1)


def test_what_lies_in_a_crowd_is_neither_right_nor_wrong() -> None:
    truth = record([[0, 0, 100, 100]], [1], [True])
    counts = match(truth, [[10, 10, 20, 20]], [0.9], [1])
    assert counts["false_positives"] == 0 and counts["num_objects"] == 0 and counts["f1"] == 1.0


def test_an_empty_image_is_perfect_until_something_is_claimed() -> None:
    truth = record([], [], [])
    assert match(truth, [], [], [])["f1"] == 1.0
    assert match(truth, [[0, 0, 5, 5]], [0.9], [1])["f1"] == 0.0


def test_the_worst_come_first_and_the_flawless_not_at_all() -> None:
    rows = [
        {"f1": 1.0, "missed": 0, "false_positives": 0},
        {"f1": 0.0, "missed": 1, "false_positives": 0},
        {"f1": 0.0, "missed": 2, "false_positives": 1},
        {"f1": 0.5, "missed": 1, "false_positives": 1},
    ]
    assert [rows.index(row) for row in worst_first(rows)] == [2, 1, 3]


def test_overlaps() -> None:
    a, b = np.array([[0, 0, 10, 10]]), np.array([[5, 0, 15, 10], [20, 20, 20, 20]])
    assert iou(a, b).tolist() == [[50 / 150, 0.0]]
    assert coverage(a, b).tolist() == [[0.5, 0.0]]
