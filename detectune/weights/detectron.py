"""Blobs in Detectron's (Caffe2) names and layout, to our state dict and back; files are not read here.

There images are BGR, frozen norms have only a scale and a shift (read as mean 0, variance 1 - eps), class-agnostic
boxes have unused rows for the background, and pyramid blobs are named after the last block of their stage. The fifth
stage has one name, whether it belongs to the body or is a head on regions. The fixed bilinear enlargement of keypoints'
heat maps is stored there (`kps_score` behind `kps_score_lowres`), here it is not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from detectune.weights.layout import add_background, drop_background, swap_colours
from detectune.weights.names import Renamer

_EPS = 1e-5
_UNIT_VARIANCE = 1.0 - _EPS

_NAMES = Renamer(
    [
        ("conv1_{p}", "backbone.stem.conv1.{p}"),
        ("res_conv1_{p}", "backbone.stem.conv1.{p}"),
        ("res{n}_{n2}_branch1_{p}", "backbone.res{n}.{n2}.shortcut.{p}"),
        ("res{n}_{n2}_branch2a_{p}", "backbone.res{n}.{n2}.conv1.{p}"),
        ("res{n}_{n2}_branch2b_{p}", "backbone.res{n}.{n2}.conv2.{p}"),
        ("res{n}_{n2}_branch2c_{p}", "backbone.res{n}.{n2}.conv3.{p}"),
        ("fpn_inner_res{n}_{n2}_sum_lateral_{p}", "backbone.fpn.lateral{n}.{p}"),
        ("fpn_inner_res{n}_{n2}_sum_{p}", "backbone.fpn.lateral{n}.{p}"),
        ("fpn_res{n}_{n2}_sum_{p}", "backbone.fpn.output{n}.{p}"),
        ("fpn_{n}_{p}", "backbone.fpn.extra{n}.{p}"),
        ("conv{n}_{n2}_{p}", "backbone.conv{n}_{n2}.{p}"),
        ("conv_rpn_{p}", "rpn.conv.{p}"),
        ("rpn_cls_logits_{p}", "rpn.objectness.{p}"),
        ("rpn_bbox_pred_{p}", "rpn.deltas.{p}"),
        ("conv_rpn_fpn{n}_{p}", "rpn.conv.{p}"),
        ("rpn_cls_logits_fpn{n}_{p}", "rpn.objectness.{p}"),
        ("rpn_bbox_pred_fpn{n}_{p}", "rpn.deltas.{p}"),
        ("fc6_{p}", "box_head.fc1.{p}"),
        ("fc7_{p}", "box_head.fc2.{p}"),
        ("head_conv{n}_{p}", "box_head.conv{n}.{p}"),
        ("retnet_cls_pred_fpn{n}_{p}", "head.cls_score.{p}"),
        ("retnet_bbox_pred_fpn{n}_{p}", "head.bbox_pred.{p}"),
        ("cls_score_{p}", "box_head.cls_score.{p}"),
        ("bbox_pred_{p}", "box_head.bbox_pred.{p}"),
        ("conv_cls_{p}", "box_pooler.cls_score.{p}"),
        ("conv_bbox_pred_{p}", "box_pooler.bbox_pred.{p}"),
        ("_[mask]_res{n}_{n2}_branch1_{p}", "mask_head.res{n}.{n2}.shortcut.{p}"),
        ("_[mask]_res{n}_{n2}_branch2a_{p}", "mask_head.res{n}.{n2}.conv1.{p}"),
        ("_[mask]_res{n}_{n2}_branch2b_{p}", "mask_head.res{n}.{n2}.conv2.{p}"),
        ("_[mask]_res{n}_{n2}_branch2c_{p}", "mask_head.res{n}.{n2}.conv3.{p}"),
        ("_[mask]_fcn{n}_{p}", "mask_head.conv{n}.{p}"),
        ("_mask_fcn{n}_{p}", "mask_head.conv{n}.{p}"),
        ("conv5_mask_{p}", "mask_head.upsample.{p}"),
        ("mask_fcn_logits_{p}", "mask_head.predictor.{p}"),
        ("conv_fcn{n}_{p}", "keypoint_head.conv{n}.{p}"),
        ("_[pose]_res5_{n2}_branch1_{p}", "keypoint_head.stage.{n2}.shortcut.{p}"),
        ("_[pose]_res5_{n2}_branch2a_{p}", "keypoint_head.stage.{n2}.conv1.{p}"),
        ("_[pose]_res5_{n2}_branch2b_{p}", "keypoint_head.stage.{n2}.conv2.{p}"),
        ("_[pose]_res5_{n2}_branch2c_{p}", "keypoint_head.stage.{n2}.conv3.{p}"),
        ("kps_deconv_{p}", "keypoint_head.deconv.{p}"),
        ("kps_score_lowres_{p}", "keypoint_head.predictor.{p}"),
        ("kps_score_{p}", "keypoint_head.predictor.{p}"),
    ]
)

_PARTS = {
    "w": "weight",
    "b": "bias",
    "bn_s": "norm.weight",
    "bn_b": "norm.bias",
    "gn_s": "norm.weight",
    "gn_b": "norm.bias",
}
_OUR_PART = re.compile(r"^(.*?)\.((?:norm\.)?(?:weight|bias|running_mean|running_var))$")
_FOLDED = ("running_mean", "running_var")
_FIRST_CONVS = ("backbone.stem.conv1.weight", "backbone.conv1.weight", "backbone.conv1_1.weight")
_BOX_LAYERS = ("box_head.bbox_pred.", "box_pooler.bbox_pred.")
_PLAIN_CONV = re.compile(r"conv([1-5])_([wb])")  # of VGG_CNN_M_1024; residual networks share the first name
_RESIDUAL = re.compile(r"backbone\.(?:stem|res\d)\.|\w+_head\.(?:res5|stage)\.")
_TOWER = re.compile(r"retnet_(cls|bbox)_conv_n(\d+)_fpn\d+_(w|b|gn_s|gn_b)")  # counts from 0


def from_detectron(
    blobs: Mapping[str, Any],
    *,
    agnostic_boxes: bool = False,
    stage_heads: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Their blobs (arrays or tensors by name) in our words.

    Momentum is left out. The ImageNet classifier and other blobs that no detector has keep their names, so that a
    `FitReport` lists them.

    Args:
        blobs: name -> array.
        agnostic_boxes: MODEL.CLS_AGNOSTIC_BBOX_REG.
        stage_heads: the heads that are the network's fifth stage (`box_head`, `mask_head`); each gets what the file
            calls res5, unless the file has a copy for it alone. Without any, res5 is the body's. None tells by the size
            of cls_score whether res5 is the box head's; files of classifiers, which have none, need the names
            (`stage_heads_of` the model).
    """
    if stage_heads is None:
        stage_heads = stage_heads_in(blobs)
    plain = "conv3_w" in blobs
    out: dict[str, Tensor] = {}
    fixed = ("kps_score_w", "kps_score_b") if "kps_score_lowres_w" in blobs else ()
    for theirs, array in blobs.items():
        value = torch.as_tensor(array)
        name = _our_name(theirs, plain=plain)
        if theirs.endswith("_momentum") or theirs in fixed:
            continue
        if name is None:
            out[theirs] = value
            continue
        if name in _FIRST_CONVS:
            value = swap_colours(value)
        elif agnostic_boxes and name.startswith(_BOX_LAYERS):
            value = drop_background(value, len(value) // 2)
        out[name] = value
        if theirs.endswith("_bn_s"):
            prefix = name.removesuffix(".weight")
            out[f"{prefix}.running_mean"] = torch.zeros_like(value)
            out[f"{prefix}.running_var"] = torch.full_like(value, _UNIT_VARIANCE)
    return _with_stage_heads(out, stage_heads)


def stage_heads_of(names: Iterable[str]) -> tuple[str, ...]:
    """The heads of a model that are its fifth stage, from the names of its state: see `from_detectron`."""
    heads = {name.split(".res5.")[0] for name in names if ".res5." in name}
    return tuple(sorted(heads - {"backbone"}))


def to_detectron(
    state: Mapping[str, Tensor], *, agnostic_boxes: bool = False, keypoint_upscale: int = 2
) -> dict[str, Tensor]:
    """The inverse of `from_detectron`. Statistics of norms are folded into their scale and shift.

    `keypoint_upscale` is KRCNN.UP_SCALE.
    """
    names = detectron_names(state, keypoint_upscale=keypoint_upscale)
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name not in names:
            if not name.endswith(_FOLDED):
                out[name] = value
            continue
        stem, part = _parts(name)
        if stem == "keypoint_head.predictor" and keypoint_upscale > 1 and part == "weight":
            out |= _enlargement(value.shape[1] if value.shape[-1] > 1 else value.shape[0], keypoint_upscale)
        if part.startswith("norm.") and f"{stem}.norm.running_var" in state:
            scale, shift = _folded(state, f"{stem}.norm")
            value = scale if part == "norm.weight" else shift
        elif name in _FIRST_CONVS:
            value = swap_colours(value)
        elif agnostic_boxes and name.startswith(_BOX_LAYERS):
            value = add_background(value, len(value))
        out[names[name]] = value
    return out


def detectron_names(state: Mapping[str, Tensor], *, keypoint_upscale: int = 2) -> dict[str, str]:
    """Our name -> its blob, for every tensor that has one; statistics of norms have none, and other words neither."""
    last_block: dict[str, int] = {}
    for name in state:
        if match := re.match(r"backbone\.res(\d)\.(\d+)\.", name):
            last_block[match[1]] = max(last_block.get(match[1], 0), int(match[2]))
    levels = [int(m[1]) for name in state if (m := re.match(r"backbone\.fpn\.lateral(\d)\.", name))]
    names: dict[str, str] = {}
    for name in state:
        if name.endswith(_FOLDED) or _OUR_PART.match(name) is None:
            continue
        stem, part = _parts(name)
        frozen = f"{stem}.norm.running_var" in state
        if frozen and _RESIDUAL.match(stem) is None:
            continue  # statistics of other parts have no place there
        theirs = _their_name(stem, part, frozen=frozen, last_block=last_block, levels=levels, state=state)
        if theirs is None:
            continue
        if keypoint_upscale <= 1:
            theirs = theirs.replace("kps_score_lowres_", "kps_score_")
        names[name] = theirs
    return names


def _parts(name: str) -> tuple[str, str]:
    match = _OUR_PART.match(name)
    assert match is not None
    return match[1], match[2]


def stage_heads_in(blobs: Mapping[str, Any]) -> tuple[str, ...]:
    """The box head, if cls_score reads as many numbers as the last stage has channels."""
    scores, stage = blobs.get("cls_score_w"), blobs.get("res5_0_branch2c_w")
    looks = scores is not None and stage is not None and scores.shape[1] == stage.shape[0]
    return ("box_head",) if looks else ()


def _with_stage_heads(state: dict[str, Tensor], heads: Collection[str]) -> dict[str, Tensor]:
    """The body's fifth stage as that of `heads`, which may have one of their own already."""
    stage = {name: value for name, value in state.items() if name.startswith("backbone.res5.")}
    out = {name: value for name, value in state.items() if not heads or name not in stage}
    for head in heads:
        copies = {name.replace("backbone.", f"{head}.", 1): value for name, value in stage.items()}
        out |= {name: value for name, value in copies.items() if name not in state}
    return out


def _our_name(theirs: str, *, plain: bool) -> str | None:
    if plain and (match := _PLAIN_CONV.fullmatch(theirs)):
        return f"backbone.conv{match[1]}.{_PARTS[match[2]]}"
    if theirs.startswith("conv1_b") and not theirs.startswith("conv1_bn"):
        return None  # the classifier's bias, which the detector's norm replaces
    if match := _TOWER.fullmatch(theirs):
        return f"head.{match[1]}_conv{int(match[2]) + 1}.{_PARTS[match[3]]}"
    for part in ("bn_s", "bn_b", "gn_s", "gn_b", "w", "b"):
        if theirs.endswith(f"_{part}"):
            name = _NAMES.ours(f"{theirs.removesuffix(part)}P")
            return None if name is None else f"{name.removesuffix('P')}{_PARTS[part]}"
    return None


def _their_name(
    stem: str,
    part: str,
    *,
    frozen: bool,
    last_block: Mapping[str, int],
    levels: list[int],
    state: Mapping[str, Tensor],
) -> str | None:
    suffix = {"weight": "w", "bias": "b"}.get(part) or ("bn_" if frozen else "gn_") + (
        "s" if part.endswith("weight") else "b"
    )
    if match := re.fullmatch(r"backbone\.conv(\d)", stem):
        return f"conv{match[1]}_{suffix}"
    if stem.startswith("box_head.res5."):
        stem = stem.replace("box_head.", "backbone.", 1)
    if stem == "backbone.stem.conv1":
        return f"res_conv1_{suffix}" if suffix.startswith("bn") else f"conv1_{suffix}"
    if match := re.fullmatch(r"backbone\.fpn\.(lateral|output)(\d)", stem):
        kind, level = match.groups()
        blob = f"res{level}_{last_block.get(level, 0)}_sum"
        if kind == "output":
            return f"fpn_{blob}_{suffix}"
        lateral = "" if int(level) == max(levels) else "_lateral"
        return f"fpn_inner_{blob}{lateral}_{suffix}"
    if match := re.fullmatch(r"rpn\.(conv|objectness|deltas)", stem):
        blob = {"conv": "conv_rpn", "objectness": "rpn_cls_logits", "deltas": "rpn_bbox_pred"}[match[1]]
        return f"{blob}_fpn{min(levels)}_{suffix}" if levels else f"{blob}_{suffix}"
    if match := re.fullmatch(r"head\.(cls|bbox)_conv(\d+)", stem):
        return f"retnet_{match[1]}_conv_n{int(match[2]) - 1}_fpn{min(levels, default=3)}_{suffix}"
    if match := re.fullmatch(r"head\.(cls|bbox)_(?:score|pred)", stem):
        return f"retnet_{match[1]}_pred_fpn{min(levels, default=3)}_{suffix}"
    if match := re.fullmatch(r"mask_head\.conv(\d)", stem):
        grouped = f"{stem}.norm.weight" in state
        return f"{'_mask' if grouped else '_[mask]'}_fcn{match[1]}_{suffix}"
    theirs = _NAMES.theirs(f"{stem}.P")
    return None if theirs is None else f"{theirs.removesuffix('P')}{suffix}"


def _enlargement(num_keypoints: int, factor: int) -> dict[str, Tensor]:
    """The fixed transposed convolution that enlarges each heat map bilinearly."""
    tent = 1 - (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
    weight = torch.zeros((num_keypoints, num_keypoints, 2 * factor, 2 * factor))
    weight[range(num_keypoints), range(num_keypoints)] = tent[:, None] * tent[None, :]
    return {"kps_score_w": weight, "kps_score_b": torch.zeros(num_keypoints)}


def _folded(state: Mapping[str, Tensor], norm: str) -> tuple[Tensor, Tensor]:
    """Scale and shift of the frozen norm called `norm`."""
    scale = state[f"{norm}.weight"] * (state[f"{norm}.running_var"] + _EPS).rsqrt()
    return scale, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
