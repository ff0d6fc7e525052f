"""Losses against their formulas, row by row; invalid rows must not exist for value or gradient."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from torch import Tensor

from detectune.ops import losses as ops


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_smooth_l1_equals_the_formula(beta: float, dtype: torch.dtype) -> None:
    pred, target = numbers(50, seed=1).to(dtype), numbers(50, seed=2).to(dtype)
    out = ops.smooth_l1(pred, target, beta)
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for d, got in zip((pred.double() - target.double()).tolist(), out.tolist(), strict=True):
        expected = 0.5 * d * d / beta if abs(d) < beta else abs(d) - 0.5 * beta
        assert math.isclose(got, expected, rel_tol=1e-5, abs_tol=1e-6)
    torch.testing.assert_close(
        out.double(),
        F.smooth_l1_loss(pred.double(), target.double(), beta=beta, reduction="none"),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_box_loss_sums_valid_rows_only(beta: float) -> None:
    pred, target = numbers(2, 6, 4, seed=1), numbers(2, 6, 4, seed=2)
    valid = torch.tensor([[1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]], dtype=torch.bool)
    expected = F.smooth_l1_loss(pred[valid], target[valid], beta=beta, reduction="sum") / 7
    torch.testing.assert_close(
        ops.box_regression_loss(pred, target, valid, beta=beta, normalizer=7), expected
    )


def test_cross_entropy_sums_valid_rows_only() -> None:
    logits, labels = numbers(2, 6, 5), torch.arange(12).reshape(2, 6) % 5
    valid = torch.tensor([[1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]], dtype=torch.bool)
    expected = 0.0
    for row, label in zip(logits[valid].tolist(), labels[valid].tolist(), strict=True):
        expected += math.log(sum(math.exp(v) for v in row)) - row[label]
    out = ops.softmax_cross_entropy(logits, labels, valid, normalizer=torch.tensor(4.0))
    torch.testing.assert_close(out, torch.tensor(expected / 4, dtype=torch.float64))


def test_binary_cross_entropy_sums_valid_elements_only() -> None:
    logits, targets = numbers(3, 5), (numbers(3, 5, seed=1) > 0)
    valid = numbers(3, 5, seed=2) > 0
    expected = 0.0
    for x, t in zip(logits[valid].tolist(), targets[valid].tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        expected -= math.log(p if t else 1 - p)
    out = ops.binary_cross_entropy(logits, targets, valid, normalizer=8)
    torch.testing.assert_close(out, torch.tensor(expected / 8, dtype=torch.float64))


def test_mask_loss_looks_at_the_objects_own_channel() -> None:
    logits, targets = numbers(4, 3, 5, 5), numbers(4, 5, 5, seed=1) > 0
    channel, valid = torch.tensor([2, 0, 1, 1]), torch.tensor([True, True, False, True])
    rows = [
        F.binary_cross_entropy_with_logits(logits[r, channel[r]], targets[r].double())
        for r in range(4)
        if valid[r]
    ]
    out = ops.mask_bce(logits, channel, targets, valid, normalizer=valid.sum())
    torch.testing.assert_close(out, torch.stack(rows).mean())
    logits.requires_grad_()
    ops.mask_bce(logits, channel, targets, valid, normalizer=3).backward()
    touched = logits.grad.flatten(2).abs().sum(dim=2) > 0
    assert touched.nonzero().tolist() == [[0, 2], [1, 0], [3, 1]]


FOCAL = pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.9, 1.5), (0.3, 0.5)])


@FOCAL
def test_focal_loss_equals_the_formula(alpha: float, gamma: float) -> None:
    logits, positive = numbers(4, 6) * 3, numbers(4, 6, seed=1) > 0.5
    expected = []
    for x, t in zip(logits.flatten().tolist(), positive.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        p_t, alpha_t = (p, alpha) if t else (1 - p, 1 - alpha)
        expected.append(-alpha_t * (1 - p_t) ** gamma * math.log(p_t))
    out = ops.sigmoid_focal(logits, positive, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(out.flatten(), torch.tensor(expected, dtype=torch.float64))
    leaf = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.sigmoid_focal(x, positive, alpha=alpha, gamma=gamma), leaf)


@FOCAL
def test_focal_loss_of_competing_classes_equals_the_formula(alpha: float, gamma: float) -> None:
    logits, labels = numbers(4, 5, 3) * 2, torch.arange(20).view(4, 5) % 3
    expected = []
    for row, label in zip(logits.view(-1, 3).tolist(), labels.flatten().tolist(), strict=True):
        p_t = math.exp(row[label]) / sum(math.exp(x) for x in row)
        expected.append(-(alpha if label else 1 - alpha) * (1 - p_t) ** gamma * math.log(p_t))
    out = ops.softmax_focal(logits, labels, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(out.flatten(), torch.tensor(expected, dtype=torch.float64))
    leaf = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.softmax_focal(x, labels, alpha=alpha, gamma=gamma), leaf)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_losses_stay_finite_where_all_is_certain(gamma: float) -> None:
    logits = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0], requires_grad=True)
    for positive in (False, True):
        ops.sigmoid_focal(logits, torch.full((5,), positive), alpha=0.25, gamma=gamma).sum().backward()
    pair = torch.stack((logits, -logits), dim=-1)
    for label in (0, 1):
        ops.softmax_focal(pair, torch.full((5,), label), alpha=0.25, gamma=gamma).sum().backward(
            retain_graph=label == 0
        )
    assert torch.isfinite(logits.grad).all()


POISON = (float("nan"), float("inf"), 1e30)


@pytest.mark.parametrize("poison", POISON)
def test_invalid_rows_change_neither_loss_nor_gradient(poison: float) -> None:
    valid = torch.tensor([True, False])
    pred = torch.zeros(2, 4, requires_grad=True)
    target = torch.tensor([[1.0] * 4, [poison] * 4])
    loss = ops.box_regression_loss(pred, target, valid, beta=1.0, normalizer=1)
    loss.backward()
    assert loss.item() == 2.0 and pred.grad[1].tolist() == [0.0] * 4 and pred.grad[0].abs().sum() > 0

    logits = torch.zeros(2, 3, requires_grad=True)
    loss = ops.softmax_cross_entropy(logits, torch.tensor([1, 77]), valid, normalizer=1)
    loss.backward()
    assert math.isclose(loss.item(), math.log(3), rel_tol=1e-6) and (logits.grad[1] == 0).all()

    logits = torch.zeros(2, requires_grad=True)
    loss = ops.binary_cross_entropy(logits, torch.tensor([1.0, poison]), valid, normalizer=1)
    loss.backward()
    assert math.isclose(loss.item(), math.log(2), rel_tol=1e-6) and logits.grad[1] == 0


def test_no_valid_rows_give_zero_with_a_gradient_of_zero() -> None:
    none = torch.zeros(2, dtype=torch.bool)
    for rows in (2, 0):
        pred = torch.randn(rows, 4, requires_grad=True)
        masks = torch.randn(rows, 4, 3, 3, requires_grad=True)
        labels = torch.zeros(rows, dtype=torch.int64)
        total = (
            ops.box_regression_loss(pred, torch.randn(rows, 4), none[:rows], beta=1.0, normalizer=1)
            + ops.softmax_cross_entropy(pred, labels, none[:rows], normalizer=1)
            + ops.mask_bce(masks, labels, torch.zeros(rows, 3, 3), none[:rows], normalizer=1)
        )
        total.backward()
        assert total.item() == 0.0 and (pred.grad == 0).all() and (masks.grad == 0).all()


def test_half_precision_sums_in_single_precision() -> None:
    logits = torch.full((4096, 2), 0.0, dtype=torch.bfloat16)
    valid = torch.ones(4096, dtype=torch.bool)
    loss = ops.softmax_cross_entropy(logits, torch.zeros(4096, dtype=torch.int64), valid, normalizer=1)
    assert loss.dtype == torch.float32 and math.isclose(loss.item(), 4096 * math.log(2), rel_tol=1e-5)


def test_gradients() -> None:
    valid = torch.tensor([True, False, True])
    labels, masks = torch.tensor([0, 1, 2]), numbers(3, 2, 2, seed=3) > 0
    check = torch.autograd.gradcheck
    for beta in (1 / 9, 1.0):
        target = numbers(3, 4, seed=1)
        assert check(
            lambda p, t=target, b=beta: ops.box_regression_loss(p, t, valid, beta=b, normalizer=2.0),
            numbers(3, 4).requires_grad_(),
        )
    assert check(
        lambda x: ops.softmax_cross_entropy(x, labels, valid, normalizer=2.0), numbers(3, 4).requires_grad_()
    )
    assert check(
        lambda x: ops.mask_bce(x, labels, masks, valid, normalizer=2.0), numbers(3, 3, 2, 2).requires_grad_()
    )


def test_nothing_waits_for_values(traced_without_values) -> None:
    def total(pred: Tensor, masks: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        normalizer = valid.sum().clamp(min=1)
        return (
            ops.box_regression_loss(pred, pred * 2, valid, beta=1.0, normalizer=normalizer)
            + ops.softmax_cross_entropy(pred, labels, valid, normalizer=normalizer)
            + ops.mask_bce(masks, labels, masks[:, 0], valid, normalizer=normalizer)
        )

    args = (
        torch.randn(3, 4),
        torch.rand(3, 4, 2, 2),
        torch.tensor([0, 1, 3]),
        torch.tensor([True, False, True]),
    )
    torch.testing.assert_close(traced_without_values(total, *args), total(*args))


def slow_giou(a: list[float], b: list[float], offset: float) -> float:
    """By its definition: overlap, less the part of the hull that neither box covers."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    union = sum(areas) - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0]) + offset) * (max(a[3], b[3]) - min(a[1], b[1]) + offset)
    return width * height / union - (hull - union) / hull


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_generalized_overlap_of_boxes(offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 40, 2, generator=generator) * 60
    boxes = torch.cat((corners, corners + 1 + torch.rand(2, 40, 2, generator=generator) * 40), -1)
    pred, target = boxes[0].requires_grad_(), boxes[1]
    valid = torch.arange(40) % 3 > 0
    slow = [
        1 - slow_giou(p, t, offset)
        for p, t, v in zip(pred.tolist(), target.tolist(), valid.tolist(), strict=True)
        if v
    ]
    assert min(slow) < 0.9 and max(slow) > 1.3  # some boxes touch, some are far apart
    loss = ops.generalized_iou_loss(pred, target, valid, offset=offset, normalizer=7.0)
    assert float(loss.detach()) == pytest.approx(sum(slow) / 7, rel=1e-5)
    loss.backward()
    assert pred.grad is not None and not pred.grad[~valid].any() and pred.grad[valid].abs().sum(-1).min() > 0
    if not offset:
        theirs = torchvision.ops.generalized_box_iou_loss(
            pred.detach()[valid], target[valid], reduction="sum"
        )
        assert float(loss.detach()) == pytest.approx(float(theirs) / 7, rel=1e-6)


def test_rows_that_do_not_count_spoil_no_gradient_of_the_overlap() -> None:
    pred = torch.tensor([[0.0, 0, 4, 4], [torch.inf, 0, 4, 4], [2.0, 2, 2, 2]], requires_grad=True)
    target = torch.tensor([[1.0, 1, 5, 5], [torch.nan, 0, 1, 1], [0.0, 0, 0, 0]])
    loss = ops.generalized_iou_loss(pred, target, torch.tensor([True, False, False]), normalizer=1.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(pred.grad).all() and not pred.grad[1:].any()
