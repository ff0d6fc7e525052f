"""What detectron2's keys are called here, and what those that have no counterpart would have meant.

A key that changes the network or its detections and cannot be had here is a problem; one that only changes training
or the machinery is left out with a notice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from detectune.config.detectron2_defaults import DEFAULTS
from detectune.config.messages import show
from detectune.config.settings import Origin, Setting, Settings
from detectune.config.yaml_reader import KeyPath


@dataclass(frozen=True)
class Given:
    """The value of one of detectron2's keys; no origin where it is its default."""

    value: Any
    origin: Origin | None
    path: KeyPath


RENAMED: dict[str, tuple[str, ...]] = {
    "DATALOADER.ASPECT_RATIO_GROUPING": ("TRAIN.ASPECT_GROUPING",),
    "DATALOADER.NUM_WORKERS": ("DATA_LOADER.NUM_THREADS",),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": ("TEST.PROPOSAL_LIMIT",),
    "DATASETS.PROPOSAL_FILES_TEST": ("TEST.PROPOSAL_FILES",),
    "DATASETS.PROPOSAL_FILES_TRAIN": ("TRAIN.PROPOSAL_FILES",),
    "DATASETS.TEST": ("TEST.DATASETS",),
    "DATASETS.TRAIN": ("TRAIN.DATASETS",),
    "INPUT.MAX_SIZE_TEST": ("TEST.MAX_SIZE",),
    "INPUT.MAX_SIZE_TRAIN": ("TRAIN.MAX_SIZE",),
    "INPUT.MIN_SIZE_TEST": ("TEST.SCALE",),
    "MODEL.BACKBONE.FREEZE_AT": ("TRAIN.FREEZE_AT",),
    "MODEL.FPN.OUT_CHANNELS": ("FPN.DIM",),
    "MODEL.KEYPOINT_ON": ("MODEL.KEYPOINTS_ON",),
    "MODEL.MASK_ON": ("MODEL.MASK_ON",),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": ("TRAIN.RPN_MIN_SIZE", "TEST.RPN_MIN_SIZE"),
    "MODEL.RESNETS.DEFORM_MODULATED": ("RESNETS.DEFORM_MODULATED",),
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": ("RESNETS.DEFORM_NUM_GROUPS",),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ("RESNETS.DEFORM_ON_PER_STAGE",),
    "MODEL.RESNETS.NUM_GROUPS": ("RESNETS.NUM_GROUPS",),
    "MODEL.RESNETS.RES5_DILATION": ("RESNETS.RES5_DILATION",),
    "MODEL.RESNETS.STRIDE_IN_1X1": ("RESNETS.STRIDE_1X1",),
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": ("CASCADE.BBOX_REG_WEIGHTS",),
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": ("CASCADE.IOUS",),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": ("MODEL.BBOX_REG_WEIGHTS",),
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": ("MODEL.CLS_AGNOSTIC_BBOX_REG",),
    "MODEL.ROI_BOX_HEAD.CONV_DIM": ("FAST_RCNN.CONV_HEAD_DIM",),
    "MODEL.ROI_BOX_HEAD.FC_DIM": ("FAST_RCNN.MLP_HEAD_DIM",),
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": ("FAST_RCNN.ROI_XFORM_RESOLUTION",),
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": ("FAST_RCNN.ROI_XFORM_SAMPLING_RATIO",),
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": ("FAST_RCNN.SMOOTH_L1_BETA",),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": ("TRAIN.BATCH_SIZE_PER_IM",),
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": ("TRAIN.FG_FRACTION",),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": ("TEST.SCORE_THRESH",),
    "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT": ("KRCNN.LOSS_WEIGHT",),
    "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": ("KRCNN.NORMALIZE_BY_VISIBLE_KEYPOINTS",),
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": ("KRCNN.NUM_KEYPOINTS",),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": ("KRCNN.ROI_XFORM_RESOLUTION",),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": ("KRCNN.ROI_XFORM_SAMPLING_RATIO",),
    "MODEL.ROI_MASK_HEAD.CONV_DIM": ("MRCNN.DIM_REDUCED",),
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": ("MRCNN.ROI_XFORM_RESOLUTION",),
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": ("MRCNN.ROI_XFORM_SAMPLING_RATIO",),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": ("TRAIN.RPN_BATCH_SIZE_PER_IM",),
    "MODEL.RPN.BOUNDARY_THRESH": ("TRAIN.RPN_STRADDLE_THRESH",),
    "MODEL.RPN.NMS_THRESH": ("TRAIN.RPN_NMS_THRESH", "TEST.RPN_NMS_THRESH"),
    "MODEL.RPN.POSITIVE_FRACTION": ("TRAIN.RPN_FG_FRACTION",),
    "MODEL.RPN.POST_NMS_TOPK_TEST": ("TEST.RPN_POST_NMS_TOP_N",),
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": ("TRAIN.RPN_POST_NMS_TOP_N",),
    "MODEL.RPN.PRE_NMS_TOPK_TEST": ("TEST.RPN_PRE_NMS_TOP_N",),
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": ("TRAIN.RPN_PRE_NMS_TOP_N",),
    "MODEL.RPN.SMOOTH_L1_BETA": ("RPN.SMOOTH_L1_BETA",),
    "SOLVER.BASE_LR": ("SOLVER.BASE_LR",),
    "SOLVER.BIAS_LR_FACTOR": ("SOLVER.BIAS_LR_FACTOR",),
    "SOLVER.CHECKPOINT_PERIOD": ("TRAIN.SNAPSHOT_ITERS",),
    "SOLVER.GAMMA": ("SOLVER.GAMMA",),
    "SOLVER.IMS_PER_BATCH": ("TRAIN.IMS_PER_BATCH",),
    "SOLVER.MAX_ITER": ("SOLVER.MAX_ITER",),
    "SOLVER.MOMENTUM": ("SOLVER.MOMENTUM",),
    "SOLVER.NESTEROV": ("SOLVER.NESTEROV",),
    "SOLVER.WARMUP_FACTOR": ("SOLVER.WARM_UP_FACTOR",),
    "SOLVER.WARMUP_ITERS": ("SOLVER.WARM_UP_ITERS",),
    "SOLVER.WARMUP_METHOD": ("SOLVER.WARM_UP_METHOD",),
    "SOLVER.WEIGHT_DECAY": ("SOLVER.WEIGHT_DECAY",),
    "SOLVER.WEIGHT_DECAY_NORM": ("SOLVER.WEIGHT_DECAY_GN",),
    "TEST.DETECTIONS_PER_IMAGE": ("TEST.DETECTIONS_PER_IM",),
    "TEST.EVAL_PERIOD": ("TRAIN.EVAL_ITERS",),
    "TEST.KEYPOINT_OKS_SIGMAS": ("KRCNN.OKS_SIGMAS",),
}
"""Keys whose value is taken over as it is."""

