"""What every detector promises: finite losses whatever the images hold, one static program, nothing kept for frozen
stages, the same numbers in training and evaluation mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from detectune.models.build import build_detector
from detectune.models.geometry import GEOMETRIES
from detectune.models.layers import Conv, FrozenAffine, fuse_for_inference
from detectune.models.rcnn import RCNN
from detectune.models.targets import RegionSampling, covered_by_crowd, sample_regions
from detectune.structures import Batch

TWO_IMAGES = [[[10.0, 10, 60, 70], [30, 50, 80, 100]], [[20.0, 20, 90, 100]]]
LOSSES = ("loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask")


def _losses(out: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(out[name].detach()) for name in LOSSES}


def _backward(model: RCNN, batch: Batch, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
    model.zero_grad()
    out = model(batch, generator)
    torch.stack([v for k, v in out.items() if k.startswith("loss_")]).sum().backward()
    return out


class NoTransfers(TorchFunctionMode):
    """Refuses what copies between host and device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        waits = name in {"as_tensor", "from_numpy", "new_tensor", "item", "tolist", "cpu", "numpy"}
        waits |= name == "tensor" and "device" in kwargs
        waits |= name == "to" and args[0].device.type == "cpu" and not kwargs.get("non_blocking")
        if waits:
            raise AssertionError(f"{name} in the training step")
        return func(*args, **kwargs)


