"""Keypoint R-CNN R-50-FPN of Detectron, detectron2 and torchvision, each with the same weights in ours.

Numbers and conventions of the first two: golden/*/README.md of the shared data. torchvision runs beside ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from detectune.config.load import load_config
from detectune.models.build import build_detector
from detectune.models.rcnn import RCNN
from detectune.structures import Batch, Detections, ImageBatch, ImageInfo, Targets
from detectune.weights.detectron import from_detectron
from detectune.weights.detectron2 import from_detectron2, to_detectron2
from detectune.weights.native import fit_weights
from detectune.weights.torchvision import from_torchvision, to_torchvision

DETECTRON = "e2e_keypoint_rcnn_R-50-FPN_1x"
DETECTRON2 = "keypoint_rcnn_R_50_FPN_1x"
DETECTRON_IMAGES = ["33823288584_1d21cf0a26_k", "17790319373_bd19b24cfc_k"]
DETECTRON2_IMAGES = ["000000168974"]  # upright, so that height and width exchanged would show
INCLUSIVE = np.array([0.0, 0, 1, 1])
POSE_HEAD = {
    "MODEL.MASK_ON": False,
    "MODEL.KEYPOINTS_ON": True,
    "MODEL.NUM_CLASSES": 2,
    "KRCNN.ROI_KEYPOINTS_HEAD": "keypoint_rcnn_heads.add_roi_pose_head_v1convX",
    "KRCNN.NUM_KEYPOINTS": 17,
    "KRCNN.CONV_HEAD_DIM": 512,
    "KRCNN.CONV_INIT": "MSRAFill",
    "KRCNN.HEATMAP_SIZE": 56,
    "KRCNN.ROI_XFORM_RESOLUTION": 14,
    "KRCNN.ROI_XFORM_SAMPLING_RATIO": 2,
    "KRCNN.UP_SCALE": 2,
    "KRCNN.USE_DECONV_OUTPUT": True,
    "KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH": 0,
}


@pytest.fixture(scope="module")
def build(
    make_config: Callable[..., Any], full_size: dict[str, Any]
) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], RCNN]:
    """A full-size keypoint model with converted weights, every one of which must fit."""

    def make(overrides: dict[str, Any], converted: dict[str, torch.Tensor]) -> RCNN:
        model = build_detector(make_config(full_size | POSE_HEAD | overrides))
        report = fit_weights(model, converted)
        assert report.complete and not report.unexpected, str(report)
        return model.eval()

    return make


def _padded(pixels: list[torch.Tensor], infos: list[ImageInfo]) -> ImageBatch:
    height, width = (-(-max(p.shape[axis] for p in pixels) // 32) * 32 for axis in (1, 2))
    tensor = torch.zeros(len(pixels), 3, height, width, dtype=pixels[0].dtype)
    for row, image in zip(tensor, pixels, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return ImageBatch(tensor, torch.tensor([p.shape[1:] for p in pixels]), tuple(infos))


def _original(found: Detections, info: ImageInfo) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [N, 4] and keypoints [N, K, 4] in the original frame."""
    assert found.keypoints is not None
    scale = np.array([info.scale_x, info.scale_y])
    keypoints = found.keypoints.numpy().copy()
    keypoints[..., :2] /= scale
    return found.boxes.numpy() / np.tile(scale, 2), keypoints


