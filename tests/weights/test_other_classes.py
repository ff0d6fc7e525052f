"""From COCO's classes to Cityscapes': which rows go where, and what the others are drawn from."""

from __future__ import annotations

import numpy as np
import pytest

from detectune.errors import UserError
from detectune.weights.other_classes import CORRESPONDENCES, coco_rows_of, coco_to_cityscapes


def test_rows_of_the_same_class_move_together() -> None:
    scores = np.arange(81 * 5, dtype=np.float32).reshape(81, 5)
    boxes = np.arange(324, dtype=np.float32)
    out, changed = coco_to_cityscapes(
        {"cls_score_w": scores, "bbox_pred_b": boxes, "fc6_w": scores[:80], "fc6_w_momentum": scores},
        correspondence="cityscapes_to_coco",
    )
    assert set(changed) == {"cls_score_w", "bbox_pred_b"} and set(out) == {*changed, "fc6_w"}
    assert out["cls_score_w"].shape == (9, 5) and out["bbox_pred_b"].shape == (36,)
    # Background, bicycle, car, person, train, truck, motorcycle, bus.
    expected = [0, 2, 3, 1, 7, 8, 4, 6]
    np.testing.assert_array_equal(out["cls_score_w"][:8], scores[expected])
    np.testing.assert_array_equal(out["bbox_pred_b"].reshape(9, 4)[:8], boxes.reshape(81, 4)[expected])
    np.testing.assert_array_equal(out["fc6_w"], scores[:80])
    assert out["cls_score_w"].dtype == np.float32


def test_absent_classes_are_drawn_like_the_others() -> None:
    weight = np.random.default_rng(0).normal(3.0, 0.5, (81, 4000)).astype(np.float32)
    once, _ = coco_to_cityscapes({"w": weight}, correspondence="cityscapes_to_coco", seed=1)
    again, _ = coco_to_cityscapes({"w": weight}, correspondence="cityscapes_to_coco", seed=1)
    np.testing.assert_array_equal(once["w"], again["w"])
    rider = once["w"][8]
    assert not (weight == rider).all(axis=1).any()
    assert rider.mean() == pytest.approx(3.0, abs=0.05) and rider.std() == pytest.approx(0.5, abs=0.05)


def test_a_rider_may_begin_as_a_person() -> None:
    weight = np.arange(81, dtype=np.float32)
    out, _ = coco_to_cityscapes({"w": weight}, correspondence="cityscapes_to_coco_with_rider")
    assert out["w"][8] == out["w"][3] == 1


def test_rows_follow_the_order_of_the_data_set() -> None:
    """Ours lists Cityscapes' own label ids, which is another order than Detectron's converter had."""
    names = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert coco_rows_of(names, "cityscapes_to_coco") == [0, 1, -1, 3, 8, 6, 7, 4, 2]
    assert coco_rows_of(names, "cityscapes_to_coco_without_person_rider") == [0, -1, -1, 3, 8, 6, 7, 4, 2]
    assert coco_rows_of(names, "cityscapes_to_coco_all_random") == [-1] * 9
    assert {*CORRESPONDENCES} >= {"cityscapes_to_coco", "cityscapes_to_coco_with_rider"}
    weight = np.arange(81, dtype=np.float32)
    out, _ = coco_to_cityscapes({"w": weight}, correspondence="cityscapes_to_coco", names=("truck", "car"))
    assert out["w"].tolist() == [0, 8, 3]


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="cityscapes_to_coco_with_rider"):
        coco_to_cityscapes({}, correspondence="coco_to_cityscapes")
    with pytest.raises(UserError, match="80 classes"):
        coco_to_cityscapes({"w": np.zeros((21, 4))}, correspondence="cityscapes_to_coco")
