"""The same RetinaNet in torchvision and here, with the same weights, in the same process: detections and losses.

torchvision has a sigmoid for the background, class 0; the peer's bias keeps it silent, because ours has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from detectune.models.build import build_detector
from detectune.models.retinanet import RetinaNet
from detectune.structures import Batch, ImageBatch, ImageInfo, Targets
from detectune.weights.native import fit_weights
from detectune.weights.torchvision import from_torchvision, to_torchvision

SIZES = [(205, 300), (240, 205)]
BOXES = [[[20.0, 30, 150, 120], [100, 60, 260, 200], [5, 5, 60, 200]], [[40.0, 40, 160, 200]]]
LABELS = [[1, 2, 3], [6]]
MAKERS = {
    1: torchvision.models.detection.retinanet_resnet50_fpn,
    2: torchvision.models.detection.retinanet_resnet50_fpn_v2,
}


def _peer(version: int) -> nn.Module:
    torch.manual_seed(0)
    peer = MAKERS[version](
        weights=None, weights_backbone=None, num_classes=7, min_size=205, max_size=300, detections_per_img=100
    )
    with torch.no_grad():  # weights under which scores and boxes differ from place to place
        for name, buffer in peer.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.8, 1.2)
        for name, parameter in peer.named_parameters():
            if name.endswith("bn3.weight"):
                parameter.uniform_(0.2, 0.4)
            elif "head.conv" in name and name.endswith("0.weight"):
                parameter.normal_(std=0.03)
        head = peer.head.classification_head.cls_logits
        head.weight.normal_(std=0.05)
        head.bias.view(9, 7)[:, 0] = -100.0
        peer.head.regression_head.bbox_reg.weight.normal_(std=0.01)
    return peer


@pytest.fixture(scope="module", params=[1, 2])
def pair(request: pytest.FixtureRequest, make_retinanet: Callable[..., Any]) -> tuple[nn.Module, RetinaNet]:
    peer = _peer(request.param)
    config = make_retinanet(
        {
            "MODEL.GEOMETRY": "torchvision",
            "MODEL.CONV_BODY": "FPN.add_fpn_ResNet50_conv5_body",
            "MODEL.NUM_CLASSES": 7,
            "RESNETS.STRIDE_1X1": False,
            "RESNETS.WIDTH_MULTIPLIER": 1.0,
            "FPN.DIM": 256,
            "FPN.EXTRA_CONVS_FROM": "pyramid" if request.param == 1 else "body",
            "RETINANET.NUM_CONVS": 4,
            "RETINANET.USE_GN": request.param == 2,
            "RETINANET.BBOX_REG_BETA": 0.0,
            "RETINANET.BOX_LOSS": "giou" if request.param == 2 else "smooth_l1",
            "PIXEL_MEANS": [[[255 * m for m in (0.406, 0.456, 0.485)]]],
            "INPUT.PIXEL_STDS": tuple(255 * s for s in (0.225, 0.224, 0.229)),
        }
    )
    ours = build_detector(config)
    assert isinstance(ours, RetinaNet)
    state = peer.state_dict()
    report = fit_weights(ours, from_torchvision(state))
    assert report.complete and not report.unexpected, str(report)
    back = to_torchvision(from_torchvision(state))
    assert set(back) == set(state)
    for name, value in back.items():
        if name == "head.classification_head.cls_logits.weight":
            assert torch.equal(value.unflatten(0, (9, 7))[:, 1:], state[name].unflatten(0, (9, 7))[:, 1:])
        else:
            assert torch.equal(value, state[name]), name
    return peer, ours


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    """Smooth random images, float 0..255."""
    generator = torch.Generator().manual_seed(1)
    coarse = [torch.rand(1, 3, h // 12, w // 12, generator=generator) for h, w in SIZES]
    return [
        nn.functional.interpolate(c, size=size, mode="bicubic").clamp(0, 1)[0] * 255
        for c, size in zip(coarse, SIZES, strict=True)
    ]


def _batch(images: list[Tensor]) -> ImageBatch:
    tensor = torch.zeros(2, 3, 256, 320)
    for row, image in zip(tensor, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    infos = tuple(ImageInfo(i, "", *size) for i, size in enumerate(SIZES))
    return ImageBatch(tensor, torch.tensor(SIZES), infos)


@pytest.mark.slow
def test_same_detections(pair: tuple[nn.Module, RetinaNet], images: list[Tensor]) -> None:
    peer, ours = pair
    peer.eval()
    assert peer.transform(images)[0].image_sizes == SIZES  # the peer's own resize leaves these sizes alone
    with torch.no_grad():
        wanted = peer([image / 255 for image in images])
    for have, want in zip(ours.eval().predict(_batch(images)), wanted, strict=True):
        assert len(want["labels"]) >= 50 and len(set(want["labels"].tolist())) >= 3
        torch.testing.assert_close(have.scores, want["scores"], atol=1e-4, rtol=0)
        assert torch.equal(have.labels, want["labels"])
        torch.testing.assert_close(have.boxes, want["boxes"], atol=1e-2, rtol=1e-4)


@pytest.mark.slow
def test_same_losses(pair: tuple[nn.Module, RetinaNet], images: list[Tensor]) -> None:
    peer, ours = pair
    peer.train()
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # batch norms keep their statistics, as frozen ones do
    rows = [{"boxes": torch.tensor(b), "labels": torch.tensor(k)} for b, k in zip(BOXES, LABELS, strict=True)]
    with torch.no_grad():
        wanted = peer([image / 255 for image in images], rows)
        have = ours.train()(Batch(_batch(images), _targets()))
    torch.testing.assert_close(have["loss_retnet_cls"], wanted["classification"], rtol=1e-4, atol=0)
    torch.testing.assert_close(have["loss_retnet_bbox"], wanted["bbox_regression"], rtol=1e-4, atol=0)


def _targets() -> Targets:
    out = Targets(
        torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool),
    )  # fmt: skip
    for i, (boxes, labels) in enumerate(zip(BOXES, LABELS, strict=True)):
        out.boxes[i, : len(boxes)] = torch.tensor(boxes)
        out.labels[i, : len(boxes)] = torch.tensor(labels)
        out.valid[i, : len(boxes)] = True
    return out