@pytest.fixture(scope="module")
def detectron_model(build: Callable[..., RCNN], detectron_blobs: Callable[..., Any]) -> RCNN:
    return build({"MODEL.GEOMETRY": "detectron"}, from_detectron(detectron_blobs(DETECTRON)))


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTRON_IMAGES)
def test_detectrons_detections_and_keypoints(
    name: str,
    shared: Path,
    detectron_model: RCNN,
    matcher: Callable[..., list[tuple[int, int]]],
) -> None:
    folder = shared / "golden" / "detectron" / DETECTRON
    model = detectron_model
    result = json.loads((folder / "results.json").read_text())[f"{name}.jpg"]
    want = np.load(folder / f"intermediates_{name}.npz")
    pixels = np.asarray(Image.open(shared / "golden" / "images" / f"{name}.jpg").convert("RGB"))
    if hashlib.sha256(pixels[:, :, ::-1].tobytes()).hexdigest() != result["decoded_bgr_sha256"]:
        pytest.skip("this machine's JPEG decoder gives other pixels than the golden's")
    scale = result["im_scale"]
    framed = torch.nn.functional.pad(
        torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float(), (0, 2, 0, 2), mode="replicate"
    )
    height, width = round(pixels.shape[0] * scale), round(pixels.shape[1] * scale)
    resized = torch.nn.functional.interpolate(
        framed, scale_factor=scale, mode="bilinear", recompute_scale_factor=False
    )
    info = ImageInfo(0, name, *pixels.shape[:2], scale, scale)
    images = _padded([resized[0, :, :height, :width]], [info])
    with torch.no_grad():
        features = model.backbone(model.normalize(images))
        found = model.predict(images)[0]
        rois = torch.from_numpy(want["keypoints/rois_first16"][:2, 1:])
        at_rois = Detections(rois, torch.ones(2), torch.ones(2, dtype=torch.int64))
        maps = model.keypoint_maps(features, [at_rois])[0]
    for level, blob in ((2, "fpn_res2_2_sum"), (5, "fpn_res5_2_sum")):
        slice_ = want[f"feat/{blob}/slice"]
        np.testing.assert_allclose(
            features[level][0, :4, :6, :6].numpy(), slice_, atol=1e-4 * np.abs(slice_).max(), rtol=0
        )
    np.testing.assert_allclose(maps[:, :5].numpy(), want["keypoints/heatmap_first2_first5"], atol=2e-3)
    boxes, keypoints = _original(found, info)
    rows = result["detections"]
    pairs = matcher(
        (np.array([r["bbox"] for r in rows]) + INCLUSIVE, np.array([r["score"] for r in rows]), np.ones(len(rows))),
        (boxes + INCLUSIVE, found.scores.numpy(), found.labels.numpy()),
        iou=0.99, score=1e-3,
    )  # fmt: skip
    assert len(pairs) == len(rows) == len(found)
    gaps = np.concatenate(
        [np.abs(keypoints[j, :, :2] - np.array(rows[i]["keypoints"][:2]).T).max(1) for i, j in pairs]
    )
    assert np.mean(gaps < 0.5) > 0.995  # two places of nearly the same height may change
    for i, j in pairs:
        np.testing.assert_allclose(keypoints[j, :, 2], rows[i]["keypoints"][2], atol=5e-3)
        np.testing.assert_allclose(keypoints[j, :, 3], rows[i]["keypoints"][3], atol=1e-3)


@pytest.fixture(scope="module")
def detectron2_model(shared: Path, detectron2_state: Callable[..., Any]) -> RCNN:
    config = load_config(shared / "golden" / "detectron2" / DETECTRON2 / "config.yaml")
    model = build_detector(config)
    report = fit_weights(model, from_detectron2(detectron2_state(DETECTRON2)))
    assert report.complete and not report.unexpected, str(report)
    return model.eval()


def _detectron2_images(golden: Path, names: list[str]) -> ImageBatch:
    index = json.loads((golden / "index.json").read_text())["images"]
    pixels, infos = [], []
    for i, name in enumerate(names):
        array = np.asarray(Image.open(golden.parent / "resized" / f"{name}.png").convert("RGB"))
        size = index[f"{name}.jpg"]
        pixels.append(torch.from_numpy(array.copy()).permute(2, 0, 1))
        scale_x, scale_y = array.shape[1] / size["width"], array.shape[0] / size["height"]
        infos.append(ImageInfo(i, name, size["height"], size["width"], scale_x, scale_y))
    return _padded(pixels, infos)


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTRON2_IMAGES)
def test_detectron2s_detections_and_keypoints(
    name: str, shared: Path, detectron2_model: RCNN, matcher: Callable[..., list[tuple[int, int]]]
) -> None:
    golden = shared / "golden" / "detectron2"
    want = np.load(golden / DETECTRON2 / f"{name}.npz")
    rows = json.loads((golden / DETECTRON2 / f"{name}.json").read_text())["instances"]
    images = _detectron2_images(golden, [name])
    with torch.no_grad():
        features = detectron2_model.backbone(detectron2_model.normalize(images))
        found = detectron2_model.eval().predict(images)[0]
        first = torch.from_numpy(want["det.boxes"][:4])
        maps = detectron2_model.keypoint_maps(
            features, [Detections(first, torch.ones(4), torch.ones(4, dtype=torch.int64))]
        )[0]
    heat = want["keypoint.heatmaps"]
    np.testing.assert_allclose(maps[:, [0, 5, 10, 16]].numpy(), heat, atol=1e-3 * np.abs(heat).max(), rtol=0)
    boxes, keypoints = _original(found, images.infos[0])
    pairs = matcher(
        tuple(np.array([row[key] for row in rows]) for key in ("bbox", "score", "class")),
        (boxes, found.scores.numpy(), found.labels.numpy() - 1),
        iou=0.98, score=1e-3,
    )  # fmt: skip
    assert len(pairs) >= len(rows) - 1 and abs(len(found) - len(rows)) <= 1
    gaps, scores = [], []
    for i, j in pairs:
        pose = np.array(rows[i]["keypoints"]).reshape(17, 3)
        gaps.append(np.abs(keypoints[j, :, :2] - pose[:, :2]).max(1))
        scores.append(np.abs(keypoints[j, :, 3] - pose[:, 2]))
    assert np.mean(np.concatenate(gaps) < 0.05) >= 0.98
    assert np.concatenate(scores).max() < 0.01


