"""Detectron's Mask R-CNN R-50-C4, from its own configuration and seeded weights: features, proposals, head, detections,
masks.

Numbers and conventions: golden/detectron/README.md and CONVENTIONS.md of the shared data.
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

from detectune.config.tree import Config
from detectune.models.build import build_detector
from detectune.models.geometry import GEOMETRIES
from detectune.models.layers import msra, xavier
from detectune.models.rcnn import RCNN
from detectune.ops.masks import masks_to_rles
from detectune.structures import ImageBatch
from detectune.weights.detectron import from_detectron, to_detectron
from detectune.weights.native import fit_weights

MODEL = "e2e_mask_rcnn_R-50-C4_1x"
INCLUSIVE = np.array([0.0, 0, 1, 1])  # makes widths of inclusive boxes x2 - x1
IMAGES = ["33823288584_1d21cf0a26_k"]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden" / "detectron" / MODEL


@pytest.fixture(scope="module")
def config(golden: Path) -> Config:
    values = json.loads((golden / "config.json").read_text())["yaml_values"]
    return Config().with_overrides(values | {"MODEL.GEOMETRY": "detectron"})


@pytest.fixture(scope="module")
def model(config: Config, detectron_blobs: Callable[..., Any]) -> RCNN:
    model = build_detector(config)
    blobs = detectron_blobs(MODEL)
    converted = from_detectron(blobs)
    report = fit_weights(model, converted)
    assert report.complete and not report.unexpected, str(report)
    back = to_detectron(model.state_dict())
    assert back.keys() == blobs.keys()
    for name, value in back.items():
        np.testing.assert_allclose(value.numpy(), blobs[name], rtol=1e-6, err_msg=name)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_features_proposals_head_detections_and_masks(
    name: str,
    model: RCNN,
    golden: Path,
    detectron_image: Callable[..., ImageBatch],
    matcher: Callable[..., list[tuple[int, int]]],
) -> None:
    result = json.loads((golden / "results.json").read_text())[f"{name}.jpg"]
    want = np.load(golden / f"intermediates_{name}.npz")
    images = detectron_image(name, result, multiple=1)
    with torch.no_grad():
        features = model.backbone(model.normalize(images))
        proposals = model.propose(features, images)
        regions = torch.from_numpy(want["head/rois"][:, 1:])
        image_index = torch.zeros(len(regions), dtype=torch.int64)
        pooled = model.box_pooler(features, regions, image_index, static=False)
        maps = model.box_head.res5(pooled)
        out = model.box_head.read(maps)
        found = model.predict(images)[0]
    _assert_slice(features[4][0, :4, :6, :6], want["feat/res4_5_sum/slice"])
    _assert_slice(pooled[:4, :8], want["head/pool5_slice"])
    _assert_slice(maps.mean((2, 3))[:4, :64], want["head/res5_pool_slice"])
    kept = proposals.valid[0]
    proposed = proposals.boxes[0][kept].numpy()
    assert len(proposed) == result["num_proposals"]
    count = len(want["proposals/boxes"])
    pairs = matcher(
        (want["proposals/boxes"] + INCLUSIVE, want["proposals/scores"], np.zeros(count)),
        (proposed + INCLUSIVE, proposals.scores[0][kept].sigmoid().numpy(), np.zeros(len(proposed))),
        iou=0.98, score=1e-3,
    )  # fmt: skip
    assert len(pairs) >= 0.99 * count
    np.testing.assert_allclose(out.logits.numpy(), want["head/cls_score"], atol=3e-3)
    np.testing.assert_allclose(out.deltas.numpy(), want["head/bbox_pred"], atol=3e-3)

    detected = result["detections"]
    reference = tuple(np.array([d[key] for d in detected]) for key in ("bbox", "score", "category_id"))
    original = found.boxes / result["im_scale"]
    pairs = matcher(
        (reference[0] + INCLUSIVE, *reference[1:]),
        (original.numpy() + INCLUSIVE, found.scores.numpy(), found.labels.numpy()),
        iou=0.98, score=1e-3,
    )  # fmt: skip
    assert len(pairs) == len(detected) == len(found)
    info = images.infos[0]
    assert found.masks is not None and found.masks.shape[1:] == (14, 14)
    rles = masks_to_rles(
        found.masks, original, info.height, info.width, method=GEOMETRIES["detectron"].mask_paste
    )
    overlaps = []
    for i, j in pairs:
        np.testing.assert_allclose(original[j].numpy(), reference[0][i], atol=0.05)
        there, here = coco_mask.decode(detected[i]["segmentation"]), coco_mask.decode(rles[j])
        union = np.logical_or(there, here).sum()
        overlaps.append(
            np.logical_and(there, here).sum() / union if union else 1.0
        )  # some boxes hold no pixel
    assert min(overlaps) >= 0.97


def test_initial_weights_have_detectrons_laws(config: Config, golden: Path) -> None:
    """Every filler of the original, by the spread of what was drawn."""
    recorded = json.loads((golden / "initializers.json").read_text())["params"]
    torch.manual_seed(0)
    drawn = to_detectron(build_detector(config).state_dict())
    assert drawn.keys() == recorded.keys()
    laws = {"XavierFill": xavier, "MSRAFill": msra}
    for name, (filler, arguments) in recorded.items():
        value = drawn[name].detach()
        if filler == "ConstantFill":
            np.testing.assert_allclose(value.numpy(), arguments["value"], atol=1e-6, err_msg=name)
            continue
        expected = arguments.get("std")
        if filler in laws:
            expected = float(laws[filler](torch.empty(value.shape)).std())
        assert float(value.std()) == pytest.approx(expected, rel=0.1), name


def _assert_slice(have: torch.Tensor, want: np.ndarray) -> None:
    np.testing.assert_allclose(have.numpy(), want, atol=1e-4 * np.abs(want).max(), rtol=0)
