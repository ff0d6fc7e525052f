"""The same random weights in torchvision's Mask R-CNN and in ours give the same detections, losses and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision

from detectune.models.build import build_detector
from detectune.models.rcnn import RCNN
from detectune.structures import Batch, ImageBatch, ImageInfo, Targets
from detectune.weights.native import fit_weights
from detectune.weights.torchvision import from_torchvision, to_torchvision

# sizes that torchvision's resize below leaves alone; padded to 256 x 288, of which 288 is no multiple of 64
SIZES = [(205, 273), (240, 205)]


def _peer(build: Callable[..., torch.nn.Module]) -> torch.nn.Module:
    torch.manual_seed(0)
    peer: Any = build(
        weights=None, weights_backbone=None, num_classes=7,
        box_batch_size_per_image=96,
        min_size=205, max_size=300,
    )  # fmt: skip
    for name, parameter in peer.named_parameters():
        if name.startswith(("backbone.body.conv1", "backbone.body.layer1")):
            parameter.requires_grad_(False)
    with torch.no_grad():  # weights under which scores, boxes and masks differ from place to place
        for name, buffer in peer.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.8, 1.2)
            elif name.endswith("bn3.weight"):
                buffer.uniform_(0.2, 0.4)
        peer.rpn.head.bbox_pred.weight.mul_(0.2)
        peer.roi_heads.box_predictor.cls_score.weight.mul_(4)
        peer.roi_heads.box_predictor.bbox_pred.weight.mul_(3)
        if peer.roi_heads.mask_predictor is not None:
            peer.roi_heads.mask_predictor.mask_fcn_logits.weight.mul_(0.02)
    return peer


@pytest.fixture(scope="module")
def pair(make_config: Callable[..., Any], full_size: dict[str, Any]) -> tuple[torch.nn.Module, RCNN]:
    return _pair(torchvision.models.detection.maskrcnn_resnet50_fpn, make_config, full_size)


def _pair(
    build: Callable[..., torch.nn.Module],
    make_config: Callable[..., Any],
    full_size: dict[str, Any],
    overrides: dict[str, Any] | None = None,
) -> tuple[torch.nn.Module, RCNN]:
    peer = _peer(build)
    mean = [255 * m for m in (0.406, 0.456, 0.485)]
    std = tuple(255 * s for s in (0.225, 0.224, 0.229))
    config = make_config(
        full_size
        | {
            "MODEL.GEOMETRY": "torchvision",
            "MODEL.NUM_CLASSES": 7,
            "RESNETS.STRIDE_1X1": False,
            "PIXEL_MEANS": [[mean]],
            "INPUT.PIXEL_STDS": std,
            "TRAIN.RPN_POST_NMS_TOP_N": 2000,
            "TRAIN.BATCH_SIZE_PER_IM": 96,
            "MODEL.MASK_ON": hasattr(peer.roi_heads.mask_predictor, "mask_fcn_logits"),
        }
        | (overrides or {})
    )
    ours = build_detector(config)
    converted = from_torchvision(peer.state_dict())
    report = fit_weights(ours, converted)
    assert report.complete and not report.unexpected, str(report)
    return peer, ours


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    """Smooth random images, float 0..255."""
    generator = torch.Generator().manual_seed(1)
    coarse = [torch.rand(1, 3, h // 12, w // 12, generator=generator) for h, w in SIZES]
    return [
        torch.nn.functional.interpolate(c, size=size, mode="bicubic").clamp(0, 1)[0] * 255
        for c, size in zip(coarse, SIZES, strict=True)
    ]


def _batch(images: list[torch.Tensor]) -> ImageBatch:
    height = -(-max(h for h, _ in SIZES) // 32) * 32
    width = -(-max(w for _, w in SIZES) // 32) * 32
    tensor = torch.zeros(len(images), 3, height, width)
    for row, image in zip(tensor, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    infos = tuple(ImageInfo(i, "", *size) for i, size in enumerate(SIZES))
    return ImageBatch(tensor, torch.tensor(SIZES), infos)


@pytest.mark.slow
def test_same_detections(pair: tuple[torch.nn.Module, RCNN], images: list[torch.Tensor]) -> None:
    assert_same_detections(*pair, images)


@pytest.mark.slow
def test_same_detections_of_faster_rcnn(
    make_config: Callable[..., Any], full_size: dict[str, Any], images: list[torch.Tensor]
) -> None:
    build = torchvision.models.detection.fasterrcnn_resnet50_fpn
    assert_same_detections(*_pair(build, make_config, full_size), images)


SECOND_GENERATION = {
    "FPN.NORM": "batch", "RPN.NUM_CONVS": 2, "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_Xconv1fc_head",
    "FAST_RCNN.NORM": "batch", "FAST_RCNN.CONV_HEAD_DIM": 256, "MRCNN.NORM": "batch",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2"])
def test_same_detections_of_the_second_generation(
    name: str, make_config: Callable[..., Any], full_size: dict[str, Any], images: list[torch.Tensor]
) -> None:
    """Batch norms in pyramid and heads, two convolutions in the RPN, four in the box head."""
    build = getattr(torchvision.models.detection, name)
    peer, ours = _pair(build, make_config, full_size, SECOND_GENERATION)
    assert_same_detections(peer, ours, images)
    state = {k: v for k, v in peer.state_dict().items() if not k.endswith("num_batches_tracked")}
    back = to_torchvision(from_torchvision(state))
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.slow
def test_same_detections_with_a_grouped_body(
    make_config: Callable[..., Any], full_size: dict[str, Any], images: list[torch.Tensor]
) -> None:
    """ResNeXt-50-32x4d under Mask R-CNN, as torchvision's helper builds it."""
    grouped = {"RESNETS.NUM_GROUPS": 32, "RESNETS.WIDTH_PER_GROUP": 4}
    assert_same_detections(*_pair(_mask_rcnn_on_resnext, make_config, full_size, grouped), images)


