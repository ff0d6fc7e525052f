"""Keys that contradict each other: what no single key's range can see.

`contradictions` is pure. It speaks only about values that cannot both be meant, whatever the run is for; a key that
merely has no effect beside the others is no contradiction. Every sentence names the keys, their values and the mend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

from detectune.config.norms import box_head_norm, mask_head_norm, pyramid_norm
from detectune.config.tree import Config

Rule = Callable[[Config], Iterator[str]]


def contradictions(config: Config) -> list[str]:
    """One sentence for each contradiction; empty when the configuration is consistent."""
    return [sentence for rule in RULES for sentence in rule(config)]


def _families(config: Config) -> Iterator[str]:
    model, retinanet = config.MODEL, config.RETINANET.RETINANET_ON
    if retinanet:
        for name in ("FASTER_RCNN", "RPN_ONLY", "MASK_ON", "KEYPOINTS_ON"):
            if getattr(model, name):
                yield f"MODEL.{name} and RETINANET.RETINANET_ON are both True; RetinaNet has one stage, so choose one."
        if not config.FPN.FPN_ON:
            yield "RETINANET.RETINANET_ON is True but FPN.FPN_ON is False; RetinaNet needs the pyramid, so set both."
    if model.TYPE and (model.TYPE == "retinanet") != retinanet:
        yield (
            f"MODEL.TYPE is {model.TYPE} but RETINANET.RETINANET_ON is {retinanet}; "
            "set both to RetinaNet or neither."
        )
    if model.RPN_ONLY:
        for name in ("MASK_ON", "KEYPOINTS_ON"):
            if getattr(model, name):
                yield f"MODEL.RPN_ONLY and MODEL.{name} are both True, but proposals alone have no heads; choose one."
    if model.TYPE == "rfcn":
        for name in ("RPN_ONLY", "MASK_ON", "KEYPOINTS_ON"):
            if getattr(model, name):
                yield (
                    f"MODEL.TYPE is rfcn and MODEL.{name} is True, but R-FCN predicts boxes and nothing else; set "
                    f"MODEL.{name} to False or MODEL.TYPE to generalized_rcnn."
                )


def _heads(config: Config) -> Iterator[str]:
    model = config.MODEL
    two_stage = not model.RPN_ONLY and not config.RETINANET.RETINANET_ON and model.TYPE != "rfcn"
    if model.FASTER_RCNN and two_stage and not config.FAST_RCNN.ROI_BOX_HEAD:
        yield (
            "MODEL.FASTER_RCNN is True but FAST_RCNN.ROI_BOX_HEAD is empty; name a box head, such as "
            "fast_rcnn_heads.add_roi_2mlp_head."
        )
    if model.MASK_ON and not config.MRCNN.ROI_MASK_HEAD:
        yield (
            "MODEL.MASK_ON is True but MRCNN.ROI_MASK_HEAD is empty; name a mask head, such as "
            "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs, or set MODEL.MASK_ON to False."
        )
    if model.KEYPOINTS_ON and not config.KRCNN.ROI_KEYPOINTS_HEAD:
        yield (
            "MODEL.KEYPOINTS_ON is True but KRCNN.ROI_KEYPOINTS_HEAD is empty; name a keypoint head, such as "
            "keypoint_rcnn_heads.add_roi_pose_head_v1convX, or set MODEL.KEYPOINTS_ON to False."
        )
    conv5_head = config.FAST_RCNN.ROI_BOX_HEAD == "ResNet.add_ResNet_roi_conv5_head"
    if two_stage and conv5_head and model.CONV_BODY and not model.CONV_BODY.endswith("_conv4_body"):
        yield (
            f"FAST_RCNN.ROI_BOX_HEAD {config.FAST_RCNN.ROI_BOX_HEAD} is the network's fifth stage and needs a body "
            f"that ends at the fourth, but MODEL.CONV_BODY is {model.CONV_BODY}; take a ResNet conv4 body or "
            "fast_rcnn_heads.add_roi_2mlp_head."
        )
    if model.MASK_ON and config.MRCNN.ROI_MASK_HEAD.endswith("v0upshare"):
        if not conv5_head:
            yield (
                f"MRCNN.ROI_MASK_HEAD {config.MRCNN.ROI_MASK_HEAD} shares the layers of "
                f"ResNet.add_ResNet_roi_conv5_head, but FAST_RCNN.ROI_BOX_HEAD is {config.FAST_RCNN.ROI_BOX_HEAD!r}."
            )
        elif config.MRCNN.ROI_XFORM_RESOLUTION != config.FAST_RCNN.ROI_XFORM_RESOLUTION:
            yield (
                f"MRCNN.ROI_XFORM_RESOLUTION is {config.MRCNN.ROI_XFORM_RESOLUTION} but the mask head shares the box "
                "head's layers, so it must equal FAST_RCNN.ROI_XFORM_RESOLUTION, "
                f"{config.FAST_RCNN.ROI_XFORM_RESOLUTION}."
            )
        elif config.MRCNN.DILATION != 1:
            yield (
                f"MRCNN.DILATION is {config.MRCNN.DILATION} but the mask head shares the box head's layers, which are "
                "not dilated; set it to 1 or take mask_rcnn_heads.mask_rcnn_fcn_head_v0up."
            )


def _output_sizes(config: Config) -> Iterator[str]:
    mask = config.MRCNN
    if config.MODEL.MASK_ON and mask.USE_FC_OUTPUT and mask.UPSAMPLE_RATIO > 1:
        yield (
            f"MRCNN.UPSAMPLE_RATIO is {mask.UPSAMPLE_RATIO} but MRCNN.USE_FC_OUTPUT is True, which predicts masks of "
            "MRCNN.RESOLUTION directly; set UPSAMPLE_RATIO to 1 or USE_FC_OUTPUT to False."
        )
    if config.MODEL.MASK_ON and mask.ROI_MASK_HEAD and not mask.USE_FC_OUTPUT:
        grid = mask.ROI_XFORM_RESOLUTION
        if (
            "_v0up" in mask.ROI_MASK_HEAD and mask.DILATION == 1
        ):  # the fifth stage strides down to about 7 cells first
            grid = math.ceil(grid / max(grid // 7, 1))
        expected = 2 * grid * mask.UPSAMPLE_RATIO
        if expected != mask.RESOLUTION:
            yield (
                f"MRCNN.RESOLUTION is {mask.RESOLUTION} but {mask.ROI_MASK_HEAD} with ROI_XFORM_RESOLUTION "
                f"{mask.ROI_XFORM_RESOLUTION} and UPSAMPLE_RATIO {mask.UPSAMPLE_RATIO} makes masks of {expected}; "
                f"set MRCNN.RESOLUTION to {expected}."
            )


def _keypoints(config: Config) -> Iterator[str]:
    head = config.KRCNN
    if not config.MODEL.KEYPOINTS_ON or not head.ROI_KEYPOINTS_HEAD:
        return
    grid = head.ROI_XFORM_RESOLUTION
    if head.ROI_KEYPOINTS_HEAD.endswith("_for_keypoints") and head.DILATION == 1:
        grid = math.ceil(grid / max(grid // 7, 1))  # the fifth stage strides down to about 7 cells first
    expected = grid * max(head.UP_SCALE, 1)
    expected *= (2 if head.USE_DECONV else 1) * (2 if head.USE_DECONV_OUTPUT else 1)
    if head.HEATMAP_SIZE not in (-1, expected):
        yield (
            f"KRCNN.HEATMAP_SIZE is {head.HEATMAP_SIZE} but ROI_XFORM_RESOLUTION {head.ROI_XFORM_RESOLUTION} with "
            f"UP_SCALE {head.UP_SCALE}, USE_DECONV {head.USE_DECONV} and USE_DECONV_OUTPUT {head.USE_DECONV_OUTPUT} "
            f"makes maps of {expected}; set KRCNN.HEATMAP_SIZE to {expected}."
        )
    if head.CONV_HEAD_KERNEL % 2 == 0:
        yield (
            f"KRCNN.CONV_HEAD_KERNEL is {head.CONV_HEAD_KERNEL}, which does not keep the grid's size; take an odd one, "
            "such as 3."
        )
    if head.DECONV_KERNEL % 2 and (head.USE_DECONV or head.USE_DECONV_OUTPUT):
        yield (
            f"KRCNN.DECONV_KERNEL is {head.DECONV_KERNEL}, which does not double the grid exactly; take an even one, "
            "such as 4."
        )
    if head.UP_SCALE > 1 and head.UP_SCALE % 2 and config.MODEL.GEOMETRY == "detectron":
        yield (
            f"KRCNN.UP_SCALE is {head.UP_SCALE}, but with MODEL.GEOMETRY detectron, which enlarges by a transposed "
            "convolution, it must be even, or -1 for none."
        )
    if head.OKS_SIGMAS and head.NUM_KEYPOINTS > 0 and len(head.OKS_SIGMAS) != head.NUM_KEYPOINTS:
        yield (
            f"KRCNN.OKS_SIGMAS has {len(head.OKS_SIGMAS)} numbers but KRCNN.NUM_KEYPOINTS is {head.NUM_KEYPOINTS}; "
            "give one for each keypoint, or none."
        )


def _cascade(config: Config) -> Iterator[str]:
    model, cascade = config.MODEL, config.CASCADE
    if not model.CASCADE_ON:
        return
    if not model.CLS_AGNOSTIC_BBOX_REG:
        yield (
            "MODEL.CASCADE_ON is True but MODEL.CLS_AGNOSTIC_BBOX_REG is False; stages hand on one box "
            "for all classes, so set it to True."
        )
    if config.RETINANET.RETINANET_ON or model.RPN_ONLY or model.TYPE == "rfcn":
        yield "MODEL.CASCADE_ON is True but this model has no box head to put in stages; set it to False."
    if len(cascade.IOUS) != len(cascade.BBOX_REG_WEIGHTS):
        yield (
            f"CASCADE.IOUS has {len(cascade.IOUS)} stages but CASCADE.BBOX_REG_WEIGHTS has "
            f"{len(cascade.BBOX_REG_WEIGHTS)}; give both for each stage."
        )
    if cascade.IOUS[0] != config.TRAIN.FG_THRESH:
        yield (
            f"CASCADE.IOUS begins with {cascade.IOUS[0]:g} but TRAIN.FG_THRESH, which draws the first stage's regions, "
            f"is {config.TRAIN.FG_THRESH:g}; make them equal."
        )


def _pyramid(config: Config) -> Iterator[str]:
    fpn, body = config.FPN, config.MODEL.CONV_BODY
    for name in ("MULTILEVEL_ROIS", "MULTILEVEL_RPN"):
        if getattr(fpn, name) and not fpn.FPN_ON:
            yield f"FPN.{name} is True but FPN.FPN_ON is False; set FPN.FPN_ON to True or FPN.{name} to False."
    has_pyramid = body.startswith(("FPN.", "timm/"))
    if body and has_pyramid != fpn.FPN_ON:
        yield (
            f"MODEL.CONV_BODY {body} {'has' if has_pyramid else 'has no'} feature pyramid but "
            f"FPN.FPN_ON is {fpn.FPN_ON}; change one of them."
        )
    if "_P2only_" in body:
        for name in ("MULTILEVEL_ROIS", "MULTILEVEL_RPN"):
            if getattr(fpn, name):
                yield (
                    f"MODEL.CONV_BODY {body} gives the finest level only but FPN.{name} is True; set it to False "
                    f"or take {body.replace('_P2only', '')}."
                )
    for part in ("ROI", "RPN"):
        low, high = getattr(fpn, f"{part}_MIN_LEVEL"), getattr(fpn, f"{part}_MAX_LEVEL")
        if low > high:
            yield f"FPN.{part}_MIN_LEVEL is {low} but FPN.{part}_MAX_LEVEL is {high}; the first must not be larger."
        elif fpn.FPN_ON and not 2 <= low <= 5:
            yield f"FPN.{part}_MIN_LEVEL is {low}, but the levels that the body gives the pyramid are 2 to 5; take one."
    if fpn.FPN_ON and fpn.COARSEST_STRIDE % 32:
        yield (
            f"FPN.COARSEST_STRIDE is {fpn.COARSEST_STRIDE}, but a pyramid needs images padded to a multiple of 32; "
            "set it to 32, 64 or 128."
        )


def _residual_network(config: Config) -> Iterator[str]:
    body, resnet = config.MODEL.CONV_BODY, config.RESNETS
    basic = next((name for name in ("ResNet18_", "ResNet34_") if name in body), None)
    if basic and (resnet.NUM_GROUPS, resnet.WIDTH_PER_GROUP) != (1, 64):
        yield (
            f"RESNETS.NUM_GROUPS {resnet.NUM_GROUPS} and WIDTH_PER_GROUP {resnet.WIDTH_PER_GROUP} need bottleneck "
            f"blocks, which {basic.rstrip('_')} does not have; set them to 1 and 64 or take a ResNet-50, 101 or 152."
        )
    if basic and any(resnet.DEFORM_ON_PER_STAGE):
        yield (
            f"RESNETS.DEFORM_ON_PER_STAGE is {resnet.DEFORM_ON_PER_STAGE}, but {basic.rstrip('_')} has no bottleneck "
            "blocks, which deformable convolutions belong to; set all four to False or take a ResNet-50, 101 or 152."
        )
    if resnet.RES5_DILATION > 1 and body.startswith("FPN."):
        yield (
            f"RESNETS.RES5_DILATION is {resnet.RES5_DILATION} but MODEL.CONV_BODY {body} has a pyramid, whose levels "
            "halve from one to the next; set it to 1 or take a ResNet conv5 body."
        )
    functions = {name: getattr(resnet, name) for name in ("STEM_FUNC", "TRANS_FUNC", "SHORTCUT_FUNC")}
    grouped = [name for name, function in functions.items() if "_gn" in function]
    if grouped and resnet.NORM in ("frozen", "batch"):
        yield (
            f"RESNETS.NORM is {resnet.NORM} but RESNETS.{grouped[0]} {functions[grouped[0]]} asks for group "
            "normalisation; set RESNETS.NORM to group or auto, or take the name without _gn."
        )
    if 0 < len(grouped) < 3 and resnet.NORM == "auto":
        others = ", ".join(f"RESNETS.{name}" for name in functions if name not in grouped)
        yield (
            f"RESNETS.{grouped[0]} {functions[grouped[0]]} asks for group normalisation but {others} does not; "
            "change all three or set RESNETS.NORM."
        )


def _group_norm(config: Config) -> Iterator[str]:
    groups, size = config.GROUP_NORM.NUM_GROUPS, config.GROUP_NORM.DIM_PER_GP
    if (groups > 0) == (size > 0):
        yield (
            f"GROUP_NORM.NUM_GROUPS is {groups} and GROUP_NORM.DIM_PER_GP is {size}; exactly one of them must be "
            "positive and the other -1."
        )
        return
    model = config.MODEL
    normalised = {
        "FPN.DIM": pyramid_norm(config) == "group" and config.FPN.FPN_ON,
        "FAST_RCNN.CONV_HEAD_DIM": box_head_norm(config) == "group"
        and "Xconv1fc" in config.FAST_RCNN.ROI_BOX_HEAD,
        "MRCNN.DIM_REDUCED": model.MASK_ON and mask_head_norm(config) == "group",
    }
    for section, key, value in (
        ("FPN", "USE_GN True", config.FPN.USE_GN),
        (
            "FAST_RCNN",
            f"ROI_BOX_HEAD {config.FAST_RCNN.ROI_BOX_HEAD}",
            config.FAST_RCNN.ROI_BOX_HEAD.endswith("_gn_head"),
        ),
        ("MRCNN", f"ROI_MASK_HEAD {config.MRCNN.ROI_MASK_HEAD}", config.MRCNN.ROI_MASK_HEAD.endswith("_gn")),
    ):
        norm = getattr(config, section).NORM
        if value and norm not in ("auto", "group"):
            yield (
                f"{section}.NORM is {norm} but {section}.{key} asks for group normalisation; set {section}.NORM to "
                "auto, or change the other."
            )
    name, unit = ("NUM_GROUPS", groups) if groups > 0 else ("DIM_PER_GP", size)
    for key, applies in normalised.items():
        section, _, field = key.partition(".")
        channels = getattr(getattr(config, section), field)
        if applies and channels % unit:
            yield (
                f"{key} is {channels}, which GROUP_NORM.{name} {unit} does not divide; "
                f"change one of them (a common divisor is {math.gcd(channels, unit)})."
            )


def _sentinels(config: Config) -> Iterator[str]:
    """Keys where -1 means "not set" and 0 means nothing."""
    least = {
        "MODEL.NUM_CLASSES": (config.MODEL.NUM_CLASSES, 2, "take it from the data set"),
        "KRCNN.NUM_KEYPOINTS": (config.KRCNN.NUM_KEYPOINTS, 1, "take it from the data set"),
        "KRCNN.HEATMAP_SIZE": (config.KRCNN.HEATMAP_SIZE, 1, "leave it unset"),
        "KRCNN.UP_SCALE": (config.KRCNN.UP_SCALE, 1, "leave it unset"),
    }
    for key, (value, low, meaning) in least.items():
        if value != -1 and value < low:
            yield f"{key} is {value}; it must be at least {low}, or -1 to {meaning}."


def _schedule(config: Config) -> Iterator[str]:
    solver = config.SOLVER
    if solver.LR_POLICY in ("steps_with_decay", "steps_with_lrs"):
        steps = solver.STEPS
        if not steps or steps[0] != 0:
            yield (
                f"SOLVER.STEPS must start at 0 for SOLVER.LR_POLICY {solver.LR_POLICY}, but is {steps}; "
                "write for example [0, 60000, 80000]."
            )
        elif any(later <= earlier for earlier, later in pairwise(steps)):
            yield f"SOLVER.STEPS must increase from entry to entry, but is {steps}."
    if solver.LR_POLICY == "steps_with_lrs" and len(solver.LRS) != len(solver.STEPS):
        yield (
            f"SOLVER.LRS has {len(solver.LRS)} entries and SOLVER.STEPS {len(solver.STEPS)}; "
            "steps_with_lrs needs one learning rate for each step."
        )
    if solver.NESTEROV and solver.OPTIMIZER == "sgd" and solver.MOMENTUM == 0:
        yield "SOLVER.NESTEROV is True but SOLVER.MOMENTUM is 0; raise MOMENTUM or set NESTEROV to False."


def _sampling(config: Config) -> Iterator[str]:
    train = config.TRAIN
    if train.BG_THRESH_HI > train.FG_THRESH:
        yield (
            f"TRAIN.BG_THRESH_HI is {train.BG_THRESH_HI} but TRAIN.FG_THRESH is {train.FG_THRESH}; regions in between "
            "would be object and background at once, so lower BG_THRESH_HI."
        )
    retinanet, boxes = config.RETINANET, config.TEST.BBOX_AUG
    ordered = [
        ("TRAIN.BG_THRESH", "LO", train.BG_THRESH_LO, "HI", train.BG_THRESH_HI),
        (
            "TRAIN.RPN",
            "NEGATIVE_OVERLAP",
            train.RPN_NEGATIVE_OVERLAP,
            "POSITIVE_OVERLAP",
            train.RPN_POSITIVE_OVERLAP,
        ),
        ("TEST.BBOX_AUG.AREA_TH", "LO", boxes.AREA_TH_LO, "HI", boxes.AREA_TH_HI),
    ]
    for prefix, low_name, low, high_name, high in ordered:
        if low > high:
            yield f"{prefix}_{low_name} is {low} but {prefix}_{high_name} is {high}; the first must not be larger."
    if retinanet.NEGATIVE_OVERLAP > retinanet.POSITIVE_OVERLAP:
        yield (
            f"RETINANET.NEGATIVE_OVERLAP is {retinanet.NEGATIVE_OVERLAP} but RETINANET.POSITIVE_OVERLAP is "
            f"{retinanet.POSITIVE_OVERLAP}; the first must not be larger."
        )


def _data(config: Config) -> Iterator[str]:
    for name, section in (("TRAIN", config.TRAIN), ("TEST", config.TEST)):
        files, sets = len(section.PROPOSAL_FILES), len(section.DATASETS)
        if files and files != sets:
            yield f"{name}.PROPOSAL_FILES has {files} entries and {name}.DATASETS {sets}; name one file for each."
    short = [row for row in config.EXPECTED_RESULTS if len(row) not in (4, 5)]
    if short:
        yield (
            f"EXPECTED_RESULTS has the row {short[0]}; write [data set, task, metric, value] or "
            "[data set, task, metric, mean, sd]."
        )


def _machine(config: Config) -> Iterator[str]:
    device = config.MODEL.DEVICE
    for key, precision in (
        ("SOLVER.PRECISION", config.SOLVER.PRECISION),
        ("TEST.PRECISION", config.TEST.PRECISION),
    ):
        if precision == "fp16" and device in ("cpu", "mps"):
            yield f"{key} is fp16 but MODEL.DEVICE is {device}; fp16 is for CUDA, so take bf16 or fp32."


def _evaluation(config: Config) -> Iterator[str]:
    train, model = config.TRAIN, config.MODEL
    if train.EARLY_STOP_PATIENCE and not train.EVAL_ITERS:
        yield (
            f"TRAIN.EARLY_STOP_PATIENCE is {train.EARLY_STOP_PATIENCE} but TRAIN.EVAL_ITERS is 0, so nothing is "
            "evaluated before the end; set EVAL_ITERS."
        )
    if train.EVAL_ITERS and not config.TEST.DATASETS:
        yield f"TRAIN.EVAL_ITERS is {train.EVAL_ITERS} but TEST.DATASETS is empty; name a data set to evaluate on."
    for task, key, built in (
        ("segm", "MASK_ON", model.MASK_ON),
        ("keypoints", "KEYPOINTS_ON", model.KEYPOINTS_ON),
    ):
        if train.BEST_METRIC.startswith(f"{task}/") and not built:
            yield f"TRAIN.BEST_METRIC is {train.BEST_METRIC} but MODEL.{key} is False; choose another, such as bbox/AP."
    boxes = config.TEST.BBOX_AUG
    if boxes.ENABLED and (boxes.SCORE_HEUR == "UNION") != (boxes.COORD_HEUR == "UNION"):
        yield (
            f"TEST.BBOX_AUG.SCORE_HEUR is {boxes.SCORE_HEUR} and TEST.BBOX_AUG.COORD_HEUR is {boxes.COORD_HEUR}; "
            "UNION goes only with UNION."
        )
    if boxes.ENABLED and model.FASTER_RCNN and boxes.SCORE_HEUR != "UNION":
        yield (
            f"TEST.BBOX_AUG.SCORE_HEUR is {boxes.SCORE_HEUR} but MODEL.FASTER_RCNN is True; each version of the image "
            "has its own proposals then, which only UNION can merge."
        )


def _classifier(config: Config) -> Iterator[str]:
    given = config.CLASSIFIER
    if config.MODEL.TYPE == "classifier" and not given.LAYERS:
        yield (
            "MODEL.TYPE is classifier but CLASSIFIER.LAYERS is empty; list the layers, for example "
            "['dense 100', 'sigmoid', 'softmax 10']."
        )
    if len(given.INPUT_SHAPE) not in (0, 3):
        yield (
            f"CLASSIFIER.INPUT_SHAPE is {list(given.INPUT_SHAPE)}; give channels, height and width, or nothing to take "
            "the data's."
        )
    if given.LABEL_SMOOTHING and given.LOSS != "log_likelihood":
        yield (
            f"CLASSIFIER.LABEL_SMOOTHING is {given.LABEL_SMOOTHING} but CLASSIFIER.LOSS is {given.LOSS}; smoothing "
            "is for log_likelihood."
        )


RULES: tuple[Rule, ...] = (
    _families,
    _heads,
    _output_sizes,
    _keypoints,
    _cascade,
    _pyramid,
    _residual_network,
    _group_norm,
    _sentinels,
    _schedule,
    _sampling,
    _data,
    _machine,
    _evaluation,
    _classifier,
)
