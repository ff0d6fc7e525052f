"""From the configuration and a detector to its program; see `models.program`."""

from __future__ import annotations

from torch import nn

from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.models.geometry import GEOMETRIES
from detectune.models.layers import fuse_for_inference
from detectune.models.program import Program
from detectune.models.program_rcnn import ProposalProgram, RcnnProgram
from detectune.models.program_retinanet import RetinaNetProgram
from detectune.models.proposal_network import ProposalNetwork
from detectune.models.rcnn import RCNN
from detectune.models.retinanet import RetinaNet
from detectune.ops.class_nms import ClassNms

NOT_IN_PROGRAMS = {
    "TEST.SOFT_NMS.ENABLED": "Soft-NMS",
    "TEST.BBOX_VOTE.ENABLED": "box voting",
    "TEST.BBOX_AUG.ENABLED": "looking at an image in several views",
    "TEST.MASK_AUG.ENABLED": "looking at an image in several views",
    "TEST.KPS_AUG.ENABLED": "looking at an image in several views",
    "KRCNN.NMS_OKS": "the suppression of poses",
}


def build_program(model: nn.Module, config: Config, *, suppress: ClassNms) -> Program:
    """The program of a detector that `build_detector` made of the same configuration; norms become part of it.

    Raises:
        UserError: for what a program cannot do.
    """
    flat = config.flat()
    for key, what in NOT_IN_PROGRAMS.items():
        if flat[key]:
            raise UserError(f"{key} is True, but {what} cannot be exported; set it to False.")
    if any(config.RESNETS.DEFORM_ON_PER_STAGE):
        raise UserError("RESNETS.DEFORM_ON_PER_STAGE is set, but deformable convolutions cannot be exported.")
    if config.TEST.SCORE_THRESH_PER_CLASS:
        raise UserError(
            "TEST.SCORE_THRESH_PER_CLASS is set, but thresholds by class cannot be exported; set it to {} and compare "
            "the program's scores with them."
        )
    geometry = GEOMETRIES[config.MODEL.GEOMETRY]
    stride = config.FPN.COARSEST_STRIDE if config.FPN.FPN_ON else 1
    fused = fuse_for_inference(model, one_pass=False)
    drop_empty = geometry.drop_empty_boxes
    if isinstance(fused, RetinaNet):
        return RetinaNetProgram(fused, stride=stride, suppress=suppress, drop_empty=drop_empty)
    if isinstance(fused, ProposalNetwork):
        return ProposalProgram(fused, stride=stride, suppress=suppress, drop_empty=drop_empty)
    assert isinstance(fused, RCNN)
    if fused.rpn is None:
        raise UserError(
            "MODEL.FASTER_RCNN is False: a detector that is given its proposals cannot be exported. Export one that "
            "proposes by itself."
        )
    return RcnnProgram(fused, stride=stride, suppress=suppress, drop_empty=drop_empty)
