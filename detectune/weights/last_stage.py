"""The fifth stage of a residual network: part of the body, or the head on regions, or both.

Files call it by where their model has it; a model that has it elsewhere takes it all the same. So a network that was
trained to classify fills the heads of a C4 model, as it did in Detectron and does in detectron2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

_PLACES = ("backbone.res5.", "box_head.res5.", "mask_head.res5.", "keypoint_head.stage.")


def place_last_stage(state: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """`state` with the fifth stage wherever the model, whose names are `wanted`, has one and the file does not."""
    out = dict(state)
    used: set[str] = set()
    for name in wanted:
        place = next((place for place in _PLACES if name.startswith(place)), None)
        if place is None or name in state:
            continue
        for source in _PLACES:
            other = source + name.removeprefix(place)
            if other in state:
                out[name] = state[other]
                used.add(other)
                break
    return {name: value for name, value in out.items() if name in wanted or name not in used}
