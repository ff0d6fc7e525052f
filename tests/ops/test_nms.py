"""Suppression against a double loop, Detectron's goldens and torchvision; all routes against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detectune.ops import nms as ops
from detectune.ops.boxes import box_iou
from detectune.ops.class_nms import spread_class_nms
from detectune.ops.voting import box_voting


def slow_nms(boxes: Tensor, scores: Tensor, thresh: float, offset: float, inclusive: bool) -> list[int]:
    """Greedy by the book, on float32 overlaps; thresholds compare as the original systems compare them."""
    iou = box_iou(boxes, boxes, offset=offset)
    order = sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i))
    kept: list[int] = []
    for i in order:
        if inclusive:
            dropped = any(float(iou[j, i]) >= float(np.float32(thresh)) for j in kept)
        else:
            dropped = any(float(iou[j, i]) > thresh for j in kept)
        if not dropped:
            kept.append(i)
    return kept


@st.composite
def crowds(draw, max_size: int = 24):
    """Boxes on a coarse grid, so that overlaps tie and hit thresholds exactly; scores tie too."""
    number = st.integers(0, 6)
    rows = draw(st.lists(st.tuples(number, number, st.integers(1, 5), st.integers(1, 5)), max_size=max_size))
    boxes = torch.tensor([(x, y, x + w, y + h) for x, y, w, h in rows], dtype=torch.float32).reshape(-1, 4)
    scores = draw(st.lists(st.integers(0, 8), min_size=len(rows), max_size=len(rows)))
    return boxes, torch.tensor(scores, dtype=torch.float32) / 8


def chain(length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes in a row, each suppressing only the next: every other one stays."""
    x = torch.arange(length, dtype=torch.float32) * 4
    boxes = torch.stack((x, torch.zeros(length), x + 10, torch.full((length,), 10.0)), dim=1)
    scores = torch.linspace(1, 0.1, length)
    return boxes, scores, torch.arange(length) % 2 == 0


@settings(max_examples=200, deadline=None)
@given(
    crowds(), st.sampled_from([0.3, 0.5, 0.7, 1 / 3]), st.sampled_from([0.0, 1.0]), st.booleans(),
    st.sampled_from([1, 3, 128]),
)  # fmt: skip
def test_nms_equals_the_loop(crowd, thresh, offset, inclusive, block) -> None:
    boxes, scores = crowd
    before = ops._BLOCK
    ops._BLOCK = block
    try:
        kept = ops.nms(boxes, scores, thresh, offset=offset, inclusive=inclusive)
    finally:
        ops._BLOCK = before
    assert kept.tolist() == slow_nms(boxes, scores, thresh, offset, inclusive)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(crowds(12), min_size=1, max_size=3), st.sampled_from([0.3, 0.5, 0.7]), st.sampled_from([0.0, 1.0]),
    st.booleans(), st.booleans(), st.integers(0, 10**6),
)  # fmt: skip
def test_batched_routes_equal_the_loop(sets, thresh, offset, inclusive, static, seed) -> None:
    k = max(len(b) for b, _ in sets)
    boxes, scores = torch.zeros(len(sets), k, 4), torch.full((len(sets), k), -1.0)
    valid = torch.zeros(len(sets), k, dtype=torch.bool)
    for s, (b, c) in enumerate(sets):
        order = torch.sort(c, descending=True, stable=True).indices
        boxes[s, : len(b)], scores[s, : len(b)] = b[order], c[order]
        valid[s, : len(b)] = torch.rand(len(b), generator=torch.Generator().manual_seed(seed)) < 0.8
    keep = ops.nms_batched(boxes, scores, valid, thresh, offset=offset, inclusive=inclusive, static=static)
    assert keep.shape == valid.shape and keep.dtype == torch.bool
    for s in range(len(sets)):
        rows = valid[s].nonzero()[:, 0]
        falling = torch.arange(len(rows), 0, -1)  # rows count as sorted already
        expected = rows[slow_nms(boxes[s, rows], falling, thresh, offset, inclusive)] if len(rows) else rows
        assert keep[s].nonzero()[:, 0].tolist() == expected.tolist()


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(("offset", "inclusive"), [(0.0, False), (1.0, True)])
def test_long_chains_of_suppression(static: bool, offset: float, inclusive: bool) -> None:
    boxes, scores, expected = chain(ops.MAX_CHAIN)
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    args = {"offset": offset, "inclusive": inclusive, "static": static}
    assert torch.equal(ops.nms_batched(boxes[None], scores[None], valid, 0.4, **args)[0], expected)
    boxes, scores, expected = chain(500)
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    keep = ops.nms_batched(boxes[None], scores[None], valid, 0.4, max_chain=500, **args)[0]
    assert torch.equal(keep, expected)
    keep = ops.nms_batched(boxes[None], scores[None], valid, 0.4, **args)[0]
    assert torch.equal(keep[: ops.MAX_CHAIN], expected[: ops.MAX_CHAIN])
    assert not (expected & ~keep).any(), "beyond its reach the static route keeps too many, never too few"


