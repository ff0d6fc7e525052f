"""From the configuration to a detector: which family, then its builder. Only `models/build*.py` read keys here.

Where Detectron, detectron2 and torchvision disagree in geometry, `geometry.py` has a column of numbers for each; the
parts themselves take those numbers and know nothing about dialects.
"""

from __future__ import annotations

from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.models.build_bodies import build_body, has_levels
from detectune.models.build_parts import count_classes, unsupported
from detectune.models.build_retinanet import build_retinanet
from detectune.models.build_two_stage import build_proposal_network, build_rcnn
from detectune.models.geometry import GEOMETRIES
from detectune.models.proposal_network import ProposalNetwork
from detectune.models.rcnn import RCNN
from detectune.models.resnet import ResNet
from detectune.models.retinanet import RetinaNet
from detectune.models.timm_body import TimmBody


def build_detector(
    config: Config, *, num_classes: int | None = None, num_keypoints: int | None = None
) -> RCNN | ProposalNetwork | RetinaNet:
    """The detector that the configuration describes, with fresh weights.

    Args:
        config: the whole tree.
        num_classes: classes of the data set, background included, for MODEL.NUM_CLASSES -1; must agree otherwise.
        num_keypoints: keypoints of the data set's objects, for KRCNN.NUM_KEYPOINTS -1; must agree otherwise.
    """
    model = config.MODEL
    if model.TYPE == "classifier":
        raise UserError("MODEL.TYPE is classifier, which finds no objects; this needs a detector.")
    if model.GEOMETRY not in GEOMETRIES:
        raise unsupported("MODEL.GEOMETRY", model.GEOMETRY, GEOMETRIES)
    geometry = GEOMETRIES[model.GEOMETRY]
    if config.RETINANET.RETINANET_ON:
        if not has_levels(config):
            raise UserError(
                f"RETINANET.RETINANET_ON needs a pyramid, but MODEL.CONV_BODY {model.CONV_BODY} has none; take "
                "FPN.add_fpn_ResNet50_conv5_body, for example."
            )
        body = build_body(config, levels=(config.FPN.RPN_MIN_LEVEL, config.FPN.RPN_MAX_LEVEL)).module
        assert isinstance(body, ResNet | TimmBody) and body.fpn is not None
        return build_retinanet(config, body, body.fpn, num_classes=count_classes(config, num_classes))
    if model.TYPE == "retinanet":
        raise UserError(
            "MODEL.TYPE is retinanet but RETINANET.RETINANET_ON is False; set both to RetinaNet, or MODEL.TYPE to "
            "generalized_rcnn."
        )
    if model.TYPE == "rfcn" and (model.MASK_ON or model.KEYPOINTS_ON or model.RPN_ONLY):
        raise UserError(
            f"MODEL.TYPE is rfcn, which predicts boxes only, but MODEL.MASK_ON is {model.MASK_ON}, KEYPOINTS_ON "
            f"{model.KEYPOINTS_ON} and RPN_ONLY {model.RPN_ONLY}; set these to False or take generalized_rcnn."
        )
    if model.RPN_ONLY:
        return build_proposal_network(config, geometry)
    return build_rcnn(config, geometry, num_classes, num_keypoints)
