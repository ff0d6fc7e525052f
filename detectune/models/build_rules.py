"""What counts as a proposal and as a detection at test, from the configuration; nothing here needs a network."""

from __future__ import annotations

from detectune.config.test import Test
from detectune.config.train import Train
from detectune.config.tree import Config
from detectune.models.detections import DetectionRule, SoftSuppression, Voting
from detectune.models.geometry import Geometry
from detectune.models.retinanet_detections import OneStageRule
from detectune.models.rpn import ProposalRule


def build_proposal_rule(section: Train | Test, geometry: Geometry) -> ProposalRule:
    """How scored anchors become proposals: TRAIN's keys RPN_*, or TEST's."""
    return ProposalRule(
        pre_nms_top_n=section.RPN_PRE_NMS_TOP_N,
        post_nms_top_n=section.RPN_POST_NMS_TOP_N,
        nms_thresh=section.RPN_NMS_THRESH,
        min_size=max(float(section.RPN_MIN_SIZE), geometry.proposal_min_size),
        min_size_original=geometry.proposal_min_size_original,
        strict_min_size=geometry.proposal_strict,
        centre_inside=geometry.proposal_centre_inside,
    )


def proposal_clipping(config: Config, geometry: Geometry) -> int:
    """In tests proposals may reach as far as the image's sides rounded up to a multiple of this."""
    return config.FPN.COARSEST_STRIDE if geometry.clip_proposals_to_padding and config.FPN.FPN_ON else 1


def build_detection_rule(config: Config, geometry: Geometry) -> DetectionRule:
    """How scored regions become detections."""
    test = config.TEST
    soft, voting = build_suppression(config, geometry)
    return DetectionRule(
        score_thresh=test.SCORE_THRESH,
        nms_thresh=test.NMS,
        max_detections=test.DETECTIONS_PER_IM,
        keep_ties=geometry.keep_score_ties,
        min_size=geometry.detection_min_size,
        original_frame=geometry.heads_in_original_frame,
        refine=test.BBOX_REG,
        soft=soft,
        voting=voting,
        offset=geometry.offset,
    )


def build_one_stage_rule(config: Config, geometry: Geometry) -> OneStageRule:
    """How RetinaNet's scored anchors become detections."""
    keys, test = config.RETINANET, config.TEST
    soft, voting = build_suppression(config, geometry)
    return OneStageRule(
        score_thresh=keys.INFERENCE_TH,
        coarsest_score_thresh=0.0 if geometry.retinanet_coarsest_unfiltered else keys.INFERENCE_TH,
        pre_nms_top_n=keys.PRE_NMS_TOP_N,
        nms_thresh=test.NMS,
        max_detections=test.DETECTIONS_PER_IM,
        clip=geometry.retinanet_clip,
        original_frame=geometry.heads_in_original_frame,
        refine=test.BBOX_REG,
        offset=geometry.offset,
        delta_clip=config.BBOX_XFORM_CLIP,
        soft=soft,
        voting=voting,
    )


def build_suppression(config: Config, geometry: Geometry) -> tuple[SoftSuppression | None, Voting | None]:
    """What TEST.SOFT_NMS and TEST.BBOX_VOTE do to the detections of a class."""
    soft, vote = config.TEST.SOFT_NMS, config.TEST.BBOX_VOTE
    beta = 1.0 if geometry.voting_beta_is_one else vote.SCORING_METHOD_BETA
    return (
        SoftSuppression(soft.METHOD, soft.SIGMA) if soft.ENABLED else None,
        Voting(vote.VOTE_TH, vote.SCORING_METHOD, beta) if vote.ENABLED else None,
    )
