"""What the builders of `models/` share: refusals, the number of classes, norms, colours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from detectune.config.norms import box_head_norm, mask_head_norm, pyramid_norm
from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.models.layers import NormFactory, batch_norm, frozen_affine, group_norm

Part = Literal["pyramid", "box head", "mask head"]


def unsupported(key: str, value: object, supported: Iterable[object]) -> UserError:
    """The refusal of a value that cannot be built, with what can."""
    names = ", ".join(str(name) for name in supported)
    return UserError(f"{key} {value!r} cannot be built here. Supported: {names}.")


def count_classes(config: Config, num_classes: int | None) -> int:
    """Classes with background: MODEL.NUM_CLASSES, or for -1 the data set's `num_classes`; the two must agree."""
    wanted = config.MODEL.NUM_CLASSES
    if wanted <= 0:
        if num_classes is None:
            raise UserError(
                "MODEL.NUM_CLASSES is -1, which takes the number from the data set, but no data set is known here; "
                "set it to the number of classes plus one for the background."
            )
        return num_classes
    if num_classes is not None and num_classes != wanted:
        raise UserError(
            f"MODEL.NUM_CLASSES is {wanted} but the data set has {num_classes - 1} classes, which with the background "
            f"makes {num_classes}; set it to {num_classes}, or to -1 to take it from the data set."
        )
    return wanted


def count_keypoints(config: Config, num_keypoints: int | None) -> int:
    """Keypoints of an object: KRCNN.NUM_KEYPOINTS, or for -1 the data set's `num_keypoints`; the two must agree."""
    wanted = config.KRCNN.NUM_KEYPOINTS
    if wanted <= 0:
        if num_keypoints is None:
            raise UserError(
                "KRCNN.NUM_KEYPOINTS is -1, which takes the number from the data set, but no data set is known here; "
                "set it to the number of keypoints of an object."
            )
        return num_keypoints
    if num_keypoints is not None and num_keypoints != wanted:
        raise UserError(
            f"KRCNN.NUM_KEYPOINTS is {wanted} but the objects of the data set have {num_keypoints} keypoints; set it "
            f"to {num_keypoints}, or to -1 to take it from the data set."
        )
    return wanted


def rgb(bgr: Sequence[float]) -> tuple[float, ...]:
    """Numbers per colour, which the configuration keeps in Detectron's order."""
    return tuple(float(v) for v in reversed(tuple(bgr)))


def build_group_norm(config: Config) -> NormFactory:
    """Group normalisation as GROUP_NORM has it."""
    sizes = config.GROUP_NORM
    return group_norm(sizes.NUM_GROUPS, sizes.DIM_PER_GP, sizes.EPSILON)


def build_part_norm(config: Config, part: Part) -> NormFactory | None:
    """The norm of a part's convolutions, if they have one."""
    kind = _KIND_OF[part](config)
    return None if kind == "none" else _norms(config)[kind]


def build_body_norm(config: Config) -> tuple[str, NormFactory]:
    """The body's kind of norm (frozen, batch or group) and its factory."""
    resnet = config.RESNETS
    kind = resnet.NORM
    if kind == "auto":
        functions = (resnet.STEM_FUNC, resnet.TRANS_FUNC, resnet.SHORTCUT_FUNC)
        kind = "group" if any("_gn" in function for function in functions) else "frozen"
    return kind, _norms(config)[kind]


def _norms(config: Config) -> dict[str, NormFactory]:
    return {"frozen": frozen_affine, "batch": batch_norm, "group": build_group_norm(config)}


_KIND_OF: dict[Part, Callable[[Config], str]] = {
    "pyramid": pyramid_norm, "box head": box_head_norm, "mask head": mask_head_norm,
}  # fmt: skip


def crowd_overlap(config: Config) -> float:
    """TRAIN.CROWD_FILTER_THRESH, whose 0 does not filter; no box is covered by more than all of itself."""
    return config.TRAIN.CROWD_FILTER_THRESH or 1.0
