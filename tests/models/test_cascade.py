"""Cascade R-CNN: stages against a slow reference, static and dropped rows, keys, and detectron2's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from detectune.config.load import ConfigError
from detectune.models.box_head import BoxHead
from detectune.models.build import build_detector
from detectune.models.cascade import CascadeHead, matched_again
from detectune.models.geometry import GEOMETRIES
from detectune.models.targets import Regions
from detectune.ops.boxes import box_iou, clip_boxes, decode_boxes, encode_boxes
from detectune.structures import Batch, Targets
from detectune.weights.detectron2 import from_detectron2, to_detectron2

ON = {"MODEL.CASCADE_ON": True, "MODEL.CLS_AGNOSTIC_BBOX_REG": True}
WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
IOUS = (0.5, 0.6, 0.7)
TWO_IMAGES = [[[10.0, 10, 60, 70], [30, 50, 80, 100]], [[20.0, 20, 90, 100]]]
SIZES = torch.tensor([[100, 100], [120, 90]])


def _head() -> CascadeHead:
    torch.manual_seed(0)
    stages = [
        BoxHead(2, 1, num_classes=3, fc_dims=(8,), agnostic=True, box_weights=weights, beta=0.0)
        for weights in WEIGHTS
    ]
    for stage in stages:
        torch.nn.init.normal_(stage.bbox_pred.weight, std=0.1)
        torch.nn.init.normal_(stage.cls_score.weight, std=1.0)
    return CascadeHead(stages, ious=IOUS)


def _scene() -> tuple[Regions, Targets, torch.Tensor]:
    """Regions around two images' objects, one of them a crowd, and a projection that stands for features."""
    generator = torch.Generator().manual_seed(1)
    objects = torch.tensor([[[10.0, 10, 60, 70], [50, 40, 95, 90]], [[20.0, 20, 80, 100], [0, 0, 0, 0]]])
    targets = Targets(
        objects, torch.tensor([[1, 2], [2, 0]]), torch.tensor([[False, True], [False, False]]),
        torch.tensor([[True, True], [True, False]]),
    )  # fmt: skip
    image = torch.arange(2).repeat_interleave(12)
    boxes = (objects[image, 0] + torch.randn(24, 4, generator=generator) * 9).clamp(min=0, max=90)
    best = box_iou(boxes[:, None], objects[image][:, :1])[:, 0, 0]
    fg = best >= 0.5
    valid = torch.ones(24, dtype=torch.bool)
    valid[-2:] = False
    regions = Regions(
        boxes, image, targets.labels[image, 0].where(fg, 0), torch.zeros(24, dtype=torch.int64), fg & valid, valid
    )  # fmt: skip
    return regions, targets, torch.randn(2, 4, generator=generator) / 40


