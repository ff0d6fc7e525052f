"""MODEL, RESNETS, FPN, GROUP_NORM and RPN: what network is built."""

from __future__ import annotations

from observe import (
    compute,
    detections,
    fresh_weights,
    losses,
    losses_on_proposals,
    parameter_shapes,
    tested_batches,
    training_batches,
)
from sample import READY_MADE
from table import Row

RESNET50 = {"MODEL.CONV_BODY": "FPN.add_fpn_ResNet50_conv5_body"}
DEFORMED = RESNET50 | {"RESNETS.DEFORM_ON_PER_STAGE": (False, False, False, True)}
PYRAMID_OFF = {"FPN.FPN_ON": False, "FPN.MULTILEVEL_ROIS": False, "FPN.MULTILEVEL_RPN": False}
# One map of stride 16, whose fifth stage is the head, as in the first Faster R-CNN with a residual network.
ONE_LEVEL = PYRAMID_OFF | {
    "MODEL.CONV_BODY": "ResNet.add_ResNet50_conv4_body",
    "MODEL.MASK_ON": False,
    "FAST_RCNN.ROI_BOX_HEAD": "ResNet.add_ResNet_roi_conv5_head",
    "RPN.SIZES": (16, 32, 64),
}
FIFTH_STAGE = PYRAMID_OFF | {
    "MODEL.CONV_BODY": "ResNet.add_ResNet50_conv5_body",
    "MODEL.MASK_ON": False,
    "RESNETS.RES5_DILATION": 2,
}
KEYPOINTS = {
    "MODEL.MASK_ON": False,
    "KRCNN.ROI_KEYPOINTS_HEAD": "keypoint_rcnn_heads.add_roi_pose_head_v1convX",
    "KRCNN.NUM_KEYPOINTS": 3,
    "KRCNN.HEATMAP_SIZE": 14,
    "KRCNN.USE_DECONV_OUTPUT": True,
    "KRCNN.NUM_STACKED_CONVS": 2,
    "KRCNN.CONV_HEAD_DIM": 16,
    "KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH": 0,
}
GROUP_NORM = {
    "RESNETS.TRANS_FUNC": "bottleneck_gn_transformation",
    "RESNETS.STEM_FUNC": "basic_gn_stem",
    "RESNETS.SHORTCUT_FUNC": "basic_gn_shortcut",
}


def others(key: str) -> dict[str, str]:
    """The two names that go with a third: a body has one kind of normalisation."""
    return {other: name for other, name in GROUP_NORM.items() if other != key}


GROUPED = {"FPN.USE_GN": True, "GROUP_NORM.NUM_GROUPS": 4}

