"""Configurations, batches and reference weights for the model tests."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detectune.config.tree import Config
from detectune.ops.masks import segmentation_edges
from detectune.structures import Batch, ImageBatch, ImageInfo, Targets

BASE = {
    "MODEL.TYPE": "generalized_rcnn",
    "MODEL.FASTER_RCNN": True,
    "MODEL.MASK_ON": True,
    "MODEL.CONV_BODY": "FPN.add_fpn_ResNet18_conv5_body",
    "MODEL.NUM_CLASSES": 4,
    "FPN.FPN_ON": True,
    "FPN.MULTILEVEL_ROIS": True,
    "FPN.MULTILEVEL_RPN": True,
    "FPN.DIM": 32,
    "RESNETS.WIDTH_MULTIPLIER": 0.25,
    "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_2mlp_head",
    "FAST_RCNN.MLP_HEAD_DIM": 64,
    "FAST_RCNN.CONV_HEAD_DIM": 32,
    "FAST_RCNN.ROI_XFORM_METHOD": "RoIAlign",
    "FAST_RCNN.ROI_XFORM_RESOLUTION": 7,
    "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO": 2,
    "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs",
    "MRCNN.RESOLUTION": 28,
    "MRCNN.ROI_XFORM_RESOLUTION": 14,
    "MRCNN.ROI_XFORM_SAMPLING_RATIO": 2,
    "MRCNN.DILATION": 1,
    "MRCNN.DIM_REDUCED": 32,
    "MRCNN.CONV_INIT": "MSRAFill",
    "KRCNN.ROI_KEYPOINTS_HEAD": "keypoint_rcnn_heads.add_roi_pose_head_v1convX",
    "KRCNN.NUM_STACKED_CONVS": 2,
    "KRCNN.CONV_HEAD_DIM": 32,
    "KRCNN.CONV_INIT": "MSRAFill",
    "KRCNN.ROI_XFORM_RESOLUTION": 7,
    "KRCNN.ROI_XFORM_SAMPLING_RATIO": 2,
    "KRCNN.USE_DECONV_OUTPUT": True,
    "KRCNN.UP_SCALE": 2,
    "KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH": 0,
    "TRAIN.RPN_PRE_NMS_TOP_N": 100,
    "TRAIN.RPN_POST_NMS_TOP_N": 60,
    "TEST.RPN_PRE_NMS_TOP_N": 100,
    "TEST.RPN_POST_NMS_TOP_N": 50,
    "TEST.NMS": 0.5,
}

FULL_SIZE = {
    "KRCNN.NUM_STACKED_CONVS": 8,
    "MODEL.CONV_BODY": "FPN.add_fpn_ResNet50_conv5_body",
    "FPN.DIM": 256,
    "RESNETS.WIDTH_MULTIPLIER": 1.0,
    "FAST_RCNN.MLP_HEAD_DIM": 1024,
    "MRCNN.DIM_REDUCED": 256,
    "TRAIN.RPN_PRE_NMS_TOP_N": 2000,
    "TRAIN.RPN_POST_NMS_TOP_N": 1000,
    "TRAIN.BATCH_SIZE_PER_IM": 512,
    "TRAIN.RPN_STRADDLE_THRESH": -1,
    "TEST.RPN_PRE_NMS_TOP_N": 1000,
    "TEST.RPN_POST_NMS_TOP_N": 1000,
}


@pytest.fixture(scope="session")
def full_size() -> dict[str, Any]:
    """Overrides that make the R-50-FPN of the model zoos out of `make_config`'s small model."""
    return FULL_SIZE


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Config]:
    """A small Mask R-CNN's configuration, with overrides by full key."""

    def make(overrides: dict[str, Any] | None = None) -> Config:
        tree: dict[str, Any] = {}
        for key, value in {**BASE, **(overrides or {})}.items():
            *sections, name = key.split(".")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[name] = value
        return Config.model_validate(tree)

    return make


def image_batch(tensor: torch.Tensor, sizes: list[tuple[int, int]]) -> ImageBatch:
    """Images that are their own originals."""
    infos = tuple(ImageInfo(i, f"{i}.jpg", h, w) for i, (h, w) in enumerate(sizes))
    return ImageBatch(tensor, torch.tensor(sizes), infos)


def polygon_edges(points: list[tuple[float, float]]) -> torch.Tensor:
    """float64 [E, 4] around one ring."""
    ring = torch.tensor(points, dtype=torch.float64)
    return torch.cat((ring, ring.roll(-1, 0)), 1)


