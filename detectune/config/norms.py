"""Which norm each part of a detector has, where the keys say `auto`: that of Detectron's names and switches."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectune.config.tree import Config


def pyramid_norm(config: Config) -> str:
    """none, frozen, batch or group: FPN.NORM, or what FPN.USE_GN says."""
    return _kind(config.FPN.NORM, grouped=config.FPN.USE_GN)


def box_head_norm(config: Config) -> str:
    """The same of the box head's convolutions: FAST_RCNN.NORM, or what the head is called."""
    return _kind(config.FAST_RCNN.NORM, grouped=config.FAST_RCNN.ROI_BOX_HEAD.endswith("_gn_head"))


def mask_head_norm(config: Config) -> str:
    """The same of the mask head's convolutions: MRCNN.NORM, or what the head is called."""
    return _kind(config.MRCNN.NORM, grouped=config.MRCNN.ROI_MASK_HEAD.endswith("_gn"))


def _kind(said: str, *, grouped: bool) -> str:
    if said != "auto":
        return said
    return "group" if grouped else "none"
