"""State dicts in torchvision's names, to ours and back: detectors with a ResNet-FPN body, and ResNet classifiers.

The layout is ours: background first, with rows for its boxes and masks; RGB. RetinaNet has a sigmoid for the background
there, which no object is labelled with; ours has none. The names of the heads' convolutions changed with torchvision
0.13; both are read, the newer ones are written.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from detectune.weights.names import Renamer

_OUR_EPS = 1e-5

_BODY = [
    ("conv1.weight", "stem.conv1.weight"),
    ("bn1.{rest}", "stem.conv1.norm.{rest}"),
    ("layer{n}.{n2}.downsample.0.{p}", "res{n}.{n2}.shortcut.{p}"),
    ("layer{n}.{n2}.downsample.1.{rest}", "res{n}.{n2}.shortcut.norm.{rest}"),
    ("layer{n}.{n2}.bn{n3}.{rest}", "res{n}.{n2}.conv{n3}.norm.{rest}"),
    ("layer{n}.{n2}.conv{n3}.{p}", "res{n}.{n2}.conv{n3}.{p}"),
]

_SCORE, _BOX = "head.classification_head.cls_logits.", "head.regression_head.bbox_reg."

# body levels and layer numbers count from 0 or 1 there; `_shifted` moves them
_HEADS = [
    ("rpn.head.conv.{p}", "rpn.conv.{p}"),
    ("rpn.head.cls_logits.{p}", "rpn.objectness.{p}"),
    ("rpn.head.bbox_pred.{p}", "rpn.deltas.{p}"),
    ("roi_heads.box_predictor.cls_score.{p}", "box_head.cls_score.{p}"),
    ("roi_heads.box_predictor.bbox_pred.{p}", "box_head.bbox_pred.{p}"),
    ("roi_heads.box_head.fc6.{p}", "box_head.fc1.{p}"),
    ("roi_heads.box_head.fc7.{p}", "box_head.fc2.{p}"),
    ("roi_heads.mask_head.mask_fcn{n}.{p}", "mask_head.conv{n}.{p}"),
    ("roi_heads.mask_predictor.conv5_mask.{p}", "mask_head.upsample.{p}"),
    ("roi_heads.mask_predictor.mask_fcn_logits.{p}", "mask_head.predictor.{p}"),
    (f"{_SCORE}{{p}}", "head.cls_score.{p}"),
    (f"{_BOX}{{p}}", "head.bbox_pred.{p}"),
    ("roi_heads.keypoint_predictor.kps_score_lowres.{p}", "keypoint_head.predictor.{p}"),
]

# RetinaNet: a head for each of classes and boxes
_TOWER = re.compile(r"head\.(classification|regression)_head\.conv\.(\d+)\.(?:([01])\.)?(weight|bias)")
_OUR_TOWER = re.compile(r"head\.(cls|bbox)_conv(\d+)\.(norm\.)?(weight|bias)")
_TOWERS = {"classification": "cls", "regression": "bbox"}
_NEVER = -100.0  # logit of the background, which RetinaNet has a sigmoid for there

_DETECTOR = Renamer([(f"backbone.body.{theirs}", f"backbone.{ours}") for theirs, ours in _BODY] + _HEADS)
_CLASSIFIER = Renamer([(theirs, f"backbone.{ours}") for theirs, ours in _BODY])

# lists of convolutions whose entries are [convolution, norm, ReLU]; the norm may be missing
_CONVS = re.compile(r"roi_heads\.(box|mask)_head\.(\d+)\.([01])\.(\w+)")
_OUR_CONVS = re.compile(r"(box|mask)_head\.conv(\d+)\.(norm\.)?(\w+)")
_LAST_LAYER = re.compile(
    r"roi_heads\.box_head\.(\d+)\.(weight|bias)"
)  # behind the convolutions and a flattening
_RPN_CONV = re.compile(r"rpn\.head\.conv\.(\d+)\.0\.(\w+)")
_OUR_RPN_CONV = re.compile(r"rpn\.conv(\d*)\.(\w+)")
_KEYPOINT_CONV = re.compile(r"roi_heads\.keypoint_head\.(\d+)\.(\w+)")
_PYRAMID = re.compile(r"backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(?:([01])\.)?(\w+)")
_EXTRA = re.compile(r"backbone\.fpn\.extra_blocks\.p(\d+)\.(weight|bias)")
_OUR_PYRAMID = re.compile(r"backbone\.fpn\.(lateral|output)(\d+)\.(norm\.)?(\w+)")


def from_torchvision(
    state: Mapping[str, Tensor], *, norm_eps: float = 1e-5, lowest_level: int | None = None
) -> dict[str, Tensor]:
    """Their state dict in our words. What we have no word for keeps its name, so that a `FitReport` lists it.

    Args:
        state: name -> tensor, of a detector or of a classifier (whose last layer is not used).
        norm_eps: what their batch norms add to the variance; 0 for the published COCO_V1 detectors.
        lowest_level: the pyramid's finest level (torchvision counts from 0); by default 3 for RetinaNet, else 2.
    """
    if lowest_level is None:
        lowest_level = 3 if f"{_SCORE}weight" in state else 2
    is_detector = any(name.startswith(("backbone.", "rpn.", "roi_heads.", "head.")) for name in state)
    out: dict[str, Tensor] = {}
    for theirs, value in state.items():
        name = _our_name(theirs, is_detector, lowest_level)
        if name is None:
            out[theirs] = value
            continue
        if name.endswith(".running_var") and norm_eps != _OUR_EPS:
            value = value + (norm_eps - _OUR_EPS)
        elif name.startswith("head.cls_score."):
            value = _scores_without_background(value, len(state[f"{_BOX}bias"]) // 4)
        out[name] = value
    return out


def to_torchvision(
    state: Mapping[str, Tensor], *, norm_eps: float = 1e-5, lowest_level: int | None = None
) -> dict[str, Tensor]:
    """The inverse of `from_torchvision`, for detectors."""
    names = torchvision_names(state, lowest_level=lowest_level)
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        theirs = names.get(name)
        if theirs is None:
            out[name] = value
            continue
        if name.endswith(".running_var") and norm_eps != _OUR_EPS:
            value = value + (_OUR_EPS - norm_eps)
        elif name.startswith("head.cls_score."):
            value = _scores_with_background(value, len(state["head.bbox_pred.bias"]) // 4)
        out[theirs] = value
    return out


def torchvision_names(state: Collection[str], *, lowest_level: int | None = None) -> dict[str, str]:
    """Our name -> theirs, for every tensor of a detector that they have a word for."""
    if lowest_level is None:
        lowest_level = 3 if "head.cls_score.weight" in state else 2
    num_box_convs = sum(re.fullmatch(r"box_head\.conv\d+\.weight", name) is not None for name in state)
    named = ((name, _their_name(name, lowest_level, num_box_convs)) for name in state)
    return {name: theirs for name, theirs in named if theirs is not None}


def _scores_without_background(rows: Tensor, num_anchors: int) -> Tensor:
    """Rows of RetinaNet's class predictor, anchor by anchor, without the class 0 that no object has."""
    return rows.reshape(num_anchors, -1, *rows.shape[1:])[:, 1:].flatten(0, 1)


