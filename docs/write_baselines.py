"""Writes Detectron's baselines as configurations of ours: `python docs/write_baselines.py`.

Detectron published 87 YAML files, most of which differ from a neighbour in two or three values. Here each value
stands once, with what it belongs to: the task, the body, how the two meet, the schedule. The files under configs/ are
this composition, without what equals the defaults, and a comment of what the model is and what Detectron's own run
reached (its MODEL_ZOO.md and projects/GN: AP in percent on coco_2014_minival, which is val2017).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from detectune.config.tree import Config

ROOT = Path(__file__).resolve().parent.parent
URL = "https://dl.fbaipublicfiles.com/detectron"
Values = dict[str, Any]

COMMON: Values = {
    "NUM_GPUS": 8, "OUTPUT_DIR": ".", "SOLVER.WEIGHT_DECAY": 0.0001, "SOLVER.LR_POLICY": "steps_with_decay",
    "SOLVER.GAMMA": 0.1, "TRAIN.MAX_SIZE": 1333, "TEST.MAX_SIZE": 1333, "TRAIN.SCALES": [800], "TEST.SCALE": 800,
}  # fmt: skip
JITTER: Values = {"TRAIN.SCALES": [640, 672, 704, 736, 768, 800]}
OBJECTS: Values = {
    "MODEL.NUM_CLASSES": 81, "TRAIN.DATASETS": ["coco_2014_train", "coco_2014_valminusminival"],
    "TEST.DATASETS": ["coco_2014_minival"],
}  # fmt: skip
PERSONS: Values = {
    "MODEL.NUM_CLASSES": 2,
    "TRAIN.DATASETS": ["keypoints_coco_2014_train", "keypoints_coco_2014_valminusminival"],
    "TEST.DATASETS": ["keypoints_coco_2014_minival"],
}  # fmt: skip
TWO_STAGES: Values = {
    "MODEL.TYPE": "generalized_rcnn", "FAST_RCNN.ROI_XFORM_METHOD": "RoIAlign", "TRAIN.BATCH_SIZE_PER_IM": 512,
    "TEST.NMS": 0.5,
}  # fmt: skip
PYRAMID: Values = {"FPN.FPN_ON": True, "FPN.MULTILEVEL_RPN": True}
PYRAMID_HEADS: Values = PYRAMID | {
    "FPN.MULTILEVEL_ROIS": True, "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_2mlp_head",
    "FAST_RCNN.ROI_XFORM_RESOLUTION": 7, "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO": 2,
}  # fmt: skip
END_TO_END: Values = {
    "MODEL.FASTER_RCNN": True, "TRAIN.RPN_PRE_NMS_TOP_N": 2000, "TEST.RPN_PRE_NMS_TOP_N": 1000,
    "TEST.RPN_POST_NMS_TOP_N": 1000,
}  # fmt: skip
MASKS: Values = {
    "MODEL.MASK_ON": True, "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs",
    "MRCNN.RESOLUTION": 28, "MRCNN.ROI_XFORM_METHOD": "RoIAlign", "MRCNN.ROI_XFORM_RESOLUTION": 14,
    "MRCNN.ROI_XFORM_SAMPLING_RATIO": 2, "MRCNN.DILATION": 1, "MRCNN.CONV_INIT": "MSRAFill",
}  # fmt: skip
C4_HEADS: Values = {
    "FAST_RCNN.ROI_BOX_HEAD": "ResNet.add_ResNet_roi_conv5_head", "RPN.SIZES": [32, 64, 128, 256, 512],
}  # fmt: skip
C4_MASKS: Values = {
    "MODEL.MASK_ON": True, "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v0upshare",
    "MRCNN.RESOLUTION": 14, "MRCNN.ROI_XFORM_METHOD": "RoIAlign", "MRCNN.ROI_XFORM_RESOLUTION": 14,
    "MRCNN.DILATION": 1, "MRCNN.CONV_INIT": "MSRAFill",
}  # fmt: skip
KEYPOINTS: Values = JITTER | {
    "MODEL.KEYPOINTS_ON": True, "KRCNN.ROI_KEYPOINTS_HEAD": "keypoint_rcnn_heads.add_roi_pose_head_v1convX",
    "KRCNN.NUM_STACKED_CONVS": 8, "KRCNN.CONV_HEAD_DIM": 512, "KRCNN.CONV_INIT": "MSRAFill",
    "KRCNN.NUM_KEYPOINTS": 17, "KRCNN.USE_DECONV_OUTPUT": True, "KRCNN.UP_SCALE": 2, "KRCNN.HEATMAP_SIZE": 56,
    "KRCNN.ROI_XFORM_METHOD": "RoIAlign", "KRCNN.ROI_XFORM_RESOLUTION": 14, "KRCNN.ROI_XFORM_SAMPLING_RATIO": 2,
    "KRCNN.KEYPOINT_CONFIDENCE": "bbox",
}  # fmt: skip
RETINANET: Values = PYRAMID | {
    "MODEL.TYPE": "retinanet", "RETINANET.RETINANET_ON": True, "RETINANET.NUM_CONVS": 4,
    "RETINANET.SCALES_PER_OCTAVE": 3, "RETINANET.ANCHOR_SCALE": 4, "RETINANET.ASPECT_RATIOS": [1.0, 2.0, 0.5],
    "RETINANET.LOSS_GAMMA": 2.0, "RETINANET.LOSS_ALPHA": 0.25, "FPN.RPN_MIN_LEVEL": 3, "FPN.RPN_MAX_LEVEL": 7,
    "FPN.COARSEST_STRIDE": 128, "FPN.EXTRA_CONV_LEVELS": True, "TRAIN.RPN_STRADDLE_THRESH": -1, "TEST.NMS": 0.5,
    "TEST.RPN_PRE_NMS_TOP_N": 10000, "TEST.RPN_POST_NMS_TOP_N": 2000,
}  # fmt: skip
PROPOSALS_ALONE: Values = PYRAMID | {
    "MODEL.TYPE": "generalized_rcnn", "MODEL.RPN_ONLY": True, "FPN.RPN_MIN_LEVEL": 2, "FPN.RPN_MAX_LEVEL": 6,
    "FPN.RPN_ANCHOR_START_SIZE": 32, "FPN.RPN_ASPECT_RATIOS": [0.5, 1, 2], "TEST.RPN_PRE_NMS_TOP_N": 1000,
    "TEST.RPN_POST_NMS_TOP_N": 2000,
}  # fmt: skip
GROUP_NORM: Values = {
    "RESNETS.STRIDE_1X1": False, "RESNETS.STEM_FUNC": "basic_gn_stem", "RESNETS.SHORTCUT_FUNC": "basic_gn_shortcut",
    "RESNETS.TRANS_FUNC": "bottleneck_gn_transformation", "FPN.USE_GN": True,
    "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_Xconv1fc_gn_head",
    "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs_gn",
}  # fmt: skip
TEST_SCALES: Values = {
    "ENABLED": True, "H_FLIP": True, "SCALE_H_FLIP": True, "MAX_SIZE": 2000,
    "SCALES": [400, 500, 600, 700, 900, 1000, 1100, 1200],
}  # fmt: skip


@dataclass(frozen=True)
class Body:
    """A backbone: its words, its values, and whether Detectron's GPUs of 16 GB held one image of it instead of two."""

    words: str
    values: Values
    large: bool = False


