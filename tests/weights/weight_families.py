"""Small models of every family with seeded weights, for tests of files: widths of 8 or so, Detectron's structure."""

from __future__ import annotations

import functools
from typing import Any

import torch

from detectune.config.tree import Config
from detectune.models.build import build_detector

State = dict[str, torch.Tensor]

_TINY: dict[str, Any] = {
    "MODEL.NUM_CLASSES": 4, "RESNETS.WIDTH_MULTIPLIER": 0.125, "FPN.DIM": 16, "FAST_RCNN.MLP_HEAD_DIM": 8,
    "FAST_RCNN.CONV_HEAD_DIM": 16, "MRCNN.DIM_REDUCED": 8, "KRCNN.CONV_HEAD_DIM": 8, "KRCNN.NUM_STACKED_CONVS": 2,
    "KRCNN.NUM_KEYPOINTS": 5, "MODEL.FASTER_RCNN": True, "MODEL.TYPE": "generalized_rcnn",
}  # fmt: skip
_FPN = {
    "FPN.FPN_ON": True, "FPN.MULTILEVEL_ROIS": True, "FPN.MULTILEVEL_RPN": True,
    "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_2mlp_head", "FAST_RCNN.ROI_XFORM_RESOLUTION": 7,
}  # fmt: skip
_MASK = {
    "MODEL.MASK_ON": True, "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs",
    "MRCNN.RESOLUTION": 28, "MRCNN.ROI_XFORM_RESOLUTION": 14, "MRCNN.DILATION": 1,
}  # fmt: skip
_C4 = {
    "MODEL.CONV_BODY": "ResNet.add_ResNet50_conv4_body", "FAST_RCNN.ROI_BOX_HEAD": "ResNet.add_ResNet_roi_conv5_head",
    "FAST_RCNN.ROI_XFORM_RESOLUTION": 14,
}  # fmt: skip
_GN = {
    "RESNETS.TRANS_FUNC": "bottleneck_gn_transformation", "RESNETS.STEM_FUNC": "basic_gn_stem",
    "RESNETS.SHORTCUT_FUNC": "basic_gn_shortcut", "FPN.USE_GN": True, "GROUP_NORM.NUM_GROUPS": 4,
    "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_Xconv1fc_gn_head",
    "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs_gn",
}  # fmt: skip
_GROUPED = {
    "RESNETS.NUM_GROUPS": 32,
    "RESNETS.WIDTH_PER_GROUP": 8,
    "RESNETS.STRIDE_1X1": False,
    "RESNETS.WIDTH_MULTIPLIER": 0.25,
}
_POSE = {
    "MODEL.KEYPOINTS_ON": True, "KRCNN.ROI_KEYPOINTS_HEAD": "keypoint_rcnn_heads.add_roi_pose_head_v1convX",
    "KRCNN.ROI_XFORM_RESOLUTION": 14, "KRCNN.USE_DECONV_OUTPUT": True, "KRCNN.UP_SCALE": 2, "MODEL.NUM_CLASSES": 2,
}  # fmt: skip
_RETINANET = {
    "MODEL.TYPE": "retinanet", "RETINANET.RETINANET_ON": True, "RETINANET.NUM_CONVS": 2, "FPN.FPN_ON": True,
    "FPN.MULTILEVEL_RPN": True, "FPN.EXTRA_CONV_LEVELS": True, "FPN.RPN_MIN_LEVEL": 3, "FPN.RPN_MAX_LEVEL": 7,
    "FPN.COARSEST_STRIDE": 128, "MODEL.FASTER_RCNN": False,
}  # fmt: skip


def _fpn(depth: int) -> dict[str, str]:
    return {"MODEL.CONV_BODY": f"FPN.add_fpn_ResNet{depth}_conv5_body"}


