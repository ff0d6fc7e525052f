"""Matching and sampling against loops over every pair, and against Detectron's RPN targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detectune.ops import matching
from detectune.ops.anchors import cell_anchors, grid_anchors
from detectune.ops.boxes import box_iou, encode_boxes
from detectune.ops.matching import match_anchors, sample_rows

ROUTES = pytest.mark.parametrize("static", [False, True])


def slow_match(gt: Tensor, valid: Tensor, anchors: Tensor, high, low, low_quality, offset):
    """One image: the rule of Faster R-CNN, pair by pair, on a table of float32 overlaps."""
    rows = [g for g in range(len(gt)) if valid[g]]
    table = box_iou(gt, anchors, offset=offset)
    index, iou, label = [], [], []
    for a in range(len(anchors)):
        best, best_row = torch.tensor(0.0), 0
        for g in rows:
            if table[g, a] > best:
                best, best_row = table[g, a], g
        positive = best > 0 and best >= high
        if low_quality:
            positive |= any(table[g, a] > 0 and table[g, a] == table[g].max() for g in rows)
        index.append(best_row)
        iou.append(float(best))
        label.append(1 if positive else 0 if best < low or not rows else -1)
    return index, iou, label


@st.composite
def scenes(draw):
    coordinate = st.integers(0, 12)
    box = st.tuples(coordinate, coordinate, st.integers(0, 8), st.integers(0, 8)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    )
    batch, num_gt, num_anchors = draw(st.integers(1, 3)), draw(st.integers(0, 4)), draw(st.integers(1, 9))
    gt = draw(st.lists(box, min_size=batch * num_gt, max_size=batch * num_gt))
    anchors = draw(st.lists(box, min_size=num_anchors, max_size=num_anchors))
    valid = draw(st.lists(st.booleans(), min_size=batch * num_gt, max_size=batch * num_gt))
    return (
        torch.tensor(gt, dtype=torch.float32).reshape(batch, num_gt, 4),
        torch.tensor(valid, dtype=torch.bool).reshape(batch, num_gt),
        torch.tensor(anchors, dtype=torch.float32),
    )


@ROUTES
@settings(max_examples=150, deadline=None)
@given(
    scenes(),
    st.sampled_from([(0.7, 0.3), (0.5, 0.5), (0.5, 0.0)]),
    st.booleans(),
    st.sampled_from([0.0, 1.0]),
)
def test_matching_equals_the_loop(static, scene, thresholds, low_quality, offset) -> None:
    gt, valid, anchors = scene
    high, low = thresholds
    found = match_anchors(
        gt, valid, anchors, high=high, low=low, allow_low_quality=low_quality, offset=offset, static=static
    )
    assert found.label.dtype == torch.int8 and found.index.dtype == torch.int64
    for image in range(len(gt)):
        index, iou, label = slow_match(gt[image], valid[image], anchors, high, low, low_quality, offset)
        assert found.label[image].tolist() == label
        assert found.index[image].tolist() == index
        torch.testing.assert_close(found.iou[image], torch.tensor(iou), rtol=0, atol=0)


@pytest.mark.parametrize("shared_anchors", [True, False])
@pytest.mark.parametrize("scratch", [1, 700, 2**24])
def test_routes_agree_whatever_the_chunks(random_boxes, monkeypatch, shared_anchors, scratch) -> None:
    gt, valid = random_boxes(3, 13, seed=1), torch.rand(3, 13, generator=torch.manual_seed(0)) < 0.7
    anchors = random_boxes(500, seed=2) if shared_anchors else random_boxes(3, 500, seed=2)
    monkeypatch.setattr(matching, "_SCRATCH_ELEMENTS", scratch)
    monkeypatch.setattr(matching, "_RUN", min(64, scratch))
    found = [
        match_anchors(gt, valid, anchors, high=0.6, low=0.3, allow_low_quality=True, static=static)
        for static in (True, False)
    ]
    for field in ("index", "iou", "label"):
        assert torch.equal(getattr(found[0], field), getattr(found[1], field)), field
    assert set(found[0].label.unique().tolist()) == {-1, 0, 1}
    assert valid.gather(1, found[0].index)[found[0].label == 1].all(), "padding never matches"


def test_anchors_out_of_reach_are_skipped_without_effect(random_boxes) -> None:
    gt, valid = random_boxes(2, 4, seed=1), torch.ones(2, 4, dtype=torch.bool)
    anchors = random_boxes(2, 100, seed=2)
    anchors[:, 10:70] -= 1e6
    found = [
        match_anchors(gt, valid, anchors, high=0.4, low=0.2, allow_low_quality=True, static=static)
        for static in (True, False)
    ]
    for field in ("index", "iou", "label"):
        assert torch.equal(getattr(found[0], field), getattr(found[1], field)), field
    assert (found[0].label == 1).any() and (found[1].iou[:, 10:70] == 0).all()


@ROUTES
def test_images_without_objects_are_all_background(random_boxes, static) -> None:
    anchors = random_boxes(20)
    for gt, valid in (
        (torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool)),
        (random_boxes(2, 3), torch.zeros(2, 3, dtype=torch.bool)),
    ):
        found = match_anchors(gt, valid, anchors, high=0.5, low=0.0, allow_low_quality=True, static=static)
        assert (found.label == 0).all() and (found.iou == 0).all() and (found.index == 0).all()
    none = match_anchors(random_boxes(2, 3), valid, anchors[:0], high=0.5, low=0.5, allow_low_quality=True)
    assert none.label.shape == (2, 0)


@ROUTES
def test_an_object_that_touches_no_anchor_promotes_none(static) -> None:
    gt = torch.tensor([[[900.0, 900.0, 950.0, 950.0]]])
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    found = match_anchors(
        gt,
        torch.ones(1, 1, dtype=torch.bool),
        anchors,
        high=0.7,
        low=0.3,
        allow_low_quality=True,
        static=static,
    )
    assert (found.label == 0).all()


def test_every_anchor_that_ties_an_objects_best_is_positive() -> None:
    gt = torch.tensor([[[0.0, 0.0, 10.0, 10.0]]])
    anchors = torch.tensor([[5.0, 0.0, 15.0, 10.0], [0.0, 5.0, 10.0, 15.0], [6.0, 0.0, 16.0, 10.0]])
    found = match_anchors(
        gt, torch.ones(1, 1, dtype=torch.bool), anchors, high=0.7, low=0.5, allow_low_quality=True
    )
    assert found.label.tolist() == [[1, 1, 0]]


def test_static_route_never_asks_for_values(random_boxes, traced_without_values) -> None:
    gt, valid, anchors = (
        random_boxes(2, 5, seed=1),
        torch.ones(2, 5, dtype=torch.bool),
        random_boxes(50, seed=2),
    )

    def match_and_sample(gt: Tensor, valid: Tensor, anchors: Tensor) -> list[Tensor]:
        found = match_anchors(gt, valid, anchors, high=0.6, low=0.3, allow_low_quality=True, static=True)
        rows = sample_rows(found.label == 1, found.label == 0, num=16, fg_fraction=0.5, generator=None)
        return [found.index, found.iou, found.label, rows.index, rows.is_fg, rows.valid]

    traced = traced_without_values(match_and_sample, gt, valid, anchors)
    for a, b in zip(traced, match_and_sample(gt, valid, anchors), strict=True):
        assert torch.equal(a, b)


def slow_first(fg: Tensor, bg: Tensor, num: int, fraction: float):
    positive = fg.nonzero()[:, 0].tolist()[: int(num * fraction)]
    negative = bg.nonzero()[:, 0].tolist()[: num - len(positive)]
    return positive, negative


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 30),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_sampling(num_rows: int, num: int, fraction: float, seed: int, at_random: bool) -> None:
    numbers = torch.Generator().manual_seed(seed)
    kind = torch.randint(-1, 2, (3, num_rows), generator=numbers)
    fg, bg = kind == 1, kind == 0
    rows = sample_rows(fg, bg, num=num, fg_fraction=fraction, generator=numbers if at_random else None)
    assert rows.index.shape == rows.is_fg.shape == rows.valid.shape == (3, num)
    for image in range(3):
        positive, negative = slow_first(fg[image], bg[image], num, fraction)
        index, is_fg, valid = rows.index[image], rows.is_fg[image], rows.valid[image]
        total = len(positive) + len(negative)
        assert valid.tolist() == [True] * total + [False] * (num - total)
        assert is_fg.tolist() == [True] * len(positive) + [False] * (num - len(positive))
        drawn = index[valid].tolist()
        assert len(set(drawn)) == total
        if not at_random:
            assert drawn == positive + negative
        assert fg[image, index[valid & is_fg]].all() and bg[image, index[valid & ~is_fg]].all()


def test_every_candidate_is_equally_likely() -> None:
    fg = torch.zeros(4000, 10, dtype=torch.bool)
    fg[:, 2:8] = True
    rows = sample_rows(fg, ~fg, num=4, fg_fraction=0.5, generator=torch.Generator().manual_seed(0))
    drawn = torch.bincount(rows.index[rows.is_fg], minlength=10)
    assert drawn[[0, 1, 8, 9]].sum() == 0
    assert ((drawn[2:8] - 4000 * 2 / 6).abs() < 5 * (4000 * (1 / 3) * (2 / 3)) ** 0.5).all()
    again = sample_rows(fg, ~fg, num=4, fg_fraction=0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rows.index, again.index)


def test_a_row_drawn_as_both_counts_as_background() -> None:
    fg = torch.tensor([[True, True, False, False]])
    bg = torch.tensor([[True, False, True, False]])
    rows = sample_rows(fg, bg, num=4, fg_fraction=0.5, generator=None)
    pairs = list(zip(rows.index[0].tolist(), rows.is_fg[0].tolist(), rows.valid[0].tolist(), strict=True))
    assert sorted(p for p in pairs if p[2]) == [(0, False, True), (1, True, True), (2, False, True)]
    assert [p for p in pairs if not p[2]] == [(0, False, False)]


def test_golden_rpn_targets(golden) -> None:
    """Labels and regression targets of Detectron's RPN, when every candidate is drawn (CONVENTIONS 17)."""
    for case in golden("targets_rpn", "roi_data.rpn._get_rpn_blobs"):
        if "raises" not in case.meta:  # without objects the original fails; see the test of empty images
            check_rpn_case(case, case.tensor("gt_boxes"))


