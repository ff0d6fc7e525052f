"""From the configuration to the detectors that look at regions: R-CNN in all its forms, R-FCN, and the RPN alone."""

from __future__ import annotations

from typing import Any, NamedTuple

from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.models.box_head import BoxHead, StageBoxHead
from detectune.models.build_bodies import Body, build_body, has_levels
from detectune.models.build_heads import (
    build_box_head,
    build_keypoint_head,
    build_mask_head,
    build_pose_rule,
    shares_stage,
)
from detectune.models.build_parts import (
    count_classes,
    count_keypoints,
    crowd_overlap,
    rgb,
    unsupported,
)
from detectune.models.build_rules import build_detection_rule, build_proposal_rule, proposal_clipping
from detectune.models.cascade import CascadeHead
from detectune.models.geometry import Geometry
from detectune.models.proposal_network import ProposalNetwork
from detectune.models.rcnn import RCNN
from detectune.models.rfcn import ScoreMapPooler, VotingBoxHead
from detectune.models.roi_pooler import CropMethod, LevelRule, RoiPooler
from detectune.models.rpn import Rpn, RpnSampling
from detectune.models.targets import RegionSampling
from detectune.ops.anchors import cell_anchors

CROP_METHODS: dict[str, CropMethod] = {"RoIAlign": "align", "RoIAlignUnshifted": "align", "RoIPoolF": "max"}


class Levels(NamedTuple):
    """Which levels of the body a part looks at, finest and coarsest."""

    min: int
    max: int


def build_proposal_network(config: Config, geometry: Geometry) -> ProposalNetwork:
    """The RPN alone (MODEL.RPN_ONLY)."""
    levels = _rpn_levels(config)
    body = build_body(config, levels=levels)
    return ProposalNetwork(body.module, _rpn(config, geometry, body, levels), **_pixels(config, geometry))


def build_rcnn(
    config: Config, geometry: Geometry, num_classes: int | None, num_keypoints: int | None
) -> RCNN:
    """Fast and Faster R-CNN, with masks if MODEL.MASK_ON and keypoints if MODEL.KEYPOINTS_ON, Cascade R-CNN and R-FCN.

    `num_classes` and `num_keypoints` are the data set's.
    """
    num_classes = count_classes(config, num_classes)
    rpn_levels = _rpn_levels(config) if config.MODEL.FASTER_RCNN else None
    roi_levels = _roi_levels(config)
    used = [levels for levels in (rpn_levels, roi_levels) if levels is not None]
    body = build_body(
        config,
        levels=(min(levels.min for levels in used), max(levels.max for levels in used)) if used else None,
    )
    roi_levels = roi_levels or _only_level(body)
    rpn = _rpn(config, geometry, body, rpn_levels) if config.MODEL.FASTER_RCNN else None
    pooler, head = _box_parts(config, geometry, body, roi_levels, num_classes)
    mask_pooler = mask_head = None
    if config.MODEL.MASK_ON:
        mask_head = build_mask_head(config, geometry, body.channels[roi_levels.min], head, num_classes)
        if not shares_stage(config):
            mask_pooler = _pooler(
                config.MRCNN, "MRCNN", config, geometry, body, roi_levels, config.MRCNN.ROI_XFORM_RESOLUTION
            )
    num_points, keypoint_pooler, keypoint_head = 0, None, None
    if config.MODEL.KEYPOINTS_ON:
        num_points = count_keypoints(config, num_keypoints)
        keypoint_pooler = _pooler(
            config.KRCNN, "KRCNN", config, geometry, body, roi_levels, config.KRCNN.ROI_XFORM_RESOLUTION
        )
        keypoint_head = build_keypoint_head(config, geometry, body.channels[roi_levels.min], num_points)
    return RCNN(
        body.module,
        rpn,
        pooler,
        head,
        mask_pooler,
        mask_head,
        keypoint_pooler,
        keypoint_head,
        region_sampling=_region_sampling(config, geometry),
        detection_rule=build_detection_rule(config, geometry),
        dedup_scale=config.DEDUP_BOXES,
        pose_rule=build_pose_rule(config, geometry, num_points),
        keypoints_drawn_apart=geometry.keypoints_drawn_apart,
        **_pixels(config, geometry),
    )


