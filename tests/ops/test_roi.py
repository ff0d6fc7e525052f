"""RoIAlign against bilinear sampling by hand; levels against three systems; both pyramid routes against each other."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detectune.ops import roi, roi_rows
from detectune.ops.roi import assign_levels, multilevel_roi_align, roi_align
from detectune.ops.roi_rows import roi_align_rows

ALIGN = {"resolution": 3, "sampling_ratio": 2, "aligned": True}


def slow_sample(plane: Tensor, y: float, x: float) -> float:
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = min(int(y), height - 1), min(int(x), width - 1)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    top = plane[y0, x0] * (1 - fx) + plane[y0, x1] * fx
    bottom = plane[y1, x0] * (1 - fx) + plane[y1, x1] * fx
    return float(top * (1 - fy) + bottom * fy)


def slow_roi_align(plane: Tensor, box, scale: float, resolution: int, sampling: int, aligned: bool) -> Tensor:
    shift = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (v * scale - shift for v in box)
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = max(width, 1.0), max(height, 1.0)
    out = torch.zeros(resolution, resolution)
    rows = sampling or math.ceil(height / resolution)
    columns = sampling or math.ceil(width / resolution)
    for i in range(resolution):
        for j in range(resolution):
            samples = [
                slow_sample(
                    plane,
                    y1 + height / resolution * (i + (a + 0.5) / rows),
                    x1 + width / resolution * (j + (b + 0.5) / columns),
                )
                for a in range(rows)
                for b in range(columns)
            ]
            out[i, j] = sum(samples) / max(1, len(samples))
    return out


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling", [0, 1, 2, 3])
def test_roi_align_equals_sampling_by_hand(static: bool, aligned: bool, sampling: int) -> None:
    features = torch.randn(2, 1, 9, 11, generator=torch.Generator().manual_seed(0)).expand(2, 48, 9, 11)
    boxes = torch.tensor(
        [[3.0, 5.0, 30.0, 20.0], [-9.0, -6.0, 12.0, 50.0], [8.0, 8.0, 9.0, 9.5], [30.0, 2.0, 60.0, 8.0]]
    )
    image = torch.tensor([1, 0, 1, 0])
    args = {
        "spatial_scale": 0.25,
        "resolution": 3,
        "sampling_ratio": sampling,
        "aligned": aligned,
        "static": static,
    }
    out = roi_align(features, boxes, image, **args)
    for r, box in enumerate(boxes.tolist()):
        expected = slow_roi_align(features[int(image[r]), 0], box, 0.25, 3, sampling, aligned)
        torch.testing.assert_close(out[r], expected.expand(48, 3, 3), rtol=1e-4, atol=1e-5)
    joined = torch.cat((image[:, None].float(), boxes), dim=1)
    assert torch.equal(roi_align(features, joined, **args), out)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-60, 160, width=32)] * 4), min_size=0, max_size=6),
    st.sampled_from([1 / 4, 1 / 16, 1.0]),
    st.sampled_from([1, 2, 7]),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
    st.booleans(),
)
def test_rows_equal_torchvisions_kernel(rows, scale, resolution, sampling, aligned, channels_last) -> None:
    """Boxes anywhere, values and gradients. (The kernel itself fails on inverted boxes.)"""
    numbers = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, 12, 17, generator=numbers)
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 2, 2).sort(dim=1).values.flatten(1)
    image = torch.arange(len(boxes)) % 2
    results = []
    for align in (roi_align_rows, partial(roi_align, static=True)):
        leaf = features.clone().requires_grad_()
        out = align(
            leaf,
            boxes,
            image,
            spatial_scale=scale,
            resolution=resolution,
            sampling_ratio=sampling,
            aligned=aligned,
        )
        (out * torch.arange(out.numel()).view(out.shape).cos()).sum().backward()
        results.append((out.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


def test_inverted_boxes_give_zero() -> None:
    boxes = torch.tensor([[20.0, 20.0, 10.0, 30.0], [10.0, 10.0, 30.0, 30.0]])
    features = torch.ones(1, 2, 12, 17)
    out = roi_align_rows(
        features,
        boxes,
        torch.zeros(2).long(),
        spatial_scale=0.25,
        resolution=3,
        sampling_ratio=0,
        aligned=True,
    )
    assert (out[0] == 0).all()
    torch.testing.assert_close(out[1], torch.ones(2, 3, 3))


def test_scratch_of_rows_is_bounded_by_slices(random_boxes, monkeypatch) -> None:
    features, boxes, image = torch.randn(2, 3, 12, 17), random_boxes(9), torch.arange(9) % 2
    for sampling in (0, 2):
        args = {"spatial_scale": 0.25, "resolution": 3, "sampling_ratio": sampling, "aligned": True}
        monkeypatch.setattr(roi_rows, "_SCRATCH_ENTRIES", 2**21)
        whole = roi_align_rows(features, boxes, image, **args)
        monkeypatch.setattr(roi_rows, "_SCRATCH_ENTRIES", 1)
        torch.testing.assert_close(
            roi_align_rows(features, boxes, image, **args), whole, rtol=1e-6, atol=1e-6
        )


def test_the_faster_route_is_taken_where_it_pays(random_boxes, monkeypatch) -> None:
    def refuse(*args: object, **kwargs: object) -> Tensor:
        raise AssertionError("took rows")

    monkeypatch.setattr(roi, "roi_align_rows", refuse)
    boxes, image = random_boxes(3), torch.zeros(3, dtype=torch.int64)
    narrow, wide = torch.randn(1, 8, 60, 60), torch.randn(1, 64, 60, 60)
    for features in (narrow, narrow.to(memory_format=torch.channels_last), wide):
        assert roi_align(features, boxes, image, spatial_scale=0.25, **ALIGN).shape[0] == 3
    for features, count in ((wide.to(memory_format=torch.channels_last), 3), (wide, 60)):
        with pytest.raises(AssertionError, match="took rows"):
            roi_align(
                features, boxes.repeat(count // 3, 1), image.repeat(count // 3), spatial_scale=0.25, **ALIGN
            )


@pytest.mark.parametrize("channels_last", [False, True])
def test_coordinates_stay_precise_for_half_precision_features(channels_last: bool) -> None:
    features = torch.randn(1, 48, 40, 100, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    boxes = torch.tensor([[301.3, 10.2, 355.9, 77.7]])
    image = torch.zeros(1, dtype=torch.int64)
    out = roi_align(features, boxes, image, spatial_scale=0.25, **ALIGN)
    assert out.dtype == torch.bfloat16
    expected = roi_align(features.float(), boxes, image, spatial_scale=0.25, static=True, **ALIGN)
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)


def test_golden_levels(golden) -> None:
    for case in golden("fpn_levels", "FPN.map_rois_to_fpn_levels"):
        levels = assign_levels(
            case.tensor("rois"),
            min_level=case.params["k_min"],
            max_level=case.params["k_max"],
            canonical_scale=case.cfg.get("FPN.ROI_CANONICAL_SCALE", 224),
            canonical_level=case.cfg.get("FPN.ROI_CANONICAL_LEVEL", 4),
            offset=1.0,
            eps_inside_log=1e-6,
        )
        np.testing.assert_array_equal(levels.numpy(), case.outputs["levels"], err_msg=case.name)


def test_golden_split_by_level(golden) -> None:
    """Detectron shuffles regions by level and back; a stable sort by level is that order."""
    for case in golden("fpn_levels", "FPN.add_multilevel_roi_blobs"):
        rois, levels = case.tensor("rois"), case.tensor("target_lvls").long()
        for level in range(case.params["lvl_min"], case.params["lvl_max"] + 1):
            expected = case.outputs[f"{case.params['blob_prefix']}_fpn{level}"]
            np.testing.assert_array_equal(rois[levels == level].numpy(), expected)
        restore = torch.argsort(torch.argsort(levels, stable=True))
        np.testing.assert_array_equal(
            restore.numpy(), case.outputs[f"{case.params['blob_prefix']}_idx_restore_int32"]
        )


def test_levels_of_torchvision(random_boxes) -> None:
    from torchvision.ops.poolers import LevelMapper

    boxes = torch.cat(
        (random_boxes(200, side=900), torch.tensor([[0.0, 0.0, 224.0, 224.0], [0.0, 0.0, 112.0, 112.0]]))
    )
    levels = assign_levels(
        boxes, min_level=2, max_level=5, canonical_scale=224, canonical_level=4, eps_outside_log=1e-6
    )
    assert torch.equal(levels - 2, LevelMapper(2, 5)([boxes]))
    assert set(levels.tolist()) == {2, 3, 4, 5}


def test_levels_of_boundary_and_degenerate_boxes() -> None:
    boxes = torch.tensor(
        [[0.0, 0.0, 224.0, 224.0], [0.0, 0.0, 111.9, 111.9], [5.0, 5.0, 5.0, 5.0], [9.0, 9.0, 5.0, 12.0]]
    )
    for epsilons in ({"eps_inside_log": 1e-8}, {"eps_outside_log": 1e-6}):
        levels = assign_levels(
            boxes, min_level=2, max_level=5, canonical_scale=224, canonical_level=4, **epsilons
        )
        assert levels.tolist() == [4, 2, 2, 2] and levels.dtype == torch.int64


def pyramid(requires_grad: bool = False) -> list[Tensor]:
    """Wide enough that the walking route takes `ops.roi_rows`."""
    numbers = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 48, 32 // 2**i, 48 // 2**i, generator=numbers).requires_grad_(requires_grad)
        for i in range(3)
    ]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("static", [False, True])
def test_every_region_reads_its_own_level(random_boxes, aligned: bool, sampling: int, static: bool) -> None:
    features, boxes = pyramid(), random_boxes(20, extent=150, side=120)
    image = torch.arange(20) % 2
    levels = torch.arange(20) % 3 + 2
    out = multilevel_roi_align(
        features, boxes, image, strides=(4, 8, 16), levels=levels, resolution=3, sampling_ratio=sampling,
        aligned=aligned, static=static, first_level=2,
    )  # fmt: skip
    for r in range(20):
        level = int(levels[r]) - 2
        alone = roi_align(
            features[level], boxes[r : r + 1], image[r : r + 1], spatial_scale=1 / (4, 8, 16)[level], resolution=3,
            sampling_ratio=sampling, aligned=aligned,
        )  # fmt: skip
        torch.testing.assert_close(out[r], alone[0], rtol=1e-5, atol=1e-5)


def test_routes_have_equal_gradients_and_do_not_leak_between_levels(random_boxes) -> None:
    boxes, image = random_boxes(12, extent=150, side=120), torch.arange(12) % 2
    levels = torch.arange(12) % 2  # the coarsest level is unused, and poisoned
    gradients = []
    for static in (False, True):
        features = pyramid(requires_grad=True)
        with torch.no_grad():
            features[2].fill_(float("nan"))
        out = multilevel_roi_align(
            features, boxes, image, strides=(4, 8, 16), levels=levels, static=static, **ALIGN
        )
        (out * torch.arange(out.numel()).reshape(out.shape)).sum().backward()
        gradients.append([f.grad for f in features])
    assert gradients[0][0].abs().sum() > 0
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        assert a.isfinite().all()


@pytest.mark.parametrize("static", [False, True])
def test_no_regions(static: bool) -> None:
    features = pyramid(requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    out = multilevel_roi_align(
        features, torch.zeros(0, 4), none, strides=(4, 8, 16), levels=none, static=static, **ALIGN
    )
    assert out.shape == (0, 48, 3, 3)
    out.sum().backward()
    assert all(f.grad is not None and (f.grad == 0).all() for f in features)


def test_static_route_never_asks_for_values(random_boxes, traced_without_values) -> None:
    boxes, image, levels = random_boxes(6, extent=150, side=120), torch.arange(6) % 2, torch.arange(6) % 3
    features = pyramid()

    def pool(boxes: Tensor, image: Tensor, levels: Tensor, *features: Tensor) -> Tensor:
        return multilevel_roi_align(
            features, boxes, image, strides=(4, 8, 16), levels=levels, static=True, **ALIGN
        )

    expected = pool(boxes, image, levels, *features)
    assert torch.equal(traced_without_values(pool, boxes, image, levels, *features), expected)