def _body(depth: int, weights: str, stage: str = "FPN.add_fpn_ResNet{}_conv5_body") -> Values:
    return {
        "MODEL.CONV_BODY": stage.format(depth), "TRAIN.WEIGHTS": f"{URL}/ImageNetPretrained/{weights}.pkl",
    }  # fmt: skip


def _groups(count: int, width: int) -> Values:
    return {
        "RESNETS.STRIDE_1X1": False, "RESNETS.TRANS_FUNC": "bottleneck_transformation",
        "RESNETS.NUM_GROUPS": count, "RESNETS.WIDTH_PER_GROUP": width,
    }  # fmt: skip


BODIES = {
    "R-50-C4": Body(
        "ResNet-50, whose fifth stage is the head",
        _body(50, "MSRA/R-50", "ResNet.add_ResNet{}_conv4_body"),
        large=True,
    ),
    "R-50-FPN": Body("ResNet-50 with a feature pyramid", _body(50, "MSRA/R-50")),
    "R-101-FPN": Body("ResNet-101 with a feature pyramid", _body(101, "MSRA/R-101")),
    "X-101-64x4d-FPN": Body(
        "ResNeXt-101 (64 groups of 4) with a feature pyramid",
        _body(101, "FBResNeXt/X-101-64x4d") | _groups(64, 4),
        large=True,
    ),
    "X-101-32x8d-FPN": Body(
        "ResNeXt-101 (32 groups of 8) with a feature pyramid",
        _body(101, "20171220/X-101-32x8d") | _groups(32, 8),
        large=True,
    ),
}
PYRAMIDS = [name for name in BODIES if name.endswith("FPN")]

