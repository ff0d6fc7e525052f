"""FAST_RCNN, CASCADE, MRCNN, KRCNN and RFCN: the second stage."""

from __future__ import annotations

from observe import detections, evaluation, fresh_weights, losses, parameter_shapes
from rows_model import FIFTH_STAGE, KEYPOINTS
from table import Row

CONVOLUTIONS = {"FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_Xconv1fc_head"}
CASCADE = {"MODEL.CASCADE_ON": True, "MODEL.CLS_AGNOSTIC_BBOX_REG": True}
KEYPOINTS_ON = KEYPOINTS | {"MODEL.KEYPOINTS_ON": True}
SHARED_STAGE = {
    "FPN.FPN_ON": False,
    "FPN.MULTILEVEL_ROIS": False,
    "FPN.MULTILEVEL_RPN": False,
    "MODEL.CONV_BODY": "ResNet.add_ResNet50_conv4_body",
    "FAST_RCNN.ROI_BOX_HEAD": "ResNet.add_ResNet_roi_conv5_head",
}
KEYPOINT_STAGE = SHARED_STAGE | KEYPOINTS_ON | {
    "KRCNN.ROI_KEYPOINTS_HEAD": "keypoint_rcnn_heads.add_ResNet_roi_conv5_head_for_keypoints",
}  # fmt: skip

