"""What observers look at: a small model, fixed images and objects, weights that depend on names, small data sets."""

from __future__ import annotations

import json
import math
import pickle
import shutil
import tempfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from detectune.config.tree import Config
from detectune.data.coco import read_coco
from detectune.data.shapes import make_shapes
from detectune.structures import Batch, ImageBatch, ImageInfo, Targets

GAINS = {
    "backbone": 0.8,
    "rpn": 0.6,
}  # of named weights, others OTHER_GAIN: what comes out of each part is near 1
OTHER_GAIN = 1.5
NUM_CLASSES = 6  # five shapes and the background
SIZE = 96

_FOLDER = tempfile.TemporaryDirectory(prefix="knobs-")
DATA = Path(_FOLDER.name)
"""Where the generated data sets lie, once `make_data` was called. Removed at the end of the process."""


def data_set(name: str, root: Path = DATA) -> dict[str, str]:
    """An entry of DATASETS."""
    return {"images": str(root / name / "images"), "annotations": str(root / name / "annotations.json")}


SETS = {name: data_set(name) for name in ("train", "other", "val", "torn")}

VOC = {
    "images": str(DATA / "cache_a/VOC2007/JPEGImages"),
    "annotations": str(DATA / "cache_a/VOC2007/ImageSets/Main/test.txt"),
    "format": "voc",
}

MASK_RCNN: dict[str, Any] = {
    "MODEL.TYPE": "generalized_rcnn",
    "MODEL.FASTER_RCNN": True,
    "MODEL.MASK_ON": True,
    "MODEL.CONV_BODY": "FPN.add_fpn_ResNet18_conv5_body",
    "MODEL.NUM_CLASSES": NUM_CLASSES,
    "MODEL.DEVICE": "cpu",
    "INPUT.PIXEL_STDS": (57.375, 57.12, 58.395),
    "FPN.FPN_ON": True,
    "FPN.MULTILEVEL_ROIS": True,
    "FPN.MULTILEVEL_RPN": True,
    "FPN.DIM": 16,
    "FPN.ROI_CANONICAL_SCALE": 56,
    "RESNETS.WIDTH_MULTIPLIER": 0.125,
    "GROUP_NORM.NUM_GROUPS": 4,
    "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_2mlp_head",
    "FAST_RCNN.MLP_HEAD_DIM": 32,
    "FAST_RCNN.CONV_HEAD_DIM": 16,
    "FAST_RCNN.ROI_XFORM_METHOD": "RoIAlign",
    "FAST_RCNN.ROI_XFORM_RESOLUTION": 7,
    "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO": 2,
    "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs",
    "MRCNN.RESOLUTION": 14,
    "MRCNN.ROI_XFORM_SAMPLING_RATIO": 2,
    "MRCNN.DILATION": 1,
    "MRCNN.DIM_REDUCED": 16,
    "TRAIN.RPN_PRE_NMS_TOP_N": 100,
    "TRAIN.RPN_POST_NMS_TOP_N": 60,
    "TRAIN.RPN_STRADDLE_THRESH": -1,
    "TRAIN.BATCH_SIZE_PER_IM": 32,
    "TEST.RPN_PRE_NMS_TOP_N": 100,
    "TEST.RPN_POST_NMS_TOP_N": 40,
    "TEST.NMS": 0.5,
    "TEST.SCALE": SIZE,
    "TEST.MAX_SIZE": 2 * SIZE,
}

ON_DATA: dict[str, Any] = {
    "DATASETS": SETS,
    "TRAIN.DATASETS": ["train"],
    "TEST.DATASETS": ["val"],
    "TRAIN.SCALES": [SIZE],
    "DATA_LOADER.NUM_THREADS": 0,
}


READY_MADE: dict[str, Any] = {
    "MODEL.FASTER_RCNN": False,
    "TRAIN.PROPOSAL_FILES": [str(DATA / "train_proposals.pkl")],
    "TEST.PROPOSAL_FILES": [str(DATA / "proposals.pkl")],
}
"""Over ON_DATA: a model that finds its proposals in files."""


@cache
def make_data() -> None:
    """Write the data sets: train and other (8 images), val (2), torn (2, one of them cut off), and val's proposals."""
    for name, split, count, seed in (
        ("train", "train", 8, 1),
        ("other", "train", 4, 2),
        ("val", "val", 2, 3),
    ):
        made = make_shapes(
            DATA / "made" / name, split=split, num_images=count, image_size=(80, 96), seed=seed
        )
        shutil.copytree(made.annotations.parent, DATA / name)
    shutil.copytree(DATA / "val", DATA / "torn")
    victim = sorted((DATA / "torn" / "images").iterdir())[1]
    victim.write_bytes(victim.read_bytes()[:200])
    for root, name in (("root_a", "train"), ("root_b", "other")):
        shutil.copytree(DATA / name, DATA / root / "under_root")
    make_voc(DATA / "cache_a" / "VOC2007", seed=1)
    make_voc(DATA / "cache_b" / "VOC2007", seed=2)
    make_crowd(DATA / "train" / "annotations.json")
    make_proposals(DATA / "val", seed=0, file=DATA / "proposals.pkl")
    make_proposals(DATA / "val", seed=1, file=DATA / "other_proposals.pkl")
    make_proposals(DATA / "train", seed=0, file=DATA / "train_proposals.pkl")
    make_proposals(DATA / "train", seed=1, file=DATA / "other_train_proposals.pkl")


