"""The second stage: box, mask and keypoint heads, and R-FCN's."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from detectune.config.backbone import PartNorm
from detectune.config.knob import Section, among, knob, linear, log

CropMethod = Literal["RoIPoolF", "RoIAlign", "RoIAlignUnshifted"]

BoxLoss = Literal["smooth_l1", "giou"]

BoxHead = Literal[
    "",
    "fast_rcnn_heads.add_roi_2mlp_head",
    "fast_rcnn_heads.add_roi_Xconv1fc_head",
    "fast_rcnn_heads.add_roi_Xconv1fc_gn_head",
    "ResNet.add_ResNet_roi_conv5_head",
    "VGG16.add_VGG16_roi_fc_head",
    "VGG_CNN_M_1024.add_VGG_CNN_M_1024_roi_fc_head",
]

MaskHead = Literal[
    "",
    "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs",
    "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs_gn",
    "mask_rcnn_heads.mask_rcnn_fcn_head_v1up",
    "mask_rcnn_heads.mask_rcnn_fcn_head_v0up",
    "mask_rcnn_heads.mask_rcnn_fcn_head_v0upshare",
]

KeypointHead = Literal[
    "",
    "keypoint_rcnn_heads.add_roi_pose_head_v1convX",
    "keypoint_rcnn_heads.add_ResNet_roi_conv5_head_for_keypoints",
]


class FastRcnn(Section):
    """The box head."""

    ROI_BOX_HEAD: BoxHead = knob(
        "",
        "What turns a region's features into class scores and a box, by Detectron's function name: "
        "two fully connected layers (FPN), convolutions and one layer (`Xconv1fc`), or the network's "
        "last stage (`conv5`, for bodies without pyramid).",
        kind="architecture",
        stage="architecture",
        search=among("fast_rcnn_heads.add_roi_2mlp_head", "fast_rcnn_heads.add_roi_Xconv1fc_head"),
        source="Girshick 2015 (arXiv:1504.08083); Lin et al. 2017 (arXiv:1612.03144), section 4.2",
    )
    MLP_HEAD_DIM: int = knob(
        1024,
        "Width of the head's fully connected layers. The first one holds most of the head's "
        "parameters; small data sets do well with 256.",
        kind="architecture",
        stage="architecture",
        unit="channels",
        ge=1,
        search=log(128, 2048),
        source="Lin et al. 2017 (arXiv:1612.03144), section 4.2",
    )
    CONV_HEAD_DIM: int = knob(
        256,
        "Channels of the convolutions in an Xconv head.",
        kind="architecture",
        stage="architecture",
        unit="channels",
        ge=1,
        search=among(64, 128, 256),
        source="Wu & He 2018 (arXiv:1803.08494), section 4.2",
    )
    NUM_STACKED_CONVS: int = knob(
        4,
        "Number of convolutions in an Xconv head. More are slower and, from scratch, want group "
        "normalisation.",
        kind="architecture",
        stage="architecture",
        unit="layers",
        ge=1,
        search=linear(1, 6),
        source="Wu & He 2018 (arXiv:1803.08494), section 4.2",
    )
    ROI_XFORM_METHOD: CropMethod = knob(
        "RoIPoolF",
        "How a region is cut out of the features: RoIAlign interpolates, RoIPoolF rounds to whole "
        "cells. RoIAlign is more precise everywhere. RoIAlignUnshifted leaves away the half cell by which "
        "MODEL.GEOMETRY detectron2 shifts RoIAlign, for weights that learnt without.",
        kind="architecture",
        stage="training",
        source="He et al. 2017 (arXiv:1703.06870), section 3; Girshick 2015 (arXiv:1504.08083), section 2.1",
    )
    ROI_XFORM_SAMPLING_RATIO: int = knob(
        0,
        "Samples per side of each RoIAlign cell; 0 takes as many as the cell is wide in feature "
        "pixels. 2 is as good as more and faster.",
        kind="architecture",
        stage="training",
        unit="samples per side",
        ge=0,
        search=among(0, 1, 2),
        source="He et al. 2017 (arXiv:1703.06870), section 3",
    )
    ROI_XFORM_RESOLUTION: int = knob(
        14,
        "Side of the grid that every region is cut into. A finer grid locates better and makes the "
        "head slower.",
        kind="architecture",
        stage="architecture",
        unit="cells",
        ge=1,
        search=among(5, 7, 14),
        source="Girshick 2015 (arXiv:1504.08083), section 2.1",
    )
    NORM: PartNorm = knob(
        "auto",
        "Normalisation behind the convolutions of an Xconv head; `auto` follows the head's name (`_gn`). `batch` needs "
        "many regions per device, which a head has; in a test it keeps training's statistics.",
        kind="architecture",
        stage="architecture",
        source="ours; Wu & He 2018 (arXiv:1803.08494), section 4.2",
    )
    NUM_STACKED_FCS: int = knob(
        0,
        "Fully connected layers of the head; 0 takes the number of its name: 2 or, behind convolutions, 1.",
        kind="architecture",
        stage="architecture",
        unit="layers",
        ge=0,
        source="ours; Lin et al. 2017 (arXiv:1612.03144), section 4.2",
    )
    BOX_LOSS: BoxLoss = knob(
        "smooth_l1",
        "What a box is taught by: each of four scaled distances (`smooth_l1`), or 1 minus the generalised overlap of "
        "the boxes themselves (`giou`), which weighs small and large boxes alike.",
        kind="loss",
        stage="training",
        search=among("smooth_l1", "giou"),
        source="ours; Rezatofighi et al. 2019 (arXiv:1902.09630)",
    )
    SMOOTH_L1_BETA: float = knob(
        -1.0,
        "Where the box loss turns from squared to absolute error, in units of the scaled targets. 0 is the absolute "
        "error alone; -1 takes what MODEL.GEOMETRY's system does (1, 0 and 1/9). Keypoints do better with 0.5 than 0.",
        kind="loss",
        stage="training",
        ge=-1,
        search=among(0.0, 0.1, 0.5, 1.0),
        source="Girshick 2015 (arXiv:1504.08083), equation 3",
    )


class MaskRcnn(Section):
    """The mask head."""

    ROI_MASK_HEAD: MaskHead = knob(
        "",
        "What predicts masks, by Detectron's function name: four convolutions and an up-sampling "
        "(`v1up4convs`), fewer (`v1up`), or the network's last stage (`v0up`, and `v0upshare`, which "
        "shares the box head's weights).",
        kind="architecture",
        stage="architecture",
        source="He et al. 2017 (arXiv:1703.06870), figure 4",
    )
    RESOLUTION: int = knob(
        14,
        "Side of the predicted mask. It follows from the head: twice the region's grid after the "
        "up-sampling. Finer masks have better outlines on large objects.",
        kind="architecture",
        stage="architecture",
        unit="pixels",
        ge=1,
        source="He et al. 2017 (arXiv:1703.06870), section 3",
    )
    NUM_STACKED_CONVS: int = knob(
        0,
        "Convolutions of the mask head; 0 takes the number that belongs to its name. More are slower and draw finer.",
        kind="architecture",
        stage="architecture",
        unit="layers",
        ge=0,
        source="ours; He et al. 2017 (arXiv:1703.06870), figure 4",
    )
    NORM: PartNorm = knob(
        "auto",
        "Normalisation behind the convolutions of the mask head; `auto` follows the head's name (`_gn`).",
        kind="architecture",
        stage="architecture",
        source="ours; Wu & He 2018 (arXiv:1803.08494), section 4.2",
    )
    ROI_XFORM_METHOD: CropMethod = knob(
        "RoIAlign",
        "How a region is cut out of the features for its mask. RoIPoolF's rounding costs masks "
        "several points of AP.",
        kind="architecture",
        stage="training",
        source="He et al. 2017 (arXiv:1703.06870), section 3",
    )
    ROI_XFORM_RESOLUTION: int = knob(
        7,
        "Side of the grid that a region is cut into for its mask; change RESOLUTION with it. Cost "
        "grows with its square.",
        kind="architecture",
        stage="architecture",
        unit="cells",
        ge=1,
        search=among(7, 14, 28),
        source="He et al. 2017 (arXiv:1703.06870), figure 4",
    )
    ROI_XFORM_SAMPLING_RATIO: int = knob(
        0,
        "Samples per side of each RoIAlign cell of the mask branch; 0 adapts to the size of the region.",
        kind="architecture",
        stage="training",
        unit="samples per side",
        ge=0,
        search=among(0, 1, 2),
        source="He et al. 2017 (arXiv:1703.06870), section 3",
    )
    DIM_REDUCED: int = knob(
        256,
        "Channels of the mask head's convolutions. Halving them nearly quarters the head's cost and "
        "loses little on few classes.",
        kind="architecture",
        stage="architecture",
        unit="channels",
        ge=1,
        search=among(64, 128, 256),
        source="He et al. 2017 (arXiv:1703.06870), figure 4",
    )
    DILATION: int = knob(
        2,
        "Dilation of the mask head's convolutions. 2 sees twice as far around each pixel; published "
        "FPN models use 1.",
        kind="architecture",
        stage="architecture",
        ge=1,
        search=among(1, 2),
    )
    UPSAMPLE_RATIO: int = knob(
        1,
        "Additional bilinear up-sampling of the predicted mask. RESOLUTION must grow by the same factor.",
        kind="architecture",
        stage="architecture",
        ge=1,
    )
    USE_FC_OUTPUT: bool = knob(
        False,
        "Predicts masks by a fully connected layer instead of a convolution. Many more parameters, "
        "usually worse.",
        kind="architecture",
        stage="architecture",
        source="He et al. 2017 (arXiv:1703.06870), table 2e",
    )
    CONV_INIT: Literal["GaussianFill", "MSRAFill"] = knob(
        "GaussianFill",
        "Initial weights of the mask head: normal with deviation 0.001, or scaled to the layer's "
        "inputs (MSRAFill), which starts learning faster.",
        kind="optimisation",
        stage="training",
        source="He et al. 2015 (arXiv:1502.01852), section 2.2",
    )
    CLS_SPECIFIC_MASK: bool = knob(
        True,
        "One mask per class, of which the box's class picks one. Off predicts a single mask for all: "
        "nearly as good and much smaller with many classes.",
        kind="architecture",
        stage="architecture",
        search=among(True, False),
        source="He et al. 2017 (arXiv:1703.06870), section 4.2",
    )
    WEIGHT_LOSS_MASK: float = knob(
        1.0,
        "Factor on the mask loss. Raising it favours masks over boxes.",
        kind="loss",
        stage="training",
        ge=0,
        search=log(0.25, 4.0),
        source="He et al. 2017 (arXiv:1703.06870), section 3",
    )
    THRESH_BINARIZE: float = knob(
        0.5,
        "Probability above which a pixel belongs to the object. Lower values give larger masks.",
        kind="inference",
        stage="inference",
        unit="probability",
        ge=0,
        le=1,
        search=linear(0.3, 0.7),
        source="He et al. 2017 (arXiv:1703.06870), section 3.1",
    )


class KeypointRcnn(Section):
    """The keypoint head."""

    ROI_KEYPOINTS_HEAD: KeypointHead = knob(
        "",
        "What predicts keypoints, by Detectron's function name: a stack of convolutions (`v1convX`) "
        "or the network's last stage.",
        kind="architecture",
        stage="architecture",
        source="He et al. 2017 (arXiv:1703.06870), section 5",
    )
    HEATMAP_SIZE: int = knob(
        -1,
        "Side of each keypoint's heat map. It follows from the head, the region's grid times its "
        "up-samplings, and must agree with that unless it is -1. Finer maps locate better.",
        kind="architecture",
        stage="architecture",
        unit="pixels",
        ge=-1,
        source="He et al. 2017 (arXiv:1703.06870), section 5",
    )
    UP_SCALE: int = knob(
        -1,
        "Bilinear up-sampling of the heat maps after the last layer; -1 or 1 does none. HEATMAP_SIZE "
        "grows with it.",
        kind="architecture",
        stage="architecture",
        ge=-1,
        source="He et al. 2017 (arXiv:1703.06870), section 5",
    )
    USE_DECONV: bool = knob(
        False,
        "A transposed convolution of DECONV_DIM channels before the output layer doubles the resolution.",
        kind="architecture",
        stage="architecture",
    )
    DECONV_DIM: int = knob(
        256,
        "Channels of the transposed convolution that USE_DECONV adds.",
        kind="architecture",
        stage="architecture",
        unit="channels",
        ge=1,
    )
    USE_DECONV_OUTPUT: bool = knob(
        False,
        "Makes the output layer a transposed convolution, which doubles the resolution. Published "
        "models use it.",
        kind="architecture",
        stage="architecture",
        source="He et al. 2017 (arXiv:1703.06870), section 5",
    )
    DILATION: int = knob(
        1,
        "Dilation of the last stage's convolutions in the head made of it. 2 keeps a finer grid at "
        "more cost.",
        kind="architecture",
        stage="architecture",
        ge=1,
    )
    DECONV_KERNEL: int = knob(
        4,
        "Kernel size of the transposed convolutions; even values double the grid exactly.",
        kind="architecture",
        stage="architecture",
        unit="pixels",
        ge=2,
    )
    NUM_KEYPOINTS: int = knob(
        -1,
        "Keypoints per object (COCO persons: 17). -1 takes it from the data set.",
        kind="architecture",
        stage="architecture",
        unit="keypoints",
        ge=-1,
    )
    NUM_STACKED_CONVS: int = knob(
        8,
        "Convolutions in the keypoint head. More see more of the pose and are slower.",
        kind="architecture",
        stage="architecture",
        unit="layers",
        ge=1,
        search=linear(2, 8),
        source="He et al. 2017 (arXiv:1703.06870), section 5",
    )
    CONV_HEAD_DIM: int = knob(
        256,
        "Channels of the keypoint head's convolutions.",
        kind="architecture",
        stage="architecture",
        unit="channels",
        ge=1,
        search=among(128, 256, 512),
        source="He et al. 2017 (arXiv:1703.06870), section 5",
    )
    CONV_HEAD_KERNEL: int = knob(
        3,
        "Kernel size of the keypoint head's convolutions; odd values keep the grid's size.",
        kind="architecture",
        stage="architecture",
        unit="pixels",
        ge=1,
        search=among(3, 5),
    )
    CONV_INIT: Literal["GaussianFill", "MSRAFill"] = knob(
        "GaussianFill",
        "Initial weights of the keypoint head: normal with deviation 0.01, or scaled to the layer's "
        "inputs (MSRAFill), which starts learning faster.",
        kind="optimisation",
        stage="training",
        source="He et al. 2015 (arXiv:1502.01852), section 2.2",
    )
    NMS_OKS: bool = knob(
        False,
        "After prediction, removes persons whose keypoints repeat a better one's. Fewer doubles in crowds.",
        kind="inference",
        stage="inference",
        search=among(False, True),
        source="Papandreou et al. 2017 (arXiv:1701.01779)",
    )
    KEYPOINT_CONFIDENCE: Literal["bbox", "logit", "prob"] = knob(
        "bbox",
        "What scores a person's keypoints: the box's score, or the mean of the heat maps' peaks as "
        "they are or as probabilities.",
        kind="inference",
        stage="inference",
        search=among("bbox", "logit", "prob"),
    )
    ROI_XFORM_METHOD: CropMethod = knob(
        "RoIAlign",
        "How a region is cut out of the features for its keypoints. RoIPoolF's rounding costs several "
        "points of AP.",
        kind="architecture",
        stage="training",
        source="He et al. 2017 (arXiv:1703.06870), table 2",
    )
    ROI_XFORM_RESOLUTION: int = knob(
        7,
        "Side of the grid that a region is cut into for its keypoints; change HEATMAP_SIZE with it.",
        kind="architecture",
        stage="architecture",
        unit="cells",
        ge=1,
        search=among(7, 14),
        source="He et al. 2017 (arXiv:1703.06870), section 5",
    )
    ROI_XFORM_SAMPLING_RATIO: int = knob(
        0,
        "Samples per side of each RoIAlign cell of the keypoint branch; 0 adapts to the size of the region.",
        kind="architecture",
        stage="training",
        unit="samples per side",
        ge=0,
        search=among(0, 1, 2),
        source="He et al. 2017 (arXiv:1703.06870), section 3",
    )
    MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH: int = knob(
        20,
        "A batch with no more visible keypoints than this adds no keypoint loss. Higher values keep "
        "noisy small batches out; lower it for data with few keypoints.",
        kind="loss",
        stage="training",
        unit="keypoints",
        ge=0,
        search=among(0, 5, 10, 20),
    )
    INFERENCE_MIN_SIZE: int = knob(
        0,
        "Boxes are widened to at least this before heat maps are read off; 0 leaves them. Helps tiny "
        "objects a little.",
        kind="inference",
        stage="inference",
        unit="pixels",
        ge=0,
    )
    OKS_SIGMAS: tuple[PositiveFloat, ...] = knob(
        (),
        "How far annotators disagree about each keypoint, as a fraction of the object's scale: the measure of keypoint "
        "AP and of NMS_OKS. Empty takes COCO's for its 17 keypoints and 0.05 for any others.",
        kind="inference",
        stage="inference",
        source="ours; Ronchi & Perona 2017 (arXiv:1707.05388)",
    )
    LOSS_WEIGHT: float = knob(
        1.0,
        "Factor on the keypoint loss. Raising it favours keypoints over boxes.",
        kind="loss",
        stage="training",
        ge=0,
        search=log(0.25, 4.0),
        source="He et al. 2017 (arXiv:1703.06870), section 5",
    )
    NORMALIZE_BY_VISIBLE_KEYPOINTS: bool = knob(
        True,
        "Averages the keypoint loss over the visible keypoints of the batch. Off divides by a "
        "constant, so that batches with few keypoints count less.",
        kind="loss",
        stage="training",
        search=among(True, False),
    )


class Rfcn(Section):
    """R-FCN."""

    PS_GRID_SIZE: int = knob(
        3,
        "Side of the grid of position-sensitive score maps. More cells locate better; the last layer "
        "grows with the square.",
        kind="architecture",
        stage="architecture",
        unit="cells",
        ge=1,
        search=among(3, 5, 7),
        source="Dai et al. 2016 (arXiv:1605.06409), section 2",
    )
