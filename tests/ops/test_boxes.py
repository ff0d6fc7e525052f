"""Box arithmetic against Detectron's goldens, torchvision and plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detectune.ops import boxes as ops

EXACT = {"rtol": 0.0, "atol": 0.0}
CLOSE = {"rtol": 1e-5, "atol": 1e-4}


def slow_iou(a: Tensor, b: Tensor, offset: float) -> list[list[float]]:
    rows = []
    for ax1, ay1, ax2, ay2 in a.double().tolist():
        row = []
        for bx1, by1, bx2, by2 in b.double().tolist():
            width = min(ax2, bx2) - max(ax1, bx1) + offset
            height = min(ay2, by2) - max(ay1, by1) + offset
            if width <= 0 or height <= 0:
                row.append(0.0)
                continue
            inter = width * height
            area_a = (ax2 - ax1 + offset) * (ay2 - ay1 + offset)
            area_b = (bx2 - bx1 + offset) * (by2 - by1 + offset)
            row.append(inter / (area_a + area_b - inter))
        rows.append(row)
    return rows


def slow_decode(
    delta: list[float], box: list[float], weights: tuple[float, ...], offset: float
) -> list[float]:
    width, height = box[2] - box[0] + offset, box[3] - box[1] + offset
    x, y = box[0] + width / 2, box[1] + height / 2
    dx, dy, dw, dh = (d / w for d, w in zip(delta, weights, strict=True))
    x, y = x + dx * width, y + dy * height
    width *= math.exp(min(dw, math.log(1000 / 16)))
    height *= math.exp(min(dh, math.log(1000 / 16)))
    return [x - width / 2, y - height / 2, x + width / 2 - offset, y + height / 2 - offset]


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_iou_equals_the_definition(random_boxes, offset: float, dtype: torch.dtype) -> None:
    a, b = random_boxes(7, seed=1).to(dtype), random_boxes(9, seed=2).to(dtype)
    expected = torch.tensor(slow_iou(a, b, offset), dtype=dtype)
    assert (expected > 0).any()
    torch.testing.assert_close(ops.box_iou(a, b, offset=offset), expected, rtol=1e-5, atol=1e-6)


def test_iou_is_batched_over_leading_dimensions(random_boxes) -> None:
    a, b = random_boxes(2, 3, 5, seed=1), random_boxes(2, 3, 4, seed=2)
    iou = ops.box_iou(a, b)
    assert iou.shape == (2, 3, 5, 4)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(iou[i, j], torchvision.ops.box_iou(a[i, j], b[i, j]))
    strided = a.repeat_interleave(2, dim=-2)[..., ::2, :]
    assert not strided.is_contiguous()
    torch.testing.assert_close(ops.box_iou(strided, b), iou, **EXACT)


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_iou_of_no_boxes_is_empty(n: int, m: int) -> None:
    assert ops.box_iou(torch.zeros(2, n, 4), torch.zeros(2, m, 4)).shape == (2, n, m)


def test_iou_of_degenerate_boxes_is_zero_and_not_nan() -> None:
    point = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert ops.box_iou(point, point).item() == 0.0
    assert ops.box_iou(point, point, offset=1.0).item() == 1.0


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_decode_equals_the_formula_and_clips_growth(random_boxes, offset: float, weights) -> None:
    boxes = random_boxes(6).double()
    deltas = torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    deltas[0, 2] = 100.0  # exp(100) must not happen
    out = ops.decode_boxes(deltas, boxes, weights=weights, offset=offset)
    expected = [
        slow_decode(d[i : i + 4], b, weights, offset)
        for d, b in zip(deltas.tolist(), boxes.tolist(), strict=True)
        for i in (0, 4)
    ]
    torch.testing.assert_close(out.reshape(-1, 4), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_decode_undoes_encode(random_boxes, offset: float) -> None:
    references, targets = random_boxes(2, 50, seed=1), random_boxes(2, 50, seed=2)
    weights = (10.0, 10.0, 5.0, 5.0)
    deltas = ops.encode_boxes(references, targets, weights=weights, offset=offset)
    back = ops.decode_boxes(deltas, references, weights=weights, offset=offset)
    torch.testing.assert_close(back, targets, rtol=1e-4, atol=1e-3)


def test_encode_of_padding_is_finite() -> None:
    zero = torch.zeros(3, 4)
    for references, targets in ((zero, zero), (zero, zero + torch.tensor([0.0, 0.0, 8.0, 8.0]))):
        assert ops.encode_boxes(references, targets, weights=(10.0, 10.0, 5.0, 5.0)).isfinite().all()
        assert ops.encode_boxes(targets, references, weights=(10.0, 10.0, 5.0, 5.0)).isfinite().all()


def test_code_equals_torchvisions(random_boxes) -> None:
    from torchvision.models.detection._utils import BoxCoder

    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    references, targets = random_boxes(40, seed=1), random_boxes(40, seed=2)
    deltas = ops.encode_boxes(references, targets, weights=(10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(deltas, coder.encode_single(targets, references), **CLOSE)
    wide = torch.cat((deltas, -deltas), dim=1)
    decoded = ops.decode_boxes(wide, references, weights=(10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(decoded, coder.decode_single(wide, references), **CLOSE)


def test_half_precision_deltas_do_not_round_coordinates() -> None:
    box = torch.tensor([[1000.25, 0.0, 1100.25, 100.0]])
    out = ops.decode_boxes(torch.zeros(1, 4, dtype=torch.bfloat16), box, weights=(10.0, 10.0, 5.0, 5.0))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, box)


def test_gradients_of_the_code(random_boxes) -> None:
    boxes = random_boxes(3).double()
    deltas = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda d: ops.decode_boxes(d, boxes, weights=(10.0, 10.0, 5.0, 5.0)), deltas
    )


def test_clip_uses_each_images_own_size(random_boxes) -> None:
    boxes = random_boxes(2, 20) * 2 - 50
    sizes = torch.tensor([[40, 90], [70, 30]])
    for offset in (0.0, 1.0):
        out = ops.clip_boxes(boxes, sizes[:, None], offset=offset)
        for image, (height, width) in enumerate(sizes.tolist()):
            expected = boxes[image].clone()
            expected[:, 0::2] = expected[:, 0::2].clamp(0, width - offset)
            expected[:, 1::2] = expected[:, 1::2].clamp(0, height - offset)
            torch.testing.assert_close(out[image], expected, **EXACT)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-50, 150, width=32)] * 4), min_size=0, max_size=5),
    st.sampled_from([0.0, 1.0]),
)
def test_flipping_twice_and_converting_twice_changes_nothing(rows, offset: float) -> None:
    boxes = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
    boxes = torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:].abs() + offset), dim=1)
    twice = ops.flip_boxes(ops.flip_boxes(boxes, 120, offset=offset), 120, offset=offset)
    torch.testing.assert_close(twice, boxes)
    back = ops.xywh_to_xyxy(ops.xyxy_to_xywh(boxes, offset=offset), offset=offset)
    torch.testing.assert_close(back, boxes)


def test_unique_boxes_gives_a_representative_of_every_row(random_boxes) -> None:
    boxes = random_boxes(40, side=10, extent=30).round()[torch.randint(0, 8, (40,))]
    first, inverse = ops.unique_boxes(boxes)
    assert first.tolist() == sorted(first.tolist()) and len(first) == len({tuple(b) for b in boxes.tolist()})
    torch.testing.assert_close(boxes[first][inverse], boxes, **EXACT)
    assert all(boxes[: int(i)].ne(boxes[i]).any(dim=1).all() for i in first)
    none, _ = ops.unique_boxes(boxes[:0])
    assert none.shape == (0,)


def test_golden_code(golden) -> None:
    for case in golden("boxes", "boxes.bbox_transform"):
        weights = case.params["weights"]
        out = ops.decode_boxes(case.tensor("deltas"), case.tensor("boxes"), weights=weights, offset=1.0)
        np.testing.assert_allclose(
            out.numpy(), case.outputs["pred_boxes"], rtol=1e-5, atol=1e-4, err_msg=case.name
        )
    for case in golden("boxes", "boxes.bbox_transform_inv"):
        weights = case.params["weights"]
        out = ops.encode_boxes(case.tensor("boxes"), case.tensor("gt_boxes"), weights=weights, offset=1.0)
        np.testing.assert_allclose(
            out.numpy(), case.outputs["targets"], rtol=1e-5, atol=1e-6, err_msg=case.name
        )


def test_golden_overlaps(golden) -> None:
    for case in golden("boxes", "boxes.bbox_overlaps"):
        out = ops.box_iou(case.tensor("boxes"), case.tensor("query_boxes"), offset=1.0)
        np.testing.assert_allclose(out.numpy(), case.outputs["overlaps"], rtol=1e-6, err_msg=case.name)


def test_golden_clip(golden) -> None:
    for case in golden("boxes", "boxes.clip_boxes_to_image"):
        size = torch.tensor([case.params["height"], case.params["width"]])
        out = ops.clip_boxes(case.tensor("boxes"), size, offset=1.0)
        np.testing.assert_array_equal(out.numpy(), case.outputs["clipped"], err_msg=case.name)
    for case in golden("boxes", "boxes.clip_tiled_boxes"):
        boxes = case.tensor("boxes")
        size = torch.tensor(case.params["im_shape"][:2])
        out = ops.clip_boxes(boxes.reshape(len(boxes), boxes.shape[1] // 4, 4), size, offset=1.0).flatten(1)
        np.testing.assert_array_equal(out.numpy(), case.outputs["clipped"], err_msg=case.name)


def test_golden_shapes_of_boxes(golden) -> None:
    for case in golden("boxes", "boxes.expand_boxes"):
        out = ops.expand_boxes(case.tensor("boxes"), case.params["scale"])
        np.testing.assert_array_equal(out.double().numpy(), case.outputs["expanded"], err_msg=case.name)
    for case in golden("boxes", "boxes.flip_boxes"):
        boxes = case.tensor("boxes")
        out = ops.flip_boxes(boxes.reshape(len(boxes), -1, 4), case.params["im_width"], offset=1.0)
        np.testing.assert_array_equal(out.flatten(1).numpy(), case.outputs["flipped"], err_msg=case.name)
    for case in golden("boxes", "boxes.aspect_ratio"):
        boxes = case.tensor("boxes")
        out = ops.scale_aspect_ratio(boxes.reshape(len(boxes), -1, 4), case.params["aspect_ratio"])
        np.testing.assert_array_equal(out.flatten(1).numpy(), case.outputs["boxes"], err_msg=case.name)
    for case in golden("boxes", "boxes.boxes_area"):
        out = ops.box_area(case.tensor("boxes"), offset=1.0)
        np.testing.assert_array_equal(out.numpy(), case.outputs["area"], err_msg=case.name)


def test_golden_conversions(golden) -> None:
    for case in golden("boxes", "boxes.xywh_to_xyxy"):
        out = ops.xywh_to_xyxy(case.tensor("xywh"), offset=1.0)
        np.testing.assert_array_equal(out.numpy(), case.outputs["xyxy"], err_msg=case.name)
    for case in golden("boxes", "boxes.xyxy_to_xywh"):
        out = ops.xyxy_to_xywh(case.tensor("xyxy"), offset=1.0)
        np.testing.assert_array_equal(out.numpy(), case.outputs["xywh"], err_msg=case.name)


def test_golden_filters(golden) -> None:
    for case in golden("boxes", "boxes.filter_small_boxes"):
        boxes, min_size = case.tensor("boxes"), case.params["min_size"]
        above = float(
            np.nextafter(np.float32(min_size), np.float32(np.inf))
        )  # the original wants strictly more
        keep = ops.large_enough(boxes, above, offset=1.0).nonzero()[:, 0]
        np.testing.assert_array_equal(keep.numpy(), case.outputs["keep"], err_msg=case.name)
    for case in golden("boxes", "boxes.unique_boxes"):
        first, _ = ops.unique_boxes(case.tensor("boxes"), scale=case.params["scale"])
        np.testing.assert_array_equal(first.numpy(), case.outputs["keep"], err_msg=case.name)


def test_golden_proposal_filter(golden) -> None:
    for case in golden("proposals", "ops.generate_proposals._filter_boxes"):
        boxes, info = case.tensor("boxes"), case.tensor("im_info")
        wanted = float(max(case.params["min_size"], 1))
        large = ops.large_enough(boxes / info[2], wanted, offset=1.0)  # sizes count in the original image
        keep = (large & ops.centre_inside(boxes, info[:2], offset=1.0)).nonzero()[:, 0]
        np.testing.assert_array_equal(keep.numpy(), case.outputs["keep"], err_msg=case.name)


def test_nothing_waits_for_values(random_boxes, traced_without_values) -> None:
    boxes, sizes = random_boxes(2, 5), torch.tensor([[40, 90], [70, 30]])

    def everything(boxes: Tensor, sizes: Tensor) -> list[Tensor]:
        deltas = ops.encode_boxes(boxes, boxes + 1, weights=(1.0, 1.0, 1.0, 1.0), offset=1.0)
        decoded = ops.decode_boxes(deltas, boxes, weights=(1.0, 1.0, 1.0, 1.0), offset=1.0)
        clipped = ops.clip_boxes(decoded, sizes[:, None], offset=1.0)
        inside = ops.centre_inside(clipped, sizes[:, None]) & ops.large_enough(clipped, 1.0)
        return [ops.box_iou(clipped, boxes), inside, ops.expand_boxes(clipped, 2.0)]

    for traced, direct in zip(
        traced_without_values(everything, boxes, sizes), everything(boxes, sizes), strict=True
    ):
        torch.testing.assert_close(traced, direct)