@pytest.mark.slow
def test_detectron2s_losses_and_gradients(shared: Path, detectron2_model: RCNN) -> None:
    golden = shared / "golden" / "detectron2"
    want = json.loads((golden / DETECTRON2 / "train.json").read_text())
    annotations = json.loads((golden / DETECTRON2 / "train_annotations.json").read_text())
    images = _detectron2_images(golden, [name.removesuffix(".jpg") for name in want["files"]])
    model = detectron2_model.train()
    model.zero_grad()
    out = model(Batch(images, _persons(annotations, images)))
    ours = {"loss_cls": "loss_cls", "loss_box_reg": "loss_bbox", "loss_keypoint": "loss_keypoints",
            "loss_rpn_cls": "loss_rpn_cls", "loss_rpn_loc": "loss_rpn_bbox"}  # fmt: skip
    for theirs, name in ours.items():
        assert float(out[name].detach()) == pytest.approx(want["losses"][theirs], rel=1e-3), name
    torch.stack([v for k, v in out.items() if k.startswith("loss_")]).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norms = {name: float(g.norm()) for name, g in to_detectron2(gradients).items()}
    assert set(norms) == set(want["grad_norms_all"])
    for name, norm in want["grad_norms_all"].items():
        if name != "roi_heads.keypoint_head.score_lowres.bias":  # zero but for rounding
            assert norms[name] == pytest.approx(norm, rel=1e-2), name


def _persons(annotations: dict[str, Any], images: ImageBatch) -> Targets:
    """The persons, scaled to the network frame; their keypoints at the centres of the pixels they name."""
    ids = {image["file_name"].removesuffix(".jpg"): image["id"] for image in annotations["images"]}
    rows = [
        [a for a in annotations["annotations"] if a["image_id"] == ids[info.file_name] and not a["iscrowd"]]
        for info in images.infos
    ]
    size = (len(rows), max(len(own) for own in rows))
    targets = Targets(
        torch.zeros(*size, 4), torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.bool),
        torch.zeros(size, dtype=torch.bool), keypoints=torch.zeros(*size, 17, 3),
    )  # fmt: skip
    for b, (own, info) in enumerate(zip(rows, images.infos, strict=True)):
        scale = np.array([info.scale_x, info.scale_y])
        for g, a in enumerate(own):
            x, y, w, h = a["bbox"]
            box = np.clip([x, y, x + w, y + h], 0, [info.width, info.height] * 2) * np.tile(scale, 2)
            pose = np.array(a["keypoints"], dtype=np.float64).reshape(17, 3)
            pose[:, :2] = (pose[:, :2] + 0.5) * scale
            targets.boxes[b, g] = torch.from_numpy(box)
            targets.keypoints[b, g] = torch.from_numpy(pose)
            targets.labels[b, g], targets.valid[b, g] = 1, True
    return targets


SIZES = [(205, 273), (240, 205)]  # torchvision's resize below leaves them alone


@pytest.fixture(scope="module")
def torchvision_pair(build: Callable[..., RCNN]) -> tuple[torch.nn.Module, RCNN]:
    torch.manual_seed(0)
    peer = torchvision.models.detection.keypointrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, box_batch_size_per_image=32, box_nms_thresh=0.8,
        min_size=205, max_size=300,
    )  # fmt: skip
    for name, parameter in peer.named_parameters():
        if name.startswith(("backbone.body.conv1", "backbone.body.layer1")):
            parameter.requires_grad_(False)
    with torch.no_grad():  # weights under which scores, boxes and maps differ from place to place
        for name, buffer in peer.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.8, 1.2)
            elif name.endswith("bn3.weight"):
                buffer.uniform_(0.2, 0.4)
        peer.rpn.head.bbox_pred.weight.mul_(0.2)
        peer.roi_heads.keypoint_predictor.kps_score_lowres.weight.mul_(0.02)
    overrides = {
        "MODEL.GEOMETRY": "torchvision",
        "RESNETS.STRIDE_1X1": False,
        "PIXEL_MEANS": [[[255 * m for m in (0.406, 0.456, 0.485)]]],
        "INPUT.PIXEL_STDS": tuple(255 * s for s in (0.225, 0.224, 0.229)),
        "TRAIN.RPN_POST_NMS_TOP_N": 2000,
        "TRAIN.BATCH_SIZE_PER_IM": 32,
        "TEST.NMS": 0.8,
    }
    return peer, build(overrides, from_torchvision(peer.state_dict()))