@pytest.fixture(scope="module")
def model(make_config: Callable[..., Any]) -> RCNN:
    torch.manual_seed(3)
    return build_detector(make_config())


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_padding_rows_change_nothing(
    geometry: str, make_config: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    torch.manual_seed(3)
    model = build_detector(make_config({"MODEL.GEOMETRY": geometry}))
    batch = make_batch(TWO_IMAGES)
    seen = []
    for drop in (True, False):
        model.drop_padding = drop
        out = _backward(model, batch, torch.Generator().manual_seed(5))
        seen.append((out, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    (dropped, gradients), (static, static_gradients) = seen
    for name, value in dropped.items():
        torch.testing.assert_close(value, static[name], rtol=1e-5, atol=1e-6, msg=name)
    assert gradients.keys() == static_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, static_gradients[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_training_step_reads_no_value(
    geometry: str, make_config: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    """On the meta device tensors have shapes but no values, so a step that depended on values would fail. Neither does
    it make tensors from Python numbers, for which a GPU would have to wait."""
    model = build_detector(make_config({"MODEL.GEOMETRY": geometry})).to("meta")
    batch = make_batch(TWO_IMAGES, pad_to=5).to("meta")
    with NoTransfers():
        out = _backward(model, batch)
    assert all(value.device.type == "meta" and value.shape == () for value in out.values())
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in model.named_parameters() if p.grad is not None}
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(out["loss_cls"].detach())  # the proof is worth something only if reading fails here


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("boxes", [[[], []], [[], TWO_IMAGES[1]]], ids=["none", "one image"])
@pytest.mark.parametrize("drop", [True, False])
def test_images_without_objects(
    geometry: str,
    boxes: list[Any],
    drop: bool,
    make_config: Callable[..., Any],
    make_batch: Callable[..., Batch],
) -> None:
    torch.manual_seed(3)
    model = build_detector(make_config({"MODEL.GEOMETRY": geometry}))
    model.drop_padding = drop
    out = _backward(model, make_batch(boxes), torch.Generator().manual_seed(0))
    losses = _losses(out)
    assert all(torch.isfinite(torch.tensor(list(losses.values()))))
    assert losses["loss_rpn_cls"] > 0 and losses["loss_cls"] > 0
    if not any(boxes):
        assert losses["loss_rpn_bbox"] == losses["loss_bbox"] == losses["loss_mask"] == 0.0
        assert float(out["stat_box_num_fg"]) == float(out["stat_rpn_num_fg"]) == 0
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)


def test_many_objects(model: RCNN, make_batch: Callable[..., Batch]) -> None:
    crowded = [[[float(x), float(y), x + 9.0, y + 9.0] for x in range(0, 96, 6) for y in range(0, 100, 6)]]
    out = _backward(model, make_batch(crowded), torch.Generator().manual_seed(0))
    assert all(v == v and v < 1e4 for v in _losses(out).values())
    assert float(out["stat_box_num_fg"]) == model.region_sampling.max_fg  # more candidates than places


def test_losses_do_not_depend_on_the_mode(model: RCNN, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(TWO_IMAGES)
    with torch.no_grad():
        trained, evaluated = _losses(model.train()(batch)), _losses(model.eval()(batch))
    assert trained == evaluated


def test_generator_draws_the_sample(
    make_config: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    torch.manual_seed(3)
    model = build_detector(make_config({"TRAIN.RPN_BATCH_SIZE_PER_IM": 16}))
    batch = make_batch(TWO_IMAGES)
    first, again, other = (_losses(model(batch, torch.Generator().manual_seed(seed))) for seed in (1, 1, 2))
    assert first == again
    assert first["loss_rpn_cls"] != other["loss_rpn_cls"]


def test_crowds_are_neither_objects_nor_background(model: RCNN, make_batch: Callable[..., Batch]) -> None:
    """A region inside a crowd is not sampled; the crowd's box does not join the candidates."""
    batch = make_batch([[[0.0, 0, 50, 50], [60, 60, 100, 100]]], crowd=[[True, False]])
    assert batch.targets is not None
    proposals = torch.tensor([[[5.0, 5, 30, 30], [0, 0, 50, 50], [60, 60, 98, 100], [40, 0, 100, 50]]])
    valid = torch.ones(1, 4, dtype=torch.bool)
    sampling = RegionSampling(batch_size=8, fg_fraction=0.5, crowd_overlap=0.7)
    regions = sample_regions(proposals, valid, batch.targets, sampling, None, drop_padding=True)
    rows = {tuple(box): int(label) for box, label in zip(regions.boxes.tolist(), regions.labels, strict=True)}
    assert rows == {(60, 60, 98, 100): 2, (60, 60, 100, 100): 2, (40, 0, 100, 50): 0}

    scored = model.rpn(model.backbone(model.normalize(batch.images)), (128, 128))
    model.rpn.sampling, kept = (
        replace(model.rpn.sampling, crowd_overlap=0.7, straddle=-1.0),
        model.rpn.sampling,
    )
    fg, bg, _ = model.rpn._label_anchors(scored.anchors, batch.targets, batch.images.sizes)
    model.rpn.sampling = kept
    inside = covered_by_crowd(scored.anchors, batch.targets, 0.7, offset=0.0)
    assert inside.any() and not (inside & bg).any()
    assert (scored.anchors[fg[0]][:, 2:] > 55).all()  # every positive anchor reaches the second object


def test_frozen_stages_keep_nothing_and_stay(
    make_config: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    for freeze_at, frozen in ((0, ()), (2, ("stem", "res2")), (3, ("stem", "res2", "res3"))):
        model = build_detector(make_config({"TRAIN.FREEZE_AT": freeze_at, "RESNETS.NORM": "batch"}))
        _backward(model, make_batch(TWO_IMAGES))
        for name, parameter in model.backbone.named_parameters():
            assert (parameter.grad is None) == name.startswith(frozen), name
        kinds = {type(m.norm) for m in model.backbone.stem.modules() if isinstance(m, Conv)}
        assert kinds == {FrozenAffine if freeze_at else torch.nn.BatchNorm2d}
    model = build_detector(make_config({"TRAIN.FREEZE_CONV_BODY": True}))
    _backward(model, make_batch(TWO_IMAGES))
    assert all(p.grad is None for p in model.backbone.parameters())
    assert model.rpn.conv.weight.grad is not None


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_folded_norms_give_the_same_detections(
    norm: str, make_config: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    torch.manual_seed(0)
    model = build_detector(make_config({"RESNETS.NORM": norm})).eval()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
    images = make_batch(TWO_IMAGES).images
    fused = fuse_for_inference(model)
    assert not any(isinstance(m, FrozenAffine | torch.nn.BatchNorm2d) for m in fused.modules())
    assert any(isinstance(m, FrozenAffine | torch.nn.BatchNorm2d) for m in model.modules())
    with torch.no_grad():
        want, have = model.backbone(model.normalize(images)), fused.backbone(fused.normalize(images))
    for level in want:
        scale = float(want[level].abs().max())
        torch.testing.assert_close(have[level], want[level], atol=1e-5 * scale, rtol=0)
    for one, other in zip(model.predict(images), fused.predict(images), strict=True):
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-2, rtol=0)
        torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=0)


def test_prediction_does_not_depend_on_the_batch(model: RCNN, make_batch: Callable[..., Batch]) -> None:
    images = make_batch(TWO_IMAGES).images
    together = model.eval().predict(images)
    for i in range(2):
        alone = replace(
            images,
            tensor=images.tensor[i : i + 1],
            sizes=images.sizes[i : i + 1],
            infos=images.infos[i : i + 1],
        )
        found = model.predict(alone)[0]
        assert len(found) == len(together[i]) > 0
        torch.testing.assert_close(found.boxes, together[i].boxes, atol=1e-2, rtol=0)
        assert (found.scores.diff() <= 0).all() and (found.labels >= 1).all()
        assert found.masks is not None and found.masks.shape == (len(found), 28, 28)
        height, width = images.sizes[i].tolist()
        assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([width, height] * 2)).all()


def test_padding_is_zero_whatever_it_holds(model: RCNN, make_batch: Callable[..., Batch]) -> None:
    images = make_batch(TWO_IMAGES).images
    for drop in (True, False):
        model.drop_padding = drop
        pixels = model.normalize(images)
        for row, (height, width) in zip(pixels, images.sizes.tolist(), strict=True):
            assert float(row[:, height:].abs().sum()) == float(row[:, :, width:].abs().sum()) == 0.0
            assert float(row[:, :height, :width].abs().sum()) > 0
    model.drop_padding = None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_training_step_never_waits_for_the_gpu(
    geometry: str, make_config: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    torch.manual_seed(3)
    model = build_detector(make_config({"MODEL.GEOMETRY": geometry}))
    batch = make_batch(TWO_IMAGES, pad_to=5)
    on_cpu = _losses(model(batch))
    model, batch = model.cuda(), batch.to("cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    _backward(model, batch, generator)  # the first call may wait (kernels are loaded, algorithms chosen)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = _backward(model, batch, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(value) for value in out.values())
    for name, value in _losses(model(batch)).items():
        assert value == pytest.approx(on_cpu[name], rel=0.02), name


def test_fused_copies_agree_and_can_be_used_again(
    make_config: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    """One-pass kernels write into their second summand: it must be no tensor that anything still reads."""
    torch.manual_seed(0)
    for body in ("FPN.add_fpn_ResNet18_conv5_body", "FPN.add_fpn_ResNet50_conv5_body"):
        model = build_detector(make_config({"MODEL.CONV_BODY": body}))
        images = make_batch(TWO_IMAGES).images
        plain, fused = fuse_for_inference(model, one_pass=False), fuse_for_inference(model, one_pass=True)
        with torch.no_grad():
            pixels = model.normalize(images)
            before = pixels.clone()
            want = plain.backbone(pixels)
            for _ in range(2):
                have = fused.backbone(pixels)
                for level in want:
                    # Kernels for other instruction sets add in another order: compare with the map's own size.
                    gap = (have[level] - want[level]).abs().max() / want[level].abs().max()
                    assert gap < 1e-5, (body, level, float(gap))
            assert torch.equal(pixels, before)
        for parameter, original in zip(plain.rpn.parameters(), model.rpn.parameters(), strict=True):
            assert torch.equal(parameter, original) and original.requires_grad


@pytest.mark.parametrize("one_pass", [False, None])
def test_half_precision_copy_is_close(
    make_config: Callable[..., Any], make_batch: Callable[..., Batch], one_pass: bool | None
) -> None:
    torch.manual_seed(0)
    model = build_detector(make_config())
    images = make_batch(TWO_IMAGES).images
    half = fuse_for_inference(model, dtype=torch.bfloat16, one_pass=one_pass)
    assert half.box_head.fc1.weight.dtype == half.backbone.stem.conv1.weight.dtype == torch.bfloat16
    assert model.box_head.fc1.weight.dtype == torch.float32
    with torch.no_grad():
        have, want = half.backbone(half.normalize(images)), model.backbone(model.normalize(images))
    for level in want:
        gap = (have[level].float() - want[level]).norm() / want[level].norm()
        assert have[level].dtype == torch.bfloat16 and gap < 0.05
    for found in half.predict(images):
        assert found.boxes.dtype == found.scores.dtype == torch.float32 and torch.isfinite(found.boxes).all()
        assert found.masks is not None and found.masks.dtype == torch.float32
