"""Rasterised outlines against COCO's own tools, pixel by pixel; pasted masks against three systems."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hotcoco import mask as hotcoco_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as pycocotools_mask
from torch import Tensor

from detectune.ops import masks as ops
from detectune.ops.boxes import clip_boxes

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools


def coco_fill(polygons: list[np.ndarray], size: int, tools: Any = pycocotools_mask) -> np.ndarray:
    """Polygons in pixels of a size x size image, each filled by COCO's tools, then joined."""
    rles = tools.frPyObjects([p.tolist() for p in polygons], size, size)
    return np.asarray(tools.decode(rles)).reshape(size, size, -1).any(axis=2)


def into_box(polygons: list[np.ndarray], box: np.ndarray, size: int, method: str) -> list[np.ndarray]:
    """The scaling of Detectron (float32 throughout) and of detectron2 (float64 times a float32 ratio)."""
    out = []
    for polygon in polygons:
        x, y = polygon[0::2], polygon[1::2]
        width, height = box[2] - box[0], box[3] - box[1]
        if method == "detectron":
            x = (x.astype(np.float32) - box[0]) * np.float32(size) / np.maximum(width, np.float32(1))
            y = (y.astype(np.float32) - box[1]) * np.float32(size) / np.maximum(height, np.float32(1))
        else:
            x = (x - box[0].astype(np.float64)) * np.float64(np.float32(size) / max(width, np.float32(0.1)))
            y = (y - box[1].astype(np.float64)) * np.float64(np.float32(size) / max(height, np.float32(0.1)))
        out.append(np.stack((x, y), axis=1).reshape(-1).astype(np.float64))
    return out


def padded_edges(objects: list[list[np.ndarray]]) -> tuple[Tensor, Tensor, int]:
    """Edges [R, E, 4], polygons [R, E] and the largest number of polygons of one object."""
    outlines = [ops.segmentation_edges(polygons) for polygons in objects]
    longest = max(len(e) for e, _ in outlines) + 3
    edges = torch.zeros(len(objects), longest, 4, dtype=torch.float64)
    polygon = torch.zeros(len(objects), longest, dtype=torch.int64)
    for r, (e, p) in enumerate(outlines):
        edges[r, : len(e)], polygon[r, : len(p)] = torch.from_numpy(e), torch.from_numpy(p)
    return edges, polygon, max(1, max(len(polygons) for polygons in objects))


coordinate = st.one_of(
    st.floats(-40, 140, allow_nan=False),
    st.integers(-40, 140).map(float),
    st.integers(-400, 1400).map(lambda v: v / 10),  # meets the fine grid's rounding ties
)
polygon_points = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=14).map(
    lambda points: np.array(points, dtype=np.float64).reshape(-1)
)
objects = st.lists(st.lists(polygon_points, min_size=1, max_size=4), min_size=1, max_size=3)


@settings(max_examples=400, deadline=None)
@given(
    objects,
    st.tuples(st.floats(-20, 90), st.floats(-20, 90), st.floats(0, 120), st.floats(0, 120)),
    st.sampled_from([1, 5, 14, 28]),
    st.sampled_from(["detectron", "detectron2"]),
    st.booleans(),
)
def test_raster_equals_cocos(outlines, where, size: int, method: str, static: bool) -> None:
    x, y, width, height = where
    box = np.array([x, y, x + width, y + height], dtype=np.float32)
    edges, polygon, num_polygons = padded_edges(outlines)
    boxes = torch.from_numpy(box).expand(len(outlines), 4)
    out = ops.rasterize_edges(
        edges, polygon, boxes, num_polygons=num_polygons, size=size, method=method, static=static
    )
    assert out.dtype == torch.bool and out.shape == (len(outlines), size, size)
    for mask, polygons in zip(out.numpy(), outlines, strict=True):
        scaled = into_box(polygons, box, size, method)
        np.testing.assert_array_equal(mask, coco_fill(scaled, size, pycocotools_mask))
        np.testing.assert_array_equal(mask, coco_fill(scaled, size, hotcoco_mask))


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("method", ["detectron", "detectron2"])
def test_many_outlines_with_hundreds_of_vertices(static: bool, method: str) -> None:
    numbers = np.random.default_rng(0)
    outlines, boxes, filled = [], [], []
    for _ in range(60):
        centre, radius = numbers.uniform(0, 300, 2), numbers.uniform(1, 150)
        polygons = []
        for _ in range(numbers.integers(1, 4)):
            count = int(numbers.integers(500, 700))
            angle = np.sort(numbers.uniform(0, 2 * np.pi, count))
            reach = radius * numbers.uniform(0.5, 1, count)
            around = np.stack((np.cos(angle), np.sin(angle)), axis=1) * reach[:, None] + centre
            polygons.append(around.round(2).reshape(-1) + numbers.uniform(-0.3, 0.3) * radius)
        outlines.append(polygons)
        low = centre - radius * numbers.uniform(0.2, 1.2, 2)
        boxes.append(np.concatenate((low, low + radius * numbers.uniform(0.1, 2, 2))).astype(np.float32))
        filled.append(coco_fill(into_box(polygons, boxes[-1], 28, method), 28))
    edges, polygon, num_polygons = padded_edges(outlines)
    out = ops.rasterize_edges(
        edges, polygon, torch.from_numpy(np.stack(boxes)), num_polygons=num_polygons, size=28, method=method,
        static=static,
    )  # fmt: skip
    expected = np.stack(filled)
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(out.numpy(), expected)