def _pool(projection: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return lambda boxes, image: (boxes @ projection.T + image[:, None])[..., None, None]


def test_losses_equal_a_loop_over_regions() -> None:
    head, (regions, targets, projection) = _head(), _scene()
    pool = _pool(projection)
    out = head.losses(pool, regions, targets, SIZES)
    boxes = [box for box, valid in zip(regions.boxes, regions.valid, strict=True) if valid]
    images = regions.image_index[regions.valid].tolist()
    counts = []
    for i, stage in enumerate(head.stages):
        cls, reg, num, fgs, moved = torch.tensor(0.0), torch.tensor(0.0), 0, 0, []
        for box, image in zip(boxes, images, strict=True):
            said = stage(pool(box[None], torch.tensor([image])))
            if i == 0 or (box[2:] > box[:2]).all():
                best, label, wanted = 0.0, 0, box
                for g in range(2):
                    if targets.valid[image, g] and not targets.is_crowd[image, g]:
                        iou = float(box_iou(box[None], targets.boxes[image, g][None]))
                        if iou > best:
                            best, label, wanted = iou, int(targets.labels[image, g]), targets.boxes[image, g]
                label = label if best >= IOUS[i] else 0
                num += 1
                cls = cls + F.cross_entropy(said.logits, torch.tensor([label]))
                if label:
                    fgs += 1
                    delta = encode_boxes(box[None], wanted[None], weights=WEIGHTS[i])
                    reg = reg + (said.deltas - delta).abs().sum()
            decoded = decode_boxes(said.deltas.detach(), box[None], weights=WEIGHTS[i])
            moved.append(clip_boxes(decoded, SIZES[image])[0])
        torch.testing.assert_close(out[f"loss_cls_stage{i}"], cls / num)
        torch.testing.assert_close(out[f"loss_bbox_stage{i}"], reg / num)
        counts.append((num, fgs))
        boxes = moved
    assert all(0 < fgs < num for num, fgs in counts), (
        counts
    )  # every stage had something to learn, and not only objects


def test_scores_are_averaged_and_boxes_are_the_last_stages() -> None:
    head, (regions, _, projection) = _head(), _scene()
    pool = _pool(projection)
    with torch.no_grad():
        out = head(pool, regions.boxes, regions.image_index, SIZES)
        boxes, scores = regions.boxes, []
        for stage, weights in zip(head.stages, WEIGHTS, strict=True):
            given, said = boxes, stage(pool(boxes, regions.image_index))
            scores.append(said.logits.softmax(1))
            boxes = clip_boxes(decode_boxes(said.deltas, given, weights=weights), SIZES[regions.image_index])
    torch.testing.assert_close(out.scores, torch.stack(scores).mean(0))
    torch.testing.assert_close(out.boxes, given)
    refined = head.refine(out.deltas, out.boxes, regions.labels)
    torch.testing.assert_close(clip_boxes(refined, SIZES[regions.image_index]), boxes)


def test_features_get_a_third_of_each_stages_gradient_and_boxes_none() -> None:
    head, (regions, targets, projection) = _head(), _scene()
    features: list[torch.Tensor] = []
    seen = [regions]

    def pool(boxes: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        assert not boxes.requires_grad
        features.append(_pool(projection)(boxes, image).requires_grad_())
        return features[-1]

    out = head.losses(pool, regions, targets, SIZES)
    torch.stack([v for k, v in out.items() if k.startswith("loss_")]).sum().backward()
    assert len(features) == 3
    for i, (stage, x) in enumerate(zip(head.stages, features, strict=True)):
        learnt = {name: p.grad.clone() for name, p in stage.named_parameters()}
        stage.zero_grad()
        alone = x.detach().clone().requires_grad_()
        said = stage(alone)
        own = stage.losses(said, seen[-1], targets)
        (own["loss_cls"] + own["loss_bbox"]).backward()
        torch.testing.assert_close(x.grad, alone.grad / 3)
        for name, parameter in stage.named_parameters():
            torch.testing.assert_close(learnt[name], parameter.grad)  # the head itself learns at full speed
        if i < 2:
            boxes = stage.refine(said.deltas.detach(), seen[-1].boxes, regions.labels)
            boxes = clip_boxes(boxes, SIZES[regions.image_index])
            seen.append(matched_again(seen[-1], boxes, targets, IOUS[i + 1], offset=0.0))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_padding_rows_change_nothing(
    geometry: str, make_config: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    torch.manual_seed(3)
    model = build_detector(make_config(ON | {"MODEL.GEOMETRY": geometry}))
    batch = make_batch(TWO_IMAGES)
    seen = []
    for drop in (True, False):
        model.drop_padding = drop
        model.zero_grad()
        out = model(batch, torch.Generator().manual_seed(5))
        torch.stack([v for k, v in out.items() if k.startswith("loss_")]).sum().backward()
        seen.append((out, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    (dropped, gradients), (static, static_gradients) = seen
    assert "loss_bbox_stage2" in dropped and "loss_mask" in dropped
    for name, value in dropped.items():
        torch.testing.assert_close(value, static[name], rtol=1e-4, atol=1e-5, msg=name)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, static_gradients[name], rtol=1e-3, atol=1e-4, msg=name)
    for drop in (True, False):
        model.drop_padding = drop
        for found, size in zip(model.eval().predict(batch.images), batch.images.sizes, strict=True):
            assert len(found) > 0 and found.masks is not None
            assert (found.boxes >= 0).all() and (found.boxes[:, 2:] <= size.flip(0)).all()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_training_step_reads_no_value(
    geometry: str, make_config: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    model = build_detector(make_config(ON | {"MODEL.GEOMETRY": geometry})).to("meta")
    out = model(make_batch(TWO_IMAGES, pad_to=5).to("meta"))
    assert all(value.device.type == "meta" for value in out.values())


@pytest.mark.parametrize("boxes", [[[], []], [[], TWO_IMAGES[1]]], ids=["none", "one image"])
def test_images_without_objects(
    boxes: list[Any], make_config: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    model = build_detector(make_config(ON))
    out = model(make_batch(boxes), torch.Generator().manual_seed(0))
    total = torch.stack([v for k, v in out.items() if k.startswith("loss_")]).sum()
    total.backward()
    assert torch.isfinite(total) and float(out["loss_cls_stage2"].detach()) > 0
    assert (float(out["loss_bbox_stage2"].detach()) == 0) or any(map(bool, boxes))


def test_keys_set_stages(make_config: Callable[..., Any]) -> None:
    two = {"CASCADE.IOUS": (0.5, 0.65), "CASCADE.BBOX_REG_WEIGHTS": WEIGHTS[:2]}
    head = build_detector(make_config(ON | two)).box_head
    assert len(head.stages) == 2 and head.ious == (0.5, 0.65)
    assert [stage.box_weights for stage in head.stages] == list(WEIGHTS[:2])
    for overrides, word in (
        ({"CASCADE.IOUS": (0.5, 0.6)}, "CASCADE.BBOX_REG_WEIGHTS"),
        ({"CASCADE.IOUS": (0.4, 0.5, 0.6)}, "TRAIN.FG_THRESH"),
        ({"MODEL.CLS_AGNOSTIC_BBOX_REG": False}, "CLS_AGNOSTIC_BBOX_REG"),
    ):
        with pytest.raises(ConfigError, match=word):
            make_config(ON).with_overrides(overrides)


def test_detectron2s_names(make_config: Callable[..., Any]) -> None:
    own = build_detector(make_config(ON)).state_dict()
    theirs = to_detectron2(own)
    layers = {"fc1", "fc2"}
    for k in range(3):
        assert {f"roi_heads.box_head.{k}.{layer}.weight" for layer in layers} <= theirs.keys()
        assert theirs[f"roi_heads.box_predictor.{k}.bbox_pred.weight"].shape[0] == 4
        scores = theirs[f"roi_heads.box_predictor.{k}.cls_score.bias"]
        assert torch.equal(scores, own[f"box_head.stages.{k}.cls_score.bias"].roll(-1))
    assert not any("stages" in name for name in theirs)
    back = from_detectron2(theirs, agnostic_boxes=True)
    assert back.keys() == own.keys()
    for name, value in own.items():
        if name.startswith("mask_head.predictor"):  # the background's mask, which nothing uses, is not theirs
            assert torch.equal(back[name][1:], value[1:])
        else:
            assert torch.equal(back[name], value), name
