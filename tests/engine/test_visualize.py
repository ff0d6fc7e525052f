"""What is drawn: keypoints that are sure enough, of classes that have any, and the skeleton between them."""

from __future__ import annotations

import numpy as np
import torch

from detectune.engine.inference import coco_rows, to_original
from detectune.engine.visualize import PALETTE, draw_detections
from detectune.models.geometry import GEOMETRIES
from detectune.structures import ClassInfo, Detections, ImageInfo

INFO = ClassInfo(("square", "triangle"), (1, 2), ("a", "b", "c"), (0, 2, 1), ((0, 1), (1, 2)), (2,))


def _found(label: int, third_logit: float) -> Detections:
    points = torch.tensor([[20.0, 20, 5, 0.3], [20, 80, 6, 0.4], [80, 80, third_logit, 0.01]])
    return Detections(
        torch.tensor([[10.0, 10, 90, 90]]), torch.tensor([0.9]), torch.tensor([label]), keypoints=points[None]
    )


def _coloured(found: Detections, x: int, y: int) -> bool:
    drawn = draw_detections(np.zeros((100, 100, 3), np.uint8), found, INFO)
    return bool((drawn[y, x] == PALETTE[int(found.labels[0]) - 1]).all())


def test_sure_keypoints_and_their_bones_are_drawn() -> None:
    sure, unsure, square = _found(2, 5.0), _found(2, 1.0), _found(1, 5.0)
    for place in ((20, 20), (20, 50), (20, 80), (50, 80), (80, 80)):  # points and the middles of both bones
        assert _coloured(sure, *place)
        assert _coloured(unsure, *place) == (place[0] == 20)
        assert not _coloured(square, *place)  # its class has no keypoints
    assert not _coloured(sure, 50, 50)


def test_rows_name_pixels_and_only_keypoints_that_mean_something() -> None:
    info = ImageInfo(3, "a.jpg", 200, 50, scale_x=2.0, scale_y=0.5)
    original = to_original(_found(2, 5.0), info, GEOMETRIES["detectron2"])
    row = coco_rows(original, info, INFO, offset=0.0, keypoint_shift=0.5)[0]
    np.testing.assert_allclose(
        row["keypoints"], [9.5, 39.5, 0.3, 9.5, 159.5, 0.4, 39.5, 159.5, 0.01], rtol=1e-6
    )
    assert "keypoint_score" not in row
    for confidence, score in (("logit", 16 / 3), ("prob", 0.71 / 3)):
        ranked = coco_rows(original, info, INFO, offset=1.0, keypoint_confidence=confidence)[0]
        assert abs(ranked["keypoint_score"] - score) < 1e-5 and ranked["keypoints"][:2] == [10.0, 40.0]
    assert "keypoints" not in coco_rows(_found(1, 5.0), info, INFO, offset=0.0)[0]
