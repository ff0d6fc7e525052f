"""The body of the network: residual stages, feature pyramid, group normalisation."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from detectune.config.knob import Section, among, knob, log

PartNorm = Literal["auto", "none", "frozen", "batch", "group"]


class ResNets(Section):
    """The residual network."""

    NUM_GROUPS: int = knob(
        1,
        "Groups of the 3x3 convolution in a bottleneck: 1 is ResNet, 32 or 64 is ResNeXt. More groups "
        "at equal cost gain accuracy but run slower on most hardware.",
        kind="architecture",
        stage="architecture",
        unit="groups",
        ge=1,
        source="Xie et al. 2017 (arXiv:1611.05431)",
    )
    WIDTH_PER_GROUP: int = knob(
        64,
        "Channels of each group in the first stage's bottlenecks (64 with one group is ResNet). Cost "
        "grows with the square of the total width.",
        kind="architecture",
        stage="architecture",
        unit="channels",
        ge=1,
        source="Xie et al. 2017 (arXiv:1611.05431)",
    )
    STRIDE_1X1: bool = knob(
        True,
        "Puts the stride of a down-sampling bottleneck on its first 1x1 convolution, as the original "
        "Caffe weights have it. Off (on the 3x3 convolution) is what torchvision and ResNeXt weights "
        "need and is slightly more accurate.",
        kind="architecture",
        stage="architecture",
        source="He et al. 2016 (arXiv:1512.03385); Goyal et al. 2017 (arXiv:1706.02677), section 5.1",
    )
    TRANS_FUNC: Literal["bottleneck_transformation", "bottleneck_gn_transformation"] = knob(
        "bottleneck_transformation",
        "Residual block: plain, or with group normalisation (`_gn`). The three *_FUNC keys go together.",
        kind="architecture",
        stage="architecture",
        source="Wu & He 2018 (arXiv:1803.08494)",
    )
    STEM_FUNC: Literal["basic_bn_stem", "basic_gn_stem"] = knob(
        "basic_bn_stem",
        "First layers of the network: 7x7 convolution and pooling with a frozen affine or with group "
        "normalisation (`_gn`).",
        kind="architecture",
        stage="architecture",
        source="Wu & He 2018 (arXiv:1803.08494)",
    )
    SHORTCUT_FUNC: Literal["basic_bn_shortcut", "basic_gn_shortcut"] = knob(
        "basic_bn_shortcut",
        "Projection beside a residual block that changes the width: frozen affine or group "
        "normalisation (`_gn`).",
        kind="architecture",
        stage="architecture",
        source="Wu & He 2018 (arXiv:1803.08494)",
    )
    RES5_DILATION: int = knob(
        1,
        "Dilation of the last stage. 2 keeps its resolution at stride 16 instead of 32: finer "
        "features, more memory and time.",
        kind="architecture",
        stage="architecture",
        ge=1,
        search=among(1, 2),
        source="Chen et al. 2017 (arXiv:1606.00915)",
    )
    NORM: Literal["auto", "frozen", "batch", "group"] = knob(
        "auto",
        "Normalisation in the body. `frozen` keeps the statistics of pre-training and suits small "
        "batches; `batch` needs 8 or more images per device; `group` works at any batch and from "
        "scratch. `auto` follows the *_FUNC names.",
        kind="architecture",
        stage="architecture",
        search=among("frozen", "group"),
        source="ours; Wu & He 2018 (arXiv:1803.08494)",
    )
    DEFORM_ON_PER_STAGE: tuple[bool, bool, bool, bool] = knob(
        (False, False, False, False),
        "Which of the stages 2 to 5 have deformable 3x3 convolutions, which learn where to look. More accurate on "
        "objects of odd shapes, slower, and not for ONNX.",
        kind="architecture",
        stage="architecture",
        source="ours; Dai et al. 2017 (arXiv:1703.06211)",
    )
    DEFORM_MODULATED: bool = knob(
        False,
        "Deformable convolutions also learn how much each place counts.",
        kind="architecture",
        stage="architecture",
        source="ours; Zhu et al. 2019 (arXiv:1811.11168)",
    )
    DEFORM_NUM_GROUPS: int = knob(
        1,
        "Groups of channels that each look elsewhere in a deformable convolution.",
        kind="architecture",
        stage="architecture",
        unit="groups",
        ge=1,
        source="ours; Dai et al. 2017 (arXiv:1703.06211)",
    )
    WIDTH_MULTIPLIER: float = knob(
        1.0,
        "Multiplies the channels of every stage. Below 1 makes a small fast network (cost falls with "
        "the square); pre-trained weights fit only 1.",
        kind="architecture",
        stage="architecture",
        gt=0,
        search=log(0.25, 2.0),
        source="ours; Howard et al. 2017 (arXiv:1704.04861), section 3.3",
    )


class Fpn(Section):
    """The feature pyramid."""

    FPN_ON: bool = knob(
        False,
        "Builds a feature pyramid on the backbone. Much better on small objects than one level; goes "
        "together with an `FPN.` body in MODEL.CONV_BODY.",
        kind="architecture",
        stage="architecture",
        source="Lin et al. 2017 (arXiv:1612.03144)",
    )
    DIM: int = knob(
        256,
        "Channels of every pyramid level. Cost of pyramid and heads grows with it; below 128 accuracy "
        "falls visibly on COCO, little on small data sets.",
        kind="architecture",
        stage="architecture",
        unit="channels",
        ge=1,
        search=among(64, 128, 192, 256),
        source="Lin et al. 2017 (arXiv:1612.03144), section 3",
    )
    ZERO_INIT_LATERAL: bool = knob(
        False,
        "Starts the lateral connections at zero, so that training begins with the top-down path "
        "alone. Steadier at first when the body is pre-trained.",
        kind="optimisation",
        stage="training",
        search=among(False, True),
    )
    COARSEST_STRIDE: int = knob(
        32,
        "Images are padded to a multiple of this. It must be a multiple of 32 with a pyramid "
        "(RetinaNet: 128); larger values waste computation on padding.",
        kind="architecture",
        stage="inference",
        unit="pixels",
        ge=1,
    )
    MULTILEVEL_ROIS: bool = knob(
        False,
        "Takes each region's features from the pyramid level that fits its size. Off uses one level for all.",
        kind="architecture",
        stage="architecture",
        source="Lin et al. 2017 (arXiv:1612.03144), section 4.2",
    )
    ROI_CANONICAL_SCALE: int = knob(
        224,
        "Side of a region that goes to level ROI_CANONICAL_LEVEL. Lowering it sends regions to "
        "coarser levels: more context and a larger receptive field, less detail.",
        kind="architecture",
        stage="training",
        unit="pixels",
        ge=1,
        search=log(56, 448),
        source="Lin et al. 2017 (arXiv:1612.03144), equation 1",
    )
    ROI_CANONICAL_LEVEL: int = knob(
        4,
        "Pyramid level of a region of canonical size. Raising it by one has the effect of halving "
        "ROI_CANONICAL_SCALE.",
        kind="architecture",
        stage="training",
        ge=1,
        le=10,
        source="Lin et al. 2017 (arXiv:1612.03144), equation 1",
    )
    ROI_MAX_LEVEL: int = knob(
        5,
        "Coarsest level that regions take features from; larger objects stay on it.",
        kind="architecture",
        stage="architecture",
        ge=1,
        le=10,
        source="Lin et al. 2017 (arXiv:1612.03144), section 4.2",
    )
    ROI_MIN_LEVEL: int = knob(
        2,
        "Finest level that regions take features from. 3 saves the costly stride-4 level and loses "
        "small objects.",
        kind="architecture",
        stage="architecture",
        ge=1,
        le=10,
        source="Lin et al. 2017 (arXiv:1612.03144), section 4.2",
    )
    MULTILEVEL_RPN: bool = knob(
        False,
        "Proposes regions on every pyramid level, each with anchors of one size. Off uses one level "
        "with all RPN.SIZES.",
        kind="architecture",
        stage="architecture",
        source="Lin et al. 2017 (arXiv:1612.03144), section 4.1",
    )
    RPN_MAX_LEVEL: int = knob(
        6,
        "Coarsest level with anchors. Raising it adds anchors of twice the size: needed for objects "
        "larger than the biggest anchor.",
        kind="architecture",
        stage="architecture",
        ge=1,
        le=10,
        search=among(5, 6),
        source="Lin et al. 2017 (arXiv:1612.03144), section 4.1",
    )
    RPN_MIN_LEVEL: int = knob(
        2,
        "Finest level with anchors (2 is stride 4, RetinaNet uses 3). Level 2 finds the smallest "
        "objects and costs three quarters of all anchors.",
        kind="architecture",
        stage="architecture",
        ge=1,
        le=10,
        search=among(2, 3),
        source="Lin et al. 2017 (arXiv:1612.03144), section 4.1",
    )
    RPN_ASPECT_RATIOS: tuple[PositiveFloat, ...] = knob(
        (0.5, 1, 2),
        "Shapes of the anchors at every pyramid level. More shapes cover long and thin objects better "
        "and make proposing slower.",
        kind="architecture",
        stage="architecture",
        unit="height / width",
        min_length=1,
        search=among((1.0,), (0.5, 1.0, 2.0), (0.33, 0.5, 1.0, 2.0, 3.0)),
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.1.1",
    )
    RPN_ANCHOR_START_SIZE: int = knob(
        32,
        "Side of the anchors on the finest level; it doubles with each level. Set it near the size of "
        "the smallest objects in network pixels.",
        kind="architecture",
        stage="training",
        unit="pixels",
        ge=1,
        search=log(8, 64),
        source="Lin et al. 2017 (arXiv:1612.03144), section 4.1",
    )
    EXTRA_CONV_LEVELS: bool = knob(
        False,
        "Makes the levels above 5 with extra stride-2 convolutions (RetinaNet) instead of subsampling "
        "level 5.",
        kind="architecture",
        stage="architecture",
        source="Lin et al. 2017 (arXiv:1708.02002), section 4",
    )
    EXTRA_CONVS_FROM: Literal["body", "pyramid"] = knob(
        "body",
        "What level 6 is convolved from where EXTRA_CONV_LEVELS is on: the body's last stage, or level 5 of "
        "the pyramid, which has fewer channels and so needs fewer weights.",
        kind="architecture",
        stage="architecture",
        source="Lin et al. 2017 (arXiv:1708.02002), section 4",
    )
    USE_GN: bool = knob(
        False,
        "Group normalisation in the pyramid. Helps when training from scratch or with a "
        "group-normalised body.",
        kind="architecture",
        stage="architecture",
        search=among(False, True),
        source="Wu & He 2018 (arXiv:1803.08494)",
    )
    NORM: PartNorm = knob(
        "auto",
        "Normalisation of the pyramid's convolutions: none, group, batch or a frozen affine; `auto` follows USE_GN.",
        kind="architecture",
        stage="architecture",
        source="ours; Wu & He 2018 (arXiv:1803.08494)",
    )


class GroupNorm(Section):
    """Group normalisation, wherever it is switched on."""

    DIM_PER_GP: int = knob(
        -1,
        "Channels per group; -1 leaves it to NUM_GROUPS. Set one of the two, the other to -1.",
        kind="architecture",
        stage="architecture",
        unit="channels",
        ge=-1,
        source="Wu & He 2018 (arXiv:1803.08494), table 3",
    )
    NUM_GROUPS: int = knob(
        32,
        "Number of groups; -1 leaves it to DIM_PER_GP. It must divide the channels; 1 is layer "
        "normalisation.",
        kind="architecture",
        stage="architecture",
        unit="groups",
        ge=-1,
        search=among(8, 16, 32),
        source="Wu & He 2018 (arXiv:1803.08494), table 3",
    )
    EPSILON: float = knob(
        1e-05,
        "Added to the variance before the root is taken. Larger values damp groups that hardly vary.",
        kind="architecture",
        stage="training",
        gt=0,
        source="Wu & He 2018 (arXiv:1803.08494), equation 2",
    )
