"""Errors made by construction are named as what they are, and mending them gains what can be counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hotcoco import COCO, COCOeval

from detectune.config.catalogue import KNOBS as ALL_KNOBS
from detectune.evaluation.coco import coco_truth, evaluate_coco, quiet
from detectune.evaluation.errors import KINDS, KNOBS, classify_errors, confusion, error_report, gains
from detectune.evaluation.truth import Truth
from detectune.structures import ClassInfo, Record

INFO = ClassInfo(("cat", "dog"), (5, 9))
HERE, THERE = [10.0, 10, 50, 50], [60.0, 60, 100, 100]


def picture(objects: list[tuple[list[float], int]], image_id: int = 1, crowd: int = -1) -> Record:
    boxes = np.array([box for box, _ in objects], np.float32).reshape(-1, 4)
    count = len(objects)
    return Record(
        image_id, "x.jpg", 120, 120, boxes, np.array([label for _, label in objects], dtype=np.int64),
        np.arange(count) == crowd, (boxes[:, 2:] - boxes[:, :2]).prod(1), [None] * count, None, np.arange(count),
    )  # fmt: skip


def seen(box: list[float], label: int, score: float, image_id: int = 1) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {
        "image_id": image_id,
        "category_id": INFO.category_ids[label - 1],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": score,
    }


def moved(box: list[float], by: float) -> list[float]:
    return [box[0] + by, box[1], box[2] + by, box[3]]


CASES: dict[str, tuple[list[dict[str, Any]], str, float]] = {
    # two cats, one of which is found; what comes beside it, its kind, and the gain of mending that
    "classification": ([seen(THERE, 2, 0.8)], "classification", 0.5),
    "localisation": ([seen(moved(THERE, 20), 1, 0.8)], "localisation", 0.5),  # overlap 1/3
    "both": ([seen(moved(THERE, 20), 2, 0.8)], "both", 0.0),
    "duplicate": ([seen(moved(HERE, 2), 1, 0.8)], "duplicate", 0.0),
    "background": ([seen([60, 10, 80, 30], 1, 0.8)], "background", 0.0),
    "missed": ([], "missed", 0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_an_error_made_is_the_error_named(name: str) -> None:
    extra, kind, gain = CASES[name]
    records = [picture([(HERE, 1), (THERE, 1)])]
    report = error_report(records, [seen(HERE, 1, 0.9), *extra], INFO)
    assert report["counts"]["right"] == 1
    assert report["counts"][kind] == 1
    others = [k for k in KINDS if k not in (kind, "missed") and report["counts"][k]]
    assert not others
    # half of the cats are found: 51 of COCO's 101 recalls, at precision 1
    assert report["AP50"] == pytest.approx(51 / 101)
    assert report["gains"][kind] == pytest.approx(50 / 101 if gain else 0.0)
    # an object that an error of class or place points at is not missed as well
    assert report["counts"]["missed"] == (0 if kind in ("classification", "localisation") else 1)


@pytest.mark.parametrize("kind", ["both", "duplicate", "background"])
def test_wrong_ones_above_right_ones_cost_what_their_removal_gains(kind: str) -> None:
    """The wrong detection comes first, so the right one after it has precision 1/2 (2/3 after a duplicate)."""
    first = {
        "both": seen(moved(THERE, 20), 2, 0.95),
        "duplicate": None,
        "background": seen([60, 10, 80, 30], 1, 0.95),
    }
    if kind == "duplicate":
        rows = [seen(HERE, 1, 0.9), seen(moved(HERE, 1), 1, 0.85), seen(THERE, 1, 0.8)]
        records, lost = [picture([(HERE, 1), (THERE, 1)])], 50 / 101 * (1 - 2 / 3)
    elif kind == "both":
        rows, records = [first[kind], seen(HERE, 2, 0.9)], [picture([(HERE, 2), (THERE, 1)])]
        lost = (1 - 1 / 2) / 2  # of two classes
    else:
        rows, records, lost = [first[kind], seen(HERE, 1, 0.9)], [picture([(HERE, 1)])], 1 - 1 / 2
    report = error_report(records, rows, INFO)
    assert report["counts"][kind] == 1
    assert report["gains"][kind] == pytest.approx(lost, abs=1e-9)
    assert report["largest"] == ("missed" if kind == "both" else kind)
    assert report["gains"]["false positives"] >= report["gains"][kind] - 1e-9


def test_only_the_best_of_several_errors_of_an_object_becomes_right() -> None:
    rows = [seen(moved(HERE, 20), 1, 0.9), seen(moved(HERE, 22), 1, 0.8), seen(HERE, 2, 0.7)]
    report = error_report([picture([(HERE, 1)])], rows, INFO)
    assert report["counts"]["localisation"] == 2 and report["counts"]["classification"] == 1
    assert report["AP50"] == 0 and report["gains"]["localisation"] == pytest.approx(1.0)
    # mending the class leaves two wrong ones above the right one
    assert report["gains"]["classification"] == pytest.approx(1 / 3)


def test_what_lies_in_a_crowd_is_forgiven() -> None:
    records = [picture([(HERE, 1), ([0.0, 0, 120, 120], 1)], crowd=1)]
    report = error_report(records, [seen(HERE, 1, 0.9), seen(THERE, 1, 0.95)], INFO)
    assert (
        report["counts"]["forgiven"] == 1
        and report["AP50"] == pytest.approx(1.0)
        and report["largest"] is None
    )


def test_the_confusion_of_classes() -> None:
    records = [picture([(HERE, 1), (THERE, 2)]), picture([(HERE, 2)], image_id=2)]
    rows = [
        seen(HERE, 1, 0.9), seen(THERE, 1, 0.8), seen([0, 80, 20, 100], 2, 0.7), seen(HERE, 1, 0.3, image_id=2),
    ]  # fmt: skip
    table = confusion(Truth(records, INFO, "bbox"), rows, INFO, score_thresh=0.5)
    assert table.tolist() == [[0, 0, 1], [0, 1, 0], [1, 1, 0]]


def random_rows(seed: int) -> tuple[list[Record], list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    records, rows = [], []
    for image_id in range(8):
        objects = []
        for _ in range(int(rng.integers(1, 5))):
            x, y = rng.uniform(0, 70, 2)
            objects.append(
                ([x, y, x + rng.uniform(20, 50), y + rng.uniform(20, 50)], int(rng.integers(1, 3)))
            )
        records.append(picture(objects, image_id))
        for box, label in objects:
            for _ in range(int(rng.integers(0, 4))):
                where = (np.array(box) + rng.uniform(-9, 9, 4)).tolist()
                rows.append(
                    seen(where, label if rng.random() < 0.7 else 3 - label, float(rng.random()), image_id)
                )
    return records, rows


@pytest.mark.parametrize("seed", range(4))
def test_ap50_is_cocos_and_every_detection_has_one_kind(seed: int) -> None:
    records, rows = random_rows(seed)
    truth = Truth(records, INFO, "bbox")
    verdicts = classify_errors(truth, rows, INFO)
    gained = gains(verdicts, truth)
    assert gained["AP50"] == pytest.approx(
        evaluate_coco(records, rows, class_info=INFO, iou_types=["bbox"]).metrics["bbox/AP50"]
    )
    assert len(verdicts.kind) == len(rows) and set(verdicts.kind) <= {"right", *KINDS}
    assert all(gained[kind] >= -1e-9 for kind in KINDS)
    assert gained["missed"] <= gained["false negatives"] + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_counts_and_gains_are_those_of_another_implementation(seed: int) -> None:
    """hotcoco's TIDE on the same detections."""
    records, rows = random_rows(seed)
    with quiet():
        ground = COCO(coco_truth(records, INFO))
        evaluation = COCOeval(ground, ground.loadRes([dict(row) for row in rows]), "bbox")
        evaluation.evaluate()
        theirs = evaluation.tide_errors()
    ours = error_report(records, rows, INFO)
    names = dict(zip(KINDS, ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), strict=True))
    assert {kind: ours["counts"][kind] for kind in KINDS} == {
        kind: theirs["counts"][name] for kind, name in names.items()
    }
    names |= {"false positives": "FP", "false negatives": "FN"}
    for kind, name in names.items():
        assert ours["gains"][kind] == pytest.approx(theirs["delta_ap"][name], abs=1e-9), kind


def test_the_named_knobs_exist() -> None:
    assert set(KNOBS) == set(KINDS)
    assert all(key in ALL_KNOBS for keys in KNOBS.values() for key in keys)