# Body -> Detectron's run that made the proposals.
OBJECT_RUNS = {
    "R-50-C4": ("35998355", "08_00_43.njH5oD9L"), "R-50-FPN": ("35998814", "08_06_03.Axg0r179"),
    "R-101-FPN": ("35998887", "08_07_07.vzhHEs0V"), "X-101-64x4d-FPN": ("35998956", "08_08_41.Seh0psKz"),
    "X-101-32x8d-FPN": ("36760102", "06_00_16.RWeBAniO"),
}  # fmt: skip
PERSON_RUNS = {
    "R-50-FPN": ("35998996", "08_10_08.0ZWmJm6F"), "R-101-FPN": ("35999521", "08_20_33.1OkqMmqP"),
    "X-101-64x4d-FPN": ("35999553", "08_21_33.ghFzzArr"), "X-101-32x8d-FPN": ("36760438", "06_04_23.M2oJlDPW"),
}  # fmt: skip

# Figures: body -> percent for 1x and 2x (keypoints: 1x and s1x); pairs are (box AP, mask AP) or (box AP, keypoint AP).
PROPOSAL_AR = {
    "R-50-C4": 51.6, "R-50-FPN": 57.2, "R-101-FPN": 58.2, "X-101-64x4d-FPN": 59.4, "X-101-32x8d-FPN": 59.5,
}  # fmt: skip
PERSON_PROPOSAL_AR = {
    "R-50-FPN": 64.0, "R-101-FPN": 65.2, "X-101-64x4d-FPN": 65.9, "X-101-32x8d-FPN": 66.2,
}  # fmt: skip
FAST = {
    "R-50-C4": (34.4, 35.6), "R-50-FPN": (36.4, 36.8), "R-101-FPN": (38.5, 39.0), "X-101-64x4d-FPN": (40.4, 39.8),
    "X-101-32x8d-FPN": (40.6, 39.7),
}  # fmt: skip
FASTER = {
    "R-50-C4": (34.8, 36.5), "R-50-FPN": (36.7, 37.9), "R-101-FPN": (39.4, 39.8), "X-101-64x4d-FPN": (41.5, 40.8),
    "X-101-32x8d-FPN": (41.3, 40.6),
}  # fmt: skip
ONE_STAGE = {
    "R-50-FPN": (35.7, 35.7), "R-101-FPN": (37.7, 37.8), "X-101-64x4d-FPN": (39.8, 39.2),
    "X-101-32x8d-FPN": (39.5, 38.6),
}  # fmt: skip
MASK = {
    "R-50-C4": ((35.5, 31.3), (36.9, 32.5)), "R-50-FPN": ((37.3, 33.7), (37.7, 34.0)),
    "R-101-FPN": ((39.4, 35.6), (40.0, 35.9)), "X-101-64x4d-FPN": ((41.3, 37.0), (41.1, 36.6)),
    "X-101-32x8d-FPN": ((41.3, 37.0), (40.7, 36.3)),
}  # fmt: skip
E2E_MASK = {
    "R-50-C4": ((35.8, 31.4), (37.8, 32.8)), "R-50-FPN": ((37.7, 33.9), (38.6, 34.5)),
    "R-101-FPN": ((40.0, 35.9), (40.9, 36.4)), "X-101-64x4d-FPN": ((42.4, 37.5), (42.2, 37.2)),
    "X-101-32x8d-FPN": ((42.1, 37.3), (41.7, 36.9)),
}  # fmt: skip
KEYPOINT = {
    "R-50-FPN": ((52.7, 64.1), (53.4, 65.5)), "R-101-FPN": ((53.5, 65.0), (54.6, 66.0)),
    "X-101-64x4d-FPN": ((55.8, 66.7), (56.3, 67.1)), "X-101-32x8d-FPN": ((55.4, 66.2), (55.9, 67.0)),
}  # fmt: skip
E2E_KEYPOINT = {
    "R-50-FPN": ((53.6, 64.2), (54.3, 65.4)), "R-101-FPN": ((54.5, 64.8), (55.3, 65.8)),
    "X-101-64x4d-FPN": ((56.3, 66.0), (56.9, 66.8)), "X-101-32x8d-FPN": ((56.0, 66.0), (56.9, 67.0)),
}  # fmt: skip