FAMILIES: dict[str, dict[str, Any]] = {
    "faster R-50 FPN": _FPN | _fpn(50),
    "mask R-50 FPN": _FPN | _fpn(50) | _MASK,
    "mask R-101 FPN": _FPN | _fpn(101) | _MASK,
    "mask R-152 FPN": _FPN | _fpn(152) | _MASK,
    "mask X-101-32x8d FPN": _FPN | _fpn(101) | _MASK | _GROUPED,
    "mask X-101-64x4d FPN": _FPN | _fpn(101) | _MASK | _GROUPED
    | {"RESNETS.NUM_GROUPS": 64, "RESNETS.WIDTH_PER_GROUP": 4},
    "faster R-50 C4": _C4,
    "mask R-50 C4": _C4 | {
        "MODEL.MASK_ON": True, "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v0upshare",
        "MRCNN.RESOLUTION": 14, "MRCNN.ROI_XFORM_RESOLUTION": 14, "MRCNN.DILATION": 1,
    },
    "mask R-50 C4, own stage": _C4 | {
        "MODEL.MASK_ON": True, "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v0up",
        "MRCNN.RESOLUTION": 14, "MRCNN.ROI_XFORM_RESOLUTION": 7, "MRCNN.DILATION": 2,
    },
    "faster R-50 dilated C5": {
        "MODEL.CONV_BODY": "ResNet.add_ResNet50_conv5_body", "RESNETS.RES5_DILATION": 2,
        "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_2mlp_head", "FAST_RCNN.ROI_XFORM_RESOLUTION": 7,
    },
    "mask R-50 FPN GN": _FPN | _fpn(50) | _MASK | _GN,
    "keypoint R-50 FPN": _FPN | _fpn(50) | _POSE,
    "retinanet R-50": _RETINANET | _fpn(50),
    "cascade R-50 FPN": _FPN | _fpn(50) | {"MODEL.CASCADE_ON": True, "MODEL.CLS_AGNOSTIC_BBOX_REG": True},
    "rpn R-50 FPN": {k: v for k, v in _FPN.items() if k.startswith("FPN")} | _fpn(50)
    | {"MODEL.RPN_ONLY": True, "MODEL.FASTER_RCNN": False, "MODEL.NUM_CLASSES": 2},
    "fast R-50 FPN, one box": _FPN | _fpn(50)
    | {"MODEL.FASTER_RCNN": False, "MODEL.CLS_AGNOSTIC_BBOX_REG": True, "FPN.MULTILEVEL_RPN": False},
    "R-FCN R-50": {
        "MODEL.CONV_BODY": "ResNet.add_ResNet50_conv5_body", "RESNETS.RES5_DILATION": 2, "MODEL.TYPE": "rfcn",
        "RFCN.PS_GRID_SIZE": 3,
    },
    "faster VGG16": {
        "MODEL.CONV_BODY": "VGG16.add_VGG16_conv5_body", "FAST_RCNN.ROI_BOX_HEAD": "VGG16.add_VGG16_roi_fc_head",
    },
    "faster VGG_CNN_M": {
        "MODEL.CONV_BODY": "VGG_CNN_M_1024.add_VGG_CNN_M_1024_conv5_body",
        "FAST_RCNN.ROI_BOX_HEAD": "VGG_CNN_M_1024.add_VGG_CNN_M_1024_roi_fc_head",
    },
}  # fmt: skip


def config_of(family: str, overrides: dict[str, Any] | None = None) -> Config:
    """The configuration of a family, small."""
    return Config().with_overrides(_TINY | FAMILIES[family] | (overrides or {}))


@functools.cache
def state_of(family: str) -> State:
    """Its weights, drawn from a seed; rows of a background that nothing reads are zero, as files have them.

    The same dictionary at every call: nobody may change it.
    """
    config = config_of(family)
    with torch.device("meta" if "VGG" in family else "cpu"):
        model = build_detector(config, num_keypoints=5 if config.MODEL.KEYPOINTS_ON else None)
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, value in model.state_dict().items():
        if value.is_meta:  # its shapes are fixed and large; files do not care
            value = torch.zeros([side if side <= 32 else 3 for side in value.shape])
        drawn = torch.rand(value.shape, generator=generator) * 0.2
        state[name] = (
            (drawn + 0.5 if name.endswith("running_var") else drawn) if value.is_floating_point() else value
        )
    for name in ("box_head.bbox_pred.weight", "box_head.bbox_pred.bias"):
        if name in state and len(state[name]) > 4:
            state[name][:4] = 0
    for name in ("mask_head.predictor.weight", "mask_head.predictor.bias"):
        if name in state:
            state[name][:1] = 0
    return state
