"""The one file of `models/` that reads the configuration: from keys to a detector, as a table of parts.

Where Detectron, detectron2 and torchvision disagree in geometry, `geometry.py` has a column of numbers for each; the
parts themselves take those numbers and know nothing about dialects.
"""

from __future__ import annotations

import re

from torch import nn

from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.models.box_head import BoxHead
from detectune.models.build_retinanet import build_retinanet
from detectune.models.cascade import CascadeHead
from detectune.models.detections import DetectionRule, SoftSuppression, Voting
from detectune.models.fpn import ExtraLevels, Fpn
from detectune.models.geometry import GEOMETRIES, Geometry
from detectune.models.keypoint_head import KeypointHead, PoseRule
from detectune.models.layers import NormFactory, batch_norm, frozen_affine, gaussian, group_norm, msra, xavier
from detectune.models.mask_head import MaskHead
from detectune.models.rcnn import RCNN
from detectune.models.resnet import DEPTHS, ResNet, Widths, body_channels, make_stage
from detectune.models.retinanet import RetinaNet
from detectune.models.roi_pooler import LevelRule, RoiPooler
from detectune.models.rpn import ProposalRule, Rpn, RpnSampling
from detectune.models.targets import RegionSampling
from detectune.models.timm_body import TimmBody, level_channels, load_features
from detectune.ops.anchors import cell_anchors
from detectune.ops.keypoints import keypoint_sigmas

_CONV_BODY = re.compile(r"^FPN\.add_fpn_ResNet(\d+)_conv5_body$")

_TIMM = "timm/"  # before the name of a model of timm

_DEPTH = re.compile(r"ResNet(\d+)_")

_OKS_THRESH = 0.3  # Detectron's for KRCNN.NMS_OKS

_BOX_HEADS = {  # name -> (convolutions as NUM_STACKED_CONVS, fully connected layers, group norm)
    "fast_rcnn_heads.add_roi_2mlp_head": (False, 2, False),
    "fast_rcnn_heads.add_roi_Xconv1fc_head": (True, 1, False),
    "fast_rcnn_heads.add_roi_Xconv1fc_gn_head": (True, 1, True),
}

_MASK_HEADS = {  # name -> (convolutions, group norm)
    "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs": (4, False),
    "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs_gn": (4, True),
    "mask_rcnn_heads.mask_rcnn_fcn_head_v1up": (2, False),
}

_KEYPOINT_HEADS = {  # name -> made of the network's fifth stage
    "keypoint_rcnn_heads.add_roi_pose_head_v1convX": False,
    "keypoint_rcnn_heads.add_ResNet_roi_conv5_head_for_keypoints": True,
}


def build_detector(
    config: Config, *, num_classes: int | None = None, num_keypoints: int | None = None
) -> RCNN | RetinaNet:
    """The detector that the configuration describes, with fresh weights.

    Args:
        config: the whole tree.
        num_classes: classes of the data set, background included, for MODEL.NUM_CLASSES -1; must agree otherwise.
        num_keypoints: keypoints of the data set's objects, for KRCNN.NUM_KEYPOINTS -1; must agree otherwise.
    """
    if config.RETINANET.RETINANET_ON:
        _check_body(config)
        body, pyramid = _backbone(config, (config.FPN.RPN_MIN_LEVEL, config.FPN.RPN_MAX_LEVEL))
        return build_retinanet(config, body, pyramid, num_classes=_num_classes(config, num_classes))
    _refuse_unsupported(config)
    geometry = GEOMETRIES[config.MODEL.GEOMETRY]
    classes = _num_classes(config, num_classes)
    backbone, fpn = _backbone(config)
    has_masks, has_keypoints = config.MODEL.MASK_ON, config.MODEL.KEYPOINTS_ON
    points = _num_keypoints(config, num_keypoints) if has_keypoints else 0
    return RCNN(
        backbone,
        _rpn(config, geometry, fpn),
        _pooler(config.FAST_RCNN, config, geometry, fpn),
        _cascade_head(config, geometry, fpn, classes)
        if config.MODEL.CASCADE_ON
        else _box_head(config, geometry, fpn, classes, tuple(config.MODEL.BBOX_REG_WEIGHTS)),
        _pooler(config.MRCNN, config, geometry, fpn) if has_masks else None,
        _mask_head(config, geometry, fpn, classes) if has_masks else None,
        _pooler(config.KRCNN, config, geometry, fpn) if has_keypoints else None,
        _keypoint_head(config, geometry, fpn.dim, points) if has_keypoints else None,
        region_sampling=_region_sampling(config, geometry),
        detection_rule=_detection_rule(config, geometry),
        pose_rule=_pose_rule(config, geometry, points),
        keypoints_drawn_apart=geometry.keypoints_drawn_apart,
        pixel_mean=_rgb(config.PIXEL_MEANS[0][0]),
        pixel_std=_rgb(config.INPUT.PIXEL_STDS),
        clip_proposals_to=config.FPN.COARSEST_STRIDE if geometry.clip_proposals_to_padding else 1,
    )