def test_routes_agree_on_proposals_and_slices_of_scratch(random_boxes, monkeypatch) -> None:
    boxes = random_boxes(3, 300, extent=200)
    scores, valid = torch.linspace(1, 0, 300).expand(3, 300), torch.rand(3, 300) < 0.9
    walked = ops.nms_batched(boxes, scores, valid, 0.5, static=False)
    assert 20 < walked.sum() < valid.sum()
    for scratch in (1, 3 * 300 * 7, 2**24):
        monkeypatch.setattr(ops, "_SCRATCH_ELEMENTS", scratch)
        assert torch.equal(ops.nms_batched(boxes, scores, valid, 0.5, static=True), walked)


def test_static_route_never_asks_for_values(random_boxes, traced_without_values) -> None:
    boxes, scores, valid = (
        random_boxes(2, 30),
        torch.linspace(1, 0, 30).expand(2, 30),
        torch.rand(2, 30) < 0.9,
    )

    def suppress(boxes: Tensor, scores: Tensor, valid: Tensor) -> Tensor:
        return ops.nms_batched(boxes, scores, valid, 0.5, static=True)

    assert torch.equal(traced_without_values(suppress, boxes, scores, valid), suppress(boxes, scores, valid))


def test_nms_equals_torchvisions(random_boxes) -> None:
    boxes, scores = random_boxes(400, extent=200), torch.rand(400, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 5, (400,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(ops.nms(boxes, scores, 0.4), torchvision.ops.nms(boxes, scores, 0.4))
    expected = torchvision.ops.batched_nms(boxes, scores, labels, 0.4)
    assert torch.equal(ops.batched_class_nms(boxes, scores, labels, 0.4), expected)


@settings(max_examples=60, deadline=None)
@given(crowds(), st.sampled_from([(0.0, False), (1.0, True)]), st.integers(0, 10**6))
def test_classes_do_not_suppress_each_other(crowd, dialect, seed) -> None:
    boxes, scores = crowd
    offset, inclusive = dialect
    labels = torch.randint(1, 4, (len(boxes),), generator=torch.Generator().manual_seed(seed))
    kept = ops.batched_class_nms(boxes, scores, labels, 0.5, offset=offset, inclusive=inclusive).tolist()
    expected = []
    for label in (1, 2, 3):
        rows = (labels == label).nonzero()[:, 0]
        expected += (
            rows[slow_nms(boxes[rows], scores[rows], 0.5, offset, inclusive)].tolist() if len(rows) else []
        )
    assert kept == sorted(expected, key=lambda i: (-float(scores[i]), i))


@pytest.mark.parametrize("static", [False, True])
def test_nothing_in_nothing_out(static: bool) -> None:
    none = torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool)
    assert ops.nms_batched(*none, 0.5, static=static).shape == (2, 0)
    assert ops.nms_batched(
        torch.zeros(0, 5, 4), torch.zeros(0, 5), torch.zeros(0, 5) > 0, 0.5, static=static
    ).shape == (0, 5)
    assert ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5, offset=1.0, inclusive=True).tolist() == []
    assert ops.batched_class_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), 0.5).tolist() == []


def test_golden_nms(golden) -> None:
    for case in golden("nms", "boxes.nms"):
        boxes, scores = case.tensor("dets")[:, :4], case.tensor("dets")[:, 4]
        kept = ops.nms(boxes, scores, case.params["thresh"], offset=1.0, inclusive=True)
        assert kept.sort().values.tolist() == case.outputs["keep"].tolist(), case.name
        order = torch.sort(scores, descending=True, stable=True).indices
        for static in (False, True):
            keep = ops.nms_batched(
                boxes[order][None], scores[order][None], torch.ones(1, len(boxes), dtype=torch.bool),
                case.params["thresh"], offset=1.0, inclusive=True, static=static,
            )[0]  # fmt: skip
            assert order[keep].sort().values.tolist() == case.outputs["keep"].tolist(), case.name


