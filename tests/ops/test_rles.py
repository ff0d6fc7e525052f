"""Whole-image masks: Detectron's records of its mask tools, and pixels counted one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detectune.ops import rles as ops

SIZE = (12, 16)


def same_pixels(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return np.array_equal(ops.segmentation_mask(a, *a["size"]), ops.segmentation_mask(b, *b["size"]))


def random_masks(count: int, seed: int = 0) -> list[np.ndarray]:
    """Rectangles with noise, so that they overlap in all degrees."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        y, x = rng.integers(0, 6, 2)
        mask = np.zeros(SIZE, bool)
        mask[y : y + 6, x : x + 7] = True
        masks.append(mask & (rng.random(SIZE) < 0.9))
    return masks


def test_golden_polygon_boxes(golden) -> None:
    for case in golden("segms", "segms.polys_to_boxes"):
        np.testing.assert_array_equal(ops.polygon_boxes(case.meta["in_json"]["polys"]), case.outputs["boxes"])


def test_golden_polygon_masks(golden) -> None:
    for case in golden("segms", "segms.polys_to_mask"):
        mask = ops.segmentation_mask(case.meta["in_json"]["polygons"], **case.params)
        np.testing.assert_array_equal(mask, case.outputs["mask"].astype(bool), err_msg=case.name)


def test_golden_mask_boxes(golden) -> None:
    for case in golden("segms", "segms.mask_to_bbox"):
        np.testing.assert_array_equal(ops.mask_box(case.inputs["mask"]), case.outputs["bbox"])


def test_golden_flipped_outlines(golden) -> None:
    for case in golden("segms", "segms.flip_segms"):
        height, width = case.params["height"], case.params["width"]
        polygons, rles = [], []
        for segmentation in case.meta["in_json"]["segms"]:
            flipped = ops.flip_segmentation(segmentation, width, offset=1.0)
            if isinstance(flipped, dict):
                rles.append(flipped)
                mask = ops.segmentation_mask(flipped, height, width)
                np.testing.assert_array_equal(mask, case.outputs["rle_mask"].astype(bool))
            else:
                polygons.append([ring.tolist() for ring in flipped])
        assert polygons == case.meta["out_json"]["polys"] and rles == [case.meta["out_json"]["rle"]]


def test_golden_rle_boxes(golden) -> None:
    for case in golden("segms", "segms.rle_masks_to_boxes"):
        boxes, filled = ops.rle_boxes(case.meta["in_json"]["masks"])
        np.testing.assert_array_equal(boxes, case.outputs["boxes"])
        np.testing.assert_array_equal(filled, case.outputs["keep"])


def test_golden_mask_nms(golden) -> None:
    cases = golden("segms", "segms.rle_mask_nms")
    assert {case.params["mode"] for case in cases} == {"IOU", "IOMA", "CONTAINMENT"}
    for case in cases:
        kept = ops.mask_nms(
            case.meta["in_json"]["masks"],
            case.inputs["dets"][:, 4],
            case.params["thresh"],
            mode=case.params["mode"],
        )
        np.testing.assert_array_equal(kept, case.outputs["keep"], err_msg=case.name)


def test_golden_mask_voting(golden) -> None:
    cases = golden("segms", "segms.rle_mask_voting")
    assert {case.params["method"] for case in cases} == {"AVG", "UNION"}
    for case in cases:
        given, dets = case.meta["in_json"], case.inputs["all_dets"]
        voted = ops.mask_voting(
            given["top_masks"], given["all_masks"], dets[:, :4], dets[:, 4],
            overlap_thresh=case.params["iou_thresh"], binarize_thresh=case.params["binarize_thresh"],
            method=case.params["method"],
        )  # fmt: skip
        for have, want in zip(voted, case.meta["out_json"]["masks"], strict=True):
            assert same_pixels(have, want), case.name


@pytest.mark.parametrize("mode", ["IOU", "IOMA", "CONTAINMENT"])
def test_overlaps_count_pixels(mode) -> None:
    a, b = random_masks(5, seed=1), random_masks(4, seed=2)
    found = ops.mask_overlaps([ops.mask_to_rle(m) for m in a], [ops.mask_to_rle(m) for m in b], mode=mode)
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            over = {
                "IOU": (one | other).sum(),
                "IOMA": min(one.sum(), other.sum()),
                "CONTAINMENT": one.sum(),
            }[mode]
            assert found[i, j] == pytest.approx((one & other).sum() / over)


def test_voters_agree_pixel_by_pixel() -> None:
    masks = random_masks(6, seed=3)
    rles = [ops.mask_to_rle(m) for m in masks]
    boxes = np.stack([ops.mask_box(m) for m in masks])
    scores = np.linspace(0.9, 0.2, 6)
    overlaps = ops.mask_overlaps(rles, rles)
    for method in ("UNION", "AVG"):
        voted = ops.mask_voting(rles, rles, boxes, scores, overlap_thresh=0.3, method=method)
        changed = 0
        for i, rle in enumerate(voted):
            voters = [j for j in range(6) if overlaps[i, j] >= 0.3]
            want = masks[i].copy()
            for y in range(SIZE[0]):
                for x in range(SIZE[1]):
                    if method == "UNION":
                        want[y, x] = any(masks[j][y, x] for j in voters)
                        continue
                    weight = [
                        scores[j]
                        if boxes[j][0] <= x <= boxes[j][2] and boxes[j][1] <= y <= boxes[j][3]
                        else 1e-5
                        for j in voters
                    ]
                    yes = sum(w for w, j in zip(weight, voters, strict=True) if masks[j][y, x])
                    want[y, x] = yes / sum(weight) > 0.5
            changed += not np.array_equal(want, masks[i])
            np.testing.assert_array_equal(ops.segmentation_mask(rle, *SIZE), want)
        assert changed


def test_nothing_and_emptiness() -> None:
    empty = ops.mask_to_rle(np.zeros(SIZE, bool))
    square = ops.mask_to_rle(random_masks(1)[0])
    assert ops.mask_box(np.zeros(SIZE, bool)) is None
    boxes, filled = ops.rle_boxes([empty, square])
    assert boxes[0].tolist() == [0, 0, 0, 0] and filled.tolist() == [1]
    assert ops.rle_boxes([])[0].shape == (0, 4) and ops.polygon_boxes([]).shape == (0, 4)
    assert ops.mask_nms([], np.zeros(0), 0.5).tolist() == []
    assert ops.mask_voting([], [], np.zeros((0, 4)), np.zeros(0), overlap_thresh=0.5) == []
    voted = ops.mask_voting(
        [empty], [empty, square], np.zeros((2, 4)), np.ones(2), overlap_thresh=0.0, method="UNION"
    )
    assert voted == [empty], "a mask without pixels is not filled by others"


def test_a_continuous_flip_is_the_pixels_flip() -> None:
    """With continuous coordinates (offset 0) the mirror of an outline covers the mirrored pixels."""
    ring = [np.array([2.0, 1.0, 10.0, 1.0, 10.0, 9.0, 2.0, 9.0])]
    flipped = ops.flip_segmentation(ring, SIZE[1])
    want = ops.segmentation_mask(ring, *SIZE)[:, ::-1]
    np.testing.assert_array_equal(ops.segmentation_mask(flipped, *SIZE), want)
