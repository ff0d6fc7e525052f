"""detectron2's RetinaNet R-50-FPN, from its seeded weights: features, head outputs, detections, losses, gradients.

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
from PIL import Image

from detectune.config.load import load_config
from detectune.engine.inference import to_original
from detectune.models.build import build_detector
from detectune.models.geometry import GEOMETRIES
from detectune.models.retinanet import RetinaNet
from detectune.structures import Batch, ImageBatch, ImageInfo, Targets
from detectune.weights.detectron2 import from_detectron2, to_detectron2
from detectune.weights.native import fit_weights

MODEL = "retinanet_R_50_FPN_1x"
IMAGES = ["000000184324", "000000168974", "17790319373_bd19b24cfc_k"]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden" / "detectron2"


@pytest.fixture(scope="module")
def model(golden: Path, detectron2_state: Callable[..., Any]) -> RetinaNet:
    config = load_config(golden / MODEL / "config.yaml")  # their own file, translated
    model = build_detector(config)
    assert isinstance(model, RetinaNet)
    report = fit_weights(model, from_detectron2(detectron2_state(MODEL)))
    assert report.complete and not report.unexpected, str(report)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_features_head_and_detections(
    name: str, model: RetinaNet, golden: Path, matcher: Callable[..., Any]
) -> None:
    want = np.load(golden / MODEL / f"{name}.npz")
    images = _images(golden, [name])
    model.eval()
    with torch.no_grad():
        features = model.backbone(model.normalize(images))
        out = model.head(features)
        anchors = model.anchors(features, tuple(images.tensor.shape[-2:]))
        found = model.detect(out, anchors, images)[0]
    first = 0
    for level, count in zip(range(3, 8), out.per_level, strict=True):
        _assert_slice(features[level][0, :4, :6, :6], want[f"feat.p{level}.slice"])
        mean, deviation = want[f"feat.p{level}.mean"], want[f"feat.p{level}.std"]
        assert abs(float(features[level].mean()) - mean) < 1e-5 * deviation
        grid = (*features[level].shape[-2:], -1)
        rows = slice(first, first + count)
        first = rows.stop
        for part, values in (("cls", out.logits), ("box", out.deltas)):
            maps = values[0, rows].reshape(grid).permute(2, 0, 1)
            _assert_slice(maps[:16, :6, :6], want[f"head.p{level}.{part}.slice"])
    result = to_original(found, images.infos[0], GEOMETRIES["detectron2"])
    rows = json.loads((golden / MODEL / f"{name}.json").read_text())["instances"]
    pairs = matcher(
        tuple(np.array([row[key] for row in rows]) for key in ("bbox", "score", "class")),
        (result.boxes.numpy(), result.scores.numpy(), result.labels.numpy() - 1),
        iou=0.99, score=1e-3,
    )  # fmt: skip
    lowest = min(row["score"] for row in rows)
    for i in set(range(len(rows))) - {i for i, _ in pairs}:
        assert rows[i]["score"] < lowest + 1e-3
    assert len(pairs) >= 0.99 * len(rows) and len(result) <= 1.01 * len(rows)
    for i, j in pairs:
        np.testing.assert_allclose(result.boxes[j].numpy(), rows[i]["bbox"], atol=0.05)


@pytest.mark.slow
def test_losses_gradients_and_their_moving_average(model: RetinaNet, golden: Path) -> None:
    want = json.loads((golden / MODEL / "train.json").read_text())
    images = _images(golden, [name.removesuffix(".jpg") for name in want["files"]])
    targets = _targets(json.loads((golden / MODEL / "train_annotations.json").read_text()), images)
    model.train()
    model.zero_grad()
    out = model(Batch(images, targets))
    for theirs, name in (("loss_cls", "loss_retnet_cls"), ("loss_box_reg", "loss_retnet_bbox")):
        assert float(out[name].detach()) == pytest.approx(want["losses"][theirs], rel=1e-4), name
    assert float(out["stat_retnet_num_fg"]) == want["storage"]["num_pos_anchors"]
    assert float(model.loss_normalizer) == pytest.approx(want["loss_normalizer"])
    assert "loss_normalizer" in model.state_dict()
    (out["loss_retnet_cls"] + out["loss_retnet_bbox"]).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norms = {name: float(g.norm()) for name, g in to_detectron2(gradients).items()}
    assert set(norms) == set(want["grad_norms_all"])
    for name, norm in want["grad_norms_all"].items():
        assert norms[name] == pytest.approx(norm, rel=5e-3), name


def _assert_slice(have: torch.Tensor, want: np.ndarray) -> None:
    np.testing.assert_allclose(have.numpy(), want, atol=1e-4 * np.abs(want).max(), rtol=0)


def _images(golden: Path, names: list[str]) -> ImageBatch:
    index = json.loads((golden / "index.json").read_text())["images"]
    arrays = [
        np.asarray(Image.open(golden.parent / "resized" / f"{name}.png").convert("RGB")) for name in names
    ]
    height, width = (-(-max(a.shape[axis] for a in arrays) // 32) * 32 for axis in (0, 1))
    tensor = torch.zeros(len(arrays), 3, height, width, dtype=torch.uint8)
    infos = []
    for i, (array, name) in enumerate(zip(arrays, names, strict=True)):
        h, w = array.shape[:2]
        tensor[i, :, :h, :w] = torch.from_numpy(array.copy()).permute(2, 0, 1)
        original = index[f"{name}.jpg"]
        scales = w / original["width"], h / original["height"]
        infos.append(ImageInfo(i, name, original["height"], original["width"], *scales))
    return ImageBatch(tensor, torch.tensor([a.shape[:2] for a in arrays]), tuple(infos))


def _targets(annotations: dict[str, Any], images: ImageBatch) -> Targets:
    """Boxes and labels, scaled to the network frame; crowds are left out, as the golden's README says."""
    categories = sorted(c["id"] for c in annotations["categories"])
    ids = {image["file_name"].removesuffix(".jpg"): image["id"] for image in annotations["images"]}
    objects = [
        [a for a in annotations["annotations"] if a["image_id"] == ids[info.file_name] and not a["iscrowd"]]
        for info in images.infos
    ]
    size = (len(objects), max(len(rows) for rows in objects))
    targets = Targets(
        torch.zeros(*size, 4), torch.zeros(size, dtype=torch.int64),
        torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool),
    )  # fmt: skip
    for b, (info, rows) in enumerate(zip(images.infos, objects, strict=True)):
        for g, row in enumerate(rows):
            x, y, w, h = row["bbox"]
            box = np.clip([x, y, x + w, y + h], 0, [info.width, info.height] * 2)
            targets.boxes[b, g] = torch.from_numpy(box)
            targets.labels[b, g], targets.valid[b, g] = 1 + categories.index(row["category_id"]), True
        targets.boxes[b] *= torch.tensor([info.scale_x, info.scale_y] * 2)
    return targets