def make_crowd(annotations: Path) -> None:
    """Turn the largest object of the data set into a crowd region, which real data has."""
    document = json.loads(annotations.read_text())
    max(document["annotations"], key=lambda entry: entry["area"])["iscrowd"] = 1
    annotations.write_text(json.dumps(document))


def make_voc(root: Path, *, seed: int) -> None:
    """A kit of Pascal VOC with two images of noise and objects of five classes."""
    rng = np.random.default_rng(seed)
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name in ("000001", "000002"):
        Image.fromarray(rng.integers(0, 256, (80, 96, 3), dtype=np.uint8)).save(
            root / f"JPEGImages/{name}.jpg"
        )
        objects = "".join(
            f"<object><name>{what}</name><difficult>0</difficult><bndbox><xmin>{8 + 15 * i}</xmin><ymin>{5 * i + 1}"
            f"</ymin><xmax>{30 + 15 * i}</xmax><ymax>{40 + 5 * i}</ymax></bndbox></object>"
            for i, what in enumerate(("anvil", "bell", "clock", "drum", "easel"))
        )
        size = "<size><width>96</width><height>80</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"
        (root / f"Annotations/{name}.xml").write_text(text)
    (root / "ImageSets/Main/test.txt").write_text("000001\n000002\n")


def make_proposals(folder: Path, *, seed: int, file: Path) -> None:
    """Ready-made proposals in Detectron's form: around each object, and anywhere."""
    records, _, _ = read_coco([folder / "annotations.json"], [folder / "images"])
    rng = np.random.default_rng(seed)
    boxes = []
    for record in records:
        around = np.repeat(record.boxes, 6, axis=0)
        around = around + rng.normal(0, 4, around.shape)
        corner = rng.uniform(0, 50, (20, 2))
        anywhere = np.concatenate((corner, corner + rng.uniform(10, 30, (20, 2))), axis=1)
        limit = np.array([record.width, record.height] * 2) - 1
        both = np.clip(np.concatenate((around, anywhere)), 0, limit).astype(np.float32)
        boxes.append(both[(both[:, 2:] > both[:, :2] + 2).all(axis=1)])
    content = {
        "boxes": boxes,
        "scores": [np.linspace(1, 0, len(rows), dtype=np.float32) for rows in boxes],
        "ids": [record.image_id for record in records],
    }
    file.write_bytes(pickle.dumps(content, protocol=2))


def images() -> ImageBatch:
    """Two images of noise, padded to SIZE."""
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    sizes = [(SIZE, SIZE - 16), (SIZE - 20, SIZE)]
    infos = tuple(
        ImageInfo(i, f"{i}.jpg", h // 2, w // 2, scale_x=2.0, scale_y=2.0) for i, (h, w) in enumerate(sizes)
    )
    return ImageBatch(tensor, torch.tensor(sizes), infos)


def batch(*, keypoints: int = 0) -> Batch:
    """Those images with three objects (diamonds in their boxes) and a crowd each, and keypoints if asked for."""
    boxes = torch.tensor(
        [
            [[10.0, 12.0, 50.0, 60.0], [30.0, 5.0, 75.0, 40.0], [60.0, 70.0, 74.0, 82.0], [2.0, 60.0, 58.0, 94.0]],
            [[5.0, 5.0, 40.0, 70.0], [50.0, 20.0, 90.0, 60.0], [44.0, 60.0, 60.0, 74.0], [60.0, 2.0, 94.0, 30.0]],
        ]
    )  # fmt: skip
    x1, y1, x2, y2 = boxes.double().unbind(-1)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    corners = torch.stack((x, y1, x2, y, x, y2, x1, y), -1).unflatten(-1, (4, 2))
    edges = torch.cat((corners, corners.roll(-1, -2)), -1)
    crowd = torch.tensor([[False, False, False, True]] * 2)
    points = None
    if keypoints:
        steps = torch.linspace(0.2, 0.8, keypoints)[:, None]
        low, high = boxes[..., None, :2], boxes[..., None, 2:]
        points = torch.cat((low + steps * (high - low), torch.full((2, 4, keypoints, 1), 2.0)), -1)
    targets = Targets(
        boxes, torch.tensor([[1, 2, 3, 4], [5, 1, 2, 3]]), crowd, torch.ones(2, 4, dtype=torch.bool),
        edges, torch.zeros(2, 4, 4, dtype=torch.int64), keypoints=points,
    )  # fmt: skip
    return Batch(images(), targets)


def photograph() -> np.ndarray:
    """uint8 [H, W, 3] of blocks and noise, not square."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (5, 7, 3)).repeat(14, axis=0).repeat(14, axis=1)
    return np.clip(blocks + rng.normal(0, 20, blocks.shape), 0, 255).astype(np.uint8)


def with_named_weights(model: nn.Module) -> nn.Module:
    """The model with weights that are functions of their names and shapes.

    So what it computes depends on what it is, not on the order in which its parts drew their initial weights.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                continue
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            gain = GAINS.get(name.partition(".")[0], OTHER_GAIN) / math.sqrt(math.prod(parameter.shape[1:]))
            parameter.copy_(gain * torch.randn(parameter.shape, generator=generator))
    return model


def config_of(overrides: dict[str, Any]) -> Config:
    """The small model's configuration with overrides."""
    return Config().with_overrides(MASK_RCNN | overrides)
