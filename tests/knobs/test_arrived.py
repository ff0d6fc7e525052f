"""Each key with a range is found in the object that uses it: its value, and not another one.

The rows of the other tables say in which configuration a key matters, so here each is built with both of its values. A
place that finds one of them where the other was built would let a disconnected knob pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from observe import CLASSES
from rows import ROWS
from sample import MASK_RCNN, ON_DATA, make_data
from table import Row

import detectune.data.loader
import detectune.engine.solver
import detectune.models.build_heads
import detectune.models.build_rules
import detectune.models.build_two_stage
from detectune.config.catalogue import KNOBS
from detectune.config.tree import Config
from detectune.data.labelled_loader import build_labelled_loader
from detectune.data.loader import build_loader
from detectune.engine.ema import WeightAverage
from detectune.engine.inference import Predictor
from detectune.engine.solver import build_schedule, build_solver
from detectune.engine.testing import InTest
from detectune.models.build import build_detector
from detectune.models.build_classifier import build_classifier
from detectune.tuner.arrived import NotArrivedError, check_built, check_used
from detectune.tuner.looking import ABSENT
from detectune.tuner.places import PLACES, WITHOUT_PLACE

SEARCHED = [key for key, knob in KNOBS.items() if knob.search is not None and knob.obsolete is None]
DIGITS: dict[str, Any] = {"TRAIN.DATASETS": ["digits_train"], "TEST.DATASETS": ["digits_val"]}


@dataclass
class Assembled:
    """What a run has when it begins, and what its evaluation is done with."""

    config: Config
    model: Any
    solver: Any
    loader: Any
    average: Any
    tested: Any


def assemble(config: Config) -> Assembled:
    """As `engine.starting` and `engine.testing` put a run together, from the same builders."""
    if config.MODEL.TYPE == "classifier":
        config = config.with_overrides(DIGITS)
        loader: Any = build_labelled_loader(config, training=True)
        model: Any = build_classifier(config, input_shape=(1, 8, 8))
        tested = None
    else:
        make_data()
        if config.MODEL.NUM_CLASSES < 0:  # a row of SOLVER, which has no network of its own
            config = config.with_overrides(MASK_RCNN | {"FPN.USE_GN": True})
        known = set(config.TRAIN.DATASETS) <= set(config.DATASETS)  # else the row has sets of its own
        config = config.with_overrides(
            {
                key: v
                for key, v in ON_DATA.items()
                if key not in config.diff() or (not known and "DATASETS" in key)
            }
        )
        keypoints = max(config.KRCNN.NUM_KEYPOINTS, 0) if config.MODEL.KEYPOINTS_ON else 0
        data = (
            config.with_overrides({"MODEL.KEYPOINTS_ON": False}) if keypoints else config
        )  # shapes have none
        loader = build_loader(data, training=True)
        model = build_detector(config, num_classes=None, num_keypoints=keypoints or None)
        predictor = Predictor(config, model=model, class_info=CLASSES, log=lambda _: None)
        tested = InTest(predictor, build_loader(data, training=False))
    schedule = build_schedule(config, num_images=loader.num_images, log=lambda _: None)
    decay = config.SOLVER.EMA_DECAY
    return Assembled(
        config, model, build_solver(config, model, schedule=schedule), loader,
        WeightAverage(model, decay=decay) if decay > 0 else None, tested,
    )  # fmt: skip


@cache
def built(key: str, second: bool) -> Assembled:
    row = ROWS[key]
    with torch.random.fork_rng(devices=[]):
        return assemble(config_of(row, second=second))


def config_of(row: Row, *, second: bool) -> Config:
    return row.config(row.b, row.along) if second else row.config(row.a, {})


def test_every_key_with_a_range_has_a_place_or_a_reason() -> None:
    assert set(PLACES) | set(WITHOUT_PLACE) >= set(SEARCHED), sorted(
        set(SEARCHED) - set(PLACES) - set(WITHOUT_PLACE)
    )
    assert not set(PLACES) & set(WITHOUT_PLACE) and len(WITHOUT_PLACE) <= 5
    assert set(PLACES) | set(WITHOUT_PLACE) <= set(KNOBS)


@pytest.mark.parametrize("key", list(PLACES))
def test_a_place_holds_the_value_that_was_given_and_tells_it_from_another(key: str) -> None:
    place = PLACES[key]
    for second in (False, True):
        run = built(key, second)
        value, other = (run.config.flat()[key], built(key, not second).config.flat()[key])
        found = place.look(run)
        if found is ABSENT and not second:
            continue  # a part that is switched off, as BBOX_AUG without views
        assert found is not ABSENT, f"{place.name} leads nowhere"
        assert place.same(found, value), f"{place.name} is {found!r}, not {value!r}"
        open_ended = key.endswith("SMOOTH_L1_BETA") and other < 0  # the dialect's, which may be any
        assert open_ended or not place.same(found, other), (
            f"{place.name} is {found!r}, which {other!r} would have made too"
        )


# ---- disconnected on purpose: one of each kind of place


def ignoring(real: Any, **fixed: Any) -> Callable[..., Any]:
    """The constructor, deaf to some of its arguments."""
    return lambda *given, **named: real(*given, **named | fixed)


CUT: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "TRAIN.RPN_POSITIVE_OVERLAP": (detectune.models.build_two_stage, "RpnSampling", {"high": 0.7}),
    "TRAIN.FG_FRACTION": (detectune.models.build_two_stage, "RegionSampling", {"fg_fraction": 0.25}),
    "TEST.NMS": (detectune.models.build_rules, "DetectionRule", {"nms_thresh": 0.5}),
    "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO": (detectune.models.build_two_stage, "RoiPooler", {"sampling_ratio": 2}),
    "MRCNN.WEIGHT_LOSS_MASK": (detectune.models.build_heads, "MaskHead", {"loss_weight": 1.0}),
    "TEST.SOFT_NMS.ENABLED": (detectune.models.build_rules, "build_suppression", {}),
    "TRAIN.MAX_SIZE": (detectune.data.loader, "Augmentation", {"max_size": 1000}),
    "TEST.SCALE": (detectune.data.loader, "Move", {"short_side": 96}),
    "SOLVER.BASE_LR": (detectune.engine.solver, "Schedule", {"base_lr": 0.05}),
}  # fmt: skip


@pytest.mark.parametrize("key", CUT)
def test_a_knob_that_is_cut_off_is_caught(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, fixed = CUT[key]
    real: Any = getattr(module, name)
    if name == "build_suppression":
        monkeypatch.setattr(module, name, lambda config, geometry: (None, None))
    else:
        monkeypatch.setattr(module, name, ignoring(real, **fixed))
    run = assemble(config_of(ROWS[key], second=True))
    value = run.config.flat()[key]
    with pytest.raises(NotArrivedError, match=f"{key}={value} did not arrive"):
        check_built(run, {key: value}, {key: "read"})
        check_used(run, {key: value}, {key: "read"})