def _check_body(config: Config) -> None:
    model = config.MODEL
    if model.GEOMETRY not in GEOMETRIES:
        raise _unsupported("MODEL.GEOMETRY", model.GEOMETRY, GEOMETRIES)
    match = _CONV_BODY.match(model.CONV_BODY)
    if not model.CONV_BODY.startswith(_TIMM) and (match is None or int(match[1]) not in DEPTHS):
        bodies = [*(f"FPN.add_fpn_ResNet{depth}_conv5_body" for depth in DEPTHS), f"{_TIMM}NAME"]
        raise _unsupported("MODEL.CONV_BODY", model.CONV_BODY, bodies)


def _refuse_unsupported(config: Config) -> None:
    model = config.MODEL
    if model.TYPE != "generalized_rcnn" or not model.FASTER_RCNN or model.RPN_ONLY:
        raise UserError(
            f"This model cannot be built yet: MODEL.TYPE {model.TYPE!r}, MODEL.FASTER_RCNN {model.FASTER_RCNN}, "
            f"MODEL.RPN_ONLY {model.RPN_ONLY}. Supported: Faster, Mask and Keypoint R-CNN, that is TYPE "
            "generalized_rcnn, FASTER_RCNN True, RPN_ONLY False, MASK_ON and KEYPOINTS_ON as you like; and RetinaNet, "
            "that is TYPE retinanet and RETINANET.RETINANET_ON True."
        )
    _check_body(config)
    if not (config.FPN.FPN_ON and config.FPN.MULTILEVEL_ROIS and config.FPN.MULTILEVEL_RPN):
        raise UserError(
            "A pyramid body needs FPN.FPN_ON, FPN.MULTILEVEL_ROIS and FPN.MULTILEVEL_RPN to be True; models without "
            "a pyramid cannot be built yet."
        )
    if config.FAST_RCNN.ROI_BOX_HEAD not in _BOX_HEADS:
        raise _unsupported("FAST_RCNN.ROI_BOX_HEAD", config.FAST_RCNN.ROI_BOX_HEAD, _BOX_HEADS)
    if config.FAST_RCNN.ROI_XFORM_METHOD != "RoIAlign":
        raise _unsupported("FAST_RCNN.ROI_XFORM_METHOD", config.FAST_RCNN.ROI_XFORM_METHOD, ["RoIAlign"])
    if model.KEYPOINTS_ON:
        _refuse_unsupported_keypoints(config)
    if not model.MASK_ON:
        return
    if config.MRCNN.ROI_MASK_HEAD not in _MASK_HEADS:
        raise _unsupported("MRCNN.ROI_MASK_HEAD", config.MRCNN.ROI_MASK_HEAD, _MASK_HEADS)
    if config.MRCNN.ROI_XFORM_METHOD != "RoIAlign":
        raise _unsupported("MRCNN.ROI_XFORM_METHOD", config.MRCNN.ROI_XFORM_METHOD, ["RoIAlign"])
    if config.MRCNN.USE_FC_OUTPUT:
        raise _unsupported("MRCNN.USE_FC_OUTPUT", True, [False])
    ratio = config.MRCNN.UPSAMPLE_RATIO
    if ratio > 1 and ratio % 2:
        raise UserError(f"MRCNN.UPSAMPLE_RATIO is {ratio}; it must be 1 or even.")
    side = 2 * config.MRCNN.ROI_XFORM_RESOLUTION * ratio
    if side != config.MRCNN.RESOLUTION:
        raise UserError(
            f"MRCNN.RESOLUTION is {config.MRCNN.RESOLUTION} but the mask head's output has {side} (2 x MRCNN.ROI_XFORM_"
            f"RESOLUTION {config.MRCNN.ROI_XFORM_RESOLUTION} x MRCNN.UPSAMPLE_RATIO {ratio}); set it to {side}."
        )