def _scores_with_background(rows: Tensor, num_anchors: int) -> Tensor:
    """The inverse: a class 0 that is never found, which a bias says."""
    rows = rows.reshape(num_anchors, -1, *rows.shape[1:])
    background = torch.full_like(rows[:, :1], _NEVER if rows.dim() == 2 else 0.0)
    return torch.cat((background, rows), dim=1).flatten(0, 1)


def _our_name(theirs: str, is_detector: bool, lowest_level: int) -> str | None:
    if not is_detector:
        name = _CLASSIFIER.ours(theirs)
    elif match := _PYRAMID.fullmatch(theirs):
        part = "lateral" if match[1] == "inner" else "output"
        return f"backbone.fpn.{part}{int(match[2]) + lowest_level}.{_norm(match[3])}{match[4]}"
    elif match := _EXTRA.fullmatch(theirs):
        return f"backbone.fpn.extra{match[1]}.{match[2]}"
    elif match := _CONVS.fullmatch(theirs):
        return f"{match[1]}_head.conv{int(match[2]) + 1}.{_norm(match[3])}{match[4]}"
    elif match := _LAST_LAYER.fullmatch(theirs):
        return f"box_head.fc1.{match[2]}"
    elif match := _RPN_CONV.fullmatch(theirs):
        return f"rpn.conv{int(match[1]) + 1 if int(match[1]) else ''}.{match[2]}"
    elif match := _TOWER.fullmatch(theirs):
        old = match[3] is None  # before 0.13 a list of convolutions and ReLUs in turn
        layer = int(match[2]) // 2 if old else int(match[2])
        return f"head.{_TOWERS[match[1]]}_conv{layer + 1}.{_norm(match[3])}{match[4]}"
    elif match := _KEYPOINT_CONV.fullmatch(theirs):  # every other entry of the sequence is a ReLU
        return f"keypoint_head.conv{int(match[1]) // 2 + 1}.{match[2]}"
    else:
        name = _DETECTOR.ours(theirs)
    return None if name is None else _shifted(name, "res", 1)


def _norm(layer: str | None) -> str:
    """A list of a convolution (0) and its norm (1) is a convolution that owns its norm here."""
    return "norm." if layer == "1" else ""


def _their_name(name: str, lowest_level: int, num_box_convs: int) -> str | None:
    if match := _OUR_PYRAMID.fullmatch(name):
        part = "inner" if match[1] == "lateral" else "layer"
        return f"backbone.fpn.{part}_blocks.{int(match[2]) - lowest_level}.{int(bool(match[3]))}.{match[4]}"
    if match := re.fullmatch(r"backbone\.fpn\.extra(\d+)\.(weight|bias)", name):
        return f"backbone.fpn.extra_blocks.p{match[1]}.{match[2]}"
    if match := _OUR_CONVS.fullmatch(name):
        return f"roi_heads.{match[1]}_head.{int(match[2]) - 1}.{int(bool(match[3]))}.{match[4]}"
    if name.startswith("box_head.fc1.") and num_box_convs:
        return f"roi_heads.box_head.{num_box_convs + 1}.{name.removeprefix('box_head.fc1.')}"
    if match := _OUR_RPN_CONV.fullmatch(name):
        return f"rpn.head.conv.{int(match[1] or 1) - 1}.0.{match[2]}"
    if match := _OUR_TOWER.fullmatch(name):
        head = "classification" if match[1] == "cls" else "regression"
        return f"head.{head}_head.conv.{int(match[2]) - 1}.{int(bool(match[3]))}.{match[4]}"
    if match := re.fullmatch(r"keypoint_head\.conv(\d+)\.(weight|bias)", name):
        return f"roi_heads.keypoint_head.{2 * (int(match[1]) - 1)}.{match[2]}"
    return _DETECTOR.theirs(_shifted(name, "res", -1))


def _shifted(name: str, prefix: str, by: int) -> str:
    """`backbone.res1.0...` with the number after `prefix` changed by `by`."""
    return re.sub(rf"(?<=^backbone\.{prefix})\d+", lambda m: str(int(m[0]) + by), name)