def test_golden_soft_nms(golden) -> None:
    for case in golden("nms", "boxes.soft_nms"):
        dets = case.tensor("dets")
        rows, scores = ops.soft_nms(dets[:, :4], dets[:, 4], **case.params, offset=1.0)
        assert rows.tolist() == case.outputs["keep"].tolist(), case.name
        np.testing.assert_allclose(
            scores.numpy(), case.outputs["dets_out"][:, 4], rtol=1e-5, err_msg=case.name
        )
        np.testing.assert_array_equal(dets[rows, :4].numpy(), case.outputs["dets_out"][:, :4])


def test_little_memory_changes_nothing(random_boxes, monkeypatch) -> None:
    from detectune.ops import voting

    boxes, scores = random_boxes(60), torch.rand(60, generator=torch.Generator().manual_seed(2))
    soft = ops.soft_nms(boxes, scores, method="linear")
    voted = box_voting(boxes, scores, boxes, scores, 0.3, scoring_method="IOU_AVG")
    monkeypatch.setattr(ops, "_SCRATCH_ELEMENTS", 100)
    monkeypatch.setattr(voting, "_SCRATCH_ELEMENTS", 7 * 60)
    for want, have in (
        (soft, ops.soft_nms(boxes, scores, method="linear")),
        (voted, box_voting(boxes, scores, boxes, scores, 0.3, scoring_method="IOU_AVG")),
    ):
        assert torch.allclose(want[0].float(), have[0].float()) and torch.allclose(want[1], have[1])


def test_soft_nms_lowers_by_hand_computed_weights() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [50.0, 50.0, 60.0, 60.0]])
    scores = torch.tensor([0.9, 0.8, 0.0001])  # overlap of the first two: 0.5
    rows, new = ops.soft_nms(boxes, scores, method="linear", overlap_thresh=0.3)
    assert rows.tolist() == [0, 1, 2]
    torch.testing.assert_close(new, torch.tensor([0.9, 0.4, 0.0001]))
    _, new = ops.soft_nms(boxes, scores, method="gaussian", sigma=0.5)
    assert math.isclose(new[1].item(), 0.8 * math.exp(-0.5), rel_tol=1e-6)
    rows, _ = ops.soft_nms(boxes, scores, method="hard", overlap_thresh=0.3)
    assert rows.tolist() == [0, 2]


def test_golden_box_voting(golden) -> None:
    for case in golden("nms", "boxes.box_voting"):
        top, everything = case.tensor("top_dets"), case.tensor("all_dets")
        boxes, scores = box_voting(
            top[:, :4], top[:, 4], everything[:, :4], everything[:, 4], case.params["thresh"],
            scoring_method=case.params["scoring_method"], beta=case.params["beta"], offset=1.0,
        )  # fmt: skip
        expected = case.outputs["top_dets_out"]
        np.testing.assert_allclose(boxes.numpy(), expected[:, :4], rtol=1e-5, err_msg=case.name)
        np.testing.assert_allclose(scores.numpy(), expected[:, 4], rtol=1e-5, err_msg=case.name)


def test_a_detection_without_voters_stays() -> None:
    box, score = torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([0.7])
    for method in ("ID", "TEMP_AVG", "AVG", "IOU_AVG", "GENERALIZED_AVG", "QUASI_SUM"):
        boxes, scores = box_voting(box, score, box + 100, score, 0.5, scoring_method=method)
        assert torch.equal(boxes, box) and torch.equal(scores, score)


@pytest.mark.parametrize("count", [0, 1, 2, 200])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_the_suppression_of_recorded_programs_keeps_the_same_rows(count: int, offset: float) -> None:
    generator = torch.Generator().manual_seed(count)
    boxes = torch.rand(count, 4, generator=generator) * 50
    boxes[:, 2:] += boxes[:, :2]
    scores, labels = (
        torch.rand(count, generator=generator),
        torch.randint(0, 4, (count,), generator=generator),
    )
    wanted = ops.batched_class_nms(boxes, scores, labels, 0.4, offset=offset, inclusive=offset > 0)
    assert torch.equal(
        spread_class_nms(boxes, scores, labels, 0.4, offset).sort().values, wanted.sort().values
    )
    if count == 200:
        assert len(wanted) < count