@dataclass(frozen=True)
class Baseline:
    """One file: its path under configs/, what it is, what it reached, its values."""

    path: str
    words: str
    reached: str
    values: Values

    def text(self) -> str:
        """The file's content."""
        comment = fill(f"{self.words} {self.reached}", 108, break_on_hyphens=False, break_long_words=False)
        comment += "\nWritten by docs/write_baselines.py. What is not set here keeps its default."
        lines = [f"# {line}" for line in comment.splitlines()] + [""]
        return "\n".join([*lines, *_yaml(self.values)]) + "\n"


def schedule(decays: tuple[int, int], end: int, *, lr: float = 0.02, halved: bool = False) -> Values:
    """Steps and rate for 16 images a step; `halved` for 8, which need twice the steps at half the rate."""
    factor = 2 if halved else 1
    values: Values = {
        "SOLVER.BASE_LR": lr / factor, "SOLVER.MAX_ITER": end * factor,
        "SOLVER.STEPS": [0, *(step * factor for step in decays)],
    }  # fmt: skip
    return values | ({"TRAIN.IMS_PER_BATCH": 1} if halved else {})


SCHEDULES = {
    "1x": ((60000, 80000), 90000), "2x": ((120000, 160000), 180000), "s1x": ((100000, 120000), 130000),
    "3x": ((210000, 250000), 270000),
}  # fmt: skip


def proposals(
    run: tuple[str, str], rpn: str, datasets: Values, model_type: str = "generalized_rcnn"
) -> Values:
    """Ready-made proposals that Detectron's RPN run left for the training and the test sets."""

    def files(names: list[str]) -> list[str]:
        run_folder = f"{URL}/{run[0]}/12_2017_baselines/{rpn}_1x.yaml.{run[1]}/output/test"
        return [f"{run_folder}/{name}/{model_type}/rpn_proposals.pkl" for name in names]

    return {
        "TRAIN.PROPOSAL_FILES": files(datasets["TRAIN.DATASETS"]),
        "TEST.PROPOSAL_FILES": files(datasets["TEST.DATASETS"]), "TEST.PROPOSAL_LIMIT": 1000,
    }  # fmt: skip


def baselines() -> list[Baseline]:
    """All 87."""
    return [*_proposal_networks(), *_box_and_mask(), *_keypoints(), *_one_stage(), *_special(), *_tutorials()]


def _proposal_networks() -> Iterator[Baseline]:
    every = ["coco_2014_minival", "coco_2014_train", "coco_2014_valminusminival"]
    for name, body in BODIES.items():
        values = COMMON | OBJECTS | body.values | schedule(*SCHEDULES["1x"])
        if name == "R-50-C4":
            values |= {"MODEL.TYPE": "rpn", "MODEL.RPN_ONLY": True, "RPN.SIZES": C4_HEADS["RPN.SIZES"]}
        else:
            values |= PROPOSALS_ALONE
        yield Baseline(
            f"12_2017_baselines/rpn_{name}_1x",
            f"A region proposal network alone: {body.words}, schedule 1x.",
            f"Detectron's run: AR {PROPOSAL_AR[name]} at 1000 proposals.",
            values | {"TEST.DATASETS": every},
        )
    for name in PYRAMIDS:
        values = COMMON | PERSONS | BODIES[name].values | PROPOSALS_ALONE | schedule(*SCHEDULES["1x"])
        also = [f"keypoints_{dataset}" for dataset in every] + ["keypoints_coco_2015_test"]
        yield Baseline(
            f"12_2017_baselines/rpn_person_only_{name}_1x",
            f"A region proposal network for persons alone: {BODIES[name].words}, schedule 1x.",
            f"Detectron's run: AR {PERSON_PROPOSAL_AR[name]} at 1000 proposals.",
            values | {"TEST.DATASETS": also},
        )