RETINANET_RENAMED = {
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": "RETINANET.LOSS_ALPHA",
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": "RETINANET.LOSS_GAMMA",
    "MODEL.RETINANET.NMS_THRESH_TEST": "TEST.NMS",
    "MODEL.RETINANET.NUM_CONVS": "RETINANET.NUM_CONVS",
    "MODEL.RETINANET.PRIOR_PROB": "RETINANET.PRIOR_PROB",
    "MODEL.RETINANET.SCORE_THRESH_TEST": "RETINANET.INFERENCE_TH",
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": "RETINANET.BBOX_REG_BETA",
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": "RETINANET.PRE_NMS_TOP_N",
}

FIXED: dict[str, Any] = {
    "MODEL.GEOMETRY": "detectron2",
    "DEDUP_BOXES": 0.0,
    "KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH": 0,
    "KRCNN.CONV_INIT": "MSRAFill",
    "KRCNN.UP_SCALE": 2,
    "KRCNN.USE_DECONV_OUTPUT": True,
    "MRCNN.CONV_INIT": "MSRAFill",
    "MRCNN.DILATION": 1,
    "SOLVER.SCALE_MOMENTUM": False,
    "TRAIN.CROWD_FILTER_THRESH": 0.0,
}
"""What detectron2 does and has no key for."""

NETWORK: dict[str, str] = {
    "MODEL.ANCHOR_GENERATOR.NAME": "another way to lay out anchors",
    "MODEL.ANCHOR_GENERATOR.OFFSET": "anchors moved within their cell",
    "MODEL.FPN.FUSE_TYPE": "a pyramid that averages instead of adding",
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": "factors on RetinaNet's box code",
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": "a sigmoid for each class instead of a softmax",
    "MODEL.ROI_KEYPOINT_HEAD.NAME": "another keypoint head",
    "MODEL.ROI_MASK_HEAD.NAME": "another mask head (such as PointRend's)",
    "MODEL.RPN.BBOX_REG_WEIGHTS": "factors on the proposals' box code",
    "MODEL.RPN.HEAD_NAME": "another head of the proposal network",
}
"""Keys that change the network or its detections: only their default can be had."""

