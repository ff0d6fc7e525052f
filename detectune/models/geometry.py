"""The dialects of box geometry: everything in which Detectron, detectron2 and torchvision disagree, as numbers.

One column for each; the parts of a model take these numbers and know nothing about dialects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detectune.models.keypoint_head import Border
from detectune.models.retinanet_loss import Normalizer as RetinaNetNormalizer
from detectune.models.rpn import Normalizer
from detectune.ops.anchors import Rounding
from detectune.ops.keypoints import Normalization
from detectune.ops.masks import PasteStyle, RasterStyle


@dataclass(frozen=True)
class Geometry:
    """Everything that differs between the dialects, as numbers."""

    offset: (
        float  # 1: x2 is the last pixel of a box (width x2 - x1 + 1, NMS drops at equality); 0: continuous
    )
    anchor_rounding: Rounding  # also the order of a cell's anchors
    anchor_stride: Literal[
        "nominal", "measured"
    ]  # measured: padded size // cells, which differs at odd sizes
    roi_aligned: bool  # RoIAlign shifted by half a cell
    level_eps_inside_log: float
    level_eps_outside_log: float
    clip_proposals_to_padding: bool  # at test time
    proposal_strict: bool  # proposals of a side equal to the minimum are dropped
    proposal_min_size: float  # added floor in the network frame
    proposal_min_size_original: bool  # RPN_MIN_SIZE counts pixels of the original image
    proposal_centre_inside: bool
    promoted_as_background: bool  # see RpnSampling
    crowd_anchors_ignored: (
        bool  # TRAIN.CROWD_FILTER_THRESH holds for the RPN's anchors, not only for proposals
    )
    rpn_cls_normalizer: Normalizer
    rpn_cls_normalizer_one_level: Normalizer  # of an RPN without pyramid
    rpn_box_normalizer: Normalizer
    rpn_beta: float
    box_beta: float
    detection_min_size: float
    heads_in_original_frame: (
        bool  # regions are matched and learnt, detections decoded, clipped, suppressed in its pixels
    )
    keep_score_ties: bool  # DETECTIONS_PER_IM keeps what ties the last score
    voting_beta_is_one: bool  # box voting never sees TEST.BBOX_VOTE.SCORING_METHOD_BETA
    mask_raster: RasterStyle
    mask_match_outlines: bool
    keypoints_drawn_apart: bool  # the keypoint head has a sample of its own
    heatmap_border: Border
    heatmap_normalization: Normalization
    mask_paste: PasteStyle  # for the engine
    drop_empty_boxes: (
        bool  # for the engine: boxes that are empty once clipped to the original image are dropped
    )
    retinanet_octave_major: (
        bool  # a cell's anchors: all shapes of one size, then the next size; else shape by shape
    )
    retinanet_whole_sizes: bool  # sizes between octaves are rounded down to whole pixels
    retinanet_promoted_as_background: bool  # see FocalRule
    retinanet_normalizer: RetinaNetNormalizer
    retinanet_coarsest_unfiltered: bool  # INFERENCE_TH does not hold on the coarsest level
    retinanet_clip: bool  # boxes are clipped before they are suppressed


GEOMETRIES: dict[str, Geometry] = {
    "detectron": Geometry(
        offset=1.0,
        anchor_rounding="detectron",
        anchor_stride="nominal",
        roi_aligned=False,
        level_eps_inside_log=1e-6,
        level_eps_outside_log=0.0,
        clip_proposals_to_padding=True,
        proposal_strict=False,
        proposal_min_size=1.0,
        proposal_min_size_original=True,
        proposal_centre_inside=True,
        promoted_as_background=True,
        crowd_anchors_ignored=False,
        rpn_cls_normalizer="fixed",
        rpn_cls_normalizer_one_level="sampled",
        rpn_box_normalizer="sampled_per_image",
        rpn_beta=1 / 9,
        box_beta=1.0,
        detection_min_size=0.0,
        heads_in_original_frame=True,
        keep_score_ties=True,
        voting_beta_is_one=True,
        mask_raster="detectron",
        mask_match_outlines=True,
        keypoints_drawn_apart=True,
        heatmap_border="fade",
        heatmap_normalization="resized",
        mask_paste="detectron",
        drop_empty_boxes=False,
        retinanet_octave_major=True,
        retinanet_whole_sizes=False,
        retinanet_promoted_as_background=True,
        retinanet_normalizer="plus_one",
        retinanet_coarsest_unfiltered=True,
        retinanet_clip=True,
    ),
    "detectron2": Geometry(
        offset=0.0,
        anchor_rounding="none",
        anchor_stride="nominal",
        roi_aligned=True,
        level_eps_inside_log=1e-8,
        level_eps_outside_log=0.0,
        clip_proposals_to_padding=False,
        proposal_strict=True,
        proposal_min_size=0.0,
        proposal_min_size_original=False,
        proposal_centre_inside=False,
        promoted_as_background=False,
        crowd_anchors_ignored=True,
        rpn_cls_normalizer="fixed",
        rpn_cls_normalizer_one_level="fixed",
        rpn_box_normalizer="fixed",
        rpn_beta=0.0,
        box_beta=0.0,
        detection_min_size=0.0,
        heads_in_original_frame=False,
        keep_score_ties=False,
        voting_beta_is_one=False,
        mask_raster="detectron2",
        mask_match_outlines=False,
        keypoints_drawn_apart=False,
        heatmap_border="repeat",
        heatmap_normalization="predicted",
        mask_paste="detectron2",
        drop_empty_boxes=True,
        retinanet_octave_major=True,
        retinanet_whole_sizes=False,
        retinanet_promoted_as_background=False,
        retinanet_normalizer="moving_average",
        retinanet_coarsest_unfiltered=False,
        retinanet_clip=False,
    ),
    "torchvision": Geometry(
        offset=0.0,
        anchor_rounding="torchvision",
        anchor_stride="measured",
        roi_aligned=False,
        level_eps_inside_log=0.0,
        level_eps_outside_log=1e-6,
        clip_proposals_to_padding=False,
        proposal_strict=False,
        proposal_min_size=1e-3,
        proposal_min_size_original=False,
        proposal_centre_inside=False,
        promoted_as_background=False,
        crowd_anchors_ignored=True,
        rpn_cls_normalizer="sampled",
        rpn_cls_normalizer_one_level="sampled",
        rpn_box_normalizer="sampled",
        rpn_beta=1 / 9,
        box_beta=1 / 9,
        detection_min_size=1e-2,
        heads_in_original_frame=False,
        keep_score_ties=False,
        voting_beta_is_one=False,
        mask_raster="detectron2",
        mask_match_outlines=False,
        keypoints_drawn_apart=False,
        heatmap_border="repeat",
        heatmap_normalization="predicted",
        mask_paste="torchvision",
        drop_empty_boxes=False,
        retinanet_octave_major=False,
        retinanet_whole_sizes=True,
        retinanet_promoted_as_background=False,
        retinanet_normalizer="per_image",
        retinanet_coarsest_unfiltered=False,
        retinanet_clip=True,
    ),
}