def _box_and_mask() -> Iterator[Baseline]:
    for name, body in BODIES.items():
        is_c4 = name == "R-50-C4"
        heads, masks = (C4_HEADS, C4_MASKS) if is_c4 else (PYRAMID_HEADS, MASKS)
        joint = END_TO_END | {"TEST.RPN_PRE_NMS_TOP_N": 6000} if is_c4 else END_TO_END
        if is_c4:
            joint = {key: value for key, value in joint.items() if key != "TRAIN.RPN_PRE_NMS_TOP_N"}
        ready = proposals(OBJECT_RUNS[name], f"rpn_{name}", OBJECTS, "rpn" if is_c4 else "generalized_rcnn")
        for number, length in enumerate(("1x", "2x")):
            base = COMMON | OBJECTS | TWO_STAGES | heads | body.values
            base |= schedule(*SCHEDULES[length], halved=body.large)
            kinds = (
                ("fast_rcnn", "Fast R-CNN on ready-made proposals", FAST[name][number], base | ready),
                ("e2e_faster_rcnn", "Faster R-CNN, trained end to end", FASTER[name][number], base | joint),
                ("mask_rcnn", "Mask R-CNN on ready-made proposals", MASK[name][number], base | masks | ready),
                (
                    "e2e_mask_rcnn",
                    "Mask R-CNN, trained end to end",
                    E2E_MASK[name][number],
                    base | masks | joint,
                ),
            )
            for kind, words, figure, values in kinds:
                yield Baseline(
                    f"12_2017_baselines/{kind}_{name}_{length}",
                    f"{words}: {body.words}, schedule {length}.",
                    _reached(figure, "mask"),
                    values,
                )


def _keypoints() -> Iterator[Baseline]:
    for name in PYRAMIDS:
        body = BODIES[name]
        ready = proposals(PERSON_RUNS[name], f"rpn_person_only_{name}", PERSONS)
        for number, length in enumerate(("1x", "s1x")):
            base = COMMON | PERSONS | TWO_STAGES | PYRAMID_HEADS | KEYPOINTS | body.values
            base |= schedule(*SCHEDULES[length])
            kinds = (
                ("keypoint_rcnn", "on ready-made proposals", KEYPOINT[name][number], ready),
                ("e2e_keypoint_rcnn", "trained end to end", E2E_KEYPOINT[name][number], END_TO_END),
            )
            for kind, words, figure, more in kinds:
                yield Baseline(
                    f"12_2017_baselines/{kind}_{name}_{length}",
                    f"Keypoint R-CNN for persons, {words}: {body.words}, schedule {length}.",
                    _reached(figure, "keypoint"),
                    base | more,
                )


def _one_stage() -> Iterator[Baseline]:
    for name in PYRAMIDS:
        for number, length in enumerate(("1x", "2x")):
            yield Baseline(
                f"12_2017_baselines/retinanet_{name}_{length}",
                f"RetinaNet: {BODIES[name].words}, schedule {length}.",
                _reached(ONE_STAGE[name][number], ""),
                COMMON | OBJECTS | RETINANET | BODIES[name].values | schedule(*SCHEDULES[length], lr=0.01),
            )