def _pixels(config: Config, geometry: Geometry) -> dict[str, Any]:
    return {
        "pixel_mean": rgb(config.PIXEL_MEANS[0][0]),
        "pixel_std": rgb(config.INPUT.PIXEL_STDS),
        "clip_proposals_to": proposal_clipping(config, geometry),
    }


def _rpn_levels(config: Config) -> Levels | None:
    """None where the body has one level only."""
    fpn = config.FPN
    if not has_levels(config):
        return None
    if fpn.MULTILEVEL_RPN:
        return Levels(fpn.RPN_MIN_LEVEL, fpn.RPN_MAX_LEVEL)
    strides = [2**level for level in range(2, 7)]
    if config.RPN.STRIDE not in strides:
        raise UserError(
            f"RPN.STRIDE is {config.RPN.STRIDE}, but the levels of the pyramid have the strides "
            f"{', '.join(map(str, strides))}; take one of those, or set FPN.MULTILEVEL_RPN to True."
        )
    level = 2 + strides.index(config.RPN.STRIDE)
    return Levels(level, level)


def _roi_levels(config: Config) -> Levels | None:
    """None where the body has one level only."""
    fpn = config.FPN
    if not has_levels(config):
        return None
    return Levels(fpn.ROI_MIN_LEVEL, fpn.ROI_MAX_LEVEL if fpn.MULTILEVEL_ROIS else fpn.ROI_MIN_LEVEL)


def _only_level(body: Body) -> Levels:
    (level,) = body.channels
    return Levels(level, level)


def _rpn(config: Config, geometry: Geometry, body: Body, levels: Levels | None) -> Rpn:
    pyramid, train = config.FPN, config.TRAIN
    several = levels is not None and pyramid.MULTILEVEL_RPN
    finest, coarsest = levels or _only_level(body)
    if not several and body.strides[finest] != config.RPN.STRIDE:
        raise UserError(
            f"RPN.STRIDE is {config.RPN.STRIDE} but the features of MODEL.CONV_BODY {config.MODEL.CONV_BODY} have a "
            f"stride of {body.strides[finest]}; set RPN.STRIDE to {body.strides[finest]}."
        )
    sizes: dict[int, tuple[int, ...]] = {finest: config.RPN.SIZES}
    if several:
        start = pyramid.RPN_ANCHOR_START_SIZE
        sizes = {level: (start * 2 ** (level - finest),) for level in range(finest, coarsest + 1)}
    cells = {
        level: cell_anchors(
            stride=body.strides[level],
            sizes=sizes[level],
            aspect_ratios=pyramid.RPN_ASPECT_RATIOS if several else config.RPN.ASPECT_RATIOS,
            rounding=geometry.anchor_rounding,
        )
        for level in sizes
    }

    sampling = RpnSampling(
        batch_size=train.RPN_BATCH_SIZE_PER_IM,
        fg_fraction=train.RPN_FG_FRACTION,
        high=train.RPN_POSITIVE_OVERLAP,
        low=train.RPN_NEGATIVE_OVERLAP,
        straddle=float(train.RPN_STRADDLE_THRESH),
        crowd_overlap=crowd_overlap(config) if geometry.crowd_anchors_ignored else 1.0,
        promoted_as_background=geometry.promoted_as_background,
        cls_normalizer=geometry.rpn_cls_normalizer if several else geometry.rpn_cls_normalizer_one_level,
        box_normalizer=geometry.rpn_box_normalizer,
        box_loss=config.RPN.BOX_LOSS,
        beta=geometry.rpn_beta if config.RPN.SMOOTH_L1_BETA < 0 else config.RPN.SMOOTH_L1_BETA,
    )
    channels = body.channels[finest]
    return Rpn(
        channels,
        dim=channels,
        num_convs=config.RPN.NUM_CONVS,
        cells=cells,
        strides=body.strides,
        train_rule=build_proposal_rule(train, geometry),
        test_rule=build_proposal_rule(config.TEST, geometry),
        sampling=sampling,
        offset=geometry.offset,
        grid_stride=geometry.anchor_stride,
        delta_clip=config.BBOX_XFORM_CLIP,
    )