TRAINING: dict[str, str] = {
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "images without objects in training",
    "DATALOADER.SAMPLER_TRAIN": "a sampler that repeats images of rare classes",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": "how many given proposals training looks at",
    "INPUT.CROP.TYPE": "another way to crop",
    "MODEL.RETINANET.IOU_LABELS": "other labels for anchors by their overlap",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": "a factor on the box loss",
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": "masks learnt in predicted boxes instead of proposals",
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": "the federated loss",
    "MODEL.ROI_HEADS.IOU_LABELS": "other labels for proposals by their overlap",
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": "whether objects themselves are among the proposals to learn from",
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": "images with too few keypoints left out of training",
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": "a factor on the proposals' box loss",
    "MODEL.RPN.IOU_LABELS": "other labels for anchors by their overlap",
    "MODEL.RPN.LOSS_WEIGHT": "a factor on the proposals' losses",
    "SOLVER.REFERENCE_WORLD_SIZE": "a batch that grows with the number of GPUs; SOLVER.REFERENCE_BATCH is near it",
    "TEST.PRECISE_BN.ENABLED": "statistics of batch norms measured anew before a test",
}
"""Keys that only change training: others than the default are left out with a notice."""


SWITCHES = {"MRCNN": "MODEL.MASK_ON", "KRCNN": "MODEL.KEYPOINT_ON"}
"""Sections of ours that are left alone where detectron2's key is off."""


class Translation:
    """Collects settings of ours from detectron2's values; refusals and notices name the place of their key."""

    def __init__(self, given: Mapping[str, Given], file: Origin, found: Settings) -> None:
        self.given, self.file, self.found = given, file, found

    def __getitem__(self, key: str) -> Any:
        return self.given[key].value

    def put(self, key: str, value: Any, *from_keys: str) -> None:
        """Set a key of ours because of theirs; the first that the file sets is where it comes from."""
        source = next((self.given[k] for k in from_keys if self.given[k].origin is not None), None)
        origin = self.file if source is None or source.origin is None else source.origin
        self.found.settings.append(Setting(key, value, origin, source.path if source else ()))

    def refuse(self, key: str, meaning: str) -> None:
        """A key that asks for what cannot be had."""
        given = self.given[key]
        sentence = f"{key} {show(given.value)} asks for {meaning}, which is not here."
        self.found.problems.append((given.origin or self.file).problem(given.path, sentence))

    def note(self, key: str, meaning: str) -> None:
        """A key that is left out."""
        given = self.given[key]
        place = (given.origin or self.file).place(given.path)
        self.found.notices.append(f"{place}: {key} {show(given.value)} is left out: {meaning}.")

    def differs(self, key: str) -> bool:
        """Whether a key has another value than its default."""
        return not same(self[key], DEFAULTS[key])


def same(value: Any, other: Any) -> bool:
    """Equal, lists and tuples alike, numbers to rounding."""
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(same, value, other))
    if isinstance(value, int | float) and isinstance(other, int | float):
        return math.isclose(value, other, rel_tol=1e-6)
    return bool(value == other)


def translate(given: Mapping[str, Given], file: Origin, found: Settings) -> None:
    """Every one of detectron2's keys, defaults included, as settings, problems and notices of `found`."""
    from detectune.config.detectron2_parts import PARTS

    said = Translation(given, file, found)
    unused = [section for section, switch in SWITCHES.items() if not said[switch]]
    for key, value in FIXED.items():
        if key.split(".")[0] not in unused:
            said.put(key, value)
    for theirs, ours in RENAMED.items():
        for name in ours:
            if name.split(".")[0] not in unused:
                said.put(name, said[theirs], theirs)
    for part in PARTS:
        part(said)
    for key, meaning in NETWORK.items():
        if said.differs(key):
            said.refuse(key, meaning)
    for key, meaning in TRAINING.items():
        if said.differs(key) and said[key] is not None:
            said.note(key, meaning)


Part = Callable[[Translation], None]
"""Translates the keys of one part of a model, or of training."""