def check_rpn_case(case, gt: Tensor) -> None:
    anchors = case.params["anchors"]
    specs = [
        {**anchors, "stride": 2.0**level, "sizes": [anchors["start_size"] * 2.0**i]}
        for i, level in enumerate(anchors.get("levels", []))
    ] or [anchors]
    prefixes = [row["level"] for row in case.meta["out_json"]["summary"]]
    fields, shapes = [], []
    for spec, row in zip(specs, case.meta["out_json"]["summary"], strict=True):
        _, num_cells, height, width = row["shapes"]["rpn_labels_int32_wide"]
        cell = cell_anchors(
            stride=spec["stride"],
            sizes=spec["sizes"],
            aspect_ratios=spec["aspect_ratios"],
            rounding="detectron",
        )
        assert len(cell) == num_cells
        fields.append(grid_anchors(cell, height, width, spec["stride"]))
        shapes.append((height, width, num_cells))
    field = torch.cat(fields)
    straddle = case.cfg["TRAIN.RPN_STRADDLE_THRESH"]
    inside = torch.ones(len(field), dtype=torch.bool)
    if straddle >= 0:
        low = (field[:, :2] >= -straddle).all(dim=1)
        limit = torch.tensor([case.params["im_width"], case.params["im_height"]]) + straddle
        inside = low & (field[:, 2:] < limit).all(dim=1)
    high = case.cfg.get("TRAIN.RPN_POSITIVE_OVERLAP", 0.7)
    low_thresh = case.cfg.get("TRAIN.RPN_NEGATIVE_OVERLAP", 0.3)
    found = match_anchors(
        gt[None], torch.ones(1, len(gt), dtype=torch.bool), field[inside], high=high, low=low_thresh,
        allow_low_quality=True, offset=1.0,
    )  # fmt: skip
    num = case.cfg.get("TRAIN.RPN_BATCH_SIZE_PER_IM", 256)
    rows = sample_rows(found.label == 1, found.iou < low_thresh, num=num, fg_fraction=0.5, generator=None)
    assert num >= len(field), "the original draws at random from more candidates than it wants"
    label = torch.full((int(inside.sum()),), -1)
    index, is_fg, valid = rows.index[0], rows.is_fg[0], rows.valid[0]
    label[index[valid]] = is_fg[valid].long()
    everywhere = torch.full((len(field),), -1)
    everywhere[inside] = label
    target = torch.zeros(len(field), 4)
    target[inside] = encode_boxes(field[inside], gt[found.index[0]], weights=(1.0, 1.0, 1.0, 1.0), offset=1.0)
    start = 0
    for prefix, (height, width, cells) in zip(prefixes, shapes, strict=True):
        stop = start + height * width * cells
        grid = everywhere[start:stop].reshape(height, width, cells).permute(2, 0, 1)
        np.testing.assert_array_equal(grid[None].numpy(), case.outputs[f"{prefix}labels"], err_msg=case.name)
        targets = target[start:stop].reshape(height, width, cells, 4)
        for (a, y, x), expected, weight in zip(
            case.outputs[f"{prefix}target_locations_ayx"],
            case.outputs[f"{prefix}targets"],
            case.outputs[f"{prefix}inside_weights_at_locations"],
            strict=True,
        ):
            np.testing.assert_allclose(targets[y, x, a].numpy(), expected, rtol=1e-4, atol=1e-5)
            assert (weight == (grid[a, y, x] == 1).float().item()).all()
        start = stop
