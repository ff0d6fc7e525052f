"""What stands in a built model in another form than in the configuration, brought back to the form of its key."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from detectune.config.catalogue import KNOBS
from detectune.models.build_bodies import RESNETS
from detectune.models.build_heads import FC_BOX_HEADS, STAGE_BOX_HEAD, VGG_BOX_HEADS
from detectune.models.resnet import DEPTHS, ResNet, Widths
from detectune.tuner.looking import ABSENT, about


def body(found: Any) -> Any:
    """The residual network as (depth, last stage, whether it has a pyramid); other bodies are not told apart."""
    if not isinstance(found, ResNet):
        return ABSENT
    stages = [getattr(found, f"res{stage}") for stage in found.stages]
    block, counts = type(stages[0][0]), tuple(len(stage) for stage in stages)
    depth = next(
        d for d, (kind, all_counts) in DEPTHS.items() if (kind, all_counts[: len(counts)]) == (block, counts)
    )
    return depth, found.stages[-1], found.fpn is not None


def is_body(found: Any, name: str) -> bool:
    kind = RESNETS.get(name)
    if kind is None:
        return False
    depth, last, pyramid = found
    return bool((kind.depth, kind.last_stage, kind.pyramid != "none") == (depth, last, pyramid))


def box_head(found: Any) -> Any:
    """What kind of head: made of the body's last stage, or whether it has convolutions."""
    if hasattr(found, "stages"):
        found = found.stages[0]
    if hasattr(found, "res5"):
        return "stage"
    return found.num_convs > 0 if hasattr(found, "num_convs") else ABSENT


def is_box_head(found: Any, name: str) -> bool:
    """Heads that differ in their norm alone are not told apart."""
    if found == "stage":
        return name == STAGE_BOX_HEAD
    return found is FC_BOX_HEADS.get(name, False if name in VGG_BOX_HEADS else None)


def norm(found: Any) -> str:
    """Which of RESNETS.NORM a module is."""
    if isinstance(found, nn.GroupNorm):
        return "group"
    return "batch" if isinstance(found, nn.BatchNorm2d) else "frozen"


def groups(found: Any) -> Any:
    """(channels, groups) of the model's first group norm."""
    first = next((module for module in found.modules() if isinstance(module, nn.GroupNorm)), None)
    return ABSENT if first is None else (first.num_channels, first.num_groups)


def cell(grid: Any, level: int) -> list[tuple[float, float]]:
    """(ratio of height to width, square root of the area) of the anchors of one cell of a grid."""
    x1, y1, x2, y2 = grid.get_buffer(f"cell{level}").unbind(1)
    whole = bool((grid.get_buffer(f"cell{level}") == grid.get_buffer(f"cell{level}").round()).all())
    widths, heights = (
        (x2 - x1 + whole).tolist(),
        (y2 - y1 + whole).tolist(),
    )  # inclusive boxes are whole pixels
    return [(h / w, math.sqrt(h * w)) for w, h in zip(widths, heights, strict=True)]


def distinct(values: list[float]) -> list[float]:
    """Values without those that differ by less than a tenth from one before."""
    found: list[float] = []
    for value in sorted(values):
        if not found or not about(value, found[-1]):
            found.append(value)
    return found


def ratios(grid: Any) -> list[float]:
    return distinct([ratio for ratio, _ in cell(grid, grid.levels[0])])


def sizes(grid: Any) -> list[float]:
    """Sides of the anchors that are nearest to squares, on the finest level."""
    anchors = cell(grid, grid.levels[0])
    squarest = min(abs(math.log(ratio)) for ratio, _ in anchors)
    return distinct([side for ratio, side in anchors if abs(math.log(ratio)) < squarest + 0.1])


def smallest(grid: Any) -> float:
    return min(sizes(grid))


def scale(grid: Any) -> float:
    """The smallest side in cells of the finest level."""
    return smallest(grid) / float(grid.strides[grid.levels[0]])


def mirrored_once(views: Any) -> bool:
    """Whether the plain view is also seen in the mirror: it stands first."""
    return bool(views and views[0].flip and views[0].stretch == 1.0)


def scales(views: Any) -> tuple[int, ...]:
    """Short sides besides the plain view's, which comes first where it is mirrored."""
    rest = views[1:] if mirrored_once(views) else views
    return tuple(dict.fromkeys(view.short_side for view in rest if view.stretch == 1.0))


def mirrored_scales(views: Any) -> Any:
    rest = [view for view in (views[1:] if mirrored_once(views) else views) if view.stretch == 1.0]
    return any(view.flip for view in rest) if rest else ABSENT


def optimizer(found: Any) -> Any:
    name = type(found).__name__.lower().removeprefix("detectron")
    return name if name in (KNOBS["SOLVER.OPTIMIZER"].choices or ()) else ABSENT


def is_width(found: int, multiplier: float) -> bool:
    """Whether the stem has the channels that RESNETS.WIDTH_MULTIPLIER makes."""
    return found == Widths(multiplier=multiplier).scaled(Widths().stem)


def is_groups(found: tuple[int, int], number: int) -> bool:
    """Whether GROUP_NORM.NUM_GROUPS makes this many groups of so many channels."""
    return found[1] == math.gcd(found[0], number)


def is_norm(found: str, name: str) -> bool:
    """`auto` may have become any."""
    return name in ("auto", found)


def is_beta(found: float, value: float) -> bool:
    """A negative one is the dialect's."""
    return value < 0 or math.isclose(found, value)


def is_crowd_overlap(found: float, value: float) -> bool:
    """TRAIN.CROWD_FILTER_THRESH, whose 0 filters nothing."""
    return math.isclose(found, value or 1.0)


def at_least(found: float, value: float) -> bool:
    """A dialect may have a floor, of a pixel at most."""
    return found == value or value < found <= 1.0


BOX_MERGES = {"plain": "ID", "mean": "AVG", "union": "UNION"}
MASK_MERGES = {"mean": "SOFT_AVG", "max": "SOFT_MAX", "logit_mean": "LOGIT_AVG"}
KEYPOINT_MERGES = {"mean": "HM_AVG", "max": "HM_MAX"}
"""What the plan of views calls the ways to merge -> what the configuration calls them."""
