"""From the configuration to heads on regions, by Detectron's function names."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.models.box_head import BoxHead, StageBoxHead
from detectune.models.build_bodies import build_last_stage, last_stage
from detectune.models.build_parts import build_part_norm, unsupported
from detectune.models.geometry import Geometry
from detectune.models.keypoint_head import KeypointHead, PoseRule
from detectune.models.layers import Initializer, gaussian, msra, xavier
from detectune.models.mask_head import MaskHead
from detectune.ops.keypoints import keypoint_sigmas

STAGE_BOX_HEAD = "ResNet.add_ResNet_roi_conv5_head"

FC_BOX_HEADS: dict[str, bool] = {  # name -> convolutions as NUM_STACKED_CONVS
    "fast_rcnn_heads.add_roi_2mlp_head": False,
    "fast_rcnn_heads.add_roi_Xconv1fc_head": True,
    "fast_rcnn_heads.add_roi_Xconv1fc_gn_head": True,
}

VGG_BOX_HEADS: dict[
    str, tuple[int, tuple[int, int]]
] = {  # name -> (resolution, widths), fixed by their weights
    "VGG16.add_VGG16_roi_fc_head": (7, (4096, 4096)),
    "VGG_CNN_M_1024.add_VGG_CNN_M_1024_roi_fc_head": (6, (4096, 1024)),
}


class MaskKind(NamedTuple):
    """What a mask head has in front of its transposed convolution."""

    num_convs: int
    stage: Literal["none", "own", "shared"] = "none"  # the network's fifth stage


MASK_HEADS: dict[str, MaskKind] = {
    "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs": MaskKind(4),
    "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs_gn": MaskKind(4),
    "mask_rcnn_heads.mask_rcnn_fcn_head_v1up": MaskKind(2),
    "mask_rcnn_heads.mask_rcnn_fcn_head_v0up": MaskKind(0, stage="own"),
    "mask_rcnn_heads.mask_rcnn_fcn_head_v0upshare": MaskKind(0, stage="shared"),
}


KEYPOINT_HEADS: dict[str, bool] = {  # name -> made of the network's fifth stage
    "keypoint_rcnn_heads.add_roi_pose_head_v1convX": False,
    "keypoint_rcnn_heads.add_ResNet_roi_conv5_head_for_keypoints": True,
}

_OKS_THRESH = 0.3  # Detectron's for KRCNN.NMS_OKS


def build_box_head(
    config: Config, channels: int, learning: dict[str, Any]
) -> tuple[BoxHead | StageBoxHead, int]:
    """FAST_RCNN.ROI_BOX_HEAD and the resolution of the regions that it wants; `learning` as for `BoxLearner`."""
    head = config.FAST_RCNN
    name, resolution = head.ROI_BOX_HEAD, head.ROI_XFORM_RESOLUTION
    if name == STAGE_BOX_HEAD:
        if not config.MODEL.CONV_BODY.endswith("_conv4_body"):
            raise UserError(
                f"FAST_RCNN.ROI_BOX_HEAD {name} is the network's fifth stage and needs a body that ends at the fourth, "
                f"but MODEL.CONV_BODY is {config.MODEL.CONV_BODY}; take a ResNet conv4 body or another head."
            )
        stage = build_last_stage(config, channels, resolution=resolution)
        stage_channels = last_stage(config, resolution=resolution).channels
        return StageBoxHead(stage, stage_channels, **learning), resolution
    if name in VGG_BOX_HEADS:
        resolution, fc_dims = VGG_BOX_HEADS[name]
        return BoxHead(channels, resolution, fc_dims=fc_dims, **learning), resolution
    if name not in FC_BOX_HEADS:
        raise unsupported("FAST_RCNN.ROI_BOX_HEAD", name, [*FC_BOX_HEADS, STAGE_BOX_HEAD, *VGG_BOX_HEADS])
    has_convs = FC_BOX_HEADS[name]
    built = BoxHead(
        channels,
        resolution,
        num_convs=head.NUM_STACKED_CONVS if has_convs else 0,
        conv_dim=head.CONV_HEAD_DIM,
        norm=build_part_norm(config, "box head") if has_convs else None,
        fc_dims=(head.MLP_HEAD_DIM,) * (head.NUM_STACKED_FCS or (1 if has_convs else 2)),
        **learning,
    )
    return built, resolution


def shares_stage(config: Config) -> bool:
    """Whether the mask head looks at the output of the box head's stage."""
    kind = MASK_HEADS.get(config.MRCNN.ROI_MASK_HEAD)
    return kind is not None and kind.stage == "shared"


