"""detectron2's keys of the heads, of norms and of box losses, which become Detectron's names of heads here."""

from __future__ import annotations

from detectune.config.detectron2_keys import Translation

BODY_NORMS = {"FrozenBN": "frozen", "BN": "batch", "SyncBN": "batch", "GN": "group"}
PART_NORMS = BODY_NORMS | {"": "none"}
POOLERS = {"ROIAlignV2": "RoIAlign", "ROIAlign": "RoIAlignUnshifted", "ROIPool": "RoIPoolF"}
FPN_BODIES = ("build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone")
BOX_LOSSES = ("smooth_l1", "giou")


def part_norm(said: Translation, theirs: str, ours: str) -> None:
    """The norm of a part other than the body."""
    if said[theirs] not in PART_NORMS:
        said.refuse(theirs, f"another norm than {', '.join(BODY_NORMS)}")
        return
    said.put(ours, PART_NORMS[said[theirs]], theirs)
    note_statistics(said, theirs)


def note_statistics(said: Translation, key: str) -> None:
    if said[key] == "SyncBN":
        said.note(key, "batch statistics are each process's own, as with BN")


def heads(said: Translation) -> None:
    """MODEL.ROI_HEADS and the heads on regions."""
    if said["MODEL.META_ARCHITECTURE"] != "GeneralizedRCNN":
        return
    kind, key = said["MODEL.ROI_HEADS.NAME"], "MODEL.ROI_HEADS.NAME"
    if kind not in ("Res5ROIHeads", "StandardROIHeads", "CascadeROIHeads"):
        said.refuse(
            key, "heads of their own kind (Res5ROIHeads, StandardROIHeads and CascadeROIHeads are here)"
        )
        return
    said.put("MODEL.CASCADE_ON", kind == "CascadeROIHeads", key)
    if kind == "Res5ROIHeads":
        said.put("FAST_RCNN.ROI_BOX_HEAD", "ResNet.add_ResNet_roi_conv5_head", key)
    else:
        _box_head(said)
    _poolers(said)
    if said["MODEL.MASK_ON"]:
        _mask_head(said, shared=kind == "Res5ROIHeads")
    if said["MODEL.KEYPOINT_ON"]:
        _keypoint_head(said)


def _box_head(said: Translation) -> None:
    convs, fcs = said["MODEL.ROI_BOX_HEAD.NUM_CONV"], said["MODEL.ROI_BOX_HEAD.NUM_FC"]
    if said["MODEL.ROI_BOX_HEAD.NAME"] not in ("FastRCNNConvFCHead", ""):
        said.refuse("MODEL.ROI_BOX_HEAD.NAME", "another box head than FastRCNNConvFCHead")
    if fcs < 1:
        said.refuse("MODEL.ROI_BOX_HEAD.NUM_FC", "a box head without fully connected layers")
        return
    if convs == 0:
        name = "fast_rcnn_heads.add_roi_2mlp_head"
    else:
        name = "fast_rcnn_heads.add_roi_Xconv1fc_head"
        part_norm(said, "MODEL.ROI_BOX_HEAD.NORM", "FAST_RCNN.NORM")
        said.put("FAST_RCNN.NUM_STACKED_CONVS", convs, "MODEL.ROI_BOX_HEAD.NUM_CONV")
    said.put("FAST_RCNN.NUM_STACKED_FCS", fcs, "MODEL.ROI_BOX_HEAD.NUM_FC")
    said.put("FAST_RCNN.ROI_BOX_HEAD", name, "MODEL.ROI_BOX_HEAD.NUM_CONV", "MODEL.ROI_BOX_HEAD.NUM_FC")


def _poolers(said: Translation) -> None:
    used = {"BOX": ("FAST_RCNN", True), "MASK": ("MRCNN", said["MODEL.MASK_ON"])}
    used["KEYPOINT"] = ("KRCNN", said["MODEL.KEYPOINT_ON"])
    for head, (section, on) in used.items():
        key = f"MODEL.ROI_{head}_HEAD.POOLER_TYPE"
        if not on:
            continue
        if said[key] not in POOLERS:
            said.refuse(key, f"another way to cut out regions than {', '.join(POOLERS)}")
            continue
        said.put(f"{section}.ROI_XFORM_METHOD", POOLERS[said[key]], key)


def _mask_head(said: Translation, *, shared: bool) -> None:
    convs = said["MODEL.ROI_MASK_HEAD.NUM_CONV"]
    side = said["MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION"]
    key = "MODEL.ROI_MASK_HEAD.NUM_CONV"
    name = "v1up4convs"
    if shared:
        name, side = "v0upshare", said["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"] // 2
        said.put("MRCNN.ROI_XFORM_RESOLUTION", 2 * side, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION")
    elif convs == 0:
        said.refuse(key, "a mask head without convolutions, which only heads of the fifth stage have here")
        return
    said.put("MRCNN.NUM_STACKED_CONVS", convs, key)
    if convs:
        part_norm(said, "MODEL.ROI_MASK_HEAD.NORM", "MRCNN.NORM")
    said.put("MRCNN.ROI_MASK_HEAD", f"mask_rcnn_heads.mask_rcnn_fcn_head_{name}", key)
    said.put("MRCNN.RESOLUTION", 2 * side, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION")
    agnostic = "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"
    said.put("MRCNN.CLS_SPECIFIC_MASK", not said[agnostic], agnostic)


def _keypoint_head(said: Translation) -> None:
    widths, key = list(said["MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS"]), "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS"
    if not widths or len(set(widths)) > 1:
        said.refuse(key, "a keypoint head whose convolutions differ in width")
        return
    said.put("KRCNN.ROI_KEYPOINTS_HEAD", "keypoint_rcnn_heads.add_roi_pose_head_v1convX", "MODEL.KEYPOINT_ON")
    said.put("KRCNN.NUM_STACKED_CONVS", len(widths), key)
    said.put("KRCNN.CONV_HEAD_DIM", widths[0], key)
    resolution = "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION"
    said.put("KRCNN.HEATMAP_SIZE", 4 * said[resolution], resolution)


def box_losses(said: Translation) -> None:
    """What boxes learn from, and how many convolutions the proposal network has."""
    for section, ours in (("RPN", "RPN"), ("ROI_BOX_HEAD", "FAST_RCNN"), ("RETINANET", "RETINANET")):
        key = f"MODEL.{section}.BBOX_REG_LOSS_TYPE"
        if said[key] in BOX_LOSSES:
            said.put(f"{ours}.BOX_LOSS", said[key], key)
        else:
            said.note(key, f"boxes learn by {' or '.join(BOX_LOSSES)}")
    widths, key = list(said["MODEL.RPN.CONV_DIMS"]), "MODEL.RPN.CONV_DIMS"
    pyramid = said["MODEL.BACKBONE.NAME"] in FPN_BODIES
    fitting = (-1, said["MODEL.FPN.OUT_CHANNELS"]) if pyramid else (-1,)
    if widths and all(width in fitting for width in widths):
        said.put("RPN.NUM_CONVS", len(widths), key)
    else:
        said.refuse(key, "convolutions before the anchors' predictors of another width than the features")
