"""Detectron's Faster R-CNN R-50-FPN, from its seeded weights: input, features, proposals, head, detections.

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

from detectune.config.load import load_config
from detectune.models.build import build_detector
from detectune.models.rcnn import RCNN, original_units
from detectune.structures import ImageBatch
from detectune.weights.detectron import from_detectron
from detectune.weights.native import fit_weights

MODEL = "e2e_faster_rcnn_R-50-FPN_1x"
INCLUSIVE = np.array([0.0, 0, 1, 1])  # makes widths of inclusive boxes x2 - x1
IMAGES = ["33823288584_1d21cf0a26_k", "17790319373_bd19b24cfc_k"]
BLOBS = {2: "fpn_res2_2_sum", 3: "fpn_res3_3_sum", 4: "fpn_res4_5_sum", 5: "fpn_res5_2_sum",
         6: "fpn_res5_2_sum_subsampled_2x"}  # fmt: skip


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden" / "detectron" / MODEL


@pytest.fixture(scope="module")
def model(detectron_blobs: Callable[..., Any]) -> RCNN:
    own_file = Path(__file__).parents[2] / "configs" / "12_2017_baselines" / f"{MODEL}.yaml"
    model = build_detector(load_config(own_file, ["MODEL.GEOMETRY=detectron"]))
    assert isinstance(model, RCNN)
    converted = from_detectron(detectron_blobs(MODEL))
    report = fit_weights(model, converted)
    assert report.complete and not report.unexpected, str(report)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_features_proposals_and_detections(
    name: str,
    model: RCNN,
    golden: Path,
    detectron_image: Callable[..., ImageBatch],
    matcher: Callable[..., list[tuple[int, int]]],
) -> None:
    result = json.loads((golden / "results.json").read_text())[f"{name}.jpg"]
    want = np.load(golden / f"intermediates_{name}.npz")
    images = detectron_image(name, result)
    with torch.no_grad():
        pixels = model.normalize(images)
        np.testing.assert_allclose(pixels[0, :, :8, :8].flip(0), want["data/crop_0_0"], atol=2e-3)
        features = model.backbone(pixels)
        scored = model.rpn(features, tuple(pixels.shape[-2:]))
        sizes = torch.tensor([pixels.shape[-2:]])
        proposals = model.rpn.propose(scored, sizes, model.rpn.test_rule, original_units(images))
        out = model.box_head(
            model.box_pooler(
                features,
                torch.from_numpy(want["head/rois"][:, 1:]),
                torch.zeros(32, dtype=torch.int64),
                static=False,
            )
        )
        found = model.predict(images)[0]
    for level, blob in BLOBS.items():
        slice_ = want[f"feat/{blob}/slice"]
        have = features[level][0, :4, :6, :6].numpy()
        np.testing.assert_allclose(have, slice_, atol=1e-4 * np.abs(slice_).max(), rtol=0)
    count = len(want["proposals/boxes"])
    kept = proposals.valid[0]
    proposed = proposals.boxes[0][kept].numpy()
    assert len(proposed) == result["num_proposals"]
    pairs = matcher(
        (want["proposals/boxes"] + INCLUSIVE, want["proposals/scores"], np.zeros(count)),
        (proposed + INCLUSIVE, proposals.scores[0][kept].sigmoid().numpy(), np.zeros(len(proposed))),
        iou=0.98, score=1e-3,
    )  # fmt: skip
    assert len(pairs) >= 0.99 * count
    np.testing.assert_allclose(out.logits.numpy(), want["head/cls_score"], atol=2e-3)
    np.testing.assert_allclose(out.deltas.numpy(), want["head/bbox_pred"], atol=2e-3)

    detected = result["detections"]
    rows = np.array([d["category_id"] for d in detected])
    reference = (np.array([d["bbox"] for d in detected]), np.array([d["score"] for d in detected]), rows)
    original = (found.boxes / result["im_scale"]).numpy()
    labels = found.labels.numpy()
    pairs = matcher(reference, (original, found.scores.numpy(), labels), iou=0.99, score=1e-3)
    assert len(pairs) == len(detected) == len(found)
    for i, j in pairs:
        np.testing.assert_allclose(original[j], reference[0][i], atol=0.05)
