"""Families other than FPN learn a handful of generated pictures by heart: losses fall, and what is found is right.

A wrong frame, stride, order of channels or class shows as an AP near zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detectune.config.load import Config, load_config
from detectune.data.loader import build_loader
from detectune.data.shapes import make_shapes
from detectune.engine.inference import coco_rows, to_original
from detectune.evaluation.coco import evaluate_coco
from detectune.models.build import build_detector
from detectune.models.geometry import GEOMETRIES
from detectune.structures import Batch, Detections

NUM_IMAGES, SIZE = 6, 96
C4 = {
    "MODEL.CONV_BODY": "ResNet.add_ResNet18_conv4_body", "FPN.FPN_ON": False, "FPN.MULTILEVEL_ROIS": False,
    "FPN.MULTILEVEL_RPN": False, "RPN.SIZES": (16, 32, 64), "FAST_RCNN.ROI_XFORM_RESOLUTION": 7,
    "FAST_RCNN.ROI_BOX_HEAD": "ResNet.add_ResNet_roi_conv5_head", "MODEL.MASK_ON": False,
}  # fmt: skip
GIVEN = {"MODEL.FASTER_RCNN": False, "MODEL.MASK_ON": False, "FAST_RCNN.ROI_XFORM_METHOD": "RoIPoolF"}
RFCN = C4 | {
    "MODEL.TYPE": "rfcn", "MODEL.CONV_BODY": "ResNet.add_ResNet18_conv5_body", "RESNETS.RES5_DILATION": 2,
    "MODEL.CLS_AGNOSTIC_BBOX_REG": True,
}  # fmt: skip
COMMON = {
    "RESNETS.WIDTH_MULTIPLIER": 0.25, "RESNETS.NORM": "group", "TRAIN.FREEZE_AT": 0, "FPN.DIM": 32,
    "FAST_RCNN.MLP_HEAD_DIM": 64, "TRAIN.BATCH_SIZE_PER_IM": 16, "TRAIN.FG_FRACTION": 0.5,
    "TRAIN.RPN_PRE_NMS_TOP_N": 100,
    "TRAIN.RPN_POST_NMS_TOP_N": 50, "TEST.RPN_POST_NMS_TOP_N": 50, "TRAIN.SCALES": [SIZE], "TEST.SCALE": SIZE,
    "TRAIN.IMS_PER_BATCH": 3, "TEST.IMS_PER_BATCH": 3, "DATA_LOADER.NUM_THREADS": 0, "TRAIN.USE_FLIPPED": False,
    "TEST.PRECOMPUTED_PROPOSALS": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("few")
    paths = make_shapes(folder / "few", split="train", num_images=NUM_IMAGES, image_size=(SIZE, SIZE), seed=3)
    return {"few": {"images": str(paths.images), "annotations": str(paths.annotations)}}


def jittered(batch: Batch, generator: torch.Generator) -> Batch:
    """Every object eight times, moved by a tenth of its size, and as many boxes of chance."""
    targets = batch.targets
    assert targets is not None
    sizes = (targets.boxes[..., 2:] - targets.boxes[..., :2]).repeat(1, 8, 2)
    near = targets.boxes.repeat(1, 8, 1)
    near = near + sizes * torch.randn(sizes.shape, generator=generator) * 0.1
    low = torch.rand((*near.shape[:2], 2), generator=generator) * 0.6 * SIZE
    far = torch.cat((low, low + 10 + torch.rand(low.shape, generator=generator) * 0.3 * SIZE), 2)
    limits = (batch.images.sizes.flip(1).float() - 1).repeat(1, 2)[:, None]
    boxes = torch.minimum(torch.cat((near, far), 1).clamp(min=0), limits)
    valid = torch.cat((targets.valid.repeat(1, 8), torch.ones(far.shape[:2], dtype=torch.bool)), 1)
    return Batch(replace(batch.images, proposals=boxes, proposals_valid=valid), targets)


def learn(config: Config, steps: int) -> tuple[list[float], list[Batch], Any]:
    """Total loss of every step, the batches with their proposals, the model."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    loader = build_loader(config, training=True)
    batches = []
    for batch in loader:
        batches.append(jittered(batch, generator))
        if len(batches) == NUM_IMAGES // config.TRAIN.IMS_PER_BATCH:
            break
    model = build_detector(config, num_classes=len(loader.class_info) + 1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    losses = []
    for step in range(steps):
        out = model(batches[step % len(batches)], generator)
        total = torch.stack([value for name, value in out.items() if name.startswith("loss_")]).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(float(total.detach()))
    return losses, batches, model.eval()


def average_precision(config: Config, batches: list[Batch], model: Any) -> float:
    """AP at an overlap of 0.5, from 0 to 1, in the original pictures."""
    geometry = GEOMETRIES[config.MODEL.GEOMETRY]
    loader = build_loader(config, training=False, dataset="few")
    rows = []
    for batch in batches:
        for found, info in zip(model.predict(batch.images), batch.images.infos, strict=True):
            rows += coco_rows(
                to_original(found, info, geometry), info, loader.class_info, offset=geometry.offset
            )
    value = evaluate_coco(loader.records, rows, class_info=loader.class_info).metrics["bbox/AP50"]
    assert value is not None
    return value


CASES = [
    pytest.param(C4, "detectron", 80, 0.5, id="Faster R-CNN C4"),
    pytest.param(GIVEN, "detectron", 80, 0.9, id="Fast R-CNN, max pooling"),
    pytest.param(RFCN, "detectron", 100, 0.5, id="R-FCN"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "geometry", "steps", "bar"), CASES)
def test_learns_pictures_by_heart(
    family: dict[str, Any], geometry: str, steps: int, bar: float, root: Path, data: dict[str, Any]
) -> None:
    config = _config(root, data, family | {"MODEL.GEOMETRY": geometry})
    losses, batches, model = learn(config, steps)
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    assert average_precision(config, batches, model) > bar


@pytest.mark.slow
def test_proposals_cover_the_objects(root: Path, data: dict[str, Any]) -> None:
    """The RPN alone on one level: nearly every object is covered by one of a picture's first twenty proposals."""
    config = _config(root, data, C4 | {"MODEL.RPN_ONLY": True, "MODEL.FASTER_RCNN": False})
    losses, batches, model = learn(config, 100)
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    assert _recall(batches, model.predict) > 0.8
    torch.manual_seed(0)
    assert _recall(batches, build_detector(config).eval().predict) < 0.5


def _recall(batches: list[Batch], predict: Callable[..., list[Detections]]) -> float:
    from torchvision.ops import box_iou

    covered = []
    for batch in batches:
        assert batch.targets is not None
        for i, found in enumerate(predict(batch.images)):
            objects = batch.targets.boxes[i][batch.targets.valid[i]]
            covered += (box_iou(objects, found.boxes[:20]).amax(1) > 0.5).tolist()
    return sum(covered) / len(covered)


def _config(root: Path, data: dict[str, Any], changes: dict[str, Any]) -> Config:
    names = {"DATASETS": data, "TRAIN.DATASETS": ["few"], "TEST.DATASETS": ["few"]}
    return load_config(root / "configs/getting_started/shapes.yaml", COMMON | names | changes)
