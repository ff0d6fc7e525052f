"""Weights in our names -> the bytes of a file in another program's layout, and writing them whole or not at all."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectune.errors import OutputError, UserError
from detectune.pickles import dump_pickle
from detectune.weights.detectron import detectron_names, to_detectron
from detectune.weights.detectron2 import detectron2_names, to_detectron2
from detectune.weights.torchvision import to_torchvision, torchvision_names

AUTHOR = "Detectune"
_ONLY_FOR_TRAINING = ("num_batches_tracked", "loss_normalizer")
_OURS = ("backbone.", "rpn.", "box_head.", "box_pooler.", "mask_head.", "keypoint_head.", "head.")
_FIRST_CONVS = ("backbone.stem.conv1.weight", "backbone.conv1.weight", "backbone.conv1_1.weight")
_ATTR_DICT = "!!python/object/new:detectron.utils.collections.AttrDict"


def detectron_pickle(
    state: Mapping[str, Tensor],
    *,
    momentum: Mapping[str, Tensor],
    cfg: str,
    keypoint_upscale: int = 2,
    pixel_stds: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> bytes:
    """Detectron's checkpoint: {'blobs': {name: array, name_momentum: array}, 'cfg': text}, as Python 2 writes it.

    Args:
        state: our names.
        momentum: velocities in units of weights, for those of them that were trained.
        cfg: the configuration as YAML.
        keypoint_upscale: KRCNN.UP_SCALE.
        pixel_stds: INPUT.PIXEL_STDS as red, green, blue. Detectron only subtracts a mean, so the first convolution
            takes the division over.
    """
    state = _parts_of_detectors(_for_other_programs(state), "Detectron", blobs=True)
    _refuse_unknown(
        names_of_ours(state) - detectron_names(state).keys(), "Detectron", but=("running_mean", "running_var")
    )
    options: Any = {"agnostic_boxes": has_agnostic_boxes(state), "keypoint_upscale": keypoint_upscale}
    names = detectron_names(state, keypoint_upscale=keypoint_upscale)
    blobs = to_detectron(_divided(state, pixel_stds), **options)
    velocities = to_detectron(_divided({**state, **momentum}, pixel_stds), **options)
    for name in momentum.keys() & names.keys():
        blobs[f"{names[name]}_momentum"] = velocities[names[name]]
    return dump_pickle({"blobs": _arrays(blobs), "cfg": cfg}, python2=True)


def detectron_cfg(tree: Mapping[str, Any]) -> str:
    """A configuration as the YAML that Detectron's checkpoints hold: its own class of dictionary in every section.

    Detectron asks it for attributes (`saved_cfg.MODEL`), which plain dictionaries do not have.
    """
    return "\n".join(_attr_dict(tree, "")) + "\n"


def _attr_dict(tree: Mapping[str, Any], indent: str) -> list[str]:
    lines = [f"{_ATTR_DICT}", f"{indent}dictitems:"]
    for key, value in sorted(tree.items()):
        if isinstance(value, Mapping):
            first, *rest = _attr_dict(value, f"{indent}    ")
            lines += [f"{indent}  {key}: {first}", *rest]
        else:
            lines.append(f"{indent}  {key}: {json.dumps(value)}")  # JSON is YAML, and ASCII
    return [*lines, f"{indent}state:", f"{indent}  __immutable__: false"]


def detectron2_state(state: Mapping[str, Tensor], *, bgr: bool = True) -> dict[str, Tensor]:
    """The state dict of detectron2's model for images in BGR (its INPUT.FORMAT), or else in RGB.

    Raises:
        UserError: if detectron2 has no model with such parts.
    """
    state = _parts_of_detectors(_for_other_programs(state), "detectron2")
    _refuse_unknown(state.keys() - detectron2_names(state).keys(), "detectron2")
    return to_detectron2(
        state,
        bgr=bgr,
        agnostic_boxes=has_agnostic_boxes(state),
        class_specific_masks=_has_class_specific_masks(state),
    )


def detectron2_pickle(state: Mapping[str, Tensor], *, bgr: bool = True) -> bytes:
    """A file of detectron2's model zoo: {'model': {name: array}, '__author__': text}."""
    return dump_pickle({"model": _arrays(detectron2_state(state, bgr=bgr)), "__author__": AUTHOR})


def detectron2_pth(state: Mapping[str, Tensor], *, bgr: bool = True) -> bytes:
    """A checkpoint of detectron2's trainer, the weights only: {'model': state dict}."""
    return _torch_file({"model": detectron2_state(state, bgr=bgr)})


def torchvision_pth(state: Mapping[str, Tensor]) -> bytes:
    """The state dict of torchvision's model.

    Raises:
        UserError: if torchvision has no model with such parts.
    """
    state = _parts_of_detectors(_for_other_programs(state, but="num_batches_tracked"), "torchvision")
    _refuse_unknown(state.keys() - torchvision_names(state).keys(), "torchvision")
    return _torch_file(to_torchvision(state))


def names_of_ours(state: Collection[str]) -> set[str]:
    """The names that parts of our models have; a file may hold others, such as the classifier of a body."""
    return {name for name in state if name.startswith(_OURS)}


def _parts_of_detectors(
    state: Mapping[str, Tensor], program: str, *, blobs: bool = False
) -> dict[str, Tensor]:
    """Without what belongs to no detector; `blobs` keeps Detectron's own names, which have no dots."""
    ours = names_of_ours(state)
    if not ours:
        raise UserError(f"These weights are no part of a detector, so {program} has no place for them.")
    return {name: value for name, value in state.items() if name in ours or (blobs and "." not in name)}


def has_agnostic_boxes(state: Mapping[str, Tensor]) -> bool:
    """Whether a state in our names has one box for all classes; with the background there are two classes or more."""
    for head in ("box_head", "box_pooler"):
        boxes, scores = state.get(f"{head}.bbox_pred.bias"), state.get(f"{head}.cls_score.bias")
        if boxes is not None and scores is not None:
            return len(boxes) < 4 * len(scores)
    return False


def _has_class_specific_masks(state: Mapping[str, Tensor]) -> bool:
    masks = state.get("mask_head.predictor.bias")
    return masks is None or len(masks) > 1


def _for_other_programs(state: Mapping[str, Tensor], *, but: str = "") -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, without what only our training keeps."""
    dropped = [name for name in _ONLY_FOR_TRAINING if name != but]
    return {
        name: value.detach().cpu().contiguous()
        for name, value in state.items()
        if not name.endswith(tuple(dropped))
    }


def _divided(state: Mapping[str, Tensor], pixel_stds: tuple[float, float, float]) -> dict[str, Tensor]:
    out = dict(state)
    for name in _FIRST_CONVS if pixel_stds != (1.0, 1.0, 1.0) else ():
        if name in out:
            out[name] = out[name] / out[name].new_tensor(pixel_stds).reshape(1, 3, 1, 1)
    return out


def _refuse_unknown(names: Collection[str], program: str, *, but: tuple[str, ...] = ()) -> None:
    unknown = sorted(name for name in names if not (but and name.endswith(but)))
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise UserError(
            f"{program} has no place for {', '.join(unknown[:3])}{more}, so these weights cannot be written for it; "
            "choose another format."
        )


def _arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in state.items()}


def _torch_file(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def write_whole(path: Path, parts: Iterable[bytes | memoryview], *, what: str = "weights") -> None:
    """Write a file so that a reader sees the old one or the whole new one, never a part.

    Raises:
        OutputError: if the disk refuses; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: the {what} cannot be written ({error.strerror or error}). Free some space or choose another "
            "output folder; what was saved before is untouched."
        ) from error
