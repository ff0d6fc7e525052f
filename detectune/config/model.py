"""What network is built, in which geometry, on which device."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import PositiveFloat, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator

from detectune.config.knob import Section, among, knob

ModelType = Literal[
    "",
    "generalized_rcnn",
    "retinanet",
    "rfcn",
    "classifier",
    "rpn",
    "fpn_rpn",
    "fast_rcnn",
    "faster_rcnn",
    "mask_rcnn",
    "keypoint_rcnn",
    "mask_and_keypoint_rcnn",
]

ConvBody = Literal[
    "",
    "FPN.add_fpn_ResNet18_conv5_body",
    "FPN.add_fpn_ResNet34_conv5_body",
    "FPN.add_fpn_ResNet50_conv5_body",
    "FPN.add_fpn_ResNet50_conv5_P2only_body",
    "FPN.add_fpn_ResNet101_conv5_body",
    "FPN.add_fpn_ResNet101_conv5_P2only_body",
    "FPN.add_fpn_ResNet152_conv5_body",
    "FPN.add_fpn_ResNet152_conv5_P2only_body",
    "ResNet.add_ResNet18_conv4_body",
    "ResNet.add_ResNet18_conv5_body",
    "ResNet.add_ResNet34_conv4_body",
    "ResNet.add_ResNet34_conv5_body",
    "ResNet.add_ResNet50_conv4_body",
    "ResNet.add_ResNet50_conv5_body",
    "ResNet.add_ResNet101_conv4_body",
    "ResNet.add_ResNet101_conv5_body",
    "ResNet.add_ResNet152_conv4_body",
    "ResNet.add_ResNet152_conv5_body",
    "VGG16.add_VGG16_conv5_body",
    "VGG_CNN_M_1024.add_VGG_CNN_M_1024_conv5_body",
]

TIMM_BODY = r"^timm/[\w.]+$"


def _accept_timm(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, str) and re.match(TIMM_BODY, value) else check(value)


AnyBody = Annotated[
    ConvBody,
    WrapValidator(_accept_timm),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": list(get_args(ConvBody))},
                {"type": "string", "pattern": TIMM_BODY},
            ]
        }
    ),
]


class Model(Section):
    """What network is built."""

    TYPE: ModelType = knob(
        "",
        "Family of network: `generalized_rcnn` (Fast, Faster, Mask and Keypoint R-CNN, RPN alone), "
        "`retinanet` or `rfcn`; or `classifier`, a small network for whole images, which CLASSIFIER describes. The "
        "other names are old spellings of `generalized_rcnn`; empty lets "
        "FASTER_RCNN, RPN_ONLY and RETINANET_ON decide.",
        kind="architecture",
        stage="architecture",
    )
    CONV_BODY: AnyBody = knob(
        "",
        "Backbone, by Detectron's function name, or `timm/` and the name of a model of the timm library, under a "
        "pyramid. Deeper networks are more accurate, slower and need "
        "more memory; an FPN body is the better start for anything with objects of different sizes.",
        kind="architecture",
        stage="architecture",
        search=among(
            "FPN.add_fpn_ResNet18_conv5_body",
            "FPN.add_fpn_ResNet50_conv5_body",
            "FPN.add_fpn_ResNet101_conv5_body",
        ),
        source="He et al. 2016 (arXiv:1512.03385); Lin et al. 2017 (arXiv:1612.03144)",
    )
    NUM_CLASSES: int = knob(
        -1,
        "Number of classes, background included (COCO: 81). -1 takes it from the data set; any other "
        "value must agree with the data.",
        kind="architecture",
        stage="architecture",
        unit="classes",
        ge=-1,
    )
    CLS_AGNOSTIC_BBOX_REG: bool = knob(
        False,
        "One box regression for all classes instead of one per class. Fewer parameters and better use "
        "of rare classes; a little less precise where classes have different shapes.",
        kind="architecture",
        stage="architecture",
        search=among(False, True),
        source="Dai et al. 2016 (arXiv:1605.06409), section 2",
    )
    BBOX_REG_WEIGHTS: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = knob(
        (10.0, 10.0, 5.0, 5.0),
        "Factors on the box head's targets (x, y, width, height) that bring them to about unit "
        "variance. Larger values make the same error cost more, so the box loss gains weight against "
        "classification; weights must be tested with the values they were trained with.",
        kind="loss",
        stage="training",
        source="Girshick 2015 (arXiv:1504.08083), section 2.3",
    )
    FASTER_RCNN: bool = knob(
        False,
        "The network proposes its own regions (RPN) and trains both stages together. When off, "
        "proposals come from PROPOSAL_FILES.",
        kind="architecture",
        stage="architecture",
        source="Ren et al. 2015 (arXiv:1506.01497)",
    )
    RPN_ONLY: bool = knob(
        False,
        "Builds and trains the region proposal network alone, without a second stage.",
        kind="architecture",
        stage="architecture",
        source="Ren et al. 2015 (arXiv:1506.01497), section 3.1",
    )
    MASK_ON: bool = knob(
        False,
        "Adds the mask branch (Mask R-CNN). Needs segmentations in the training data; slows each step "
        "a little and usually helps the boxes too.",
        kind="architecture",
        stage="architecture",
        source="He et al. 2017 (arXiv:1703.06870)",
    )
    KEYPOINTS_ON: bool = knob(
        False,
        "Adds the keypoint branch. Needs keypoints in the training data.",
        kind="architecture",
        stage="architecture",
        source="He et al. 2017 (arXiv:1703.06870), section 5",
    )
    CASCADE_ON: bool = knob(
        False,
        "Refines boxes in the stages of CASCADE, each with a box head of its own (Cascade R-CNN). Several points of AP "
        "at high overlaps for a slower second stage; needs CLS_AGNOSTIC_BBOX_REG.",
        kind="architecture",
        stage="architecture",
        search=among(False, True),
        source="ours; Cai & Vasconcelos 2018 (arXiv:1712.00726)",
    )
    GEOMETRY: Literal["detectron", "detectron2", "torchvision"] = knob(
        "detectron2",
        "Which system's box arithmetic to reproduce: inclusive pixels of `detectron`, continuous ones "
        "of `detectron2`, or `torchvision`'s. Weights want the geometry that they were trained with: "
        "another one shifts boxes by up to a pixel.",
        kind="architecture",
        stage="training",
        source="ours",
    )
    DEVICE: str = knob(
        "auto",
        "Where to compute: `auto` (CUDA, then Apple's MPS, then the CPU), `cpu`, `mps`, `cuda` or "
        "`cuda:N` for the GPU of that number.",
        kind="runtime",
        stage="nothing",
        pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$",
        source="ours",
    )
    MEMORY_FORMAT: Literal["auto", "contiguous", "channels_last"] = knob(
        "auto",
        "Order of image tensors in memory. `channels_last` is usually faster in half precision; "
        "`auto` takes what was measured to be faster on this machine.",
        kind="runtime",
        stage="nothing",
        source="ours",
    )
    EXECUTION_TYPE: str = knob(
        "dag",
        "Scheduler of Caffe2's operator graph.",
        kind="runtime",
        stage="nothing",
        obsolete="Nothing to set: PyTorch runs operations in program order and overlaps them on the device by itself.",
    )
