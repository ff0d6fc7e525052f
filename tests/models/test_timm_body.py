"""Bodies of the timm library: features at the right strides, frozen parts, and what a person is told without it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from detectune.config.load import ConfigError
from detectune.errors import UserError
from detectune.models.build import build_detector
from detectune.models.layers import fuse_for_inference
from detectune.structures import Batch

BOXES = [[[10.0, 10, 60, 70]], [[20.0, 20, 90, 100]]]


def test_without_timm_a_sentence_says_how_to_get_it(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm/convnext_tiny needs the timm library.*detectune\[timm\]"):
        build_detector(make_config({"MODEL.CONV_BODY": "timm/convnext_tiny"}))


def test_names_are_checked_as_far_as_they_can_be(make_config: Callable[..., Any]) -> None:
    base = make_config()
    assert base.with_overrides({"MODEL.CONV_BODY": "timm/resnet10t"}).MODEL.CONV_BODY == "timm/resnet10t"
    for wrong in ("timm/", "timm/a b", "timmy", "FPN.add_fpn_ResNet51_conv5_body"):
        with pytest.raises(ConfigError, match="CONV_BODY"):
            base.with_overrides({"MODEL.CONV_BODY": wrong})
    with pytest.raises(ConfigError, match="feature pyramid"):
        base.with_overrides(
            {"MODEL.CONV_BODY": "timm/resnet10t", "FPN.FPN_ON": False, "FPN.MULTILEVEL_ROIS": False,
             "FPN.MULTILEVEL_RPN": False}
        )  # fmt: skip


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_a_detector_on_timm_trains_and_predicts(
    name: str, make_config: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    keys = {"MODEL.CONV_BODY": f"timm/{name}", "INPUT.PIXEL_STDS": (58.0, 57.0, 57.0), "TRAIN.FREEZE_AT": 2}
    model = build_detector(make_config(keys))
    batch = make_batch(BOXES)
    features = model.backbone(model.normalize(batch.images))
    assert [tuple(features[level].shape[1:]) for level in (2, 3, 4, 5, 6)] == [
        (32, 32, 32), (32, 16, 16), (32, 8, 8), (32, 4, 4), (32, 2, 2),
    ]  # fmt: skip
    before = {n: b.clone() for n, b in model.backbone.named_buffers()}
    out = model.train()(batch)
    torch.stack([v for k, v in out.items() if k.startswith("loss_")]).sum().backward()
    learning = {n for n, p in model.backbone.body.named_parameters() if p.grad is not None}
    frozen = {n for n, p in model.backbone.body.named_parameters() if not p.requires_grad}
    first, second = ("layer1", "layer2") if name == "resnet10t" else ("stages_0", "stages_1")
    assert frozen and not frozen & learning
    assert any(first in n for n in frozen) and not any(second in n for n in frozen)
    for n, buffer in model.backbone.named_buffers():
        if any(n.startswith(f"body.network.{part}") for part in ("conv1", "bn1", first)):
            assert torch.equal(buffer, before[n]), n
    model.eval()
    for copy in (fuse_for_inference(model), fuse_for_inference(model, dtype=torch.bfloat16)):
        for found in copy.predict(batch.images):
            assert torch.isfinite(found.boxes).all() and found.boxes.dtype == torch.float32


def test_other_models_of_timm_are_refused(make_config: Callable[..., Any]) -> None:
    pytest.importorskip("timm")
    for name, words in (
        ("convnext_tinny", "did you mean timm/convnext_tiny"),
        ("vit_tiny_patch16_224", "stages"),
    ):
        with pytest.raises(UserError, match=words):
            build_detector(make_config({"MODEL.CONV_BODY": f"timm/{name}"}))