def _special() -> Iterator[Baseline]:
    joint = COMMON | OBJECTS | TWO_STAGES | PYRAMID_HEADS | MASKS | END_TO_END
    figures = {
        ("", "50", "2x"): (40.3, 35.7), ("", "101", "2x"): (41.8, 36.8), ("", "50", "3x"): (40.8, 36.1),
        ("", "101", "3x"): (42.3, 37.2), ("scratch_", "50", "3x"): (39.5, 35.2),
        ("scratch_", "101", "3x"): (41.0, 36.4),
    }  # fmt: skip
    weights = {"50": "47261647/R-50-GN", "101": "47592356/R-101-GN"}
    for (scratch, depth, length), figure in figures.items():
        body = _body(int(depth), weights[depth])
        if scratch:
            body = {"MODEL.CONV_BODY": body["MODEL.CONV_BODY"], "TRAIN.FREEZE_AT": 0}
        start = "from random weights" if scratch else "from ImageNet weights"
        yield Baseline(
            f"04_2018_gn_baselines/{scratch}e2e_mask_rcnn_R-{depth}-FPN_{length}_gn",
            f"Mask R-CNN with group normalisation (Wu and He 2018), trained end to end {start}: ResNet-{depth} with a "
            f"feature pyramid, schedule {length}.",
            _reached(figure, "mask"),
            joint | GROUP_NORM | body | schedule(*SCHEDULES[length]),
        )
    ready = proposals(OBJECT_RUNS["R-50-FPN"], "rpn_R-50-FPN", OBJECTS)
    apart = COMMON | OBJECTS | TWO_STAGES | PYRAMID_HEADS
    yield Baseline(
        "04_2018_gn_baselines/mask_rcnn_R-50-FPN_1x_gn",
        "Mask R-CNN with group normalisation on ready-made proposals: ResNet-50 with a feature pyramid, schedule 1x.",
        "",
        apart | MASKS | GROUP_NORM | _body(50, weights["50"]) | ready | schedule(*SCHEDULES["1x"]),
    )
    union = {"SCORE_HEUR": "UNION", "COORD_HEUR": "UNION"}
    box_aug = _under("TEST.BBOX_AUG", TEST_SCALES | union)
    mask_aug = _under("TEST.MASK_AUG", TEST_SCALES | {"HEUR": "SOFT_AVG"})
    votes = {"TEST.BBOX_VOTE.ENABLED": True, "TEST.BBOX_VOTE.VOTE_TH": 0.9}
    yield Baseline(
        "12_2017_baselines/e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x",
        "Mask R-CNN with all that Detectron had: ResNeXt-152 (32 groups of 8) with a feature pyramid, pre-trained on "
        "ImageNet-5k, scale jitter in training, flips and eight scales in testing, box voting.",
        _reached((48.1, 41.5), "mask") + " Without the test-time augmentation 45.2 and 39.7.",
        joint | JITTER | _body(152, "25093814/X-152-32x8d-IN5k") | _groups(32, 8) | box_aug | mask_aug | votes
        | schedule((100000, 120000), 130000, halved=True),
    )  # fmt: skip
    name = "R-50-FPN"
    areas = {"TEST.BBOX_AUG.AREA_TH_LO": 50**2, "TEST.BBOX_AUG.AREA_TH_HI": 180**2}
    final = "output/train/{}/generalized_rcnn/model_final.pkl"
    run = "35859007/12_2017_baselines/e2e_mask_rcnn_R-50-FPN_2x.yaml.01_49_07.By8nQcCH"
    yield Baseline(
        "test_time_aug/e2e_mask_rcnn_R-50-FPN_2x",
        "Mask R-CNN with test-time augmentation (flips, eight scales, box voting) on the weights of "
        "12_2017_baselines/e2e_mask_rcnn_R-50-FPN_2x.",
        "",
        joint | BODIES[name].values | schedule(*SCHEDULES["2x"]) | box_aug | mask_aug | votes | areas
        | {"MODEL.TYPE": "mask_rcnn", "TEST.MASK_AUG.AREA_TH": 180**2,
           "TEST.WEIGHTS": f"{URL}/{run}/{final.format(':'.join(OBJECTS['TRAIN.DATASETS']))}"},
    )  # fmt: skip
    mean = {"SCORE_HEUR": "AVG", "COORD_HEUR": "AVG"}
    heat = _under("TEST.KPS_AUG", TEST_SCALES | {"HEUR": "HM_AVG", "SCALE_SIZE_DEP": True, "AREA_TH": 150**2})
    run = "37651887/12_2017_baselines/keypoint_rcnn_R-50-FPN_s1x.yaml.20_01_40.FDjUQ7VX"
    yield Baseline(
        "test_time_aug/keypoint_rcnn_R-50-FPN_1x",
        "Keypoint R-CNN with test-time augmentation (flips, eight scales) on ready-made proposals and the weights of "
        "12_2017_baselines/keypoint_rcnn_R-50-FPN_s1x.",
        "",
        COMMON | PERSONS | TWO_STAGES | PYRAMID_HEADS | KEYPOINTS | BODIES[name].values
        | proposals(PERSON_RUNS[name], f"rpn_person_only_{name}", PERSONS) | schedule(*SCHEDULES["1x"])
        | _under("TEST.BBOX_AUG", TEST_SCALES | mean) | areas | heat
        | {"MODEL.TYPE": "keypoint_rcnn",
           "TEST.WEIGHTS": f"{URL}/{run}/{final.format(':'.join(PERSONS['TRAIN.DATASETS']))}"},
    )  # fmt: skip


