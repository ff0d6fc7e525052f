"""The configurations of detectron2's model zoo by name, such as COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x: what
each differs in from a base, and the base from detectron2's defaults. Facts, in detectron2's own keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectune.config.nesting import nested

_TRAINED: dict[str, Any] = {
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.STEPS": [60000, 80000],
    "SOLVER.MAX_ITER": 90000,
    "DATASETS.TRAIN": ["coco_2017_train"],
    "DATASETS.TEST": ["coco_2017_val"],
    "INPUT.MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800],
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
}
_FC_HEADS: dict[str, Any] = {
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
}
_C4 = _TRAINED | {"MODEL.RPN.PRE_NMS_TOPK_TEST": 6000, "MODEL.RPN.POST_NMS_TOPK_TEST": 1000}
_DC5 = _C4 | _FC_HEADS | {
    "MODEL.RESNETS.OUT_FEATURES": ["res5"],
    "MODEL.RESNETS.RES5_DILATION": 2,
    "MODEL.RPN.IN_FEATURES": ["res5"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["res5"],
}  # fmt: skip
_FPN = _TRAINED | _FC_HEADS | {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
}  # fmt: skip
_RETINANET = _TRAINED | {
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [
        [size * 2 ** (i / 3) for i in range(3)] for size in (32, 64, 128, 256, 512)
    ],
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
    "SOLVER.BASE_LR": 0.01,
}
_MASKS = {"MODEL.MASK_ON": True}
_PEOPLE = {
    "MODEL.KEYPOINT_ON": True,
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1500,
    "DATASETS.TRAIN": ["keypoints_coco_2017_train"],
    "DATASETS.TEST": ["keypoints_coco_2017_val"],
}
_CASCADE = {
    "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
}
_PROPOSALS = {"MODEL.META_ARCHITECTURE": "ProposalNetwork", "MODEL.RPN.POST_NMS_TOPK_TEST": 2000}
_GN = {
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/FAIR/R-50-GN.pkl",
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.FPN.NORM": "GN",
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.NORM": "GN",
    "MODEL.ROI_MASK_HEAD.NORM": "GN",
}
_SYNC_BN = _GN | {
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.ROI_BOX_HEAD.NORM": "SyncBN",
    "MODEL.ROI_MASK_HEAD.NORM": "SyncBN",
    "TEST.PRECISE_BN.ENABLED": True,
}
_SCRATCH = {"MODEL.WEIGHTS": "", "MODEL.BACKBONE.FREEZE_AT": 0}
_SCRATCH_9X = _SCRATCH | {
    "MODEL.PIXEL_STD": [57.375, 57.12, 58.395],
    "SOLVER.IMS_PER_BATCH": 64,
    "SOLVER.BASE_LR": 0.08,
    "SOLVER.STEPS": [187500, 197500],
    "SOLVER.MAX_ITER": 202500,
    "TEST.EVAL_PERIOD": 2500,
}
_LIKE_DETECTRON = {
    "MODEL.RPN.SMOOTH_L1_BETA": 0.1111,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0,
    **{
        f"MODEL.ROI_{head}_HEAD.{key}": value
        for head in ("BOX", "MASK", "KEYPOINT")
        for key, value in (("POOLER_SAMPLING_RATIO", 2), ("POOLER_TYPE", "ROIAlign"))
    },
}
_DEFORM = {"MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True]}
_X152: dict[str, Any] = {
    "MODEL.WEIGHTS": "catalog://ImageNetPretrained/FAIR/X-152-32x8d-IN5k",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.NUM_GROUPS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.RESNETS.DEPTH": 152,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.NORM": "GN",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 8,
    "MODEL.ROI_MASK_HEAD.NORM": "GN",
    "SOLVER.IMS_PER_BATCH": 128,
    "SOLVER.BASE_LR": 0.16,
    "SOLVER.STEPS": [35000, 45000],
    "SOLVER.MAX_ITER": 50000,
    "INPUT.MIN_SIZE_TRAIN": [640, 864],
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range",
    "INPUT.MAX_SIZE_TRAIN": 1440,
    "INPUT.CROP.ENABLED": True,
    "TEST.EVAL_PERIOD": 2500,
}
_ONE_SCALE = {"INPUT.MIN_SIZE_TRAIN": [800]}
_R101 = {"MODEL.RESNETS.DEPTH": 101, "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-101.pkl"}
_X101 = {
    "MODEL.RESNETS.DEPTH": 101,
    "MODEL.RESNETS.NUM_GROUPS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.PIXEL_STD": [57.375, 57.12, 58.395],
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl",
}
_1X: dict[str, Any] = {}
_3X = {"SOLVER.STEPS": [210000, 250000], "SOLVER.MAX_ITER": 270000}


def _bodies(name: str, base: Mapping[str, Any], *, x101: bool = True) -> dict[str, dict[str, Any]]:
    """The R-50 of both schedules and the larger bodies of the longer one; `name` has {body}."""
    found = {
        f"{name.format(body='R_50')}_1x": {**base, **_1X},
        f"{name.format(body='R_50')}_3x": {**base, **_3X},
        f"{name.format(body='R_101')}_3x": {**base, **_3X, **_R101},
    }
    if x101:
        found[f"{name.format(body='X_101_32x8d')}_3x"] = {**base, **_3X, **_X101}
    return found


ZOO: dict[str, dict[str, Any]] = {
    **_bodies("COCO-Detection/faster_rcnn_{body}_C4", _C4, x101=False),
    **_bodies("COCO-Detection/faster_rcnn_{body}_DC5", _DC5, x101=False),
    **_bodies("COCO-Detection/faster_rcnn_{body}_FPN", _FPN),
    **_bodies("COCO-Detection/retinanet_{body}_FPN", _RETINANET, x101=False),
    "COCO-Detection/rpn_R_50_C4_1x": {**_C4, **_PROPOSALS, "MODEL.RPN.PRE_NMS_TOPK_TEST": 12000},
    "COCO-Detection/rpn_R_50_FPN_1x": {**_FPN, **_PROPOSALS},
    **_bodies("COCO-InstanceSegmentation/mask_rcnn_{body}_C4", {**_C4, **_MASKS}, x101=False),
    **_bodies("COCO-InstanceSegmentation/mask_rcnn_{body}_DC5", {**_DC5, **_MASKS}, x101=False),
    **_bodies("COCO-InstanceSegmentation/mask_rcnn_{body}_FPN", {**_FPN, **_MASKS}),
    **_bodies("COCO-Keypoints/keypoint_rcnn_{body}_FPN", {**_FPN, **_PEOPLE}),
    "Misc/cascade_mask_rcnn_R_50_FPN_1x": {**_FPN, **_MASKS, **_CASCADE},
    "Misc/cascade_mask_rcnn_R_50_FPN_3x": {**_FPN, **_MASKS, **_CASCADE, **_3X},
    "Misc/mask_rcnn_R_50_FPN_3x_gn": {**_FPN, **_MASKS, **_3X, **_GN},
    "Misc/mask_rcnn_R_50_FPN_3x_syncbn": {**_FPN, **_MASKS, **_3X, **_SYNC_BN},
    "Misc/scratch_mask_rcnn_R_50_FPN_3x_gn": {**_FPN, **_MASKS, **_3X, **_GN, **_SCRATCH},
    "Misc/scratch_mask_rcnn_R_50_FPN_9x_gn": {**_FPN, **_MASKS, **_GN, **_SCRATCH_9X},
    "Misc/scratch_mask_rcnn_R_50_FPN_9x_syncbn": {**_FPN, **_MASKS, **_SYNC_BN, **_SCRATCH_9X},
    "Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5": {**_FPN, **_MASKS, **_DEFORM},
    "Misc/mask_rcnn_R_50_FPN_3x_dconv_c3-c5": {**_FPN, **_MASKS, **_DEFORM, **_3X},
    "Misc/cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv": {
        **_FPN,
        **_MASKS,
        **_CASCADE,
        **_DEFORM,
        **_X152,
    },
    "PascalVOC-Detection/faster_rcnn_R_50_C4": {
        **_C4,
        "MODEL.ROI_HEADS.NUM_CLASSES": 20,
        "INPUT.MIN_SIZE_TRAIN": [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
        "DATASETS.TRAIN": ["voc_2007_trainval", "voc_2012_trainval"],
        "DATASETS.TEST": ["voc_2007_test"],
        "SOLVER.STEPS": [12000, 16000],
        "SOLVER.MAX_ITER": 18000,
        "SOLVER.WARMUP_ITERS": 100,
    },
    "Detectron1-Comparisons/faster_rcnn_R_50_FPN_noaug_1x": {**_FPN, **_LIKE_DETECTRON, **_ONE_SCALE},
    "Detectron1-Comparisons/mask_rcnn_R_50_FPN_noaug_1x": {**_FPN, **_MASKS, **_LIKE_DETECTRON, **_ONE_SCALE},
    "Detectron1-Comparisons/keypoint_rcnn_R_50_FPN_1x": {**_FPN, **_PEOPLE, **_LIKE_DETECTRON},
}
"""Name -> keys that differ from detectron2's defaults."""


def zoo_name(name: str) -> str | None:
    """The configuration that a name means: its own, with or without .yaml, or the address of weights of the zoo, such
    as detectron2://COCO-Detection/rpn_R_50_C4_1x/137258005/model_final_450694.pkl."""
    parts = name.removeprefix("detectron2:").lstrip("/").split("/")  # a path has lost one of the two strokes
    wanted = "/".join(parts[:2]).removesuffix(".yaml")
    return wanted if wanted in ZOO else None


def zoo_tree(name: str) -> dict[str, Any]:
    """The keys of a configuration as a YAML file of detectron2 would hold them."""
    return {"VERSION": 2, **nested(ZOO[name])}