def _refuse_unsupported_keypoints(config: Config) -> None:
    head = config.KRCNN
    if head.ROI_KEYPOINTS_HEAD not in _KEYPOINT_HEADS:
        raise _unsupported("KRCNN.ROI_KEYPOINTS_HEAD", head.ROI_KEYPOINTS_HEAD, _KEYPOINT_HEADS)
    if head.ROI_XFORM_METHOD != "RoIAlign":
        raise _unsupported("KRCNN.ROI_XFORM_METHOD", head.ROI_XFORM_METHOD, ["RoIAlign"])


def _unsupported(key: str, value: object, supported) -> UserError:
    names = ", ".join(str(name) for name in supported)
    return UserError(f"{key} {value!r} cannot be built yet. Supported: {names}.")


def _num_classes(config: Config, num_classes: int | None) -> int:
    wanted = config.MODEL.NUM_CLASSES
    if wanted <= 0:
        if num_classes is None:
            raise UserError(
                "MODEL.NUM_CLASSES is -1, which takes the number from the data set, but no data set is known here; "
                "set it to the number of classes plus one for the background."
            )
        return num_classes
    if num_classes is not None and num_classes != wanted:
        raise UserError(
            f"MODEL.NUM_CLASSES is {wanted} but the data set has {num_classes - 1} classes, which with the background "
            f"makes {num_classes}; set it to {num_classes}, or to -1 to take it from the data set."
        )
    return wanted


def _num_keypoints(config: Config, num_keypoints: int | None) -> int:
    wanted = config.KRCNN.NUM_KEYPOINTS
    if wanted <= 0:
        if num_keypoints is None:
            raise UserError(
                "KRCNN.NUM_KEYPOINTS is -1, which takes the number from the data set, but no data set is known here; "
                "set it to the number of keypoints of an object."
            )
        return num_keypoints
    if num_keypoints is not None and num_keypoints != wanted:
        raise UserError(
            f"KRCNN.NUM_KEYPOINTS is {wanted} but the objects of the data set have {num_keypoints} keypoints; set it "
            f"to {num_keypoints}, or to -1 to take it from the data set."
        )
    return wanted


def _rgb(bgr) -> tuple[float, ...]:
    return tuple(float(v) for v in reversed(tuple(bgr)))


def _group_norm(config: Config) -> NormFactory:
    sizes = config.GROUP_NORM
    return group_norm(sizes.NUM_GROUPS, sizes.DIM_PER_GP, sizes.EPSILON)


def _body_norm(config: Config) -> tuple[str, NormFactory]:
    resnet = config.RESNETS
    kind = resnet.NORM
    if kind == "auto":
        functions = (resnet.STEM_FUNC, resnet.TRANS_FUNC, resnet.SHORTCUT_FUNC)
        kind = "group" if any("_gn" in function for function in functions) else "frozen"
    return kind, {"frozen": frozen_affine, "batch": batch_norm, "group": _group_norm(config)}[kind]


def _timm_backbone(config: Config, levels: tuple[int, int] | None) -> tuple[TimmBody, Fpn]:
    body = load_features(config.MODEL.CONV_BODY.removeprefix(_TIMM))
    fpn = _fpn(config, level_channels(body), levels)
    train = config.TRAIN
    return TimmBody(body, freeze_at=train.FREEZE_AT, freeze_all=train.FREEZE_CONV_BODY, fpn=fpn), fpn


