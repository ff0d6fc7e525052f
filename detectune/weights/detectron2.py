"""State dicts in detectron2's names and layout, to ours and back.

There the background is the last class and has neither boxes nor masks; images are usually BGR. The stages of a cascade
have their layers in one list and their predictors in another.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from detectune.weights.layout import (
    add_background,
    background_first,
    background_last,
    drop_background,
    swap_colours,
)
from detectune.weights.names import Renamer

_NAMES = Renamer(
    [
        ("backbone.fpn_lateral{n}.{rest}", "backbone.fpn.lateral{n}.{rest}"),
        ("backbone.fpn_output{n}.{rest}", "backbone.fpn.output{n}.{rest}"),
        ("backbone.top_block.p{n}.{rest}", "backbone.fpn.extra{n}.{rest}"),
        ("backbone.bottom_up.res{n}.{n2}.conv2_offset.{p}", "backbone.res{n}.{n2}.conv2.offset.{p}"),
        ("backbone.res{n}.{n2}.conv2_offset.{p}", "backbone.res{n}.{n2}.conv2.offset.{p}"),
        ("backbone.bottom_up.{rest}", "backbone.{rest}"),  # the body below a pyramid
        ("backbone.{rest}", "backbone.{rest}"),
        ("stem.{rest}", "backbone.stem.{rest}"),  # a body alone, trained to classify
        ("res{n}.{rest}", "backbone.res{n}.{rest}"),
        ("proposal_generator.rpn_head.conv.{rest}", "rpn.conv.{rest}"),
        ("proposal_generator.rpn_head.objectness_logits.{rest}", "rpn.objectness.{rest}"),
        ("proposal_generator.rpn_head.anchor_deltas.{rest}", "rpn.deltas.{rest}"),
        ("roi_heads.box_head.{n}.{rest}", "box_head.stages.{n}.{rest}"),
        ("roi_heads.box_predictor.{n}.{rest}", "box_head.stages.{n}.{rest}"),
        ("roi_heads.box_predictor.cls_score.{rest}", "box_head.cls_score.{rest}"),
        ("roi_heads.box_predictor.bbox_pred.{rest}", "box_head.bbox_pred.{rest}"),
        ("roi_heads.res5.{rest}", "box_head.res5.{rest}"),
        ("roi_heads.box_head.{rest}", "box_head.{rest}"),
        ("roi_heads.mask_head.mask_fcn{n}.{rest}", "mask_head.conv{n}.{rest}"),
        ("roi_heads.mask_head.deconv.{rest}", "mask_head.upsample.{rest}"),
        ("roi_heads.mask_head.predictor.{rest}", "mask_head.predictor.{rest}"),
        ("head.cls_score.{rest}", "head.cls_score.{rest}"),
        ("head.bbox_pred.{rest}", "head.bbox_pred.{rest}"),
        ("roi_heads.keypoint_head.conv_fcn{n}.{rest}", "keypoint_head.conv{n}.{rest}"),
        ("roi_heads.keypoint_head.score_lowres.{rest}", "keypoint_head.predictor.{rest}"),
    ]
)

# RetinaNet's towers are lists there: convolution and ReLU in turn, with a norm between them if there is one
_TOWER = re.compile(r"head\.(cls|bbox)_subnet\.(\d+)\.(weight|bias)")
_OUR_TOWER = re.compile(r"head\.(cls|bbox)_conv(\d+)\.(norm\.)?(weight|bias)")

# several convolutions of the RPN are a list there, one is not
_RPN_CONV = re.compile(r"proposal_generator\.rpn_head\.conv\.conv(\d+)\.(weight|bias)")
_OUR_RPN_CONV = re.compile(r"rpn\.conv(\d*)\.(weight|bias)")

_RESIDUAL = re.compile(r"backbone\.(?:stem|res\d|fpn)\.")
_STEM = "backbone.stem.conv1.weight"
_CLASS_SCORES = re.compile(r"box_head\.(stages\.\d+\.)?cls_score\.")
_STAGE_PREDICTOR = re.compile(r"box_head\.stages\.(\d+)\.((?:cls_score|bbox_pred)\..+)")


def from_detectron2(
    state: Mapping[str, Tensor],
    *,
    bgr: bool = True,
    agnostic_boxes: bool = False,
    class_specific_masks: bool = True,
) -> dict[str, Tensor]:
    """Their state dict in our words. What we have no word for keeps its name, so that a `FitReport` lists it.

    Args:
        state: name -> tensor.
        bgr: INPUT.FORMAT of the model is BGR.
        agnostic_boxes: ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG.
        class_specific_masks: not ROI_MASK_HEAD.CLS_AGNOSTIC_MASK.
    """
    out: dict[str, Tensor] = {}
    step = 3 if _has_tower_norms(state) else 2
    for theirs, value in state.items():
        name = _tower_name(theirs, step) or _rpn_conv_name(theirs) or _NAMES.ours(theirs)
        if name is None:
            out[theirs] = value
            continue
        if name == _STEM and bgr:
            value = swap_colours(value)
        elif _CLASS_SCORES.match(name):
            value = background_first(value)
        elif name.startswith("box_head.bbox_pred.") and not agnostic_boxes:
            value = add_background(value, 4)
        elif name.startswith("mask_head.predictor.") and class_specific_masks:
            value = add_background(value)
        out[name] = value
    return out


def to_detectron2(
    state: Mapping[str, Tensor],
    *,
    bgr: bool = True,
    agnostic_boxes: bool = False,
    class_specific_masks: bool = True,
) -> dict[str, Tensor]:
    """The inverse of `from_detectron2`; the background's boxes and masks, which nothing uses, are dropped."""
    names = detectron2_names(state)
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        theirs = names.get(name)
        if theirs is None:
            out[name] = value
            continue
        if name == _STEM and bgr:
            value = swap_colours(value)
        elif _CLASS_SCORES.match(name):
            value = background_last(value)
        elif name.startswith("box_head.bbox_pred.") and not agnostic_boxes:
            value = drop_background(value, 4)
        elif name.startswith("mask_head.predictor.") and class_specific_masks:
            value = drop_background(value)
        out[theirs] = value
    return out