def make_targets(
    boxes: list[list[list[float]]], *, crowd: list[list[bool]] | None = None, pad_to: int = 0
) -> Targets:
    """Objects whose outline is a diamond in their box; label i + 1 modulo 3. One list of boxes per image."""
    count = max([len(b) for b in boxes] + [pad_to])
    batch = len(boxes)
    out = Targets(
        torch.zeros(batch, count, 4), torch.zeros(batch, count, dtype=torch.int64),
        torch.zeros(batch, count, dtype=torch.bool), torch.zeros(batch, count, dtype=torch.bool),
        torch.zeros(batch, count, 4, 4, dtype=torch.float64), torch.zeros(batch, count, 4, dtype=torch.int64),
    )  # fmt: skip
    for b, image in enumerate(boxes):
        for g, (x1, y1, x2, y2) in enumerate(image):
            out.boxes[b, g] = torch.tensor([x1, y1, x2, y2])
            out.labels[b, g] = g % 3 + 1
            out.valid[b, g] = True
            out.is_crowd[b, g] = bool(crowd and crowd[b][g])
            middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
            out.edges[b, g] = polygon_edges([(middle_x, y1), (x2, middle_y), (middle_x, y2), (x1, middle_y)])
    return out


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """Noise images padded to a common size, with diamonds to find."""

    def make(boxes: list[list[list[float]]], *, size: int = 128, **options: Any) -> Batch:
        generator = torch.Generator().manual_seed(0)
        tensor = torch.randint(0, 256, (len(boxes), 3, size, size), dtype=torch.uint8, generator=generator)
        sizes = [(size - 8 * i, size - 28 * (1 - i % 2)) for i in range(len(boxes))]
        return Batch(image_batch(tensor, sizes), make_targets(boxes, **options))

    return make