def _box_parts(
    config: Config, geometry: Geometry, body: Body, levels: Levels, num_classes: int
) -> tuple[RoiPooler | ScoreMapPooler, BoxHead | StageBoxHead | VotingBoxHead | CascadeHead]:
    channels = body.channels[levels.min]
    beta = config.FAST_RCNN.SMOOTH_L1_BETA
    learning: dict[str, Any] = {
        "num_classes": num_classes,
        "agnostic": config.MODEL.CLS_AGNOSTIC_BBOX_REG,
        "box_weights": tuple(config.MODEL.BBOX_REG_WEIGHTS),
        "box_loss": config.FAST_RCNN.BOX_LOSS,
        "beta": geometry.box_beta if beta < 0 else beta,
        "offset": geometry.offset,
        "delta_clip": config.BBOX_XFORM_CLIP,
    }
    if config.MODEL.TYPE == "rfcn":
        score_maps = ScoreMapPooler(
            channels,
            level=levels.min,
            stride=body.strides[levels.min],
            grid=config.RFCN.PS_GRID_SIZE,
            num_classes=num_classes,
            agnostic=config.MODEL.CLS_AGNOSTIC_BBOX_REG,
            offset=geometry.offset,
        )
        return score_maps, VotingBoxHead(**learning)
    head: BoxHead | StageBoxHead | CascadeHead
    if config.MODEL.CASCADE_ON:
        stages = []
        for weights in config.CASCADE.BBOX_REG_WEIGHTS:
            stage, resolution = build_box_head(config, channels, learning | {"box_weights": tuple(weights)})
            if not isinstance(stage, BoxHead):
                raise UserError(
                    "MODEL.CASCADE_ON needs a box head of its own layers, not the network's fifth stage: set "
                    "FAST_RCNN.ROI_BOX_HEAD to fast_rcnn_heads.add_roi_2mlp_head."
                )
            stages.append(stage)
        head = CascadeHead(stages, ious=config.CASCADE.IOUS, offset=geometry.offset)
    else:
        head, resolution = build_box_head(config, channels, learning)
    pooler = _pooler(config.FAST_RCNN, "FAST_RCNN", config, geometry, body, levels, resolution)
    return pooler, head


def _pooler(
    section, name: str, config: Config, geometry: Geometry, body: Body, levels: Levels, resolution: int
) -> RoiPooler:
    """`section` is FAST_RCNN, MRCNN or KRCNN, and `name` its name."""
    method = section.ROI_XFORM_METHOD
    if method not in CROP_METHODS:
        raise unsupported(f"{name}.ROI_XFORM_METHOD", method, CROP_METHODS)
    rule = LevelRule(
        min_level=levels.min,
        max_level=levels.max,
        canonical_scale=config.FPN.ROI_CANONICAL_SCALE,
        canonical_level=config.FPN.ROI_CANONICAL_LEVEL,
        offset=geometry.offset,
        eps_inside_log=geometry.level_eps_inside_log,
        eps_outside_log=geometry.level_eps_outside_log,
    )
    return RoiPooler(
        body.strides,
        rule,
        resolution=resolution,
        sampling_ratio=section.ROI_XFORM_SAMPLING_RATIO,
        aligned=geometry.roi_aligned and method != "RoIAlignUnshifted",
        method=CROP_METHODS[method],
    )


def _region_sampling(config: Config, geometry: Geometry) -> RegionSampling:
    train = config.TRAIN
    return RegionSampling(
        batch_size=train.BATCH_SIZE_PER_IM,
        fg_fraction=train.FG_FRACTION,
        fg_thresh=train.FG_THRESH,
        bg_thresh_hi=train.BG_THRESH_HI,
        bg_thresh_lo=train.BG_THRESH_LO,
        crowd_overlap=crowd_overlap(config),
        box_thresh=0.0 if config.MODEL.FASTER_RCNN else train.BBOX_THRESH,
        offset=geometry.offset,
        original_frame=geometry.heads_in_original_frame,
    )
