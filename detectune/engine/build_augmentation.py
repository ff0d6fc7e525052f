"""From the keys TEST.BBOX_AUG, MASK_AUG and KPS_AUG to a plan of views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from detectune.config.augmentation import BoxAugmentation, KeypointAugmentation, MaskAugmentation
from detectune.config.tree import Config
from detectune.data.images import ResizeStyle
from detectune.engine.augmentation import AugmentedDetector, BoxMerge, BoxPlan, MapPlan, Plan, SizeRule
from detectune.engine.views import View
from detectune.errors import UserError
from detectune.models.rcnn import RCNN
from detectune.ops.merging import Merge

_BOX_MERGES: dict[str, BoxMerge] = {"UNION": "union", "AVG": "mean", "ID": "plain"}
_MASK_MERGES: dict[str, Merge] = {"SOFT_AVG": "mean", "SOFT_MAX": "max", "LOGIT_AVG": "logit_mean"}
_KEYPOINT_MERGES: dict[str, Merge] = {"HM_AVG": "mean", "HM_MAX": "max"}


def build_augmentation(
    config: Config,
    model: nn.Module,
    *,
    style: ResizeStyle,
    stride: int,
    keypoint_flip: Sequence[int],
    log: Callable[[str], None] = print,
) -> AugmentedDetector | None:
    """The detector that looks at images as the configuration says; None if once is enough.

    As in Detectron only models that look at regions merge views; for another one a notice is told to `log`.

    Raises:
        UserError: if keypoints are to be found in the mirror and `keypoint_flip` is empty.
    """
    plan = build_plan(config)
    if plan.boxes is None and plan.masks is None and plan.keypoints is None:
        return None
    if not isinstance(model, RCNN):
        parts = {"BBOX_AUG": plan.boxes, "MASK_AUG": plan.masks, "KPS_AUG": plan.keypoints}
        named = " and ".join(f"TEST.{name}" for name, part in parts.items() if part is not None)
        log(
            f"Notice: {named} has no effect on this model, which looks at each image once: further views are for "
            "models of two stages, as they were in Detectron."
        )
        return None
    mirrored = plan.keypoints is not None and any(view.flip for view in plan.keypoints.views)
    if mirrored and not keypoint_flip:
        raise UserError(
            "TEST.KPS_AUG looks for keypoints in mirrored images, but nothing says which of them change places: name a "
            "data set with keypoints in TEST.DATASETS, give the classes, or set H_FLIP, SCALE_H_FLIP and "
            "ASPECT_RATIO_H_FLIP of TEST.KPS_AUG to False."
        )
    return AugmentedDetector(model, plan, style=style, stride=stride, keypoint_flip=keypoint_flip)


def build_plan(config: Config) -> Plan:
    """The views of every part that the model has; None for what is seen once."""
    test = config.TEST
    boxes, masks, keypoints = test.BBOX_AUG, test.MASK_AUG, test.KPS_AUG
    plain = View(test.SCALE, test.MAX_SIZE)
    plan = Plan(plain)
    if boxes.ENABLED:
        sizes = SizeRule(boxes.AREA_TH_LO, boxes.AREA_TH_HI) if boxes.SCALE_SIZE_DEP else None
        scores, coordinates = _BOX_MERGES[boxes.SCORE_HEUR], _BOX_MERGES[boxes.COORD_HEUR]
        plan = replace(plan, boxes=BoxPlan(_views(boxes, plain), scores, coordinates, sizes))
    if masks.ENABLED and config.MODEL.MASK_ON:
        sizes = SizeRule(masks.AREA_TH, masks.AREA_TH) if masks.SCALE_SIZE_DEP else None
        plan = replace(plan, masks=MapPlan(_views(masks, plain), _MASK_MERGES[masks.HEUR], sizes))
    if keypoints.ENABLED and config.MODEL.KEYPOINTS_ON:
        sizes = SizeRule(keypoints.AREA_TH, keypoints.AREA_TH) if keypoints.SCALE_SIZE_DEP else None
        views = _views(keypoints, plain)
        plan = replace(plan, keypoints=MapPlan(views, _KEYPOINT_MERGES[keypoints.HEUR], sizes))
    return plan


def _views(
    section: BoxAugmentation | MaskAugmentation | KeypointAugmentation, plain: View
) -> tuple[View, ...]:
    """Besides the plain view, in Detectron's order: mirrored, at each scale, stretched."""
    views = [replace(plain, flip=True)] if section.H_FLIP else []
    for scale in section.SCALES:
        scaled = View(scale, section.MAX_SIZE)
        views += [scaled, replace(scaled, flip=True)] if section.SCALE_H_FLIP else [scaled]
    for ratio in section.ASPECT_RATIOS:
        stretched = replace(plain, stretch=ratio)
        views += [stretched, replace(stretched, flip=True)] if section.ASPECT_RATIO_H_FLIP else [stretched]
    return tuple(views)