@pytest.fixture(scope="module")
def smooth_images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    coarse = [torch.rand(1, 3, h // 12, w // 12, generator=generator) for h, w in SIZES]
    return [
        torch.nn.functional.interpolate(c, size=size, mode="bicubic").clamp(0, 1)[0] * 255
        for c, size in zip(coarse, SIZES, strict=True)
    ]


@pytest.mark.slow
def test_torchvisions_detections_and_keypoints(
    torchvision_pair: tuple[torch.nn.Module, RCNN], smooth_images: list[torch.Tensor]
) -> None:
    peer, ours = torchvision_pair
    seen: dict[str, Any] = {}
    handle = peer.roi_heads.register_forward_hook(lambda _m, _i, out: seen.update(found=out[0]))
    with torch.no_grad():
        peer.eval()([image / 255 for image in smooth_images])
    handle.remove()
    infos = [ImageInfo(i, "", *size) for i, size in enumerate(SIZES)]
    found = ours.eval().predict(_padded(smooth_images, infos))
    for have, want in zip(found, seen["found"], strict=True):
        assert len(want["labels"]) >= 5
        torch.testing.assert_close(have.scores, want["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(have.boxes, want["boxes"], atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(have.keypoints[..., 2], want["keypoints_scores"], atol=1e-4, rtol=1e-4)
        gaps = (have.keypoints[..., :2] - want["keypoints"][..., :2]).abs().amax(-1)
        assert (gaps < 0.02).float().mean() > 0.99


@pytest.mark.slow
def test_torchvisions_keypoint_loss_and_gradients(
    torchvision_pair: tuple[torch.nn.Module, RCNN], smooth_images: list[torch.Tensor], monkeypatch
) -> None:
    peer, ours = torchvision_pair
    boxes = [torch.tensor([[20.0, 30, 150, 120], [100, 60, 260, 200]]), torch.tensor([[40.0, 40, 160, 200]])]
    generator = torch.Generator().manual_seed(2)
    poses = []
    for own in boxes:
        inside = torch.rand(len(own), 17, 2, generator=generator) * 1.2 - 0.1  # some lie outside their box
        xy = own[:, None, :2] + inside * (own[:, 2:] - own[:, :2])[:, None]
        seen = torch.randint(0, 3, (len(own), 17, 1), generator=generator).float()
        poses.append(torch.cat((xy, seen), -1))

    def first(self: Any, matched: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The first candidates, as ours without a generator."""
        out: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        for labels in matched:
            positive, negative = torch.where(labels >= 1)[0], torch.where(labels == 0)[0]
            positive = positive[: int(self.batch_size_per_image * self.positive_fraction)]
            negative = negative[: self.batch_size_per_image - len(positive)]
            for masks, rows in zip(out, (positive, negative), strict=True):
                masks.append(torch.zeros_like(labels, dtype=torch.uint8).index_fill_(0, rows, 1))
        return out

    sampler = torchvision.models.detection._utils.BalancedPositiveNegativeSampler
    monkeypatch.setattr(sampler, "__call__", first)
    peer.train()
    peer.backbone.eval()
    wanted = peer(
        [image / 255 for image in smooth_images],
        [
            {"boxes": b, "labels": torch.ones(len(b), dtype=torch.int64), "keypoints": p}
            for b, p in zip(boxes, poses, strict=True)
        ],
    )
    sum(wanted.values()).backward()
    targets = Targets(
        torch.nn.utils.rnn.pad_sequence(boxes, batch_first=True),
        torch.tensor([[1, 1], [1, 0]]), torch.zeros(2, 2, dtype=torch.bool),
        torch.tensor([[True, True], [True, False]]),
        keypoints=torch.nn.utils.rnn.pad_sequence(poses, batch_first=True),
    )  # fmt: skip
    infos = [ImageInfo(i, "", *size) for i, size in enumerate(SIZES)]
    have = ours.train()(Batch(_padded(smooth_images, infos), targets))
    sum(v for k, v in have.items() if k.startswith("loss_")).backward()
    torch.testing.assert_close(have["loss_keypoints"], wanted["loss_keypoint"], rtol=1e-4, atol=0)
    theirs = dict(peer.named_parameters())
    for name, parameter in to_torchvision(dict(ours.named_parameters())).items():
        if name.startswith("roi_heads.keypoint") and not name.endswith("kps_score_lowres.bias"):
            gap = (parameter.grad - theirs[name].grad).norm() / theirs[name].grad.norm()
            assert gap < 5e-3, name  # eight layers of rounding