ROWS = [
    Row(
        "FAST_RCNN.ROI_BOX_HEAD", "fast_rcnn_heads.add_roi_2mlp_head", "fast_rcnn_heads.add_roi_Xconv1fc_head",
        parameter_shapes,
    ),
    Row("FAST_RCNN.MLP_HEAD_DIM", 32, 64, parameter_shapes),
    Row("FAST_RCNN.CONV_HEAD_DIM", 16, 32, parameter_shapes, CONVOLUTIONS),
    Row("FAST_RCNN.NUM_STACKED_CONVS", 4, 2, parameter_shapes, CONVOLUTIONS),
    Row("FAST_RCNN.NUM_STACKED_FCS", 0, 3, parameter_shapes),
    Row("FAST_RCNN.NORM", "none", "batch", parameter_shapes, CONVOLUTIONS),
    Row("FAST_RCNN.BOX_LOSS", "smooth_l1", "giou", losses),
    Row("FAST_RCNN.ROI_XFORM_METHOD", "RoIAlign", "RoIPoolF", losses),
    Row("FAST_RCNN.ROI_XFORM_SAMPLING_RATIO", 2, 1, losses),
    Row("FAST_RCNN.ROI_XFORM_RESOLUTION", 7, 5, parameter_shapes),
    Row(
        "MRCNN.ROI_MASK_HEAD", "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs",
        "mask_rcnn_heads.mask_rcnn_fcn_head_v1up", parameter_shapes,
    ),
    Row("MRCNN.RESOLUTION", 14, 28, losses, along={"MRCNN.ROI_XFORM_RESOLUTION": 14}),
    Row("MRCNN.NUM_STACKED_CONVS", 0, 3, parameter_shapes),
    Row("MRCNN.NORM", "auto", "group", parameter_shapes),
    Row("MRCNN.ROI_XFORM_METHOD", "RoIAlign", "RoIPoolF", losses),
    Row("MRCNN.ROI_XFORM_RESOLUTION", 7, 14, losses, along={"MRCNN.RESOLUTION": 28}),
    Row("MRCNN.ROI_XFORM_SAMPLING_RATIO", 2, 1, losses),
    Row("MRCNN.DIM_REDUCED", 16, 32, parameter_shapes),
    Row("MRCNN.DILATION", 1, 2, losses),
    Row("MRCNN.UPSAMPLE_RATIO", 1, 2, losses, along={"MRCNN.RESOLUTION": 28}),
    Row("MRCNN.USE_FC_OUTPUT", False, True, parameter_shapes),
    Row("MRCNN.CONV_INIT", "GaussianFill", "MSRAFill", fresh_weights),
    Row("MRCNN.CLS_SPECIFIC_MASK", True, False, parameter_shapes),
    Row("MRCNN.WEIGHT_LOSS_MASK", 1.0, 2.0, losses),
    Row("MRCNN.THRESH_BINARIZE", 0.5, 0.7, detections),
    Row(
        "KRCNN.ROI_KEYPOINTS_HEAD", "keypoint_rcnn_heads.add_roi_pose_head_v1convX",
        "keypoint_rcnn_heads.add_ResNet_roi_conv5_head_for_keypoints", parameter_shapes, SHARED_STAGE | KEYPOINTS_ON,
    ),
    Row("KRCNN.HEATMAP_SIZE", 14, 28, losses, KEYPOINTS_ON, along={"KRCNN.UP_SCALE": 2}),
    Row("KRCNN.UP_SCALE", -1, 2, losses, KEYPOINTS_ON, along={"KRCNN.HEATMAP_SIZE": 28}),
    Row("KRCNN.USE_DECONV", False, True, parameter_shapes, KEYPOINTS_ON, along={"KRCNN.HEATMAP_SIZE": 28}),
    Row("KRCNN.DECONV_DIM", 16, 32, parameter_shapes, KEYPOINTS_ON | {
        "KRCNN.USE_DECONV": True, "KRCNN.HEATMAP_SIZE": 28,
    }),
    Row("KRCNN.USE_DECONV_OUTPUT", True, False, parameter_shapes, KEYPOINTS_ON, along={"KRCNN.HEATMAP_SIZE": 7}),
    Row("KRCNN.DILATION", 1, 2, losses, KEYPOINT_STAGE),
    Row("KRCNN.DECONV_KERNEL", 4, 2, parameter_shapes, KEYPOINTS_ON),
    Row("KRCNN.NUM_KEYPOINTS", 3, 4, parameter_shapes, KEYPOINTS_ON),
    Row("KRCNN.NUM_STACKED_CONVS", 2, 3, parameter_shapes, KEYPOINTS_ON),
    Row("KRCNN.CONV_HEAD_DIM", 16, 32, parameter_shapes, KEYPOINTS_ON),
    Row("KRCNN.CONV_HEAD_KERNEL", 3, 5, parameter_shapes, KEYPOINTS_ON),
    Row("KRCNN.CONV_INIT", "GaussianFill", "MSRAFill", fresh_weights, KEYPOINTS_ON),
    Row("KRCNN.NMS_OKS", False, True, detections, KEYPOINTS_ON),
    Row("KRCNN.KEYPOINT_CONFIDENCE", "bbox", "prob", evaluation, KEYPOINTS_ON),
    Row("KRCNN.OKS_SIGMAS", (), (0.5, 0.5, 0.5), evaluation, KEYPOINTS_ON | {"KRCNN.NMS_OKS": True}),
    Row("CASCADE.IOUS", (0.5, 0.6, 0.7), (0.5, 0.8, 0.9), losses, CASCADE),
    Row(
        "CASCADE.BBOX_REG_WEIGHTS", ((10.0, 10.0, 5.0, 5.0),) * 3, ((20.0, 20.0, 10.0, 10.0),) * 3, losses, CASCADE,
    ),
    Row("FAST_RCNN.SMOOTH_L1_BETA", -1.0, 1.0, losses),
    Row("KRCNN.ROI_XFORM_METHOD", "RoIAlign", "RoIPoolF", losses, KEYPOINTS_ON),
    Row("KRCNN.ROI_XFORM_RESOLUTION", 7, 14, losses, KEYPOINTS_ON, along={"KRCNN.HEATMAP_SIZE": 28}),
    Row("KRCNN.ROI_XFORM_SAMPLING_RATIO", 1, 2, losses, KEYPOINTS_ON),
    Row("KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH", 0, 1000, losses, KEYPOINTS_ON),
    Row("KRCNN.INFERENCE_MIN_SIZE", 0, 200, detections, KEYPOINTS_ON),
    Row("KRCNN.LOSS_WEIGHT", 1.0, 2.0, losses, KEYPOINTS_ON),
    Row("KRCNN.NORMALIZE_BY_VISIBLE_KEYPOINTS", True, False, losses, KEYPOINTS_ON),
    Row("RFCN.PS_GRID_SIZE", 3, 5, parameter_shapes, FIFTH_STAGE | {"MODEL.TYPE": "rfcn"}),
]  # fmt: skip
