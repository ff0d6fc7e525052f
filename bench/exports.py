"""Every family of detectors, exported and run: how far the programs' detections are from the detectors' own.

python bench/exports.py            # all, about a minute each on one core
python bench/exports.py "R-FCN"    # those whose name contains all words; the other rows of the result stay
python bench/exports.py --missing  # those that the result does not have yet

Networks are the baselines of Detectron in configs/, made narrower, with random weights that tell regions apart; the
images are noise of four shapes. Nothing is timed.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from alternation import RESULTS
from detectune.config.load import Config, load_config
from detectune.engine.export import export_detector, load_program, program_inputs
from detectune.engine.inference import Predictor, numbered_classes
from detectune.models.build import build_detector
from detectune.models.retinanet import RetinaNet

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "12_2017_baselines"
NARROW: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "INPUT.PIXEL_STDS": (57.0, 57.0, 58.0),
    "RESNETS.WIDTH_MULTIPLIER": 0.25,
    "FPN.DIM": 32,
    "FAST_RCNN.MLP_HEAD_DIM": 64,
    "MRCNN.DIM_REDUCED": 32,
    "KRCNN.CONV_HEAD_DIM": 32,
    "KRCNN.NUM_STACKED_CONVS": 2,
    "KRCNN.INFERENCE_MIN_SIZE": 0,
    "TEST.SCALE": 160,
    "TEST.MAX_SIZE": 256,
    "TEST.RPN_PRE_NMS_TOP_N": 200,
    "TEST.RPN_POST_NMS_TOP_N": 100,
}
CASCADE = {"MODEL.CASCADE_ON": True, "MODEL.CLS_AGNOSTIC_BBOX_REG": True, "MODEL.MASK_ON": False}
RFCN = {
    "MODEL.TYPE": "rfcn",
    "MODEL.CONV_BODY": "ResNet.add_ResNet50_conv5_body",
    "RESNETS.RES5_DILATION": 2,
    "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_2mlp_head",
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Mask R-CNN FPN": ("e2e_mask_rcnn_R-50-FPN_1x", {}),
    "Faster R-CNN C4": ("e2e_faster_rcnn_R-50-C4_1x", {}),
    "Mask R-CNN C4": ("e2e_mask_rcnn_R-50-C4_1x", {}),
    "RetinaNet": ("retinanet_R-50-FPN_1x", {}),
    "Keypoint R-CNN": ("e2e_keypoint_rcnn_R-50-FPN_1x", {}),
    "Cascade R-CNN": ("e2e_faster_rcnn_R-50-FPN_1x", CASCADE),
    "R-FCN": ("e2e_faster_rcnn_R-50-C4_1x", RFCN),
    "RPN": ("rpn_R-50-FPN_1x", {}),
}
GEOMETRIES = ("detectron", "detectron2", "torchvision")
IN_ONNX = {"Mask R-CNN FPN": GEOMETRIES, "Keypoint R-CNN": ("detectron", "detectron2")}
"""Geometries in which a family is also written as ONNX, which takes a minute each; the others only in one."""

SIZES = ((120, 90), (64, 150), (40, 200), (77, 77))


def config_of(family: str, geometry: str) -> Config:
    name, changes = FAMILIES[family]
    return load_config(CONFIGS / f"{name}.yaml").with_overrides(
        NARROW | changes | {"MODEL.GEOMETRY": geometry}
    )


def speaking(model: nn.Module) -> nn.Module:
    """With predictors that tell regions apart."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.named_parameters():
        sharp = name.endswith(("cls_score.weight", "objectness.weight"))
        if sharp or name.endswith(("bbox_pred.weight", "deltas.weight")):
            scale = (4.0 if sharp else 0.2) / value[0].numel() ** 0.5
            value.data = torch.randn(value.shape, generator=generator) * scale
    if isinstance(model, RetinaNet):
        steady_scores(model, generator)
    return model.eval()