def _fpn(config: Config, channels: dict[int, int], levels: tuple[int, int] | None = None) -> Fpn:
    """`levels`: the finest and the coarsest of the pyramid; by default all that the RPN or the heads use."""
    pyramid = config.FPN
    if levels is None:
        finest = min(pyramid.RPN_MIN_LEVEL, pyramid.ROI_MIN_LEVEL)
        levels = finest, max(pyramid.RPN_MAX_LEVEL, pyramid.ROI_MAX_LEVEL)
    extra: ExtraLevels = "subsample"
    if pyramid.EXTRA_CONV_LEVELS:
        extra = "convs" if pyramid.EXTRA_CONVS_FROM == "body" else "pyramid_convs"
    return Fpn(
        channels,
        dim=pyramid.DIM,
        min_level=levels[0],
        max_level=levels[1],
        norm=_group_norm(config) if pyramid.USE_GN else None,
        zero_init_lateral=pyramid.ZERO_INIT_LATERAL,
        extra=extra,
    )


def _backbone(config: Config, levels: tuple[int, int] | None = None) -> tuple[ResNet | TimmBody, Fpn]:
    if config.MODEL.CONV_BODY.startswith(_TIMM):
        return _timm_backbone(config, levels)
    match = _CONV_BODY.match(config.MODEL.CONV_BODY)
    assert match is not None  # checked by _refuse_unsupported
    depth = int(match[1])
    resnet = config.RESNETS
    kind, norm = _body_norm(config)
    widths = Widths(
        groups=resnet.NUM_GROUPS, width_per_group=resnet.WIDTH_PER_GROUP, multiplier=resnet.WIDTH_MULTIPLIER
    )
    fpn = _fpn(config, body_channels(depth, widths), levels)
    body = ResNet(
        depth,
        norm=norm,
        widths=widths,
        stride_1x1=resnet.STRIDE_1X1,
        res5_dilation=resnet.RES5_DILATION,
        freeze_at=config.TRAIN.FREEZE_AT,
        freeze_all=config.TRAIN.FREEZE_CONV_BODY,
        init=xavier if kind == "frozen" else msra,
        fpn=fpn,
    )
    return body, fpn


def _rpn(config: Config, geometry: Geometry, fpn: Fpn) -> Rpn:
    pyramid, train, test = config.FPN, config.TRAIN, config.TEST
    cells = {
        level: cell_anchors(
            stride=2**level,
            sizes=(pyramid.RPN_ANCHOR_START_SIZE * 2 ** (level - pyramid.RPN_MIN_LEVEL),),
            aspect_ratios=pyramid.RPN_ASPECT_RATIOS,
            rounding=geometry.anchor_rounding,
        )
        for level in range(pyramid.RPN_MIN_LEVEL, pyramid.RPN_MAX_LEVEL + 1)
    }

    def rule(section) -> ProposalRule:
        return ProposalRule(
            pre_nms_top_n=section.RPN_PRE_NMS_TOP_N,
            post_nms_top_n=section.RPN_POST_NMS_TOP_N,
            nms_thresh=section.RPN_NMS_THRESH,
            min_size=max(float(section.RPN_MIN_SIZE), geometry.proposal_min_size),
            min_size_original=geometry.proposal_min_size_original,
            strict_min_size=geometry.proposal_strict,
            centre_inside=geometry.proposal_centre_inside,
        )

    sampling = RpnSampling(
        batch_size=train.RPN_BATCH_SIZE_PER_IM,
        fg_fraction=train.RPN_FG_FRACTION,
        high=train.RPN_POSITIVE_OVERLAP,
        low=train.RPN_NEGATIVE_OVERLAP,
        straddle=float(train.RPN_STRADDLE_THRESH),
        crowd_overlap=train.CROWD_FILTER_THRESH if geometry.crowd_anchors_ignored else 1.0,
        promoted_as_background=geometry.promoted_as_background,
        cls_normalizer=geometry.rpn_cls_normalizer,
        box_normalizer=geometry.rpn_box_normalizer,
        beta=geometry.rpn_beta,
    )
    return Rpn(
        fpn.dim,
        dim=fpn.dim,
        cells=cells,
        strides=fpn.strides,
        train_rule=rule(train),
        test_rule=rule(test),
        sampling=sampling,
        offset=geometry.offset,
        grid_stride=geometry.anchor_stride,
    )


