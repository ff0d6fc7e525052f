"""The whole detector as a program: recorded once, run on images of several sizes, compared with the detector."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detectune.config.tree import Config
from detectune.data.collate import single_image
from detectune.engine.export import check_target, export_detector, has_onnx, load_program, program_inputs
from detectune.engine.inference import Predictor, numbered_classes
from detectune.errors import UserError
from detectune.models.build import build_detector
from detectune.models.build_program import NOT_IN_PROGRAMS, build_program
from detectune.ops.class_nms import spread_class_nms
from detectune.structures import Detections

COMMON = {
    "MODEL.DEVICE": "cpu",
    "MODEL.NUM_CLASSES": 4,
    "RESNETS.WIDTH_MULTIPLIER": 0.125,
    "FPN.DIM": 16,
    "TEST.SCALE": 100,
    "TEST.MAX_SIZE": 170,
    "TEST.NMS": 0.5,
    "TEST.SCORE_THRESH": 0.3,
    "PIXEL_MEANS": [[[103.0, 116.0, 123.0]]],
    "INPUT.PIXEL_STDS": (57.0, 57.0, 58.0),
    "TEST.DETECTIONS_PER_IM": 30,
    "TEST.RPN_PRE_NMS_TOP_N": 60,
    "TEST.RPN_POST_NMS_TOP_N": 40,
}
TWO_STAGES = COMMON | {
    "MODEL.TYPE": "generalized_rcnn",
    "MODEL.FASTER_RCNN": True,
    "MODEL.CONV_BODY": "FPN.add_fpn_ResNet18_conv5_body",
    "FPN.FPN_ON": True,
    "FPN.MULTILEVEL_ROIS": True,
    "FPN.MULTILEVEL_RPN": True,
    "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_2mlp_head",
    "FAST_RCNN.MLP_HEAD_DIM": 32,
    "FAST_RCNN.ROI_XFORM_METHOD": "RoIAlign",
    "FAST_RCNN.ROI_XFORM_RESOLUTION": 7,
}
MASKS = {
    "MODEL.MASK_ON": True,
    "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs",
    "MRCNN.DIM_REDUCED": 16,
    "MRCNN.ROI_XFORM_RESOLUTION": 14,
    "MRCNN.RESOLUTION": 28,
    "MRCNN.DILATION": 1,
    "MRCNN.CONV_INIT": "MSRAFill",
}
KEYPOINTS = {
    "MODEL.KEYPOINTS_ON": True,
    "KRCNN.NUM_KEYPOINTS": 3,
    "KRCNN.ROI_KEYPOINTS_HEAD": "keypoint_rcnn_heads.add_roi_pose_head_v1convX",
    "KRCNN.NUM_STACKED_CONVS": 1,
    "KRCNN.CONV_HEAD_DIM": 16,
    "KRCNN.USE_DECONV_OUTPUT": True,
    "KRCNN.UP_SCALE": 2,
    "KRCNN.INFERENCE_MIN_SIZE": 2,
}
RETINANET = COMMON | {
    "MODEL.TYPE": "retinanet",
    "MODEL.CONV_BODY": "FPN.add_fpn_ResNet18_conv5_body",
    "RETINANET.RETINANET_ON": True,
    "RETINANET.NUM_CONVS": 1,
    "RETINANET.PRE_NMS_TOP_N": 50,
    "RETINANET.PRIOR_PROB": 0.5,
    "RETINANET.INFERENCE_TH": 0.51,
    "FPN.FPN_ON": True,
    "FPN.MULTILEVEL_RPN": True,
    "FPN.EXTRA_CONV_LEVELS": True,
    "FPN.RPN_MIN_LEVEL": 3,
    "FPN.RPN_MAX_LEVEL": 7,
}

DETECTORS: dict[str, tuple[dict[str, Any], str, str]] = {  # name -> settings, geometry, suffix
    "masks and keypoints of Detectron": (TWO_STAGES | MASKS | KEYPOINTS, "detectron", ".pt2"),
    "masks of detectron2": (TWO_STAGES | MASKS, "detectron2", ".onnx"),
    "RetinaNet of torchvision": (RETINANET, "torchvision", ".pt2"),
}
IMAGES = [(120, 90), (64, 150), (40, 200), (77, 77)]

NOTHING = np.full((96, 120, 3), (123, 116, 103), dtype=np.uint8)
"""The mean colour, of which a network without biases says nothing."""


def config_of(settings: dict[str, Any], geometry: str) -> Config:
    return Config().with_overrides(settings | {"MODEL.GEOMETRY": geometry})


def spoken(model: torch.nn.Module) -> torch.nn.Module:
    """Fresh weights say the same of everything; these tell regions apart, so that some pass the threshold."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.named_parameters():
        if name.endswith(("cls_score.weight", "bbox_pred.weight", "objectness.weight", "deltas.weight")):
            scale = 4.0 if name.endswith(("cls_score.weight", "objectness.weight")) else 0.2
            value.data = torch.randn(value.shape, generator=generator) * (scale / value[0].numel() ** 0.5)
    return model.eval()