@torch.no_grad()
def steady_scores(model: RetinaNet, generator: torch.Generator) -> None:
    """Towers that let something through, and predictors whose outputs neither tie nor saturate."""
    for name, value in model.head.named_parameters():
        if "_conv" in name and name.endswith("weight"):
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
    features = model.backbone(torch.randn(1, 3, 128, 128, generator=generator))
    scale, channels = torch.stack([f.std() for f in features.values()]).mean(), NARROW["FPN.DIM"]
    maps = {level: scale * torch.randn(1, channels, 16, 16, generator=generator) for level in (3, 4)}
    out = model.head(maps)
    bias = model.head.cls_score.bias
    assert bias is not None
    model.head.cls_score.weight.mul_(1.5 / (out.logits - bias.mean()).std())
    model.head.bbox_pred.weight.mul_(0.2 / out.deltas.std())


def image_of(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng([height, width])
    return (
        rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        .repeat(8, 0)
        .repeat(8, 1)[:height, :width]
    )


def paired(
    found: dict[str, torch.Tensor], boxes: torch.Tensor, scores: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The program's detections in the order of the detector's: scores that are equal to rounding may change places."""
    unlike = (found["scores"][None] - scores[:, None]).abs() > 1e-3
    distance = (found["boxes"][None] - boxes[:, None]).abs().amax(2)
    _, order = linear_sum_assignment((distance + 1e6 * unlike).numpy())
    return {name: value[torch.from_numpy(order)] for name, value in found.items()}


def differences(family: str, geometry: str, suffix: str, folder: Path) -> dict[str, Any]:
    """Largest differences over all images; `missing` counts detections that only one side has."""
    config = config_of(family, geometry)
    torch.manual_seed(0)
    model = speaking(build_detector(config))
    classes = numbered_classes(config.MODEL.NUM_CLASSES - 1)
    path = folder / f"net{suffix}"
    export_detector(model, config, classes, path)
    run, predictor = load_program(path), Predictor(config, model=model, class_info=classes)
    worst: dict[str, Any] = {"detections": 0, "missing": 0, "scores": 0.0, "boxes_px": 0.0, "labels": 0}
    for size in SIZES:
        pixels = image_of(*size)
        found, wanted = run(program_inputs(pixels, config)), predictor(pixels)
        worst["detections"] += len(wanted)
        if len(found["scores"]) != len(wanted):
            worst["missing"] += abs(len(found["scores"]) - len(wanted))
            continue
        if not len(wanted):
            continue
        found = paired(found, wanted.boxes, wanted.scores)
        gaps = {"scores": found["scores"] - wanted.scores, "boxes_px": found["boxes"] - wanted.boxes}
        if wanted.keypoints is not None:
            gaps["keypoints_px"] = found["keypoints"][..., :2] - wanted.keypoints[..., :2]
        for name, gap in gaps.items():
            worst[name] = max(worst.get(name, 0.0), float(gap.abs().max()))
        worst["labels"] += int((found["labels"] != wanted.labels).sum())
    return worst


def main(words: list[str]) -> None:
    """Rows are written one by one, so a run that was interrupted goes on where it was: see `--missing`."""
    file = RESULTS / "exports.json"
    only_missing = "--missing" in words
    words = [word for word in words if word != "--missing"]
    rows: dict[str, Any] = {}
    if file.is_file() and (words or only_missing):
        rows = json.loads(file.read_text())["rows"]
    packages = {name: version(name) for name in ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")}
    said = {"command": "python bench/exports.py", "machine": platform.machine(), **packages, "seeds": [0, 1]}
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            for geometry in GEOMETRIES:
                suffixes = (".pt2", ".onnx") if geometry in IN_ONNX.get(family, GEOMETRIES[:1]) else (".pt2",)
                for suffix in suffixes:
                    name = f"{family}, {geometry}, {suffix}"
                    if not all(word in name for word in words) or (only_missing and name in rows):
                        continue
                    rows[name] = differences(family, geometry, suffix, Path(folder))
                    print(name, rows[name], flush=True)
                    file.write_text(json.dumps({**said, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