def _tutorials() -> Iterator[Baseline]:
    small: Values = {
        "TRAIN.SCALES": [500], "TRAIN.MAX_SIZE": 833, "TEST.SCALE": 500, "TEST.MAX_SIZE": 833,
        "TRAIN.BATCH_SIZE_PER_IM": 256, "TRAIN.DATASETS": ["coco_2014_train"],
    }  # fmt: skip
    for gpus in (1, 2, 4, 8):
        learning: Values = {
            "NUM_GPUS": gpus, "SOLVER.BASE_LR": 0.0025 * gpus, "SOLVER.MAX_ITER": 60000 // gpus,
            "SOLVER.STEPS": [0, 30000 // gpus, 40000 // gpus],
        }  # fmt: skip
        one = "one GPU" if gpus == 1 else f"{gpus} GPUs"
        yield Baseline(
            f"getting_started/tutorial_{gpus}gpu_e2e_faster_rcnn_R-50-FPN",
            f"Faster R-CNN on smaller images, to begin with on {one}: ResNet-50 with a feature pyramid. The rate grows "
            "and the steps shrink with the number of GPUs, so that all four files see the same images.",
            "",
            COMMON | OBJECTS | TWO_STAGES | PYRAMID_HEADS | END_TO_END | BODIES["R-50-FPN"].values | small | learning,
        )  # fmt: skip


def _under(section: str, values: Values) -> Values:
    return {f"{section}.{key}": value for key, value in values.items()}


def _reached(figure: float | tuple[float, float], second: str) -> str:
    if isinstance(figure, tuple):
        return f"Detectron's run: box AP {figure[0]}, {second} AP {figure[1]}."
    return f"Detectron's run: box AP {figure}."


def _yaml(values: Values) -> list[str]:
    """Lines of sections in the order of the schema, lists on one line if they fit; defaults are left out."""
    defaults = Config().flat()
    ordered = [key for key in defaults if key in values and not _equal(values[key], defaults[key])]
    unknown = set(values) - set(defaults)
    if unknown:
        raise KeyError(f"the schema has no {', '.join(sorted(unknown))}")
    lines: list[str] = []
    open_sections: list[str] = []
    for key in sorted(ordered, key=lambda key: "." in key):  # top-level keys first; the order stays otherwise
        *sections, name = key.split(".")
        common = 0
        while common < min(len(sections), len(open_sections)) and sections[common] == open_sections[common]:
            common += 1
        lines += [f"{'  ' * depth}{sections[depth]}:" for depth in range(common, len(sections))]
        open_sections = sections
        line = f"{'  ' * len(sections)}{name}: {_scalar(values[key])}"
        if isinstance(values[key], list) and len(line) > 110:
            lines.append(f"{'  ' * len(sections)}{name}:")
            lines += [f"{'  ' * len(sections)}- {_scalar(member)}" for member in values[key]]
        else:
            lines.append(line)
    return lines


def _equal(value: Any, default: Any) -> bool:
    return (list(value) == list(default)) if isinstance(value, list) else value == default


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_scalar(member) for member in value)}]"
    if isinstance(value, str):
        return f"'{value}'" if ":" in value else value
    return repr(value)


def write(folder: Path) -> list[Path]:
    """Write every baseline under `folder`."""
    files = []
    for baseline in baselines():
        file = folder / f"{baseline.path}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(baseline.text(), encoding="utf-8")
        files.append(file)
    return files


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "configs", help="folder (default: configs/)")
    print(f"{len(write(parser.parse_args().output))} files written")
