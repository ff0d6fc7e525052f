"""Configuration sections: FAST_RCNN, MRCNN, KRCNN, RFCN."""

from __future__ import annotations

from detectune.config.knob import Section, knob


class FastRcnn(Section):
    CONV_HEAD_DIM: int = knob(256, "", kind="runtime", stage="nothing")
    MLP_HEAD_DIM: int = knob(1024, "", kind="runtime", stage="nothing")
    NUM_STACKED_CONVS: int = knob(4, "", kind="runtime", stage="nothing")
    ROI_BOX_HEAD: str = knob("", "", kind="runtime", stage="nothing")
    ROI_XFORM_METHOD: str = knob("RoIPoolF", "", kind="runtime", stage="nothing")
    ROI_XFORM_RESOLUTION: int = knob(14, "", kind="runtime", stage="nothing")
    ROI_XFORM_SAMPLING_RATIO: int = knob(0, "", kind="runtime", stage="nothing")


class MaskRcnn(Section):
    CLS_SPECIFIC_MASK: bool = knob(True, "", kind="runtime", stage="nothing")
    CONV_INIT: str = knob("GaussianFill", "", kind="runtime", stage="nothing")
    DILATION: int = knob(2, "", kind="runtime", stage="nothing")
    DIM_REDUCED: int = knob(256, "", kind="runtime", stage="nothing")
    RESOLUTION: int = knob(14, "", kind="runtime", stage="nothing")
    ROI_MASK_HEAD: str = knob("", "", kind="runtime", stage="nothing")
    ROI_XFORM_METHOD: str = knob("RoIAlign", "", kind="runtime", stage="nothing")
    ROI_XFORM_RESOLUTION: int = knob(7, "", kind="runtime", stage="nothing")
    ROI_XFORM_SAMPLING_RATIO: int = knob(0, "", kind="runtime", stage="nothing")
    THRESH_BINARIZE: float = knob(0.5, "", kind="runtime", stage="nothing")
    UPSAMPLE_RATIO: int = knob(1, "", kind="runtime", stage="nothing")
    USE_FC_OUTPUT: bool = knob(False, "", kind="runtime", stage="nothing")
    WEIGHT_LOSS_MASK: float = knob(1.0, "", kind="runtime", stage="nothing")


class KeypointRcnn(Section):
    CONV_HEAD_DIM: int = knob(256, "", kind="runtime", stage="nothing")
    CONV_HEAD_KERNEL: int = knob(3, "", kind="runtime", stage="nothing")
    CONV_INIT: str = knob("GaussianFill", "", kind="runtime", stage="nothing")
    DECONV_DIM: int = knob(256, "", kind="runtime", stage="nothing")
    DECONV_KERNEL: int = knob(4, "", kind="runtime", stage="nothing")
    DILATION: int = knob(1, "", kind="runtime", stage="nothing")
    HEATMAP_SIZE: int = knob(-1, "", kind="runtime", stage="nothing")
    INFERENCE_MIN_SIZE: int = knob(0, "", kind="runtime", stage="nothing")
    KEYPOINT_CONFIDENCE: str = knob("bbox", "", kind="runtime", stage="nothing")
    LOSS_WEIGHT: float = knob(1.0, "", kind="runtime", stage="nothing")
    MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH: int = knob(20, "", kind="runtime", stage="nothing")
    NMS_OKS: bool = knob(False, "", kind="runtime", stage="nothing")
    NORMALIZE_BY_VISIBLE_KEYPOINTS: bool = knob(True, "", kind="runtime", stage="nothing")
    NUM_KEYPOINTS: int = knob(-1, "", kind="runtime", stage="nothing")
    NUM_STACKED_CONVS: int = knob(8, "", kind="runtime", stage="nothing")
    ROI_KEYPOINTS_HEAD: str = knob("", "", kind="runtime", stage="nothing")
    ROI_XFORM_METHOD: str = knob("RoIAlign", "", kind="runtime", stage="nothing")
    ROI_XFORM_RESOLUTION: int = knob(7, "", kind="runtime", stage="nothing")
    ROI_XFORM_SAMPLING_RATIO: int = knob(0, "", kind="runtime", stage="nothing")
    UP_SCALE: int = knob(-1, "", kind="runtime", stage="nothing")
    USE_DECONV: bool = knob(False, "", kind="runtime", stage="nothing")
    USE_DECONV_OUTPUT: bool = knob(False, "", kind="runtime", stage="nothing")


class Rfcn(Section):
    PS_GRID_SIZE: int = knob(3, "", kind="runtime", stage="nothing")
