"""Small detectors learn within seconds what a broken loss, target or decoder would never let them learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from detectune.config.tree import Config
from detectune.engine.inference import coco_rows, to_original
from detectune.evaluation.coco import evaluate_coco
from detectune.models.build import build_detector
from detectune.models.geometry import GEOMETRIES
from detectune.structures import Batch, ClassInfo, ImageBatch, ImageInfo, Record, Targets

SIDE = 96
CLASSES = ClassInfo(("dot",), (1,), ("red", "green", "blue"), (0, 1, 2))
TINY = {
    "MODEL.TYPE": "generalized_rcnn", "MODEL.FASTER_RCNN": True, "MODEL.NUM_CLASSES": 2, "MODEL.KEYPOINTS_ON": True,
    "MODEL.CONV_BODY": "FPN.add_fpn_ResNet18_conv5_body", "MODEL.GEOMETRY": "detectron2",
    "RESNETS.NORM": "batch", "RESNETS.WIDTH_MULTIPLIER": 0.25, "RESNETS.STRIDE_1X1": False, "TRAIN.FREEZE_AT": 0,
    "FPN.FPN_ON": True, "FPN.MULTILEVEL_ROIS": True, "FPN.MULTILEVEL_RPN": True, "FPN.DIM": 32,
    "FPN.RPN_MAX_LEVEL": 4, "FPN.ROI_MAX_LEVEL": 4, "FPN.RPN_ANCHOR_START_SIZE": 16, "FPN.RPN_ASPECT_RATIOS": (1.0,),
    "FPN.ROI_CANONICAL_SCALE": 56, "FPN.ROI_CANONICAL_LEVEL": 3,
    "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_2mlp_head", "FAST_RCNN.MLP_HEAD_DIM": 64,
    "FAST_RCNN.ROI_XFORM_METHOD": "RoIAlign", "FAST_RCNN.ROI_XFORM_RESOLUTION": 5,
    "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO": 1,
    "KRCNN.ROI_KEYPOINTS_HEAD": "keypoint_rcnn_heads.add_roi_pose_head_v1convX", "KRCNN.NUM_KEYPOINTS": 3,
    "KRCNN.NUM_STACKED_CONVS": 2, "KRCNN.CONV_HEAD_DIM": 32, "KRCNN.CONV_INIT": "MSRAFill",
    "KRCNN.ROI_XFORM_RESOLUTION": 10, "KRCNN.ROI_XFORM_SAMPLING_RATIO": 1, "KRCNN.USE_DECONV_OUTPUT": True,
    "KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH": 0,
    "PIXEL_MEANS": [[[110.0, 110.0, 110.0]]], "INPUT.PIXEL_STDS": (60.0, 60.0, 60.0),
    "TRAIN.BATCH_SIZE_PER_IM": 32, "TRAIN.RPN_BATCH_SIZE_PER_IM": 64,
    "TRAIN.RPN_PRE_NMS_TOP_N": 60, "TRAIN.RPN_POST_NMS_TOP_N": 40,
    "TEST.RPN_PRE_NMS_TOP_N": 60, "TEST.RPN_POST_NMS_TOP_N": 30, "TEST.NMS": 0.5,
}  # fmt: skip


def config_of(overrides: dict[str, Any]) -> Config:
    tree: dict[str, Any] = {}
    for key, value in (TINY | overrides).items():
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return Config.model_validate(tree)


def pictures(
    rng: np.random.Generator, count: int, *, shift: float, inclusive: bool
) -> tuple[Batch, list[Record]]:
    """Grey squares with a red, a green and a blue spot in corners that are drawn at random: where a keypoint lies is
    seen only in its colour. `shift` and `inclusive` are the dialect's, as the loader has them."""
    tensor = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8)
    boxes, poses, records = torch.zeros(count, 1, 4), torch.zeros(count, 1, 3, 3), []
    for i in range(count):
        image = rng.integers(60, 100, (SIDE, SIDE, 3))
        side = int(rng.integers(28, 52))
        x, y = (int(v) for v in rng.integers(2, SIDE - side - 2, 2))
        image[y : y + side, x : x + side] = 180
        corners = rng.permutation([(4, 4), (side - 5, 4), (4, side - 5), (side - 5, side - 5)])[:3]
        for k, (dx, dy) in enumerate(corners):
            rows, columns = slice(y + dy - 3, y + dy + 4), slice(x + dx - 3, x + dx + 4)
            image[rows, columns] = np.eye(3)[k] * 255
            poses[i, 0, k] = torch.tensor([x + dx + shift, y + dy + shift, 2.0])
        tensor[i] = torch.from_numpy(image.astype(np.uint8)).permute(2, 0, 1)
        last = 1.0 if inclusive else 0.0
        boxes[i, 0] = torch.tensor([x, y, x + side - last, y + side - last], dtype=torch.float32)
        pose = poses[i].numpy() - np.array([shift, shift, 0], np.float32)
        records.append(
            Record(
                image_id=i,
                file_name="",
                height=SIDE,
                width=SIDE,
                boxes=np.array([[x, y, x + side, y + side]], np.float32),
                labels=np.array([1]),
                is_crowd=np.array([False]),
                areas=np.array([side * side], np.float32),
                segmentations=[None],
                keypoints=pose,
                annotation_ids=np.array([i + 1]),
            )
        )
    ones = torch.ones(count, 1, dtype=torch.int64)
    infos = tuple(ImageInfo(i, "", SIDE, SIDE) for i in range(count))
    images = ImageBatch(tensor, torch.full((count, 2), SIDE), infos)
    return Batch(images, Targets(boxes, ones, ones == 0, ones == 1, keypoints=poses)), records