def _mask_rcnn_on_resnext(
    weights: None, weights_backbone: None, num_classes: int, **sizes: int
) -> torch.nn.Module:
    detection = torchvision.models.detection
    body = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnext50_32x4d", weights=weights, norm_layer=torchvision.ops.FrozenBatchNorm2d
    )
    return detection.MaskRCNN(body, num_classes, **sizes)


def assert_same_detections(peer: Any, ours: RCNN, images: list[torch.Tensor]) -> None:
    peer.eval()
    assert peer.transform(images)[0].image_sizes == SIZES  # the peer's own resize leaves these sizes alone
    seen = {}
    handle = peer.roi_heads.register_forward_hook(
        lambda _m, _i, out: seen.update(found=[dict(d) for d in out[0]])
    )
    with torch.no_grad():
        peer([image / 255 for image in images])
    handle.remove()
    found = ours.eval().predict(_batch(images))
    for have, want in zip(found, seen["found"], strict=True):
        assert len(want["labels"]) >= 20
        torch.testing.assert_close(have.scores, want["scores"], atol=1e-4, rtol=0)
        assert torch.equal(have.labels, want["labels"])
        torch.testing.assert_close(have.boxes, want["boxes"], atol=1e-2, rtol=1e-4)
        if "masks" in want:
            torch.testing.assert_close(have.masks, want["masks"][:, 0], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_same_losses_and_gradients(
    pair: tuple[torch.nn.Module, RCNN], images: list[torch.Tensor], monkeypatch
) -> None:
    peer, ours = pair
    boxes = [[[20.0, 30, 150, 120], [100, 60, 260, 200], [5, 5, 60, 200]], [[40.0, 40, 160, 200]]]
    labels = [[1, 2, 3], [6]]
    _take_first_candidates(monkeypatch)
    peer.train()
    peer.backbone.eval()  # batch norms keep their statistics, as frozen ones do
    wanted = peer(
        [image / 255 for image in images],
        [
            {"boxes": torch.tensor(b), "labels": torch.tensor(k), "masks": _rectangles(b, size)}
            for b, k, size in zip(boxes, labels, SIZES, strict=True)
        ],
    )
    sum(wanted.values()).backward()
    have = ours.train()(Batch(_batch(images), _targets(boxes, labels)))
    sum(v for k, v in have.items() if k.startswith("loss_")).backward()
    names = {
        "loss_rpn_cls": "loss_objectness", "loss_rpn_bbox": "loss_rpn_box_reg",
        "loss_cls": "loss_classifier", "loss_bbox": "loss_box_reg",
    }  # fmt: skip
    for our_name, their_name in names.items():
        torch.testing.assert_close(have[our_name], wanted[their_name], rtol=1e-3, atol=1e-6)
    # torchvision rasterises masks in the image and averages them into the box, so its targets are softer than ours
    torch.testing.assert_close(have["loss_mask"], wanted["loss_mask"], rtol=0.05, atol=0)
    theirs = dict(peer.named_parameters())
    untouched = to_torchvision(
        {name: p for name, p in ours.named_parameters() if not name.startswith("mask_head")}
    )
    compared = 0
    for name, parameter in untouched.items():
        if name.startswith(("rpn.", "roi_heads.box")):
            gap = (parameter.grad - theirs[name].grad).norm() / theirs[name].grad.norm()
            assert gap < 1e-3, name
            compared += 1
        assert (parameter.grad is None) == (theirs[name].grad is None), name
    assert compared == 14


def _take_first_candidates(monkeypatch) -> None:
    """torchvision's sampler without chance: the first candidates, as ours without a generator."""

    def first(self, matched):
        out = ([], [])
        for labels in matched:
            positive, negative = torch.where(labels >= 1)[0], torch.where(labels == 0)[0]
            positive = positive[: int(self.batch_size_per_image * self.positive_fraction)]
            negative = negative[: self.batch_size_per_image - len(positive)]
            for masks, rows in zip(out, (positive, negative), strict=True):
                mask = torch.zeros_like(labels, dtype=torch.uint8)
                mask[rows] = 1
                masks.append(mask)
        return out

    monkeypatch.setattr(
        torchvision.models.detection._utils.BalancedPositiveNegativeSampler, "__call__", first
    )


def _rectangles(boxes: list[list[float]], size: tuple[int, int]) -> torch.Tensor:
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
    return masks


def _targets(boxes: list[list[list[float]]], labels: list[list[int]]) -> Targets:
    count = max(len(b) for b in boxes)
    out = Targets(
        torch.zeros(2, count, 4), torch.zeros(2, count, dtype=torch.int64), torch.zeros(2, count, dtype=torch.bool),
        torch.zeros(2, count, dtype=torch.bool), torch.zeros(2, count, 4, 4, dtype=torch.float64),
        torch.zeros(2, count, 4, dtype=torch.int64),
    )  # fmt: skip
    for i, (image, names) in enumerate(zip(boxes, labels, strict=True)):
        for g, ((x1, y1, x2, y2), label) in enumerate(zip(image, names, strict=True)):
            out.boxes[i, g] = torch.tensor([x1, y1, x2, y2])
            out.labels[i, g], out.valid[i, g] = label, True
            ring = torch.tensor([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=torch.float64)
            out.edges[i, g] = torch.cat((ring, ring.roll(-1, 0)), 1)
    return out
