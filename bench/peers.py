"""The same Mask R-CNN twice: torchvision's and ours, with the same weights, widths and schedule.

Functions here build both sides for the benchmarks; `weights/torchvision.py` moves one state dict between them.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from detectune.config.load import Config, load_config
from detectune.ops.masks import rasterize_edges
from detectune.structures import Batch

COCO_CLASSES = 81  # background included
MEAN_RGB = (0.485, 0.456, 0.406)
STD_RGB = (0.229, 0.224, 0.225)
SEEDED_STD_RGB = (1 / 255,) * 3  # the seeded weights expect pixels 0..255 less the mean, as Caffe's did
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
}


def shared_folder() -> Path:
    """Where the data sets lie: DETECTUNE_SHARED, or `shared` beside the checkout."""
    named = os.environ.get("DETECTUNE_SHARED")
    return Path(named) if named else Path(__file__).resolve().parent.parent.parent / "shared"


def torchvision_mask_rcnn(
    depth: int,
    *,
    num_classes: int,
    min_size: int,
    max_size: int,
    norm: str = "frozen",
    trainable_stages: int = 3,
    std: tuple[float, ...] = STD_RGB,
    **more: Any,
) -> MaskRCNN:
    """torchvision's Mask R-CNN with a ResNet-FPN of 256 channels, background included in `num_classes`."""
    norm_layer: Any = FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d
    body = {18: resnet.resnet18, 50: resnet.resnet50}[depth](weights=None, norm_layer=norm_layer)
    backbone = _resnet_fpn_extractor(body, trainable_stages)
    anchors = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    return MaskRCNN(
        backbone,
        num_classes,
        min_size=min_size,
        max_size=max_size,
        rpn_anchor_generator=anchors,
        image_mean=MEAN_RGB,
        image_std=std,
        **more,
    )


def our_config(
    depth: int,
    *,
    num_classes: int,
    min_size: int,
    max_size: int,
    norm: str = "frozen",
    std: tuple[float, ...] = STD_RGB,
    **more: Any,
) -> Config:
    """Our configuration with torchvision's values for everything that shapes the model, the losses and the speed."""
    scale = 255.0
    values: dict[str, Any] = {
        "MODEL.TYPE": "generalized_rcnn",
        "MODEL.CONV_BODY": f"FPN.add_fpn_ResNet{depth}_conv5_body",
        "MODEL.NUM_CLASSES": num_classes,
        "MODEL.FASTER_RCNN": True,
        "MODEL.MASK_ON": True,
        "MODEL.GEOMETRY": "torchvision",
        "PIXEL_MEANS": [[[scale * m for m in reversed(MEAN_RGB)]]],
        "INPUT.PIXEL_STDS": [scale * s for s in reversed(std)],
        "RESNETS.NORM": norm,
        "RESNETS.STRIDE_1X1": False,
        "FPN.FPN_ON": True,
        "FPN.MULTILEVEL_ROIS": True,
        "FPN.MULTILEVEL_RPN": True,
        "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_2mlp_head",
        "FAST_RCNN.ROI_XFORM_METHOD": "RoIAlign",
        "FAST_RCNN.ROI_XFORM_RESOLUTION": 7,
        "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO": 2,
        "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs",
        "MRCNN.RESOLUTION": 28,
        "MRCNN.ROI_XFORM_RESOLUTION": 14,
        "MRCNN.ROI_XFORM_SAMPLING_RATIO": 2,
        "MRCNN.DILATION": 1,
        "TRAIN.SCALES": [min_size],
        "TRAIN.MAX_SIZE": max_size,
        "TRAIN.BATCH_SIZE_PER_IM": 512,
        "TRAIN.RPN_PRE_NMS_TOP_N": 2000,
        "TRAIN.RPN_POST_NMS_TOP_N": 2000,
        "TEST.SCALE": min_size,
        "TEST.MAX_SIZE": max_size,
        "TEST.NMS": 0.5,
        "TEST.RPN_PRE_NMS_TOP_N": 1000,
        "TEST.RPN_POST_NMS_TOP_N": 1000,
        **more,
    }
    return load_config(None, values)


def penn_fudan_datasets() -> dict[str, Any]:
    """The two splits as `DATASETS` entries, `train` and `val`."""
    folder = shared_folder() / "data" / "penn_fudan"
    return {
        split: {"images": str(folder / "images"), "annotations": str(folder / f"instances_{split}.json")}
        for split in ("train", "val")
    }


def seeded_state() -> dict[str, torch.Tensor]:
    """The golden Mask R-CNN R-50-FPN in our names."""
    from detectune.weights.detectron2 import from_detectron2

    golden = shared_folder() / "golden"
    spec = importlib.util.spec_from_file_location("seeded_weights", golden / "seeded_weights.py")
    assert spec is not None and spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    case = golden / "detectron2" / "mask_rcnn_R_50_FPN_1x"
    shapes = json.loads((case / "params.json").read_text())
    gains = json.loads((case / "gains.json").read_text())
    state = recipe.seeded_state(shapes, gains["gains"], gains["shifts"])
    return from_detectron2({name: torch.from_numpy(np.asarray(value)) for name, value in state.items()})


def coco_datasets() -> dict[str, Any]:
    """The two splits of the small COCO as `DATASETS` entries, `train` and `val`."""
    folder = shared_folder() / "data" / "coco_mini"
    return {
        split: {
            "images": str(folder / f"{split}2017"),
            "annotations": str(folder / "annotations" / f"instances_{split}2017.json"),
        }
        for split in ("train", "val")
    }


def torchvision_inputs(batch: Batch, device: str) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Our batch as torchvision's models take it: the same pixels, boxes and labels, and full-size masks."""
    targets = batch.targets
    assert targets is not None and targets.edges is not None and targets.edge_polygon is not None
    pictures, labelled = [], []
    for i in range(len(batch)):
        height, width = batch.images.sizes[i].tolist()
        keep = targets.valid[i] & ~targets.is_crowd[i]
        side = max(height, width)
        whole = torch.tensor([[0.0, 0.0, side, side]]).expand(int(keep.sum()), 4)
        masks = rasterize_edges(
            targets.edges[i][keep],
            targets.edge_polygon[i][keep],
            whole,
            num_polygons=targets.num_polygons,
            size=side,
        )
        pictures.append(batch.images.tensor[i, :, :height, :width].float().to(device) / 255)
        labelled.append(
            {
                "boxes": targets.boxes[i][keep].to(device),
                "labels": targets.labels[i][keep].to(device),
                "masks": masks[:, :height, :width].to(torch.uint8).to(device),
            }
        )
    return pictures, labelled


def to_unit_float(image: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] to float32 [3, H, W] in 0..1, as torchvision's models take it."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
