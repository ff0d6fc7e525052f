"""RetinaNet's promises: finite losses whatever the images hold, one static program, every key an effect, and the test
path of Detectron's dialect against a slow obvious one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from detectune.config.tree import Config
from detectune.models.build import build_detector
from detectune.models.detections import SoftSuppression, Voting
from detectune.models.geometry import GEOMETRIES
from detectune.models.layers import FrozenAffine, fuse_for_inference
from detectune.models.retinanet import RetinaNet
from detectune.models.retinanet_detections import OneStageRule, select_one_stage
from detectune.models.retinanet_loss import AnchorTargets, FocalRule, box_loss, class_loss, label_anchors
from detectune.ops.nms import soft_nms
from detectune.structures import Batch, ImageBatch, ImageInfo

TWO_IMAGES = [[[10.0, 10, 60, 70], [30, 50, 80, 100]], [[20.0, 20, 90, 100]]]
LOSSES = ("loss_retnet_cls", "loss_retnet_bbox")


def _backward(model: RetinaNet, batch: Batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    out = model(batch)
    torch.stack([out[name] for name in LOSSES]).sum().backward()
    return out


def _losses(out: dict[str, torch.Tensor]) -> list[float]:
    return [float(out[name].detach()) for name in LOSSES]


def _varied(model: RetinaNet) -> RetinaNet:
    """Weights under which scores and boxes differ from place to place: logits -1 +- 1.5, deltas 0 +- 0.3."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, 128, 128), generator=generator, dtype=torch.uint8)
    images = ImageBatch(pixels, torch.tensor([[128, 128]]), (ImageInfo(0, "", 128, 128),))
    with torch.no_grad():
        for name, parameter in model.head.named_parameters():
            if name.endswith("weight") and parameter.dim() == 4:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
        model.head.cls_score.bias.fill_(-1.0)
        out = model.eval().score(images)[0]
        model.head.cls_score.weight.mul_(1.5 / out.logits.std())
        model.head.bbox_pred.weight.mul_(0.3 / out.deltas.std())
    return model