def test_golden_masks_in_boxes(golden) -> None:
    for case in golden("segms", "segms.polys_to_mask_wrt_box"):
        polygons = [np.array(p) for p in case.meta["in_json"]["polygons"]]
        edges, polygon, num_polygons = padded_edges([polygons])
        for static in (False, True):
            out = ops.rasterize_edges(
                edges, polygon, case.tensor("box")[None], num_polygons=num_polygons, size=case.params["M"],
                method="detectron", static=static,
            )  # fmt: skip
            np.testing.assert_array_equal(
                out[0].numpy(), case.outputs["mask"].astype(bool), err_msg=case.name
            )


def test_scratch_memory_is_bounded_by_slices(monkeypatch) -> None:
    outlines = [[np.array([1.0, 1, 8, 2, 5, 9 + i])] for i in range(5)]
    edges, polygon, num_polygons = padded_edges(outlines)
    boxes = torch.tensor([0.0, 0.0, 10.0, 10.0]).expand(5, 4)
    args = {"num_polygons": num_polygons, "size": 14, "static": True}
    whole = ops.rasterize_edges(edges, polygon, boxes, **args)
    monkeypatch.setattr(ops, "_SCRATCH_ELEMENTS", 1)
    assert torch.equal(ops.rasterize_edges(edges, polygon, boxes, **args), whole)
    assert whole.any()


@pytest.mark.parametrize("static", [False, True])
def test_nothing_to_fill(static: bool) -> None:
    args = {"num_polygons": 2, "size": 14, "static": static}
    none = ops.rasterize_edges(
        torch.zeros(0, 7, 4).double(), torch.zeros(0, 7).long(), torch.zeros(0, 4), **args
    )
    assert none.shape == (0, 14, 14)
    for edges in (0, 7):
        padding = torch.zeros(2, edges, 4, dtype=torch.float64), torch.zeros(2, edges, dtype=torch.int64)
        assert not ops.rasterize_edges(*padding, torch.zeros(2, 4), **args).any()


def test_static_route_never_asks_for_values(traced_without_values) -> None:
    edges, polygon, num_polygons = padded_edges(
        [[np.array([1.0, 1, 8, 2, 5, 9])], [np.array([2.0, 1, 8, 9, 5, 9])]]
    )
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [3.0, 3.0, 9.0, 9.0]])

    def fill(edges: Tensor, polygon: Tensor, boxes: Tensor) -> Tensor:
        return ops.rasterize_edges(edges, polygon, boxes, num_polygons=num_polygons, size=14, static=True)

    assert torch.equal(traced_without_values(fill, edges, polygon, boxes), fill(edges, polygon, boxes))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20), st.floats(0, 1), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_an_rle_comes_back_pixel_by_pixel(size, density, seed, compressed: bool, static: bool) -> None:
    pixels = np.random.default_rng(seed).random((size, size)) < density
    rle = pycocotools_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    rle = {"size": rle["size"], "counts": rle["counts"].decode()}
    if not compressed:
        runs = np.flatnonzero(np.diff(np.concatenate(([0], pixels.T.reshape(-1), [2]))))
        rle["counts"] = np.diff(np.concatenate(([0], runs))).tolist()
    edges, polygon = ops.segmentation_edges(rle)
    box = torch.tensor([[0.0, 0.0, size, size]])
    out = ops.rasterize_edges(
        torch.from_numpy(edges)[None],
        torch.from_numpy(polygon)[None],
        box,
        num_polygons=1,
        size=size,
        static=static,
    )
    np.testing.assert_array_equal(out[0].numpy(), pixels)


