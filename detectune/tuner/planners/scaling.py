"""The linear scaling rule with its arithmetic: what to set when the batch changes (Goyal et al. 2017,
arXiv:1706.02677, section 2.1). Pure; the rule itself is `engine.schedule.scale_to_batch`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from detectune.engine.schedule import Schedule, scale_to_batch

ADAPTIVE = ("adam", "adamw", "nadam", "rmsprop", "adagrad", "adadelta", "lion")


@dataclass(frozen=True)
class ScaleAdvice:
    """New values by key, and the lines that say how they come about."""

    values: Mapping[str, Any]
    lines: tuple[str, ...]


def scale(
    schedule: Schedule, *, optimizer: str, reference: int, batch: int, unread: Collection[str] = ()
) -> ScaleAdvice:
    """`schedule`, written for `reference` images an update, for `batch`: rates times batch / reference, iterations
    times reference / batch, so that as many images are seen. Keys in `unread` have no effect and are left out.
    """
    _, changed = scale_to_batch(schedule, reference_batch=reference, batch=batch)
    changed = {key: pair for key, pair in changed.items() if key not in unread}
    lines = []
    for key, (old, new) in changed.items():
        rates = key in ("SOLVER.BASE_LR", "SOLVER.LRS")
        up, down = (batch, reference) if rates else (reference, batch)
        lines.append(f"{key}: {_text(old)} x {up} / {down} = {_text(new)}")
    if optimizer in ADAPTIVE:
        lines.append(
            f"{optimizer} divides by the size of its gradients: there the square root of the ratio is as good a guess "
            f"for the rate, {schedule.base_lr:g} x sqrt({batch} / {reference}) = "
            f"{schedule.base_lr * (batch / reference) ** 0.5:.4g}."
        )
    return ScaleAdvice({key: new for key, (_, new) in changed.items()}, tuple(lines))


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
