"""Which knobs raw outputs can answer, over which ranges, and what the outputs must hold for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectune.config.catalogue import KNOBS
from detectune.config.tree import Config
from detectune.engine.class_thresholds import KEY as CLASS_THRESHOLDS
from detectune.tuner.history import Dimension, Space
from detectune.tuner.raw_files import Reach
from detectune.tuner.space import Entry, make_space

SUPPRESSION = (
    "TEST.NMS", "TEST.DETECTIONS_PER_IM", "TEST.SOFT_NMS.ENABLED", "TEST.SOFT_NMS.METHOD", "TEST.SOFT_NMS.SIGMA",
)  # fmt: skip
VOTING = (
    "TEST.BBOX_VOTE.ENABLED", "TEST.BBOX_VOTE.VOTE_TH", "TEST.BBOX_VOTE.SCORING_METHOD",
    "TEST.BBOX_VOTE.SCORING_METHOD_BETA",
)  # fmt: skip
BEFORE_HEADS = ("TEST.RPN_NMS_THRESH", "TEST.RPN_PRE_NMS_TOP_N", "TEST.RPN_MIN_SIZE")
"""What decides which regions the heads see: with these the heads look at every anchor that may become a proposal."""
MASK_THRESH = "MRCNN.THRESH_BINARIZE"
"""What cuts a mask out of its probabilities, of which the outputs then hold all, many times the room."""
CONDITIONS: dict[str, dict[str, list[Any]]] = {
    "TEST.SOFT_NMS.METHOD": {"TEST.SOFT_NMS.ENABLED": [True]},
    "TEST.SOFT_NMS.SIGMA": {"TEST.SOFT_NMS.ENABLED": [True], "TEST.SOFT_NMS.METHOD": ["gaussian"]},
    "TEST.BBOX_VOTE.VOTE_TH": {"TEST.BBOX_VOTE.ENABLED": [True]},
    "TEST.BBOX_VOTE.SCORING_METHOD": {"TEST.BBOX_VOTE.ENABLED": [True]},
    "TEST.BBOX_VOTE.SCORING_METHOD_BETA": {
        "TEST.BBOX_VOTE.ENABLED": [True],
        "TEST.BBOX_VOTE.SCORING_METHOD": ["TEMP_AVG", "GENERALIZED_AVG", "QUASI_SUM"],
    },
}
SHAPES_FLOOR = 0.01  # ours: below it candidates are many, and each of them would get its mask or keypoints
FEWEST_PROPOSALS = 20
STEPS = {
    "TEST.RPN_NMS_THRESH": (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9),
    MASK_THRESH: (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7),
}
"""Ours: values of what costs most to replay, which is done once for each."""


def within_reach(base: Config, task: str) -> tuple[str, ...]:
    """The keys that can be tried on raw outputs of this model, where `task` is measured."""
    voting = VOTING if task == "bbox" else ()
    masks = (MASK_THRESH,) if task == "segm" else ()
    if base.RETINANET.RETINANET_ON:
        return ("RETINANET.INFERENCE_TH", "RETINANET.PRE_NMS_TOP_N", *SUPPRESSION, *voting)
    own = ("TEST.RPN_POST_NMS_TOP_N", *BEFORE_HEADS) if base.MODEL.FASTER_RCNN else ()
    return ("TEST.SCORE_THRESH", *SUPPRESSION, *voting, *own, *masks)


def inference_space(entries: Sequence[Entry], base: Config, task: str) -> Space:
    """The space of `entries`, or without any of all that costs nothing more than the base's own test.

    Raises:
        UserError: for a key that raw outputs cannot answer.
    """
    known = within_reach(base, task)
    if not entries:
        entries = [Entry(key, {}, "") for key in known if key not in (*BEFORE_HEADS, MASK_THRESH)]
    for entry in entries:
        if entry.key in KNOBS and entry.key not in known:
            raise entry.refuse(_why_not(entry.key, task, known))
    keys = {entry.key for entry in entries}
    return make_space([_completed(entry, base, keys, task) for entry in entries], base)


def needed_reach(space: Space, base: Config, task: str) -> Reach:
    """What the raw outputs must hold for every setting of the space, and for the base."""
    retinanet = base.RETINANET.RETINANET_ON
    floor, count = (
        ("RETINANET.INFERENCE_TH", "RETINANET.PRE_NMS_TOP_N")
        if retinanet
        else ("TEST.SCORE_THRESH", "TEST.RPN_POST_NMS_TOP_N")
    )
    flat = base.flat()

    def values(key: str) -> list[Any]:
        dimension = next((d for d in space if d.key == key), None)
        return [flat[key]] if dimension is None else [flat[key], *_ends(dimension)]

    before = any(dimension.key in BEFORE_HEADS for dimension in space)
    return Reach(
        score_floor=float(min(values(floor))),
        proposals=int(max(values(count))),
        anchors=int(max(values("TEST.RPN_PRE_NMS_TOP_N"))) if before else 0,
        shapes=task != "bbox",
        soft_masks=MASK_THRESH in space.keys,
    )


def outputs_config(base: Config, reach: Reach) -> Config:
    """The configuration with which the network is run to get outputs of this reach."""
    if base.RETINANET.RETINANET_ON:
        return base.with_overrides(
            {"RETINANET.INFERENCE_TH": reach.score_floor, "RETINANET.PRE_NMS_TOP_N": reach.proposals}
        )
    changes: dict[str, Any] = {
        "TEST.SCORE_THRESH": reach.score_floor,
        "TEST.RPN_POST_NMS_TOP_N": reach.proposals,
    }
    if reach.anchors:
        changes["TEST.RPN_PRE_NMS_TOP_N"] = reach.anchors
    return base.with_overrides(changes)


def origin_of(base: Config, space_keys: Sequence[str]) -> dict[str, Any]:
    """The settings on which raw outputs depend, those of the network and of what it sees, where they differ from the
    defaults: so outputs outlive a version with new keys.
    """
    sections = (
        "MODEL", "RESNETS", "FPN", "GROUP_NORM", "RPN", "FAST_RCNN", "CASCADE", "MRCNN", "KRCNN", "RFCN", "RETINANET",
        "TEST", "INPUT", "PIXEL_MEANS", "BBOX_XFORM_CLIP", "DEDUP_BOXES",
    )  # fmt: skip
    free = {
        *SUPPRESSION,
        *VOTING,
        *space_keys,
        CLASS_THRESHOLDS,
        "TEST.SCORE_THRESH",
        "TEST.RPN_POST_NMS_TOP_N",
    }
    free |= {"RETINANET.INFERENCE_TH", "RETINANET.PRE_NMS_TOP_N", "TEST.WEIGHTS", "TEST.RPN_PRE_NMS_TOP_N"}
    return {
        key: value
        for key, (_, value) in base.diff().items()
        if key.split(".")[0] in sections and key not in free
    }


def _completed(entry: Entry, base: Config, keys: set[str], task: str) -> Entry:
    """The entry with the condition under which its knob does something, and a range that the outputs can answer."""
    content: dict[str, Any] = dict(entry.content)
    flat = base.flat()
    condition = {
        key: allowed
        for key, allowed in CONDITIONS.get(entry.key, {}).items()
        if key in keys or flat[key] not in allowed
    }
    if condition and "when" not in content:
        content["when"] = condition
    if not {"low", "high", "choices", "role"} & set(content):
        content |= _range_of(entry.key, flat, task)
    return Entry(entry.key, content, entry.place)


def _range_of(key: str, flat: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The range of a knob whose suggested one would make the network or the replay work harder than it has to."""
    if key in ("TEST.RPN_PRE_NMS_TOP_N", "TEST.RPN_POST_NMS_TOP_N", "RETINANET.PRE_NMS_TOP_N"):
        most = int(flat[key])
        return {"low": min(FEWEST_PROPOSALS, max(1, most // 2)), "high": max(most, 2), "scale": "log"}
    if key in ("TEST.SCORE_THRESH", "RETINANET.INFERENCE_TH") and task != "bbox":
        return {"low": SHAPES_FLOOR, "high": 0.3, "scale": "linear"}
    if key in STEPS:
        return {"choices": sorted({*STEPS[key], flat[key]})}
    return {}


def _ends(dimension: Dimension) -> list[Any]:
    return list(dimension.choices) if dimension.choices is not None else [dimension.low, dimension.high]


def _why_not(key: str, task: str, known: Sequence[str]) -> str:
    if key in VOTING and task != "bbox":
        return (
            f"{key} moves boxes, and the masks and keypoints of moved boxes are not in the raw outputs; measure boxes "
            "(--objective bbox/AP), or leave it out."
        )
    if key == MASK_THRESH and task != "segm":
        return f"{key} acts on masks alone; measure them (--objective segm/AP), or leave it out."
    if key == CLASS_THRESHOLDS:
        return f"{key} is not searched for AP, which counts all scores; --operating-point f1 chooses it."
    what = KNOBS[key].stage
    reason = (
        "changes what the network computes"
        if what == "inference"
        else "needs training: tune it without --stage inference"
    )
    return f"{key} cannot be tried on raw outputs, it {reason}. What can: {', '.join(known)}."