class NoTransfers(TorchFunctionMode):
    """Refuses what copies between host and device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        waits = name in {"as_tensor", "from_numpy", "new_tensor", "item", "tolist", "cpu", "numpy", "nonzero"}
        waits |= name == "tensor" and "device" in kwargs
        if waits:
            raise AssertionError(f"{name} in the training step")
        return func(*args, **kwargs)


@pytest.fixture(scope="module")
def make(make_retinanet: Callable[..., Any]) -> Callable[..., RetinaNet]:
    """A small RetinaNet, seeded."""

    def build(overrides: dict[str, Any] | None = None) -> RetinaNet:
        torch.manual_seed(3)
        model = build_detector(make_retinanet(overrides))
        assert isinstance(model, RetinaNet)
        return model

    return build


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("softmax", [False, True])
def test_training_step_reads_no_value(
    geometry: str, softmax: bool, make: Callable[..., RetinaNet], make_batch: Callable[..., Batch]
) -> None:
    overrides = {"RETINANET.SOFTMAX": softmax, "RETINANET.CLASS_SPECIFIC_BBOX": softmax}
    model = make(overrides | {"MODEL.GEOMETRY": geometry}).to("meta")
    with NoTransfers():
        out = _backward(model, make_batch(TWO_IMAGES, pad_to=5).to("meta"))
    assert all(value.device.type == "meta" and value.shape == () for value in out.values())
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_training_step_never_waits_for_the_gpu(
    geometry: str, make: Callable[..., RetinaNet], make_batch: Callable[..., Batch]
) -> None:
    model, batch = make({"MODEL.GEOMETRY": geometry}).eval(), make_batch(TWO_IMAGES, pad_to=5)
    on_cpu = _losses(model(batch))
    model, batch = model.cuda(), batch.to("cuda")
    _backward(model, batch)  # the first call may wait (kernels are loaded, algorithms chosen)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = _backward(model, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert _losses(out) == pytest.approx(on_cpu, rel=0.02)
    assert len(model.predict(batch.images)) == 2


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("boxes", [[[], []], [[], TWO_IMAGES[1]]], ids=["none", "one image"])
def test_images_without_objects(
    geometry: str, boxes: list[Any], make: Callable[..., RetinaNet], make_batch: Callable[..., Batch]
) -> None:
    model = make({"MODEL.GEOMETRY": geometry})
    out = _backward(model, make_batch(boxes))
    losses = _losses(out)
    assert all(math.isfinite(value) for value in losses) and losses[0] > 0
    assert (losses[1] > 0) == any(boxes)
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)


def test_crowds_are_no_objects_and_no_background(
    make: Callable[..., RetinaNet], make_batch: Callable[..., Batch]
) -> None:
    model = make({"MODEL.GEOMETRY": "detectron2", "TRAIN.CROWD_FILTER_THRESH": 0.7})
    boxes = [[[0.0, 0, 120, 90], [30, 50, 80, 100]]]
    plain = model(make_batch([boxes[0][1:]]))
    crowded = model(make_batch(boxes, crowd=[[True, False]]))
    assert float(crowded["stat_retnet_num_fg"]) == float(plain["stat_retnet_num_fg"])
    assert float(crowded["stat_retnet_num_bg"]) < float(plain["stat_retnet_num_bg"])


def test_moving_average_moves_in_training_alone_and_is_saved(
    make: Callable[..., RetinaNet], make_batch: Callable[..., Batch]
) -> None:
    model, batch = make({"MODEL.GEOMETRY": "detectron2"}), make_batch(TWO_IMAGES)
    in_training = _losses(model.train()(batch))
    num_fg = 2 * float(model.eval()(batch)["stat_retnet_num_fg"])
    assert float(model.loss_normalizer) == pytest.approx(90 + 0.1 * num_fg)
    assert _losses(model(batch)) == pytest.approx(in_training)  # in evaluation: with the average as it is
    model.train()(batch)
    after = 0.9 * (90 + 0.1 * num_fg) + 0.1 * num_fg
    assert float(model.loss_normalizer) == pytest.approx(after)
    fresh = make({"MODEL.GEOMETRY": "detectron2"})
    fresh.load_state_dict(model.state_dict())
    assert float(fresh.loss_normalizer) == pytest.approx(after)
    for other in ("detectron", "torchvision"):
        assert "loss_normalizer" not in make({"MODEL.GEOMETRY": other}).state_dict()


@pytest.mark.parametrize("geometry", ["detectron", "torchvision"])
def test_losses_do_not_depend_on_the_mode(
    geometry: str, make: Callable[..., RetinaNet], make_batch: Callable[..., Batch]
) -> None:
    model, batch = make({"MODEL.GEOMETRY": geometry}), make_batch(TWO_IMAGES)
    with torch.no_grad():
        assert _losses(model.train()(batch)) == _losses(model.eval()(batch))


def test_fresh_scores_are_the_prior(make: Callable[..., RetinaNet], make_batch: Callable[..., Batch]) -> None:
    images = make_batch(TWO_IMAGES).images
    for overrides in ({}, {"RETINANET.SOFTMAX": True}, {"RETINANET.PRIOR_PROB": 0.2}):
        model = make(overrides)
        logits = model.score(images)[0].logits.detach()
        prior = overrides.get("RETINANET.PRIOR_PROB", 0.01)
        if overrides.get("RETINANET.SOFTMAX"):
            scores = logits.softmax(-1)[..., 1:]
            assert float(scores.sum(-1).mean()) == pytest.approx(prior, rel=0.2)
        else:
            assert float(logits.sigmoid().mean()) == pytest.approx(prior, rel=0.2)


@pytest.mark.parametrize(
    ("overrides", "name", "shape"),
    [
        ({}, "head.cls_score.weight", (27, 32, 3, 3)),
        ({}, "head.bbox_pred.weight", (36, 32, 3, 3)),
        ({}, "backbone.fpn.extra6.weight", (32, 128, 3, 3)),
        ({"FPN.EXTRA_CONVS_FROM": "pyramid"}, "backbone.fpn.extra6.weight", (32, 32, 3, 3)),
        ({"RETINANET.SOFTMAX": True}, "head.cls_score.weight", (36, 32, 3, 3)),
        ({"RETINANET.CLASS_SPECIFIC_BBOX": True}, "head.bbox_pred.weight", (108, 32, 3, 3)),
        ({"RETINANET.SCALES_PER_OCTAVE": 2}, "head.cls_score.weight", (18, 32, 3, 3)),
        ({"RETINANET.ASPECT_RATIOS": (1.0, 2.0)}, "head.cls_score.weight", (18, 32, 3, 3)),
        ({"RETINANET.NUM_CONVS": 3}, "head.bbox_conv3.weight", (32, 32, 3, 3)),
        ({"RETINANET.USE_GN": True}, "head.cls_conv2.norm.weight", (32,)),
    ],
)
def test_keys_set_shapes(
    overrides: dict[str, Any],
    name: str,
    shape: tuple[int, ...],
    make: Callable[..., RetinaNet],
    make_batch: Callable[..., Batch],
) -> None:
    model = make(overrides)
    assert tuple(model.state_dict()[name].shape) == shape
    assert all(math.isfinite(value) for value in _losses(_backward(model, make_batch(TWO_IMAGES))))
    assert len(model.eval().predict(make_batch(TWO_IMAGES).images)) == 2


def test_other_keys_of_the_architecture(
    make: Callable[..., RetinaNet], make_batch: Callable[..., Batch]
) -> None:
    shared = make({"RETINANET.SHARE_CLS_BBOX_TOWER": True})
    assert not any("bbox_conv" in name for name in shared.state_dict())
    _backward(shared, make_batch(TWO_IMAGES))
    assert "backbone.fpn.extra6.weight" not in make({"FPN.EXTRA_CONV_LEVELS": False}).state_dict()
    fewer = make({"FPN.RPN_MIN_LEVEL": 4, "FPN.RPN_MAX_LEVEL": 6})
    assert fewer.anchors.levels == (4, 5, 6) and "backbone.fpn.lateral3.weight" not in fewer.state_dict()
    small, large = (make({"RETINANET.ANCHOR_SCALE": scale}).anchors.cell3 for scale in (4, 8))
    torch.testing.assert_close(2 * (small[:, 2:] - small[:, :2]), large[:, 2:] - large[:, :2])
    first = {geometry: make({"MODEL.GEOMETRY": geometry}).anchors.cell3 for geometry in GEOMETRIES}
    torch.testing.assert_close(first["detectron2"][1], torch.tensor([-16.0, -16, 16, 16]))
    assert first["torchvision"][3:6].tolist() == [
        [-16.0, -16, 16, 16],
        [-20, -20, 20, 20],
        [-25, -25, 25, 25],
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"RETINANET.LOSS_GAMMA": 1.0}, {"RETINANET.LOSS_ALPHA": 0.5}, {"RETINANET.BBOX_REG_BETA": 1.0},
        {"RETINANET.BBOX_REG_WEIGHT": 3.0}, {"RETINANET.POSITIVE_OVERLAP": 0.7},
        {"RETINANET.NEGATIVE_OVERLAP": 0.2}, {"RETINANET.PRIOR_PROB": 0.05},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_keys_change_the_losses(
    change: dict[str, Any], make: Callable[..., RetinaNet], make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch(TWO_IMAGES)
    plain, changed = _losses(make()(batch)), _losses(make(change)(batch))
    assert plain != pytest.approx(changed, rel=1e-6)
    if "RETINANET.BBOX_REG_WEIGHT" in change:
        assert changed == pytest.approx([plain[0], 3 * plain[1]])


def test_losses_equal_the_slow_sum(make: Callable[..., RetinaNet], make_batch: Callable[..., Batch]) -> None:
    model, batch = _varied(make({"MODEL.GEOMETRY": "torchvision"})), make_batch(TWO_IMAGES)
    out, anchors = model.score(batch.images)
    wanted = label_anchors(anchors, batch.targets, model.focal_rule)
    rule = replace(model.focal_rule, beta=0.5)
    cls, box = class_loss(out.logits, wanted, rule), box_loss(out.deltas, wanted, rule)
    for i in range(2):
        slow_cls = slow_box = 0.0
        p = out.logits[i].detach().double().sigmoid()
        for a in range(len(anchors)):
            if wanted.has_class[i, a]:
                for c in range(3):
                    positive = int(wanted.label[i, a]) == c + 1
                    p_t, alpha_t = (float(p[a, c]), 0.25) if positive else (1 - float(p[a, c]), 0.75)
                    slow_cls -= alpha_t * (1 - p_t) ** 2 * math.log(p_t)
            if wanted.has_box[i, a]:
                for d in (out.deltas[i, a, 0].detach() - wanted.deltas[i, a]).abs().tolist():
                    slow_box += d * d if d < 0.5 else d - 0.25
        assert float(cls[i].detach()) == pytest.approx(slow_cls, rel=1e-4)
        assert float(box[i].detach()) == pytest.approx(slow_box, rel=1e-4)
        assert slow_box > 0


def test_each_class_learns_its_own_box() -> None:
    wanted = AnchorTargets(
        label=torch.tensor([[2, 0]]), has_class=torch.tensor([[True, True]]),
        has_box=torch.tensor([[True, True]]), deltas=torch.zeros(1, 2, 4),
    )  # fmt: skip
    deltas = torch.arange(24.0).view(1, 2, 3, 4).requires_grad_()
    loss = box_loss(deltas, wanted, FocalRule(beta=0.0))
    assert loss.tolist() == [4.0 + 5 + 6 + 7]
    loss.sum().backward()
    assert deltas.grad.nonzero()[:, 1:3].unique(dim=0).tolist() == [[0, 1]]


def test_prediction_does_not_depend_on_the_batch(
    make: Callable[..., RetinaNet], make_batch: Callable[..., Batch]
) -> None:
    images = make_batch(TWO_IMAGES).images
    for geometry in GEOMETRIES:
        model = _varied(make({"MODEL.GEOMETRY": geometry}))
        together = model.predict(images)
        for i in range(2):
            alone = ImageBatch(images.tensor[i : i + 1], images.sizes[i : i + 1], images.infos[i : i + 1])
            found = model.predict(alone)[0]
            assert len(found) == len(together[i]) > 20
            torch.testing.assert_close(found.boxes, together[i].boxes, atol=1e-2, rtol=0)
            assert (found.scores.diff() <= 0).all() and set(found.labels.tolist()) <= {1, 2, 3}


@pytest.mark.parametrize(
    "overrides",
    [{}, {"RETINANET.USE_GN": True, "GROUP_NORM.NUM_GROUPS": 4, "RETINANET.SOFTMAX": True}],
    ids=["plain", "gn"],
)
def test_folded_copy_gives_the_same_detections(
    overrides: dict[str, Any], make: Callable[..., RetinaNet], make_batch: Callable[..., Batch]
) -> None:
    model, images = _varied(make(overrides)), make_batch(TWO_IMAGES).images
    fused = fuse_for_inference(model)
    assert not any(isinstance(m, FrozenAffine) for m in fused.modules())
    for one, other in zip(model.predict(images), fused.predict(images), strict=True):
        assert len(one) == len(other) > 0
        torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=0)
    half = fuse_for_inference(model, dtype=torch.bfloat16).predict(images)
    assert all(found.boxes.dtype == torch.float32 and len(found) for found in half)


@pytest.mark.parametrize(
    "change",
    [
        {"RETINANET.INFERENCE_TH": 0.6}, {"RETINANET.PRE_NMS_TOP_N": 5}, {"TEST.NMS": 0.1},
        {"TEST.DETECTIONS_PER_IM": 7}, {"TEST.BBOX_REG": False}, {"TEST.SOFT_NMS.ENABLED": True},
        {"TEST.SOFT_NMS.ENABLED": True, "TEST.SOFT_NMS.METHOD": "gaussian", "TEST.SOFT_NMS.SIGMA": 0.1},
        {"RETINANET.SOFTMAX": True}, {"RETINANET.CLASS_SPECIFIC_BBOX": True},
        {"TEST.BBOX_VOTE.ENABLED": True, "TEST.BBOX_VOTE.VOTE_TH": 0.4},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_detectrons_test_path_equals_a_slow_one(
    change: dict[str, Any], scale: float, make: Callable[..., RetinaNet]
) -> None:
    model = _varied(make({"MODEL.GEOMETRY": "detectron"} | change))
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randint(0, 256, (1, 3, 128, 128), generator=generator, dtype=torch.uint8)
    info = ImageInfo(0, "", round(100 / scale), round(120 / scale), scale, scale)
    images = ImageBatch(pixels, torch.tensor([[100, 120]]), (info,))
    with torch.no_grad():
        out, anchors = model.score(images)
    found = model.predict(images)[0]
    rows = np.column_stack((found.boxes.numpy() / scale, found.scores.numpy(), found.labels.numpy()))
    want = _slow_detections(model, out, anchors.numpy().astype(np.float64), info)
    assert len(rows) == len(want) > 5
    order = np.lexsort((rows[:, 5], -np.round(rows[:, 4], 4)))
    np.testing.assert_allclose(rows[:, 4], want[:, 4], atol=1e-5)
    for row in rows[order]:  # equal scores may stand in another order
        gaps = np.abs(want - row).max(axis=1)
        assert gaps.min() < 2e-3


def _slow_detections(model: RetinaNet, out: Any, anchors: np.ndarray, info: ImageInfo) -> np.ndarray:
    """Rows x1, y1, x2, y2 (original image, inclusive), score, class; everything one number at a time."""
    rule = model.detection_rule
    logits = out.logits[0].numpy().astype(np.float64)
    if model.head.softmax:
        exp = np.exp(logits)
        scores = (exp / exp.sum(1, keepdims=True))[:, 1:]
    else:
        scores = 1 / (1 + np.exp(-logits))
    by_class: dict[int, list[list[float]]] = {}
    first = 0
    for level, count in enumerate(out.per_level):
        floor = 0.0 if level == len(out.per_level) - 1 else rule.score_thresh
        pairs = [(scores[a, c], a, c) for a in range(first, first + count) for c in range(scores.shape[1])]
        pairs = sorted((p for p in pairs if p[0] > floor), reverse=True)[: rule.pre_nms_top_n]
        first += count
        for score, a, c in pairs:
            x1, y1, x2, y2 = anchors[a]
            if rule.refine:
                dx, dy, dw, dh = out.deltas[0, a, c if model.head.num_boxes > 1 else 0].tolist()
                w, h = x2 - x1 + 1, y2 - y1 + 1
                x, y = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h
                w, h = w * math.exp(min(dw, math.log(1000 / 16))), h * math.exp(min(dh, math.log(1000 / 16)))
                x1, y1, x2, y2 = x - w / 2, y - h / 2, x + w / 2 - 1, y + h / 2 - 1
            box = [x1 / info.scale_x, y1 / info.scale_y, x2 / info.scale_x, y2 / info.scale_y]
            limits = [info.width - 1, info.height - 1] * 2
            box = [min(max(v, 0.0), limit) for v, limit in zip(box, limits, strict=True)]
            by_class.setdefault(c + 1, []).append([*box, score])
    kept = []
    for label, rows in by_class.items():
        rows.sort(key=lambda row: -row[4])
        if rule.soft is not None:
            tensor = torch.tensor(rows, dtype=torch.float32)
            index, new = soft_nms(
                tensor[:, :4], tensor[:, 4], method=rule.soft.method, sigma=rule.soft.sigma,
                overlap_thresh=rule.nms_thresh, score_thresh=1e-4, offset=1.0,
            )  # fmt: skip
            kept += [[*rows[i][:4], s, label] for i, s in zip(index.tolist(), new.tolist(), strict=True)]
            continue
        chosen: list[list[float]] = []
        for row in rows:
            if all(_overlap(row, other) < rule.nms_thresh for other in chosen):
                chosen.append(row)
        if rule.voting is not None:
            chosen = [_voted(row, rows, rule.voting.thresh) for row in chosen]
        kept += [[*row, label] for row in chosen]
    kept.sort(key=lambda row: -row[4])
    return np.array(kept[: rule.max_detections])


def _voted(row: list[float], rows: list[list[float]], thresh: float) -> list[float]:
    """The mean box of all rows that overlap, weighted by their scores."""
    voters = [other for other in rows if _overlap(row, other) >= thresh]
    total = sum(other[4] for other in voters)
    return [*(sum(other[4] * other[i] for other in voters) / total for i in range(4)), row[4]]


def _overlap(a: list[float], b: list[float]) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if w <= 0 or h <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return w * h / (sum(areas) - w * h)


def test_only_the_coarsest_level_is_unfiltered_and_only_in_detectron() -> None:
    scores, per_level = torch.tensor([[0.04], [0.3], [0.02]]), (2, 1)
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 29, 29], [50, 50, 70, 70]])
    size = torch.tensor([100, 100])
    for floor, kept in ((0.0, [0.3, 0.02]), (0.05, [0.3])):
        rule = OneStageRule(coarsest_score_thresh=floor)
        _, score, _ = select_one_stage(scores, per_level, size, rule, lambda rows, _: boxes[rows])
        torch.testing.assert_close(score, torch.tensor(kept))


def test_nothing_found_is_no_detection() -> None:
    for soft, voting in ((None, None), (SoftSuppression(), None), (None, Voting())):
        rule = OneStageRule(soft=soft, voting=voting)
        boxes, score, label = select_one_stage(
            torch.zeros(3, 2), (2, 1), torch.tensor([9, 9]), rule, lambda rows, _: torch.zeros(len(rows), 4)
        )
        assert boxes.shape == (0, 4) and len(score) == len(label) == 0


def test_boxes_are_clipped_before_or_after_they_are_suppressed() -> None:
    boxes = torch.tensor([[-80.0, 0, 20, 20], [-10, 0, 20, 20]])  # alike once clipped, far apart before
    scores, size = torch.tensor([[0.9], [0.8]]), torch.tensor([50, 50])
    for clip, count in ((True, 1), (False, 2)):
        rule = OneStageRule(clip=clip)
        found, _, _ = select_one_stage(scores, (1, 1), size, rule, lambda rows, _: boxes[rows])
        assert len(found) == count
        assert float(found.min()) == (0.0 if clip else -80.0)


def test_every_published_configuration_builds_learns_and_detects(
    shared: Path, make_batch: Callable[..., Batch]
) -> None:
    """At a tenth of their width; the names of the keys and the depth of the body are the published ones."""
    values = json.loads((shared / "golden" / "detectron" / "yaml_values.json").read_text())
    published = {name: keys for name, keys in values.items() if keys.get("RETINANET.RETINANET_ON")}
    assert len(published) == 8
    seen = set()
    for name, keys in published.items():
        config = Config().with_overrides(keys | {"MODEL.GEOMETRY": "detectron"})
        body = tuple((key, keys.get(key)) for key in ("MODEL.CONV_BODY", "RESNETS.NUM_GROUPS"))
        assert config.FPN.COARSEST_STRIDE == 128 and config.RETINANET.ASPECT_RATIOS == (1.0, 2.0, 0.5)
        if body in seen:  # the schedule alone differs
            continue
        seen.add(body)
        with torch.device("meta"):
            full = build_detector(config)
        assert full.head.cls_score.weight.shape == (720, 256, 3, 3), name
        small = config.with_overrides(
            {"RESNETS.WIDTH_MULTIPLIER": 0.05, "FPN.DIM": 16, "MODEL.NUM_CLASSES": 4}
        )
        torch.manual_seed(0)
        model, batch = build_detector(small), make_batch(TWO_IMAGES)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        before = sum(_losses(_backward(model, batch)))
        optimizer.step()
        assert sum(_losses(model(batch))) < before, name
        assert len(_varied(model).predict(batch.images)) == 2
    assert len(seen) == 4