def random_masks(count: int, side: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth masks and boxes in and around a 60 x 90 image, some tiny, some beyond its borders."""
    numbers = torch.Generator().manual_seed(seed)
    masks = F.interpolate(torch.rand(count, 1, 4, 4, generator=numbers), (side, side), mode="bicubic")[:, 0]
    low = torch.rand(count, 2, generator=numbers) * torch.tensor([100.0, 70.0]) - 15
    side_lengths = torch.rand(count, 2, generator=numbers) ** 2 * 70 + 0.3
    return masks.clamp(0, 1), torch.cat((low, low + side_lengths), dim=1)


def test_paste_equals_torchvisions() -> None:
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    masks, boxes = random_masks(80, 28)
    boxes = clip_boxes(boxes, torch.tensor([60, 90]))  # torchvision cannot paste outside
    expected = paste_masks_in_image(masks[:, None], boxes, (60, 90), padding=1)[:, 0] > 0.5
    for method in ("torchvision", "detectron"):
        out = ops.paste_masks(masks, boxes, 60, 90, method=method)
        assert out.any() and torch.equal(out, expected)


def test_paste_equals_sampling_at_pixel_centres() -> None:
    masks, boxes = random_masks(80, 14, seed=1)
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(90) + 0.5, indexing="ij")
    for i in range(80):
        x1, y1, x2, y2 = boxes[i]
        grid = torch.stack(((x - x1) / (x2 - x1) * 2 - 1, (y - y1) / (y2 - y1) * 2 - 1), dim=-1)
        sampled = F.grid_sample(masks[i][None, None], grid[None], align_corners=False)[0, 0]
        out = ops.paste_masks(masks[i : i + 1], boxes[i : i + 1], 60, 90, method="detectron2")[0]
        sure = (sampled - 0.5).abs() > 1e-5
        assert torch.equal(out[sure], (sampled >= 0.5)[sure])


def test_thresholds_include_equality_only_in_detectron2s_style() -> None:
    masks, boxes = torch.full((1, 4, 4), 0.5), torch.tensor([[10.0, 10.0, 30.0, 30.0]])
    counts = {
        m: int(ops.paste_masks(masks, boxes, 40, 40, method=m).sum()) for m in ("detectron", "detectron2")
    }
    assert counts["detectron"] == 0 and counts["detectron2"] > 200
    assert ops.paste_masks(masks, boxes, 40, 40, method="detectron", thresh=0.4).sum() > 200


@pytest.mark.parametrize("method", ["detectron", "detectron2", "torchvision"])
def test_rles_are_the_pasted_masks(method: str) -> None:
    masks, boxes = random_masks(40, 28, seed=2)
    pasted = ops.paste_masks(masks, boxes, 60, 90, method=method).numpy()
    rles = ops.masks_to_rles(masks, boxes, 60, 90, method=method)
    for mask, rle in zip(pasted, rles, strict=True):
        expected = pycocotools_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle == {"size": [60, 90], "counts": expected["counts"].decode()}
    assert ops.masks_to_rles(masks[:0], boxes[:0], 60, 90, method=method) == []
    assert ops.paste_masks(masks[:0], boxes[:0], 60, 90, method=method).shape == (0, 60, 90)


@pytest.mark.parametrize("method", ["detectron", "detectron2", "torchvision"])
def test_degenerate_and_distant_boxes_paste_nothing_outside(method: str) -> None:
    masks = torch.ones(4, 14, 14)
    boxes = torch.tensor(
        [
            [5.0, 5.0, 5.0, 5.0],
            [500.0, 5.0, 520.0, 20.0],
            [-90.0, -90.0, -60.0, -60.0],
            [-1e4, -1e4, 1e4, 1e4],
        ]
    )
    out = ops.paste_masks(masks, boxes, 60, 90, method=method)
    assert out[0].sum() <= 1 and not out[1].any() and not out[2].any() and out[3].all()


def test_golden_segmentations(golden) -> None:
    compared = 0
    for case in golden("test_results", "test.segm_results"):
        masks, boxes = case.tensor("masks_of_predicted_class"), case.tensor("ref_boxes")
        height, width = case.params["im_h"], case.params["im_w"]
        thresh = case.cfg["MRCNN.THRESH_BINARIZE"]
        rles = ops.masks_to_rles(masks, boxes, height, width, method="detectron", thresh=thresh)
        for rle, expected in zip(rles, case.meta["out_json"]["segms"], strict=True):
            assert rle == expected, case.name
            compared += 1
    assert compared > 40
