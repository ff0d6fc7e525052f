"""TRAIN.BEST_METRIC or what '' stands for: how a run chooses its best weights, and a study its best trial."""

from __future__ import annotations

from detectune.config.tree import Config
from detectune.errors import UserError

OF_CLASSIFIERS = ("classification/accuracy", "classification/loss")


def best_metric(config: Config) -> str:
    """The metric for the model that `config` describes; a `UserError` if that model will never report it."""
    model, metric = config.MODEL, config.TRAIN.BEST_METRIC
    if model.TYPE == "classifier":
        return check_classifier_metric(metric)
    return check_best_metric(
        metric,
        has_masks=model.MASK_ON,
        has_keypoints=model.KEYPOINTS_ON,
        only_proposals=model.RPN_ONLY,
    )


def check_best_metric(
    metric: str, *, has_masks: bool, has_keypoints: bool, only_proposals: bool = False
) -> str:
    """TRAIN.BEST_METRIC or what '' stands for; a `UserError` if this model will never report it."""
    tasks = ["bbox"] + ["segm"] * has_masks + ["keypoints"] * has_keypoints
    if only_proposals:
        if metric and metric.partition("/")[0] not in ("proposal", "val"):
            raise UserError(
                f"TRAIN.BEST_METRIC={metric!r} is not measured for a network that only proposes (MODEL.RPN_ONLY); it "
                "is proposal/AR1000 or another of that kind, or val/loss."
            )
        return metric or "proposal/AR1000"
    if not metric:
        return "segm/AP" if has_masks else "keypoints/AP" if has_keypoints else "bbox/AP"
    task, _, name = metric.partition("/")
    if not name or task not in (*tasks, "val"):
        raise UserError(
            f"TRAIN.BEST_METRIC={metric!r} is not measured for this model; it is a task and a metric, such as "
            f"{', '.join(f'{task}/AP, {task}/AP50' for task in tasks)}, or val/loss."
        )
    return metric


def check_classifier_metric(metric: str) -> str:
    """TRAIN.BEST_METRIC or what '' stands for; a `UserError` if a classifier will never report it."""
    if metric and metric not in OF_CLASSIFIERS:
        raise UserError(
            f"TRAIN.BEST_METRIC={metric!r} is not measured for a classifier; it is {' or '.join(OF_CLASSIFIERS)}."
        )
    return metric or OF_CLASSIFIERS[0]
