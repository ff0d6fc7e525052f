"""Where the value of each key that is searched lies in a run that has been built: one line for each key.

A run has `model`, `solver`, `loader` and `average`; `tested` is what its last evaluation was done with. Where a key's
place holds another value, the key is not connected, or other settings switch it off.
"""

from __future__ import annotations

from typing import Any

from detectune.tuner import forms
from detectune.tuner.looking import Place, about, at, group_of, is_there


def schedule(name: str) -> Place:
    return at(f"solver.schedule.{name}")


def augmentation(name: str) -> Place:
    return at(f"loader.specs.augmentation.{name}")


def box_heads(name: str, **given: Any) -> Place:
    """Under the box head, or under the first stage of a cascade."""
    return at(f"model.box_head.{name}", f"model.box_head.stages.0.{name}", **given)


def plan(path: str, **given: Any) -> Place:
    return at(f"tested.predictor.augmented.plan.{path}", **given)


def tested(path: str) -> Place:
    return at(f"tested.{path}")


PLACES: dict[str, Place] = {
    # ---- SOLVER
    "SOLVER.BASE_LR": schedule("base_lr"),
    "SOLVER.LR_POLICY": schedule("lr_policy"),
    "SOLVER.GAMMA": schedule("gamma"),
    "SOLVER.STEPS": schedule("steps"),
    "SOLVER.STEP_SIZE": schedule("step_size"),
    "SOLVER.LRS": schedule("lrs"),
    "SOLVER.LR_FINAL_FRACTION": schedule("lr_final_fraction"),
    "SOLVER.POLY_POWER": schedule("poly_power"),
    "SOLVER.ONE_CYCLE_PEAK": schedule("one_cycle_peak"),
    "SOLVER.WARM_UP_METHOD": schedule("warm_up_method"),
    "SOLVER.WARM_UP_ITERS": schedule("warm_up_iters"),
    "SOLVER.WARM_UP_FACTOR": schedule("warm_up_factor"),
    "SOLVER.OPTIMIZER": at("solver.optimizer", take=forms.optimizer),
    "SOLVER.CLIP_GRADIENT_NORM": at("solver.clip_gradient_norm"),
    "SOLVER.SCALE_MOMENTUM": at("solver.scale_momentum"),
    "SOLVER.SCALE_MOMENTUM_THRESHOLD": at("solver.scale_momentum_threshold"),
    "SOLVER.WEIGHT_DECAY": group_of("weight_decay", of="weight"),
    "SOLVER.WEIGHT_DECAY_GN": group_of("weight_decay", of="norm"),
    "SOLVER.BIAS_LR_FACTOR": group_of("lr_factor", of="bias"),
    "SOLVER.MOMENTUM": group_of("momentum"),
    "SOLVER.NESTEROV": group_of("nesterov"),
    "SOLVER.BETAS": group_of("betas"),
    "SOLVER.EPS": group_of("eps"),
    "SOLVER.RHO": group_of("rho"),
    "SOLVER.ALPHA": group_of("alpha"),
    "SOLVER.EMA_DECAY": at("average", take=lambda average: 0.0 if average is None else average.decay),
    # ---- data
    "TRAIN.IMS_PER_BATCH": at("loader.specs.batch_size", "loader.batch_size"),
    "TRAIN.SCALES": augmentation("scales"),
    "TRAIN.MAX_SIZE": augmentation("max_size"),
    "TRAIN.USE_FLIPPED": augmentation("flips"),
    "INPUT.CROP_MIN_FRACTION": augmentation("crop_min_fraction"),
    "INPUT.BRIGHTNESS": augmentation("strengths.0"),
    "INPUT.CONTRAST": augmentation("strengths.1"),
    "INPUT.SATURATION": augmentation("strengths.2"),
    "CLASSIFIER.SHIFT": at("loader.warp.shift"),
    "CLASSIFIER.ROTATION": at("loader.warp.rotation"),
    "CLASSIFIER.ZOOM": at("loader.warp.zoom"),
    "CLASSIFIER.ELASTIC": at("loader.warp.elastic"),
    "CLASSIFIER.ELASTIC_SMOOTHNESS": at("loader.warp.smoothness"),
    # ---- the classifier
    "CLASSIFIER.LOSS": at("model.loss"),
    "CLASSIFIER.LABEL_SMOOTHING": at("model.label_smoothing"),
    # ---- the body
    "MODEL.CONV_BODY": at("model.backbone", take=forms.body, same=forms.is_body),
    "RESNETS.RES5_DILATION": at("model.backbone.res5.0.conv2.dilation.0"),
    "RESNETS.NORM": at("model.backbone.stem.conv1.norm", take=forms.norm, same=forms.is_norm),
    "RESNETS.WIDTH_MULTIPLIER": at("model.backbone.stem.conv1.out_channels", same=forms.is_width),
    "GROUP_NORM.NUM_GROUPS": at("model", take=forms.groups, same=forms.is_groups),
    "TRAIN.FREEZE_CONV_BODY": at("model.backbone.freeze_all"),
    "TRAIN.FREEZE_AT": at("model.backbone.freeze_at"),
    "FPN.DIM": at("model.backbone.fpn.dim"),
    "FPN.USE_GN": at("model.backbone.fpn.lateral5.norm", take=is_there),
    # ---- the proposal network
    "FPN.RPN_MIN_LEVEL": at("model.rpn.anchors.levels.0", "model.anchors.levels.0"),
    "FPN.RPN_MAX_LEVEL": at("model.rpn.anchors.levels", "model.anchors.levels", take=max),
    "FPN.RPN_ASPECT_RATIOS": at("model.rpn.anchors", take=forms.ratios, same=about),
    "FPN.RPN_ANCHOR_START_SIZE": at("model.rpn.anchors", take=forms.smallest, same=about),
    "RPN.ASPECT_RATIOS": at("model.rpn.anchors", take=forms.ratios, same=about),
    "RPN.SIZES": at("model.rpn.anchors", take=forms.sizes, same=about),
    "RPN.NUM_CONVS": at("model.rpn.further_convs", take=lambda further: 1 + len(further)),
    "RPN.BOX_LOSS": at("model.rpn.sampling.box_loss"),
    "RPN.SMOOTH_L1_BETA": at("model.rpn.sampling.beta", same=forms.is_beta),
    "TRAIN.RPN_POSITIVE_OVERLAP": at("model.rpn.sampling.high"),
    "TRAIN.RPN_NEGATIVE_OVERLAP": at("model.rpn.sampling.low"),
    "TRAIN.RPN_FG_FRACTION": at("model.rpn.sampling.fg_fraction"),
    "TRAIN.RPN_BATCH_SIZE_PER_IM": at("model.rpn.sampling.batch_size"),
    "TRAIN.RPN_STRADDLE_THRESH": at("model.rpn.sampling.straddle"),
    "TRAIN.RPN_NMS_THRESH": at("model.rpn.train_rule.nms_thresh"),
    "TRAIN.RPN_PRE_NMS_TOP_N": at("model.rpn.train_rule.pre_nms_top_n"),
    "TRAIN.RPN_POST_NMS_TOP_N": at("model.rpn.train_rule.post_nms_top_n"),
    "TRAIN.RPN_MIN_SIZE": at("model.rpn.train_rule.min_size", same=forms.at_least),
    "TEST.RPN_NMS_THRESH": at("model.rpn.test_rule.nms_thresh"),
    "TEST.RPN_PRE_NMS_TOP_N": at("model.rpn.test_rule.pre_nms_top_n"),
    "TEST.RPN_POST_NMS_TOP_N": at("model.rpn.test_rule.post_nms_top_n"),
    "TEST.RPN_MIN_SIZE": at("model.rpn.test_rule.min_size", same=forms.at_least),
    # ---- the heads on regions
    "MODEL.CLS_AGNOSTIC_BBOX_REG": box_heads("agnostic"),
    "MODEL.CASCADE_ON": at("model.box_head", take=lambda head: hasattr(head, "stages")),
    "CASCADE.IOUS": at("model.box_head.ious"),
    "FAST_RCNN.ROI_BOX_HEAD": at("model.box_head", take=forms.box_head, same=forms.is_box_head),
    "FAST_RCNN.MLP_HEAD_DIM": box_heads("fc1.out_features"),
    "FAST_RCNN.CONV_HEAD_DIM": box_heads("conv1.out_channels"),
    "FAST_RCNN.NUM_STACKED_CONVS": box_heads("num_convs"),
    "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO": at("model.box_pooler.sampling_ratio"),
    "FAST_RCNN.ROI_XFORM_RESOLUTION": at("model.box_pooler.resolution"),
    "FAST_RCNN.BOX_LOSS": box_heads("box_loss"),
    "FAST_RCNN.SMOOTH_L1_BETA": box_heads("beta", same=forms.is_beta),
    "FPN.ROI_CANONICAL_SCALE": at("model.box_pooler.rule.canonical_scale"),
    "RFCN.PS_GRID_SIZE": at("model.box_pooler.grid"),
    "TRAIN.BATCH_SIZE_PER_IM": at("model.region_sampling.batch_size"),
    "TRAIN.FG_FRACTION": at("model.region_sampling.fg_fraction"),
    "TRAIN.FG_THRESH": at("model.region_sampling.fg_thresh"),
    "TRAIN.BG_THRESH_HI": at("model.region_sampling.bg_thresh_hi"),
    "TRAIN.BG_THRESH_LO": at("model.region_sampling.bg_thresh_lo"),
    "TRAIN.BBOX_THRESH": at("model.region_sampling.box_thresh"),
    "TRAIN.CROWD_FILTER_THRESH": at("model.region_sampling.crowd_overlap", same=forms.is_crowd_overlap),
    "MRCNN.ROI_XFORM_RESOLUTION": at("model.mask_pooler.resolution"),
    "MRCNN.ROI_XFORM_SAMPLING_RATIO": at("model.mask_pooler.sampling_ratio"),
    "MRCNN.DIM_REDUCED": at("model.mask_head.upsample.out_channels"),
    "MRCNN.DILATION": at("model.mask_head.conv1.dilation.0", "model.mask_head.res5.0.conv2.dilation.0"),
    "MRCNN.CLS_SPECIFIC_MASK": at("model.mask_head.class_specific"),
    "MRCNN.WEIGHT_LOSS_MASK": at("model.mask_head.loss_weight"),
    "KRCNN.NUM_STACKED_CONVS": at("model.keypoint_head.num_convs"),
    "KRCNN.CONV_HEAD_DIM": at("model.keypoint_head.conv1.out_channels"),
    "KRCNN.CONV_HEAD_KERNEL": at("model.keypoint_head.conv1.kernel_size.0"),
    "KRCNN.ROI_XFORM_RESOLUTION": at("model.keypoint_pooler.resolution"),
    "KRCNN.ROI_XFORM_SAMPLING_RATIO": at("model.keypoint_pooler.sampling_ratio"),
    "KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH": at("model.keypoint_head.min_visible"),
    "KRCNN.LOSS_WEIGHT": at("model.keypoint_head.loss_weight"),
    "KRCNN.NORMALIZE_BY_VISIBLE_KEYPOINTS": at(
        "model.keypoint_head.normalizer_per_image", take=lambda number: number == 0
    ),
    "KRCNN.NMS_OKS": at("model.pose_rule.oks_thresh", take=lambda overlap: overlap < 1),
    # ---- RetinaNet
    "RETINANET.ASPECT_RATIOS": at("model.anchors", take=forms.ratios, same=about),
    "RETINANET.SCALES_PER_OCTAVE": at("model.anchors", take=lambda grid: len(forms.sizes(grid))),
    "RETINANET.ANCHOR_SCALE": at("model.anchors", take=forms.scale, same=about),
    "RETINANET.NUM_CONVS": at("model.head.num_convs"),
    "RETINANET.USE_GN": at("model.head.cls_conv1.norm", take=is_there),
    "RETINANET.SHARE_CLS_BBOX_TOWER": at("model.head.shared_tower"),
    "RETINANET.BBOX_REG_WEIGHT": at("model.focal_rule.box_weight"),
    "RETINANET.BOX_LOSS": at("model.focal_rule.box_loss"),
    "RETINANET.BBOX_REG_BETA": at("model.focal_rule.beta"),
    "RETINANET.POSITIVE_OVERLAP": at("model.focal_rule.positive_overlap"),
    "RETINANET.NEGATIVE_OVERLAP": at("model.focal_rule.negative_overlap"),
    "RETINANET.LOSS_ALPHA": at("model.focal_rule.alpha"),
    "RETINANET.LOSS_GAMMA": at("model.focal_rule.gamma"),
    "RETINANET.PRE_NMS_TOP_N": at("model.detection_rule.pre_nms_top_n"),
    "RETINANET.INFERENCE_TH": at("model.detection_rule.score_thresh"),
    # ---- tests
    "TEST.SCORE_THRESH": at("model.detection_rule.score_thresh"),
    "TEST.NMS": at("model.detection_rule.nms_thresh"),
    "TEST.DETECTIONS_PER_IM": at("model.detection_rule.max_detections"),
    "TEST.SOFT_NMS.ENABLED": at("model.detection_rule.soft", take=is_there),
    "TEST.SOFT_NMS.METHOD": at("model.detection_rule.soft.method"),
    "TEST.SOFT_NMS.SIGMA": at("model.detection_rule.soft.sigma"),
    "TEST.BBOX_VOTE.ENABLED": at("model.detection_rule.voting", take=is_there),
    "TEST.BBOX_VOTE.VOTE_TH": at("model.detection_rule.voting.thresh"),
    "TEST.BBOX_VOTE.SCORING_METHOD": at("model.detection_rule.voting.scoring_method"),
    "TEST.BBOX_VOTE.SCORING_METHOD_BETA": at("model.detection_rule.voting.beta"),
    "TEST.SCALE": tested("loader.specs.0.0.move.short_side"),
    "TEST.MAX_SIZE": tested("loader.specs.0.0.move.max_size"),
    "MRCNN.THRESH_BINARIZE": tested("predictor.mask_thresh"),
    "KRCNN.KEYPOINT_CONFIDENCE": tested("predictor.keypoint_confidence"),
    "TEST.BBOX_AUG.SCORE_HEUR": plan("boxes.scores", take=forms.BOX_MERGES.get),
    "TEST.BBOX_AUG.COORD_HEUR": plan("boxes.coordinates", take=forms.BOX_MERGES.get),
    "TEST.BBOX_AUG.H_FLIP": plan("boxes.views", take=forms.mirrored_once),
    "TEST.BBOX_AUG.SCALES": plan("boxes.views", take=forms.scales),
    "TEST.BBOX_AUG.SCALE_H_FLIP": plan("boxes.views", take=forms.mirrored_scales),
    "TEST.MASK_AUG.HEUR": plan("masks.how", take=forms.MASK_MERGES.get),
    "TEST.MASK_AUG.H_FLIP": plan("masks.views", take=forms.mirrored_once),
    "TEST.MASK_AUG.SCALES": plan("masks.views", take=forms.scales),
    "TEST.MASK_AUG.SCALE_H_FLIP": plan("masks.views", take=forms.mirrored_scales),
    "TEST.MASK_AUG.SCALE_SIZE_DEP": plan("masks.sizes", take=is_there),
    "TEST.MASK_AUG.AREA_TH": plan("masks.sizes.low"),
    "TEST.KPS_AUG.HEUR": plan("keypoints.how", take=forms.KEYPOINT_MERGES.get),
    "TEST.KPS_AUG.H_FLIP": plan("keypoints.views", take=forms.mirrored_once),
    "TEST.KPS_AUG.SCALES": plan("keypoints.views", take=forms.scales),
    "TEST.KPS_AUG.SCALE_H_FLIP": plan("keypoints.views", take=forms.mirrored_scales),
    "TEST.KPS_AUG.SCALE_SIZE_DEP": plan("keypoints.sizes", take=is_there),
    "TEST.KPS_AUG.AREA_TH": plan("keypoints.sizes.low"),
}

WITHOUT_PLACE: dict[str, str] = {
    "CLASSIFIER.INIT": "shows in fresh weights alone, which a checkpoint or TRAIN.WEIGHTS replaces",
    "FPN.ZERO_INIT_LATERAL": "shows in fresh weights alone, which a checkpoint or TRAIN.WEIGHTS replaces",
    "RETINANET.PRIOR_PROB": "shows in fresh weights alone, which a checkpoint or TRAIN.WEIGHTS replaces",
    "TRAIN.GT_MIN_AREA": "is applied while annotations are read; what is left does not say by which number",
    "TEST.PROPOSAL_LIMIT": "is applied while proposals are read; what is left does not say by which number",
}
"""Keys with a range that leave no number behind, and why: that they are read is all that can be seen."""

RESCALED = ("SOLVER.BASE_LR", "SOLVER.STEPS", "SOLVER.STEP_SIZE", "SOLVER.WARM_UP_ITERS", "SOLVER.LRS")
"""Keys that SOLVER.REFERENCE_BATCH scales to the batch: their place holds another value on purpose."""
