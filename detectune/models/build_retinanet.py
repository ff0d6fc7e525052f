"""RetinaNet from the configuration; the body is built by `build.py`, which also checks it."""

from __future__ import annotations

import torch
from torch import Tensor

from detectune.config.tree import Config
from detectune.models.anchor_grid import AnchorGrid
from detectune.models.build_parts import crowd_overlap
from detectune.models.build_rules import build_one_stage_rule
from detectune.models.fpn import Fpn
from detectune.models.geometry import GEOMETRIES, Geometry
from detectune.models.layers import group_norm
from detectune.models.resnet import ResNet
from detectune.models.retinanet import RetinaNet
from detectune.models.retinanet_head import RetinaNetHead
from detectune.models.retinanet_loss import FocalRule
from detectune.models.timm_body import TimmBody
from detectune.ops.anchors import cell_anchors


def build_retinanet(config: Config, body: ResNet | TimmBody, pyramid: Fpn, *, num_classes: int) -> RetinaNet:
    """RetinaNet with fresh weights on a body with a pyramid of the levels FPN.RPN_MIN_LEVEL to RPN_MAX_LEVEL."""
    geometry, keys, sizes = GEOMETRIES[config.MODEL.GEOMETRY], config.RETINANET, config.GROUP_NORM
    cells = {level: _cell(config, geometry, level) for level in pyramid.levels}
    anchors = AnchorGrid(cells, pyramid.strides, geometry.anchor_stride)
    head = RetinaNetHead(
        pyramid.dim,
        num_anchors=anchors.num_anchors,
        num_classes=num_classes,
        num_convs=keys.NUM_CONVS,
        softmax=keys.SOFTMAX,
        class_specific=keys.CLASS_SPECIFIC_BBOX,
        shared_tower=keys.SHARE_CLS_BBOX_TOWER,
        prior_prob=keys.PRIOR_PROB,
        norm=group_norm(sizes.NUM_GROUPS, sizes.DIM_PER_GP, sizes.EPSILON) if keys.USE_GN else None,
    )
    return RetinaNet(
        body,
        anchors,
        head,
        focal_rule=_focal_rule(config, geometry),
        detection_rule=build_one_stage_rule(config, geometry),
        pixel_mean=tuple(reversed(config.PIXEL_MEANS[0][0])),
        pixel_std=tuple(reversed(config.INPUT.PIXEL_STDS)),
    )


def _cell(config: Config, geometry: Geometry, level: int) -> Tensor:
    """Anchors of one cell, float32 [SCALES_PER_OCTAVE * aspect ratios, 4]."""
    keys = config.RETINANET
    stride = 2**level
    sizes = [
        stride * keys.ANCHOR_SCALE * 2 ** (i / keys.SCALES_PER_OCTAVE) for i in range(keys.SCALES_PER_OCTAVE)
    ]
    if geometry.retinanet_whole_sizes:
        sizes = [float(int(size)) for size in sizes]
    groups = [(size,) for size in sizes] if geometry.retinanet_octave_major else [tuple(sizes)]
    return torch.cat(
        [
            cell_anchors(
                stride=stride,
                sizes=group,
                aspect_ratios=keys.ASPECT_RATIOS,
                rounding=geometry.anchor_rounding,
            )
            for group in groups
        ]
    )


def _focal_rule(config: Config, geometry: Geometry) -> FocalRule:
    keys = config.RETINANET
    return FocalRule(
        positive_overlap=keys.POSITIVE_OVERLAP,
        negative_overlap=keys.NEGATIVE_OVERLAP,
        alpha=keys.LOSS_ALPHA,
        gamma=keys.LOSS_GAMMA,
        box_loss=keys.BOX_LOSS,
        beta=keys.BBOX_REG_BETA,
        box_weight=keys.BBOX_REG_WEIGHT,
        softmax=keys.SOFTMAX,
        promoted_as_background=geometry.retinanet_promoted_as_background,
        crowd_overlap=crowd_overlap(config) if geometry.crowd_anchors_ignored else 1.0,
        normalizer=geometry.retinanet_normalizer,
        offset=geometry.offset,
        delta_clip=config.BBOX_XFORM_CLIP,
    )