def build_mask_head(
    config: Config, geometry: Geometry, channels: int, box_head: object, num_classes: int
) -> MaskHead:
    """MRCNN.ROI_MASK_HEAD on features of `channels`."""
    head = config.MRCNN
    if head.ROI_MASK_HEAD not in MASK_HEADS:
        raise unsupported("MRCNN.ROI_MASK_HEAD", head.ROI_MASK_HEAD, MASK_HEADS)
    kind = MASK_HEADS[head.ROI_MASK_HEAD]
    if kind.stage == "shared":
        _check_sharing(config, box_head)
    stage, side = None, head.ROI_XFORM_RESOLUTION
    if kind.stage != "none":
        if kind.stage == "own":
            stage = build_last_stage(config, channels, resolution=side, dilation=head.DILATION)
        _, channels, _, side = last_stage(config, resolution=side, dilation=head.DILATION)
    _check_mask_side(config, 2 * side)
    inits: dict[str, Initializer] = {"MSRAFill": msra, "XavierFill": xavier, "GaussianFill": gaussian(0.001)}
    if head.CONV_INIT not in inits:
        raise unsupported("MRCNN.CONV_INIT", head.CONV_INIT, inits)
    init = inits[head.CONV_INIT]
    return MaskHead(
        channels,
        num_classes=num_classes,
        stage=stage,
        num_convs=head.NUM_STACKED_CONVS or kind.num_convs,
        dim=head.DIM_REDUCED,
        dilation=head.DILATION,
        norm=build_part_norm(config, "mask head"),
        init=init,
        upsample_init=gaussian(0.001) if kind.stage == "own" else init,
        predictor_init=init if head.CLS_SPECIFIC_MASK else gaussian(0.001),
        fc_sides=(2 * side, head.RESOLUTION) if head.USE_FC_OUTPUT else None,
        class_specific=head.CLS_SPECIFIC_MASK,
        upsample_ratio=1 if head.USE_FC_OUTPUT else head.UPSAMPLE_RATIO,
        loss_weight=head.WEIGHT_LOSS_MASK,
        raster=geometry.mask_raster,
        match_outlines=geometry.mask_match_outlines,
        offset=geometry.offset,
    )


def _check_sharing(config: Config, box_head: object) -> None:
    mask, box = config.MRCNN, config.FAST_RCNN
    if not isinstance(box_head, StageBoxHead):
        raise UserError(
            f"MRCNN.ROI_MASK_HEAD {mask.ROI_MASK_HEAD} shares the layers of {STAGE_BOX_HEAD}, but "
            f"FAST_RCNN.ROI_BOX_HEAD is {box.ROI_BOX_HEAD!r}; change one of them."
        )
    if mask.ROI_XFORM_RESOLUTION != box.ROI_XFORM_RESOLUTION or mask.DILATION != 1:
        raise UserError(
            f"MRCNN.ROI_MASK_HEAD {mask.ROI_MASK_HEAD} shares the box head's layers, so MRCNN.ROI_XFORM_RESOLUTION "
            f"{mask.ROI_XFORM_RESOLUTION} must equal FAST_RCNN.ROI_XFORM_RESOLUTION {box.ROI_XFORM_RESOLUTION} and "
            f"MRCNN.DILATION {mask.DILATION} must be 1."
        )


def _check_mask_side(config: Config, drawn: int) -> None:
    """`drawn` is the side of the maps that the predictor sees."""
    head = config.MRCNN
    ratio = head.UPSAMPLE_RATIO
    if head.USE_FC_OUTPUT:
        if ratio > 1:
            raise UserError(
                f"MRCNN.UPSAMPLE_RATIO is {ratio} but MRCNN.USE_FC_OUTPUT is True, which predicts masks of "
                "MRCNN.RESOLUTION directly; set UPSAMPLE_RATIO to 1."
            )
        return
    if ratio > 1 and ratio % 2:
        raise UserError(f"MRCNN.UPSAMPLE_RATIO is {ratio}; it must be 1 or even.")
    side = drawn * ratio
    if side != head.RESOLUTION:
        raise UserError(
            f"MRCNN.RESOLUTION is {head.RESOLUTION} but {head.ROI_MASK_HEAD} with MRCNN.ROI_XFORM_RESOLUTION "
            f"{head.ROI_XFORM_RESOLUTION}, DILATION {head.DILATION} and UPSAMPLE_RATIO {ratio} makes masks of {side}; "
            f"set it to {side}."
        )


def build_keypoint_head(
    config: Config, geometry: Geometry, in_channels: int, num_keypoints: int
) -> KeypointHead:
    """KRCNN.ROI_KEYPOINTS_HEAD on features of `in_channels`."""
    head, train = config.KRCNN, config.TRAIN
    if head.ROI_KEYPOINTS_HEAD not in KEYPOINT_HEADS:
        raise unsupported("KRCNN.ROI_KEYPOINTS_HEAD", head.ROI_KEYPOINTS_HEAD, KEYPOINT_HEADS)
    of_stage = KEYPOINT_HEADS[head.ROI_KEYPOINTS_HEAD]
    stage, channels = None, in_channels
    if of_stage:
        resolution = head.ROI_XFORM_RESOLUTION
        stage = build_last_stage(config, in_channels, resolution=resolution, dilation=head.DILATION)
        channels = last_stage(config, resolution=resolution, dilation=head.DILATION).channels
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


def build_pose_rule(config: Config, geometry: Geometry, num_keypoints: int) -> PoseRule:
    """How heat maps become keypoints."""
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