def _pooler(section, config: Config, geometry: Geometry, fpn: Fpn) -> RoiPooler:
    """`section` is FAST_RCNN, MRCNN or KRCNN."""
    rule = LevelRule(
        min_level=config.FPN.ROI_MIN_LEVEL,
        max_level=config.FPN.ROI_MAX_LEVEL,
        canonical_scale=config.FPN.ROI_CANONICAL_SCALE,
        canonical_level=config.FPN.ROI_CANONICAL_LEVEL,
        offset=geometry.offset,
        eps_inside_log=geometry.level_eps_inside_log,
        eps_outside_log=geometry.level_eps_outside_log,
    )
    return RoiPooler(
        fpn.strides,
        rule,
        resolution=section.ROI_XFORM_RESOLUTION,
        sampling_ratio=section.ROI_XFORM_SAMPLING_RATIO,
        aligned=geometry.roi_aligned,
    )


def _cascade_head(config: Config, geometry: Geometry, fpn: Fpn, num_classes: int) -> CascadeHead:
    cascade = config.CASCADE
    stages = [
        _box_head(config, geometry, fpn, num_classes, tuple(weights)) for weights in cascade.BBOX_REG_WEIGHTS
    ]
    return CascadeHead(stages, ious=cascade.IOUS, offset=geometry.offset)


def _box_head(
    config: Config, geometry: Geometry, fpn: Fpn, num_classes: int, box_weights: tuple[float, ...]
) -> BoxHead:
    head = config.FAST_RCNN
    has_convs, num_fcs, with_group_norm = _BOX_HEADS[head.ROI_BOX_HEAD]
    return BoxHead(
        fpn.dim,
        head.ROI_XFORM_RESOLUTION,
        num_classes=num_classes,
        num_convs=head.NUM_STACKED_CONVS if has_convs else 0,
        conv_dim=head.CONV_HEAD_DIM,
        norm=_group_norm(config) if with_group_norm else None,
        num_fcs=num_fcs,
        fc_dim=head.MLP_HEAD_DIM,
        agnostic=config.MODEL.CLS_AGNOSTIC_BBOX_REG,
        box_weights=box_weights,
        beta=geometry.box_beta if head.SMOOTH_L1_BETA < 0 else head.SMOOTH_L1_BETA,
        offset=geometry.offset,
    )


def _mask_head(config: Config, geometry: Geometry, fpn: Fpn, num_classes: int) -> MaskHead:
    head = config.MRCNN
    num_convs, with_group_norm = _MASK_HEADS[head.ROI_MASK_HEAD]
    init = {"MSRAFill": msra, "XavierFill": xavier, "GaussianFill": gaussian(0.001)}.get(head.CONV_INIT)
    if init is None:
        raise _unsupported("MRCNN.CONV_INIT", head.CONV_INIT, ["MSRAFill", "XavierFill", "GaussianFill"])
    return MaskHead(
        fpn.dim,
        num_classes=num_classes,
        num_convs=num_convs,
        dim=head.DIM_REDUCED,
        dilation=head.DILATION,
        norm=_group_norm(config) if with_group_norm else None,
        init=init,
        predictor_init=init if head.CLS_SPECIFIC_MASK else gaussian(0.001),
        class_specific=head.CLS_SPECIFIC_MASK,
        upsample_ratio=head.UPSAMPLE_RATIO,
        loss_weight=head.WEIGHT_LOSS_MASK,
        raster=geometry.mask_raster,
        match_outlines=geometry.mask_match_outlines,
        offset=geometry.offset,
    )


def _keypoint_head(config: Config, geometry: Geometry, in_channels: int, num_keypoints: int) -> KeypointHead:
    head, train = config.KRCNN, config.TRAIN
    of_stage = _KEYPOINT_HEADS[head.ROI_KEYPOINTS_HEAD]
    stage, channels = _pose_stage(config, in_channels) if of_stage else (None, in_channels)
    upscale = max(head.UP_SCALE, 1)
    return KeypointHead(
        channels,
        num_keypoints=num_keypoints,
        stage=stage,
        num_convs=0 if of_stage else head.NUM_STACKED_CONVS,
        conv_dim=head.CONV_HEAD_DIM,
        kernel=head.CONV_HEAD_KERNEL,
        init=msra if head.CONV_INIT == "MSRAFill" else gaussian(0.01),
        deconv_dim=head.DECONV_DIM if head.USE_DECONV else 0,
        deconv_output=head.USE_DECONV_OUTPUT,
        deconv_kernel=head.DECONV_KERNEL,
        predictor_init=msra if head.CONV_INIT == "MSRAFill" else gaussian(0.001),
        upscale=upscale,
        border=geometry.heatmap_border,
        loss_weight=head.LOSS_WEIGHT,
        normalizer_per_image=0.0
        if head.NORMALIZE_BY_VISIBLE_KEYPOINTS
        else train.BATCH_SIZE_PER_IM * train.FG_FRACTION * num_keypoints,
        min_visible=head.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH,
    )