def learn(
    config: Config, *, steps: int, shift: float = 0.5
) -> tuple[list[dict[str, float]], dict[str, float | None]]:
    """Losses of each step, and metrics on fresh pictures."""
    torch.manual_seed(0)
    geometry = GEOMETRIES[config.MODEL.GEOMETRY]
    inclusive = geometry.offset > 0
    rng = np.random.default_rng(0)
    model = build_detector(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        batch, _ = pictures(rng, 6, shift=shift, inclusive=inclusive)
        out = model(batch, generator)
        total = torch.stack([v for k, v in out.items() if k.startswith("loss_")]).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append({k: float(v.detach()) for k, v in out.items()})
    batch, records = pictures(rng, 12, shift=shift, inclusive=inclusive)
    model.eval()
    rows = []
    for found, info in zip(model.predict(batch.images), batch.images.infos, strict=True):
        original = to_original(found, info, geometry)
        rows += coco_rows(original, info, CLASSES, offset=geometry.offset, keypoint_shift=shift)
    tasks = ["bbox"] + ["keypoints"] * config.MODEL.KEYPOINTS_ON
    return losses, evaluate_coco(records, rows, class_info=CLASSES, iou_types=tasks).metrics


@pytest.mark.slow
def test_keypoints_are_learnt() -> None:
    losses, metrics = learn(config_of({}), steps=60)
    first, last = (np.mean([step["loss_keypoints"] for step in part]) for part in (losses[:5], losses[-5:]))
    assert last < 0.5 * first
    assert metrics["keypoints/AP"] is not None and metrics["keypoints/AP"] > 0.5


@pytest.mark.slow
def test_a_cascade_learns_to_fit_boxes_closely() -> None:
    keys = {"MODEL.KEYPOINTS_ON": False, "MODEL.CASCADE_ON": True, "MODEL.CLS_AGNOSTIC_BBOX_REG": True}
    losses, metrics = learn(config_of(keys), steps=60)
    for stage in range(3):
        name = f"loss_cls_stage{stage}"
        first, last = (np.mean([step[name] for step in part]) for part in (losses[:3], losses[-5:]))
        assert last < 0.5 * first, name
    assert metrics["bbox/AP75"] is not None and metrics["bbox/AP75"] > 0.8
