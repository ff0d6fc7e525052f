"""detectron2's Mask R-CNN R-50-FPN, from its seeded weights: features, proposals, detections, losses, gradients.

Numbers and tolerances: golden/detectron2/README.md of the shared data. Inputs are its own resized images, so that
resizing is not part of the comparison.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hotcoco import mask as coco_mask

from detectune.config.load import load_config
from detectune.models.build import build_detector
from detectune.models.geometry import GEOMETRIES
from detectune.models.rcnn import RCNN
from detectune.ops.boxes import clip_boxes
from detectune.ops.masks import masks_to_rles
from detectune.structures import Batch, Detections, ImageBatch, ImageInfo, Targets
from detectune.weights.detectron2 import from_detectron2, to_detectron2
from detectune.weights.native import fit_weights

MODEL = "mask_rcnn_R_50_FPN_1x"
IMAGES = ["000000184324", "000000168974", "17790319373_bd19b24cfc_k"]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden" / "detectron2"


@pytest.fixture(scope="module")
def model(golden: Path, detectron2_state: Callable[..., Any]) -> RCNN:
    model = build_detector(load_config(golden / MODEL / "config.yaml"))  # their own file, translated
    converted = from_detectron2(detectron2_state(MODEL))
    report = fit_weights(model, converted)
    assert report.complete and not report.unexpected, str(report)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_features_proposals_and_detections(
    name: str,
    model: RCNN,
    golden: Path,
    detectron2_images: Callable[..., ImageBatch],
    matcher: Callable[..., list[tuple[int, int]]],
) -> None:
    want = np.load(golden / MODEL / f"{name}.npz")
    images = detectron2_images([name])
    model.eval()
    with torch.no_grad():
        pixels = model.normalize(images)
        np.testing.assert_allclose(pixels[0, :, :8, :8].flip(0), want["input.corner"], atol=1e-4)
        features = model.backbone(pixels)
        scored = model.rpn(features, tuple(pixels.shape[-2:]))
        proposals = model.rpn.propose(scored, images.sizes, model.rpn.test_rule)
        found = model.add_masks(features, model.detect(features, proposals, images))[0]
    for level in range(2, 7):
        _assert_slice(features[level][0, :4, :6, :6], want[f"feat.p{level}.slice"])
        assert (
            abs(float(features[level].mean()) - want[f"feat.p{level}.mean"])
            < 1e-5 * want[f"feat.p{level}.std"]
        )
    assert int(proposals.valid.sum()) == want["rpn.count"]
    proposed = proposals.boxes[0][proposals.valid[0]].numpy()
    zeros = np.zeros(len(proposed))
    count = len(want["rpn.boxes"])
    pairs = matcher(
        (want["rpn.boxes"], want["rpn.logits"], np.zeros(count)),
        (proposed, proposals.scores[0][proposals.valid[0]].numpy(), zeros),
        iou=0.98, score=1e-3,
    )  # fmt: skip
    assert len(pairs) >= 0.99 * count
    _check_detections(found, want, matcher)
    _check_results(found, images.infos[0], json.loads((golden / MODEL / f"{name}.json").read_text()), matcher)


def _check_detections(found: Detections, want: Any, matcher: Callable[..., list[tuple[int, int]]]) -> None:
    have = (found.boxes.numpy(), found.scores.numpy(), found.labels.numpy() - 1)
    pairs = matcher((want["det.boxes"], want["det.scores"], want["det.classes"]), have, iou=0.99, score=1e-3)
    assert len(pairs) >= 0.99 * len(want["det.scores"]) and len(found) <= 1.01 * len(want["det.scores"])
    assert found.masks is not None
    drawn = [(i, j) for i, j in pairs if i < len(want["mask.probs"])]
    assert len(drawn) >= len(want["mask.probs"]) - 1
    for i, j in drawn:
        np.testing.assert_allclose(found.masks[j].numpy(), want["mask.probs"][i], atol=2e-3)


def _check_results(
    found: Detections, info: ImageInfo, want: dict[str, Any], matcher: Callable[..., list[tuple[int, int]]]
) -> None:
    """Boxes and pasted masks in the original image."""
    scale = torch.tensor([info.scale_x, info.scale_y, info.scale_x, info.scale_y])
    boxes = clip_boxes(found.boxes / scale, torch.tensor([info.height, info.width]))
    assert found.masks is not None
    rles = masks_to_rles(
        found.masks, boxes, info.height, info.width, method=GEOMETRIES["detectron2"].mask_paste
    )
    rows = want["instances"]
    pairs = matcher(
        tuple(np.array([row[key] for row in rows]) for key in ("bbox", "score", "class")),
        (boxes.numpy(), found.scores.numpy(), found.labels.numpy() - 1),
        iou=0.99, score=1e-3,
    )  # fmt: skip
    assert len(pairs) >= 0.99 * len(rows)
    overlaps = []
    for i, j in pairs:
        np.testing.assert_allclose(boxes[j].numpy(), rows[i]["bbox"], atol=0.05)
        there, here = coco_mask.decode(rows[i]["segmentation"]), coco_mask.decode(rles[j])
        overlaps.append(np.logical_and(there, here).sum() / max(1, np.logical_or(there, here).sum()))
    assert min(overlaps) >= 0.97


@pytest.mark.slow
def test_losses_and_gradients(
    model: RCNN,
    golden: Path,
    detectron2_images: Callable[..., ImageBatch],
    detectron2_targets: Callable[..., Targets],
) -> None:
    want = json.loads((golden / MODEL / "train.json").read_text())
    names = [name.removesuffix(".jpg") for name in want["files"]]
    images = detectron2_images(names)
    annotations = json.loads((golden / MODEL / "train_annotations.json").read_text())
    model.train()
    model.zero_grad()
    out = model(Batch(images, detectron2_targets(annotations, images)))
    ours = {"loss_cls": "loss_cls", "loss_box_reg": "loss_bbox", "loss_mask": "loss_mask",
            "loss_rpn_cls": "loss_rpn_cls", "loss_rpn_loc": "loss_rpn_bbox"}  # fmt: skip
    for theirs, name in ours.items():
        assert float(out[name].detach()) == pytest.approx(want["losses"][theirs], rel=1e-3), name
    counters = {"rpn/num_pos_anchors": "stat_rpn_num_fg", "roi_head/num_fg_samples": "stat_box_num_fg",
                "fast_rcnn/cls_accuracy": "stat_box_accuracy", "mask_rcnn/accuracy": "stat_mask_accuracy"}  # fmt: skip
    for theirs, name in counters.items():
        assert float(out[name]) == pytest.approx(want["storage"][theirs], rel=1e-3), name
    torch.stack([v for k, v in out.items() if k.startswith("loss_")]).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norms = {name: float(g.norm()) for name, g in to_detectron2(gradients).items()}
    assert set(norms) == set(want["grad_norms_all"])
    for name, norm in want["grad_norms_all"].items():
        assert norms[name] == pytest.approx(norm, rel=1e-2), name


def _assert_slice(have: torch.Tensor, want: np.ndarray) -> None:
    np.testing.assert_allclose(have.numpy(), want, atol=1e-4 * np.abs(want).max(), rtol=0)
