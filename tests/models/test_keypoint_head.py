"""The keypoint head in its detector: one static program, whatever the images hold, and every key has its effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from detectune.config.load import ConfigError
from detectune.errors import UserError
from detectune.models.build import build_detector
from detectune.models.geometry import GEOMETRIES
from detectune.models.keypoint_head import PoseRule, place_keypoints
from detectune.models.rcnn import RCNN
from detectune.models.targets import Regions
from detectune.structures import Batch, Detections, Targets

POSES = {"MODEL.MASK_ON": False, "MODEL.KEYPOINTS_ON": True, "KRCNN.NUM_KEYPOINTS": 3}
TWO_IMAGES = [[[10.0, 10, 60, 70], [30, 50, 80, 100]], [[20.0, 20, 90, 100]]]
STAGE = "keypoint_rcnn_heads.add_ResNet_roi_conv5_head_for_keypoints"


@pytest.fixture
def posed_batch(make_batch: Callable[..., Batch]) -> Callable[..., Batch]:
    """Noise with objects that have three keypoints: near the first corner, the middle, and (unlabelled) the end."""

    def make(boxes: list[list[list[float]]], *, visible: bool = True, **options: Any) -> Batch:
        batch = make_batch(boxes, **options)
        assert batch.targets is not None
        corners = batch.targets.boxes
        places = torch.stack(
            [corners[..., :2] * (1 - t) + corners[..., 2:] * t for t in (0.1, 0.5, 0.9)], dim=2
        )
        seen = torch.tensor([2.0, 1.0, 0.0])[:, None].expand(*places.shape[:3], 1) * visible
        batch.targets.keypoints = torch.cat((places, seen), -1) * batch.targets.valid[..., None, None]
        return batch

    return make


def _backward(model: RCNN, batch: Batch, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
    model.zero_grad()
    out = model(batch, generator)
    torch.stack([v for k, v in out.items() if k.startswith("loss_")]).sum().backward()
    return out


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_padding_rows_change_nothing(
    geometry: str, make_config: Callable[..., Any], posed_batch: Callable[..., Batch]
) -> None:
    torch.manual_seed(3)
    model = build_detector(make_config(POSES | {"MODEL.GEOMETRY": geometry}))
    batch = posed_batch(TWO_IMAGES)
    seen = []
    for drop in (True, False):
        model.drop_padding = drop
        out = _backward(model, batch, torch.Generator().manual_seed(5))
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        seen.append((out, gradients))
    (dropped, gradients), (static, static_gradients) = seen
    for name, value in dropped.items():
        torch.testing.assert_close(value, static[name], rtol=1e-5, atol=1e-6, msg=name)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, static_gradients[name], rtol=1e-3, atol=1e-5, msg=name)
    assert float(dropped["loss_keypoints"].detach()) > 1 and float(dropped["stat_keypoint_num_visible"]) >= 3


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_training_step_reads_no_value(
    geometry: str, make_config: Callable[..., Any], posed_batch: Callable[..., Batch]
) -> None:
    """On the meta device a step that depended on values would fail."""
    model = build_detector(make_config(POSES | {"MODEL.GEOMETRY": geometry, "MODEL.MASK_ON": True})).to(
        "meta"
    )
    out = _backward(model, posed_batch(TWO_IMAGES, pad_to=5).to("meta"))
    assert {"loss_keypoints", "loss_mask"} < out.keys()
    assert all(value.device.type == "meta" and value.shape == () for value in out.values())
    assert model.keypoint_head.predictor.weight.grad is not None


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("boxes", [[[], []], [[], TWO_IMAGES[1]]], ids=["none", "one image"])
def test_images_without_objects_or_keypoints(
    geometry: str,
    drop: bool,
    boxes: list[Any],
    make_config: Callable[..., Any],
    posed_batch: Callable[..., Batch],
) -> None:
    torch.manual_seed(3)
    model = build_detector(make_config(POSES | {"MODEL.GEOMETRY": geometry}))
    model.drop_padding = drop
    for visible in (True, False):
        out = _backward(model, posed_batch(boxes, visible=visible), torch.Generator().manual_seed(0))
        loss = float(out["loss_keypoints"].detach())
        assert (loss > 0) == (visible and any(map(bool, boxes)))
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)


def _regions(boxes: torch.Tensor) -> Regions:
    count = len(boxes)
    yes = torch.ones(count, dtype=torch.bool)
    return Regions(boxes, torch.zeros(count, dtype=torch.int64), yes.long(), torch.arange(count), yes, yes)


def _poses(boxes: torch.Tensor, keypoints: torch.Tensor) -> Targets:
    count = len(boxes)
    no = torch.zeros(1, count, dtype=torch.bool)
    return Targets(boxes[None], torch.ones(1, count, dtype=torch.int64), no, ~no, keypoints=keypoints[None])


def test_loss_is_a_softmax_over_places(make_config: Callable[..., Any]) -> None:
    """Against a slow reference: one cross entropy for each visible keypoint inside its box."""
    boxes = torch.tensor([[10.0, 20, 66, 76], [0, 0, 28, 56]])
    keypoints = torch.tensor(
        [[[11.0, 21, 2], [40, 60, 1], [5, 30, 2]], [[27, 55, 2], [10, 10, 0], [28, 0, 1]]]
    )
    logits = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    expected = []
    for r in range(2):
        for k in range(3):
            x, y, seen = keypoints[r, k].tolist()
            x1, y1, x2, y2 = boxes[r].tolist()
            if seen == 0 or not (x1 <= x <= x2 and y1 <= y <= y2):
                continue
            column = min(int((x - x1) * 28 / (x2 - x1)), 27)
            row = min(int((y - y1) * 28 / (y2 - y1)), 27)
            expected.append(-F.log_softmax(logits[r, k].flatten(), 0)[row * 28 + column])
    assert len(expected) == 4
    total = torch.stack(expected).sum()
    keys = {"TRAIN.BATCH_SIZE_PER_IM": 64, "TRAIN.FG_FRACTION": 0.25}
    for overrides, want in (
        ({}, total / 4),
        ({"KRCNN.LOSS_WEIGHT": 3.0}, 3 * total / 4),
        ({"KRCNN.NORMALIZE_BY_VISIBLE_KEYPOINTS": False}, total / (64 * 0.25 * 3)),
        ({"KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH": 3}, total / 4),
        ({"KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH": 4}, torch.tensor(0.0)),
    ):
        head = build_detector(make_config(POSES | keys | overrides)).keypoint_head
        out = head.losses(logits, _regions(boxes), _poses(boxes, keypoints))
        torch.testing.assert_close(out["loss_keypoints"], want)
        assert float(out["stat_keypoint_num_visible"]) == 4


@pytest.mark.parametrize(
    ("overrides", "side", "shapes"),
    [
        ({}, 28, {"conv2.weight": (32, 32, 3, 3), "predictor.weight": (32, 3, 4, 4)}),
        ({"KRCNN.NUM_STACKED_CONVS": 1, "KRCNN.CONV_HEAD_DIM": 24}, 28, {"conv1.weight": (24, 32, 3, 3)}),
        ({"KRCNN.CONV_HEAD_KERNEL": 5}, 28, {"conv1.weight": (32, 32, 5, 5)}),
        ({"KRCNN.UP_SCALE": -1}, 14, {}),
        ({"KRCNN.UP_SCALE": 3}, 42, {}),
        ({"KRCNN.USE_DECONV_OUTPUT": False}, 14, {"predictor.weight": (3, 32, 1, 1)}),
        ({"KRCNN.USE_DECONV": True, "KRCNN.DECONV_DIM": 20}, 56,
         {"deconv.weight": (32, 20, 4, 4), "predictor.weight": (20, 3, 4, 4)}),
        ({"KRCNN.DECONV_KERNEL": 2}, 28, {"predictor.weight": (32, 3, 2, 2)}),
        ({"KRCNN.ROI_XFORM_RESOLUTION": 14}, 56, {}),
        ({"KRCNN.NUM_KEYPOINTS": 17}, 28, {"predictor.weight": (32, 17, 4, 4)}),
        ({"KRCNN.ROI_KEYPOINTS_HEAD": STAGE, "KRCNN.ROI_XFORM_RESOLUTION": 14}, 28,
         {"stage.0.conv1.weight": (128, 32, 3, 3), "predictor.weight": (128, 3, 4, 4)}),
        ({"KRCNN.ROI_KEYPOINTS_HEAD": STAGE, "KRCNN.ROI_XFORM_RESOLUTION": 14, "KRCNN.DILATION": 2}, 56, {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("geometry", ["detectron", "detectron2"])
def test_keys_set_shapes(
    geometry: str,
    overrides: dict[str, Any],
    side: int,
    shapes: dict[str, tuple[int, ...]],
    make_config: Callable[..., Any],
    posed_batch: Callable[..., Batch],
) -> None:
    if geometry == "detectron" and overrides.get("KRCNN.UP_SCALE") == 3:
        pytest.skip("refused there: see test_what_does_not_fit_is_refused")
    torch.manual_seed(0)
    model = build_detector(make_config(POSES | {"MODEL.GEOMETRY": geometry} | overrides))
    head = model.keypoint_head
    points = overrides.get("KRCNN.NUM_KEYPOINTS", 3)
    grid = overrides.get("KRCNN.ROI_XFORM_RESOLUTION", 7)
    have = {name: tuple(p.shape) for name, p in head.named_parameters()}
    assert shapes.items() <= have.items()
    with torch.no_grad():
        assert head(torch.zeros(2, 32, grid, grid)).shape == (2, points, side, side)
        found = model.eval().predict(posed_batch(TWO_IMAGES).images)
    for own in found:
        assert own.keypoints is not None and own.keypoints.shape == (len(own), points, 4) and len(own) > 0
        inside = (own.keypoints[..., :2] >= own.boxes[:, None, :2] - 1e-3).all()
        assert inside and (own.keypoints[..., :2] <= own.boxes[:, None, 2:].clamp(min=1) + 1).all()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"KRCNN.HEATMAP_SIZE": 56}, ["KRCNN.HEATMAP_SIZE", "28"]),
        ({"KRCNN.CONV_HEAD_KERNEL": 2}, ["KRCNN.CONV_HEAD_KERNEL", "odd"]),
        ({"KRCNN.DECONV_KERNEL": 3}, ["KRCNN.DECONV_KERNEL", "even"]),
        ({"KRCNN.UP_SCALE": 3, "MODEL.GEOMETRY": "detectron"}, ["KRCNN.UP_SCALE", "even"]),
        ({"KRCNN.OKS_SIGMAS": (0.1, 0.2)}, ["KRCNN.OKS_SIGMAS", "3"]),
    ],
)
def test_what_does_not_fit_is_refused(
    overrides: dict[str, Any], words: list[str], make_config: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(POSES).with_overrides(overrides)
    assert all(word in str(caught.value) for word in words)


def test_number_of_keypoints_comes_from_the_data_set_or_must_agree(make_config: Callable[..., Any]) -> None:
    model = build_detector(make_config(POSES | {"KRCNN.NUM_KEYPOINTS": -1}), num_keypoints=5)
    assert model.keypoint_head.num_keypoints == 5 and len(model.pose_rule.sigmas) == 5
    with pytest.raises(UserError, match="5 keypoints"):
        build_detector(make_config(POSES), num_keypoints=5)


def test_initial_weights_follow_the_key(make_config: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    for init, deviation in (("GaussianFill", 0.01), ("MSRAFill", (2 / (9 * 32)) ** 0.5)):
        head = build_detector(make_config(POSES | {"KRCNN.CONV_INIT": init})).keypoint_head
        assert float(head.conv2.weight.detach().std()) == pytest.approx(deviation, rel=0.05)


def test_poses_that_repeat_a_better_one_go() -> None:
    """Of two detections of one class with the same keypoints the one with the lower maps goes, whatever its score."""
    boxes = torch.tensor([[10.0, 10, 38, 38], [10, 10, 38, 38], [10, 10, 38, 38], [60, 60, 88, 88]])
    maps = torch.zeros(4, 3, 28, 28)
    maps[:, :, 5, 5] = torch.tensor([3.0, 9.0, 3.0, 1.0])[:, None]
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 1, 2, 1]))
    kept = place_keypoints(maps, found, (1.0, 1.0), PoseRule(oks_thresh=0.3, sigmas=(0.05,) * 3))
    assert kept.scores.tolist() == pytest.approx([0.8, 0.7, 0.6])
    assert len(place_keypoints(maps, found, (1.0, 1.0), PoseRule(sigmas=(0.05,) * 3))) == 4
    torch.testing.assert_close(kept.keypoints[0, 0, :2], torch.tensor([15.5, 15.5]))


def test_suppression_of_poses_is_a_key(make_config: Callable[..., Any]) -> None:
    rules = [build_detector(make_config(POSES | {"KRCNN.NMS_OKS": on})).pose_rule for on in (False, True)]
    assert [rule.oks_thresh for rule in rules] == [1.0, 0.3]
    sized = build_detector(make_config(POSES | {"KRCNN.INFERENCE_MIN_SIZE": 40})).pose_rule
    boxes = torch.tensor([[0.0, 0, 4, 4]])  # four pixels a side: read at a finer grid, places are finer
    maps = torch.zeros(1, 3, 28, 28)
    maps[..., 10, 17] = 5.0
    found = Detections(boxes, torch.ones(1), torch.ones(1, dtype=torch.int64))
    coarse = place_keypoints(maps, found, (1.0, 1.0), rules[0]).keypoints[0, 0, :2]
    fine = place_keypoints(maps, found, (1.0, 1.0), sized).keypoints[0, 0, :2]
    assert (coarse % 1 == 0.5).all() and (fine - torch.tensor([2.5, 1.5])).abs().max() < 0.06