def _pose_stage(config: Config, in_channels: int) -> tuple[nn.Module, int]:
    """A fifth stage for the keypoints alone, and its output channels."""
    head, resnet = config.KRCNN, config.RESNETS
    match = _DEPTH.search(config.MODEL.CONV_BODY)
    if match is None:
        raise UserError(
            f"KRCNN.ROI_KEYPOINTS_HEAD {head.ROI_KEYPOINTS_HEAD} is a ResNet's fifth stage, but MODEL.CONV_BODY "
            f"{config.MODEL.CONV_BODY} is no ResNet; take keypoint_rcnn_heads.add_roi_pose_head_v1convX."
        )
    depth = int(match[1])
    widths = Widths(
        groups=resnet.NUM_GROUPS, width_per_group=resnet.WIDTH_PER_GROUP, multiplier=resnet.WIDTH_MULTIPLIER
    )
    kind, norm = _body_norm(config)
    stage = make_stage(
        depth, 5, in_channels, widths, stride=max(head.ROI_XFORM_RESOLUTION // 7, 1) if head.DILATION == 1 else 1,
        dilation=head.DILATION, stride_1x1=resnet.STRIDE_1X1, norm=norm, init=xavier if kind == "frozen" else msra,
    )  # fmt: skip
    return stage, body_channels(depth, widths)[5]


def _pose_rule(config: Config, geometry: Geometry, num_keypoints: int) -> PoseRule:
    head = config.KRCNN
    if num_keypoints and head.OKS_SIGMAS and len(head.OKS_SIGMAS) != num_keypoints:
        raise UserError(
            f"KRCNN.OKS_SIGMAS has {len(head.OKS_SIGMAS)} numbers but objects have {num_keypoints} keypoints; give one "
            "for each keypoint, or none."
        )
    return PoseRule(
        min_size=head.INFERENCE_MIN_SIZE,
        normalization=geometry.heatmap_normalization,
        original_frame=geometry.heads_in_original_frame,
        oks_thresh=_OKS_THRESH if head.NMS_OKS else 1.0,
        sigmas=keypoint_sigmas(num_keypoints, head.OKS_SIGMAS),
        offset=geometry.offset,
    )


def _region_sampling(config: Config, geometry: Geometry) -> RegionSampling:
    train = config.TRAIN
    return RegionSampling(
        batch_size=train.BATCH_SIZE_PER_IM,
        fg_fraction=train.FG_FRACTION,
        fg_thresh=train.FG_THRESH,
        bg_thresh_hi=train.BG_THRESH_HI,
        bg_thresh_lo=train.BG_THRESH_LO,
        crowd_overlap=train.CROWD_FILTER_THRESH,
        offset=geometry.offset,
        original_frame=geometry.heads_in_original_frame,
    )


def _detection_rule(config: Config, geometry: Geometry) -> DetectionRule:
    test = config.TEST
    soft, vote = test.SOFT_NMS, test.BBOX_VOTE
    beta = 1.0 if geometry.voting_beta_is_one else vote.SCORING_METHOD_BETA
    return DetectionRule(
        score_thresh=test.SCORE_THRESH,
        nms_thresh=test.NMS,
        max_detections=test.DETECTIONS_PER_IM,
        keep_ties=geometry.keep_score_ties,
        min_size=geometry.detection_min_size,
        original_frame=geometry.heads_in_original_frame,
        refine=test.BBOX_REG,
        offset=geometry.offset,
        soft=SoftSuppression(soft.METHOD, soft.SIGMA) if soft.ENABLED else None,
        voting=Voting(vote.VOTE_TH, vote.SCORING_METHOD, beta) if vote.ENABLED else None,
    )