def load_recipe(shared: Path, name: str) -> ModuleType:
    """A module from the goldens' folder (they rebuild the reference weights)."""
    spec = importlib.util.spec_from_file_location(name, shared / "golden" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def detectron2_state(shared: Path) -> Callable[[str], dict[str, torch.Tensor]]:
    """The seeded weights of one of detectron2's golden models, in its names."""
    recipe = load_recipe(shared, "seeded_weights")

    def state(model: str) -> dict[str, torch.Tensor]:
        folder = shared / "golden" / "detectron2" / model
        gains = json.loads((folder / "gains.json").read_text())
        shapes = json.loads((folder / "params.json").read_text())
        arrays = recipe.seeded_state(shapes, gains["gains"], gains["shifts"])
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    return state


@pytest.fixture(scope="session")
def detectron_blobs(shared: Path) -> Callable[[str], dict[str, np.ndarray]]:
    """The seeded weights of one of Detectron's golden models, in its names."""
    recipe = load_recipe(shared, "seeded_weights_detectron")

    def blobs(model: str) -> dict[str, np.ndarray]:
        folder = shared / "golden" / "detectron" / model
        gains = json.loads((folder / "gains.json").read_text())
        shapes = json.loads((folder / "blobs.json").read_text())
        return recipe.make_blobs(shapes, gains["gains"], gains["shifts"])

    return blobs


def match_detections(
    want: tuple[np.ndarray, np.ndarray, np.ndarray],
    have: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    iou: float,
    score: float,
) -> list[tuple[int, int]]:
    """Pairs (row of want, row of have) of equal class, overlap at least `iou` and scores within `score`; one to one.

    Each side is boxes [N, 4], scores [N], labels [N].
    """
    boxes, scores, labels = have
    boxes = np.asarray(boxes, dtype=np.float64)
    free = np.ones(len(scores), dtype=bool)
    pairs = []
    for i in range(len(want[1])):
        x1, y1 = np.maximum(boxes[:, :2], want[0][i, :2]).T
        x2, y2 = np.minimum(boxes[:, 2:], want[0][i, 2:]).T
        inter = np.clip(x2 - x1, 0, None) * np.clip(y2 - y1, 0, None)
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        union = area + np.prod(want[0][i, 2:] - want[0][i, :2]) - inter
        overlap = inter / np.maximum(union, 1e-9)
        near = free & (labels == want[2][i]) & (np.abs(scores - want[1][i]) <= score)
        overlap = np.where(near, overlap, -1)
        if len(overlap) and overlap.max() >= iou:
            j = int(overlap.argmax())
            free[j] = False
            pairs.append((i, j))
    return pairs


@pytest.fixture(scope="session")
def matcher() -> Callable[..., list[tuple[int, int]]]:
    return match_detections


RETINANET = {
    "MODEL.TYPE": "retinanet",
    "MODEL.CONV_BODY": "FPN.add_fpn_ResNet18_conv5_body",
    "MODEL.NUM_CLASSES": 4,
    "RETINANET.RETINANET_ON": True,
    "RETINANET.NUM_CONVS": 2,
    "FPN.FPN_ON": True,
    "FPN.MULTILEVEL_RPN": True,
    "FPN.EXTRA_CONV_LEVELS": True,
    "FPN.RPN_MIN_LEVEL": 3,
    "FPN.RPN_MAX_LEVEL": 7,
    "FPN.COARSEST_STRIDE": 128,
    "PIXEL_MEANS": [[[103.53, 116.28, 123.675]]],
    "INPUT.PIXEL_STDS": (57.375, 57.12, 58.395),
    "FPN.DIM": 32,
    "RESNETS.WIDTH_MULTIPLIER": 0.25,
    "TEST.NMS": 0.5,
}


@pytest.fixture(scope="session")
def make_retinanet() -> Callable[..., Config]:
    """A small RetinaNet's configuration, with overrides by full key."""
    return lambda overrides=None: Config().with_overrides(RETINANET | (overrides or {}))


@pytest.fixture(scope="session")
def detectron2_images(shared: Path) -> Callable[..., ImageBatch]:
    return partial(resized_images, shared / "golden" / "detectron2")


@pytest.fixture(scope="session")
def detectron2_targets() -> Callable[..., Targets]:
    return scaled_targets


def resized_images(golden: Path, names: list[str], *, multiple: int = 32) -> ImageBatch:
    """detectron2's own resized images, padded to a common multiple."""
    index = json.loads((golden / "index.json").read_text())["images"]
    arrays = [
        np.asarray(Image.open(golden.parent / "resized" / f"{name}.png").convert("RGB")) for name in names
    ]
    height, width = (-(-max(a.shape[axis] for a in arrays) // multiple) * multiple for axis in (0, 1))
    tensor = torch.zeros(len(arrays), 3, height, width, dtype=torch.uint8)
    infos = []
    for i, (row, array, name) in enumerate(zip(tensor, arrays, names, strict=True)):
        h, w = array.shape[:2]
        row[:, :h, :w] = torch.from_numpy(array.copy()).permute(2, 0, 1)
        original = index[f"{name}.jpg"]
        infos.append(
            ImageInfo(
                i, name, original["height"], original["width"], w / original["width"], h / original["height"]
            )
        )
    return ImageBatch(tensor, torch.tensor([a.shape[:2] for a in arrays]), tuple(infos))


def scaled_targets(annotations: dict[str, Any], images: ImageBatch) -> Targets:
    """Objects without crowds, scaled to the network frame."""
    categories = sorted(c["id"] for c in annotations["categories"])
    ids = {image["file_name"].removesuffix(".jpg"): image["id"] for image in annotations["images"]}
    per_image = []
    for info in images.infos:
        rows = [
            a for a in annotations["annotations"] if a["image_id"] == ids[info.file_name] and not a["iscrowd"]
        ]
        per_image.append([_object(a, info, categories) for a in rows])
    count = max(len(objects) for objects in per_image)
    longest = max(len(o[2]) for objects in per_image for o in objects)
    size = (len(per_image), count)
    out = Targets(
        torch.zeros(*size, 4), torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.bool),
        torch.zeros(size, dtype=torch.bool), torch.zeros(*size, longest, 4, dtype=torch.float64),
        torch.zeros(*size, longest, dtype=torch.int64),
        num_polygons=1 + max(int(o[3].max()) for objects in per_image for o in objects),
    )  # fmt: skip
    for b, objects in enumerate(per_image):
        for g, (box, label, edges, polygon) in enumerate(objects):
            out.boxes[b, g], out.labels[b, g], out.valid[b, g] = box, label, True
            out.edges[b, g, : len(edges)] = torch.from_numpy(edges)
            out.edge_polygon[b, g, : len(edges)] = torch.from_numpy(polygon)
    return out


def _object(
    annotation: dict[str, Any], info: ImageInfo, categories: list[int]
) -> tuple[torch.Tensor, int, np.ndarray, np.ndarray]:
    scale = np.array([info.scale_x, info.scale_y] * 2)
    x, y, w, h = annotation["bbox"]
    box = np.array([x, y, x + w, y + h]) * scale
    limits = np.array([info.width, info.height] * 2) * scale
    edges, polygon = segmentation_edges([np.asarray(p, dtype=np.float64) for p in annotation["segmentation"]])
    label = 1 + categories.index(annotation["category_id"])
    return torch.from_numpy(np.clip(box, 0, limits)).float(), label, edges * scale, polygon


@pytest.fixture(scope="session")
def detectron_image(shared: Path) -> Callable[..., ImageBatch]:
    """(name, its entry of results.json) to the batch of one that Detectron saw."""
    return partial(resized_by_factor, shared)


def resized_by_factor(shared: Path, name: str, want: dict[str, Any], *, multiple: int = 32) -> ImageBatch:
    """The photograph resized as Detectron resizes: by the factor, not to a size; then padded."""
    pixels = np.asarray(Image.open(shared / "golden" / "images" / f"{name}.jpg").convert("RGB"))
    if hashlib.sha256(pixels[:, :, ::-1].tobytes()).hexdigest() != want["decoded_bgr_sha256"]:
        pytest.skip("this machine's JPEG decoder gives other pixels than the golden's")
    scale = want["im_scale"]
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    height, width = round(pixels.shape[0] * scale), round(pixels.shape[1] * scale)
    framed = torch.nn.functional.pad(tensor, (0, 2, 0, 2), mode="replicate")  # the last rows may round up
    resized = torch.nn.functional.interpolate(
        framed, scale_factor=scale, mode="bilinear", recompute_scale_factor=False
    )[..., :height, :width]
    padded = torch.zeros(1, 3, -(-height // multiple) * multiple, -(-width // multiple) * multiple)
    padded[..., :height, :width] = resized
    info = ImageInfo(0, name, *pixels.shape[:2], scale, scale)
    return ImageBatch(padded, torch.tensor([[height, width]]), (info,))