def detectron2_names(state: Collection[str]) -> dict[str, str]:
    """Our name -> theirs, for every tensor of a state that they have a word for."""
    has_pyramid = any(name.startswith("backbone.fpn.") for name in state)
    step = 3 if any(name.startswith("head.cls_conv1.norm.") for name in state) else 2
    several_rpn_convs = "rpn.conv2.weight" in state
    names: dict[str, str] = {}
    for name in state:
        theirs = _their_tower_name(name, step) or _their_name(name)
        if several_rpn_convs and (match := _OUR_RPN_CONV.fullmatch(name)):
            theirs = f"proposal_generator.rpn_head.conv.conv{int(match[1] or 1) - 1}.{match[2]}"
        if theirs is None or (name.startswith("backbone.") and _RESIDUAL.match(name) is None):
            continue
        names[name] = theirs if has_pyramid else theirs.replace("backbone.bottom_up.", "backbone.")
    return names


def _has_tower_norms(state: Mapping[str, Tensor]) -> bool:
    """A norm's weight has one dimension and follows the convolution."""
    second = state.get("head.cls_subnet.1.weight")
    return second is not None and second.dim() == 1


def _tower_name(theirs: str, step: int) -> str | None:
    match = _TOWER.fullmatch(theirs)
    if match is None:
        return None
    layer, part = divmod(int(match[2]), step)
    return f"head.{match[1]}_conv{layer + 1}.{'norm.' if part else ''}{match[3]}"


def _rpn_conv_name(theirs: str) -> str | None:
    match = _RPN_CONV.fullmatch(theirs)
    return None if match is None else f"rpn.conv{_nth(int(match[1]) + 1)}.{match[2]}"


def _nth(number: int) -> str:
    """What the RPN's convolutions have behind `conv`: nothing, 2, 3, ..."""
    return "" if number == 1 else str(number)


def _their_tower_name(name: str, step: int) -> str | None:
    match = _OUR_TOWER.fullmatch(name)
    if match is None:
        return None
    return f"head.{match[1]}_subnet.{(int(match[2]) - 1) * step + bool(match[3])}.{match[4]}"


def _their_name(name: str) -> str | None:
    if match := _STAGE_PREDICTOR.fullmatch(name):
        return f"roi_heads.box_predictor.{match[1]}.{match[2]}"
    return _NAMES.theirs(name)
