"""Image and annotations move together: proved by painting the annotations and moving the paint."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from detectune.data.transforms import (
    Move,
    Objects,
    apply_move,
    crop_objects,
    crop_window,
    flip_objects,
    inclusive_boxes,
    jitter_colours,
    objects_of,
    scale_objects,
)
from detectune.ops.masks import rasterize_edges
from detectune.structures import Record

HEIGHT, WIDTH = 40, 60
RECTANGLE = (12, 6, 34, 25)


def record(segmentation, *, crowd=False, keypoints=None) -> Record:
    return Record(
        image_id=1,
        file_name="a.png",
        height=HEIGHT,
        width=WIDTH,
        boxes=np.array([RECTANGLE], dtype=np.float32),
        labels=np.array([2]),
        is_crowd=np.array([crowd]),
        areas=np.array([100.0], dtype=np.float32),
        segmentations=[segmentation],
        keypoints=keypoints,
        annotation_ids=np.array([1]),
    )


def rectangle_polygon():
    x1, y1, x2, y2 = RECTANGLE
    return [np.array([x1, y1, x2, y1, x2, y2, x1, y2], dtype=np.float64)]


def painted() -> np.ndarray:
    image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    x1, y1, x2, y2 = RECTANGLE
    image[y1:y2, x1:x2] = 255
    return image


def bounds(pixels: torch.Tensor) -> list[int]:
    """x1, y1, x2, y2 of what is painted."""
    rows, columns = (pixels[0] > 127).nonzero(as_tuple=True)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


MOVES = {
    "nothing": {},
    "flip": {"flip": True},
    "crop": {"crop": (0.3, 0.4, 0.8, 0.9)},
    "flip and crop": {"flip": True, "crop": (0.6, 0.5, 0.85, 0.8)},
    "double": {"short_side": 80},
    "all": {"flip": True, "crop": (0.5, 0.2, 0.9, 0.9), "short_side": 72},
}


@pytest.mark.parametrize("style", ["detectron", "pillow", "torchvision"])
@pytest.mark.parametrize("name", MOVES)
def test_boxes_and_outlines_follow_the_paint(name, style):
    move = Move(**({"short_side": 40, "max_size": 1000, "style": style} | MOVES[name]))
    objects = objects_of(record(rectangle_polygon()), masks=True, keypoints=False, keypoint_shift=0)
    if move.crop is not None and move.short_side == 40:
        height = crop_window(move.crop, HEIGHT, WIDTH)[3] - crop_window(move.crop, HEIGHT, WIDTH)[1]
        move = replace(move, short_side=height)
    pixels, moved, _, _ = apply_move(painted(), objects, move, keypoint_flip=(), keypoint_shift=0)
    np.testing.assert_allclose(moved.boxes[0], bounds(pixels), atol=0.75)
    inside = rasterize_edges(
        torch.from_numpy(moved.edges[0])[None],
        torch.from_numpy(moved.edge_polygon[0])[None],
        torch.from_numpy(moved.boxes),
        num_polygons=1,
        size=8,
    )
    assert inside.all()


def test_mirroring_twice_changes_nothing():
    points = np.array([[[3, 4, 2], [50, 6, 1], [0, 0, 0]]], dtype=np.float32)
    objects = objects_of(
        record(rectangle_polygon(), keypoints=points), masks=True, keypoints=True, keypoint_shift=0
    )
    once = flip_objects(objects, WIDTH, keypoint_flip=(1, 0, 2), keypoint_shift=0)
    twice = flip_objects(once, WIDTH, keypoint_flip=(1, 0, 2), keypoint_shift=0)
    np.testing.assert_array_equal(once.keypoints[0], [[9, 6, 1], [56, 4, 2], [0, 0, 0]])
    np.testing.assert_array_equal(twice.boxes, objects.boxes)
    np.testing.assert_array_equal(twice.edges[0], objects.edges[0])
    np.testing.assert_array_equal(twice.keypoints, objects.keypoints)


def test_shifted_keypoints_mirror_about_the_middle():
    points = np.array([[[3, 4, 2], [50, 6, 1], [0, 0, 0]]], dtype=np.float32)
    objects = objects_of(record(None, keypoints=points), masks=False, keypoints=True, keypoint_shift=0.5)
    np.testing.assert_array_equal(objects.keypoints[0], [[3.5, 4.5, 2], [50.5, 6.5, 1], [0, 0, 0]])
    flipped = flip_objects(objects, WIDTH, keypoint_flip=(0, 1, 2), keypoint_shift=0.5)
    np.testing.assert_array_equal(flipped.keypoints[0, :, 0], [WIDTH - 3.5, WIDTH - 50.5, 0])


def test_inclusive_boxes_mirror_as_detectron_mirrors_them():
    objects = objects_of(record(None), masks=False, keypoints=False, keypoint_shift=0)
    before = inclusive_boxes(objects.boxes, 1.0)[0]
    after = inclusive_boxes(flip_objects(objects, WIDTH, keypoint_flip=(), keypoint_shift=0).boxes, 1.0)[0]
    np.testing.assert_array_equal(after[[0, 2]], WIDTH - before[[2, 0]] - 1)
    scaled = inclusive_boxes(scale_objects(objects, 2.5, 2.5).boxes, 2.5)[0]
    np.testing.assert_allclose(scaled, before * 2.5)


def test_a_crop_keeps_centres_and_ignores_what_is_cut_off():
    boxes = np.array([[0, 0, 10, 10], [18, 18, 30, 30], [4, 4, 18, 20], [25, 25, 30, 30]], dtype=np.float32)
    points = np.zeros((4, 1, 3), dtype=np.float32)
    points[2, 0] = 5, 5, 2
    objects = Objects(
        boxes, np.arange(1, 5), np.zeros(4, bool), [np.zeros((0, 4))] * 4, [np.zeros(0, np.int64)] * 4, points
    )
    moved = crop_objects(objects, (6, 6, 22, 22))
    assert moved.labels.tolist() == [1, 2, 3]  # the last one is outside
    assert moved.is_crowd.tolist() == [True, True, False]
    np.testing.assert_array_equal(moved.boxes, [[0, 0, 4, 4], [12, 12, 16, 16], [0, 0, 12, 14]])
    assert not moved.keypoints.any()  # it lay left of the window


def test_a_crop_stays_inside_for_any_draw():
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 50, 2)
        crop = (*rng.random(2), *rng.uniform(0.01, 1, 2))
        x1, y1, x2, y2 = crop_window(crop, int(height), int(width))
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height


def test_without_an_outline_an_object_is_ignored_where_masks_are_trained():
    with_masks = objects_of(record(None), masks=True, keypoints=False, keypoint_shift=0)
    without = objects_of(record(None), masks=False, keypoints=False, keypoint_shift=0)
    assert with_masks.is_crowd.tolist() == [True] and without.is_crowd.tolist() == [False]


def test_colours():
    image = torch.tensor([[[100.0, 20.0]], [[50.0, 20.0]], [[0.0, 20.0]]])
    same = jitter_colours(image, brightness=1, contrast=1, saturation=1)
    assert same is image
    assert torch.equal(
        jitter_colours(image, brightness=2, contrast=1, saturation=1)[:, 0, 0], torch.tensor([200.0, 100, 0])
    )
    grey = jitter_colours(image, brightness=1, contrast=1, saturation=0)
    torch.testing.assert_close(grey[:, 0, 0], torch.full((3,), 0.299 * 100 + 0.587 * 50))
    flat = jitter_colours(image, brightness=1, contrast=0, saturation=1)
    assert flat.std() < 1e-4
    bright = jitter_colours(image.to(torch.uint8), brightness=3, contrast=1, saturation=1)
    assert bright.dtype == torch.uint8 and bright.max() == 255