ROWS = [
    Row("MODEL.TYPE", "generalized_rcnn", "rfcn", parameter_shapes, FIFTH_STAGE),
    Row("MODEL.CONV_BODY", "FPN.add_fpn_ResNet18_conv5_body", "FPN.add_fpn_ResNet34_conv5_body", parameter_shapes),
    Row("MODEL.NUM_CLASSES", 6, 7, parameter_shapes),
    Row("MODEL.CLS_AGNOSTIC_BBOX_REG", False, True, parameter_shapes),
    Row("MODEL.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0), (1.0, 1.0, 1.0, 1.0), losses),
    Row("MODEL.FASTER_RCNN", True, False, parameter_shapes),
    Row("MODEL.RPN_ONLY", False, True, parameter_shapes, {"MODEL.MASK_ON": False}),
    Row("MODEL.MASK_ON", False, True, parameter_shapes),
    Row("MODEL.KEYPOINTS_ON", False, True, parameter_shapes, KEYPOINTS),
    Row("MODEL.CASCADE_ON", False, True, parameter_shapes, {"MODEL.CLS_AGNOSTIC_BBOX_REG": True}),
    Row("MODEL.GEOMETRY", "detectron2", "detectron", detections),
    Row("MODEL.DEVICE", "cpu", "cuda:99", compute),
    Row("MODEL.MEMORY_FORMAT", "contiguous", "channels_last", compute),
    Row("RESNETS.NUM_GROUPS", 1, 2, parameter_shapes, RESNET50),
    Row("RESNETS.WIDTH_PER_GROUP", 64, 32, parameter_shapes, RESNET50),
    Row("RESNETS.STRIDE_1X1", True, False, losses, RESNET50),
    Row(
        "RESNETS.TRANS_FUNC", "bottleneck_transformation", "bottleneck_gn_transformation", losses,
        along=others("RESNETS.TRANS_FUNC"),
    ),
    Row("RESNETS.STEM_FUNC", "basic_bn_stem", "basic_gn_stem", losses, along=others("RESNETS.STEM_FUNC")),
    Row(
        "RESNETS.SHORTCUT_FUNC", "basic_bn_shortcut", "basic_gn_shortcut", losses,
        along=others("RESNETS.SHORTCUT_FUNC"),
    ),
    Row("RESNETS.RES5_DILATION", 2, 1, losses_on_proposals, FIFTH_STAGE),
    Row("RESNETS.NORM", "frozen", "group", losses),
    Row("RESNETS.DEFORM_ON_PER_STAGE", (False,) * 4, (False, True, True, True), parameter_shapes, RESNET50),
    Row("RESNETS.DEFORM_MODULATED", False, True, parameter_shapes, DEFORMED),
    Row("RESNETS.DEFORM_NUM_GROUPS", 1, 2, parameter_shapes, DEFORMED),
    Row("RESNETS.WIDTH_MULTIPLIER", 0.125, 0.25, parameter_shapes),
    Row("FPN.FPN_ON", True, False, parameter_shapes, {"MODEL.MASK_ON": False}, along=ONE_LEVEL),
    Row("FPN.DIM", 16, 32, parameter_shapes),
    Row("FPN.ZERO_INIT_LATERAL", False, True, fresh_weights),
    Row("FPN.COARSEST_STRIDE", 32, 64, tested_batches),
    Row("FPN.MULTILEVEL_ROIS", True, False, losses),
    Row("FPN.ROI_CANONICAL_SCALE", 56, 112, losses),
    Row("FPN.ROI_CANONICAL_LEVEL", 4, 5, losses),
    Row("FPN.ROI_MAX_LEVEL", 5, 3, losses),
    Row("FPN.ROI_MIN_LEVEL", 2, 4, losses),
    Row("FPN.MULTILEVEL_RPN", True, False, losses),
    Row("FPN.RPN_MAX_LEVEL", 6, 5, losses),
    Row("FPN.RPN_MIN_LEVEL", 2, 3, losses),
    Row("FPN.RPN_ASPECT_RATIOS", (0.5, 1, 2), (1.0,), parameter_shapes),
    Row("FPN.RPN_ANCHOR_START_SIZE", 32, 16, losses),
    Row("FPN.EXTRA_CONV_LEVELS", False, True, parameter_shapes),
    Row("FPN.EXTRA_CONVS_FROM", "body", "pyramid", parameter_shapes, {"FPN.EXTRA_CONV_LEVELS": True}),
    Row("FPN.USE_GN", False, True, parameter_shapes),
    Row("FPN.NORM", "auto", "batch", parameter_shapes),
    Row("GROUP_NORM.DIM_PER_GP", 4, 8, losses, GROUPED | {"GROUP_NORM.NUM_GROUPS": -1}),
    Row("GROUP_NORM.NUM_GROUPS", 4, 8, losses, GROUPED),
    Row("GROUP_NORM.EPSILON", 1e-5, 1.0, losses, GROUPED),
    Row("RPN.RPN_ON", False, True, training_batches, READY_MADE),
    Row("RPN.SIZES", (16, 32, 64), (16, 32), parameter_shapes, ONE_LEVEL),
    Row("RPN.STRIDE", 16, 8, losses, {"FPN.MULTILEVEL_RPN": False}),
    Row("RPN.ASPECT_RATIOS", (0.5, 1, 2), (1.0,), parameter_shapes, ONE_LEVEL),
    Row("RPN.NUM_CONVS", 1, 2, parameter_shapes),
    Row("RPN.BOX_LOSS", "smooth_l1", "giou", losses),
    Row("RPN.SMOOTH_L1_BETA", -1.0, 1.0, losses),
]  # fmt: skip