def image_of(height: int, width: int) -> np.ndarray:
    """Noise with coarse structure."""
    rng = np.random.default_rng([height, width])
    coarse = (
        rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    )
    return (0.7 * coarse + 0.3 * rng.integers(0, 256, coarse.shape)).astype(np.uint8)


def soft_masks(predictor: Predictor, pixels: np.ndarray) -> torch.Tensor | None:
    """Masks as the network draws them, before they are pasted."""
    images = single_image(
        pixels, short_side=100, max_size=170, style=predictor._style, stride=predictor._stride
    )
    return predictor.predict_network(images)[0].masks


def assert_alike(found: dict[str, torch.Tensor], wanted: Detections, soft: torch.Tensor | None) -> None:
    assert len(found["scores"]) == len(wanted)
    torch.testing.assert_close(found["scores"], wanted.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(found["boxes"], wanted.boxes, atol=1e-3, rtol=0)
    assert torch.equal(found["labels"], wanted.labels)
    if soft is not None:
        assert len(soft) == len(wanted), "a box is empty; other weights would test more"
        torch.testing.assert_close(found["masks"], soft, atol=1e-3, rtol=0)
    if wanted.keypoints is not None:
        torch.testing.assert_close(
            found["keypoints"][..., :3], wanted.keypoints[..., :3], atol=1e-3, rtol=1e-4
        )
        torch.testing.assert_close(found["keypoints"][..., 3], wanted.keypoints[..., 3], atol=1e-4, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_a_program_finds_what_the_detector_finds(name: str, tmp_path: Path) -> None:
    settings, geometry, suffix = DETECTORS[name]
    if suffix == ".onnx" and (not has_onnx() or find_spec("onnxruntime") is None):
        pytest.skip("needs the optional packages onnx, onnxscript and onnxruntime")
    config = config_of(settings, geometry)
    torch.manual_seed(0)
    model, classes, path = spoken(build_detector(config)), numbered_classes(3), tmp_path / f"net{suffix}"
    names = export_detector(model, config, classes, path)
    run, predictor = load_program(path), Predictor(config, model=model, class_info=classes)
    counts = []
    for pixels in (*(image_of(*size) for size in IMAGES), NOTHING):
        found, wanted = run(program_inputs(pixels, config)), predictor(pixels)
        assert list(found) == names
        assert_alike(found, wanted, soft_masks(predictor, pixels))
        counts.append(len(wanted))
    assert min(counts[:-1]) > 1 and counts[-1] == 0, counts
    said = json.loads(path.with_suffix(".json").read_text())
    assert list(said["outputs"]) == names and said["classes"] == list(classes.names)
    assert said["resize"]["short_side"] == 100 and said["geometry"] == geometry


def test_a_mistake_is_said_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"must end in \.onnx .* or \.pt2"):
        check_target(tmp_path / "net.pb")
    monkeypatch.setattr("detectune.engine.export.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"detectune\[export\]"):
        check_target(tmp_path / "net.onnx")


@pytest.mark.parametrize("key", NOT_IN_PROGRAMS)
def test_what_a_program_cannot_do_is_named(key: str) -> None:
    config = config_of(TWO_STAGES, "detectron2")
    model = build_detector(config)
    with pytest.raises(UserError, match=f"{key} is True"):
        build_program(model, config_of(TWO_STAGES | {key: True}, "detectron2"), suppress=spread_class_nms)


def test_thresholds_by_class_are_not_exported() -> None:
    config = config_of(TWO_STAGES, "detectron2")
    changed = config.with_overrides({"TEST.SCORE_THRESH_PER_CLASS": {"cat": 0.5}})
    with pytest.raises(UserError, match=r"SCORE_THRESH_PER_CLASS is set, .* set it to \{\}"):
        build_program(build_detector(config), changed, suppress=spread_class_nms)


def test_given_proposals_are_not_exported() -> None:
    config = config_of(TWO_STAGES | {"MODEL.FASTER_RCNN": False}, "detectron2")
    with pytest.raises(UserError, match=r"MODEL\.FASTER_RCNN is False"):
        build_program(build_detector(config), config, suppress=spread_class_nms)
