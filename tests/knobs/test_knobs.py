"""No dead knob: every key of the configuration changes something that can be observed, or says that it is obsolete.

The tables are in `rows_*.py`, one row for each key; `table.py` says when a row passes, `observe.py` has what is looked
at. A new key needs a row here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import observe
import pytest
from rows import ALL, OBSOLETE, ROWS
from rows_elsewhere import PLACES
from rows_same import SAME
from table import DeadKnobError, Observer, Row, check, check_same, plain

from detectune.config.catalogue import KNOBS
from detectune.config.load import ConfigError, load_config
from detectune.config.tree import Config

OBSERVERS: dict[str, Observer] = {n: o for n, o in vars(observe).items() if isinstance(o, Observer)}


def uncovered(keys: Iterable[str]) -> list[str]:
    """Which of the keys have no row although they are not obsolete."""
    return sorted(set(keys) - set(ROWS) - set(OBSOLETE))


def test_every_key_has_one_row_or_is_obsolete() -> None:
    assert not uncovered(KNOBS), (
        f"these keys have no row in tests/knobs/rows_*.py: {', '.join(uncovered(KNOBS))}"
    )
    assert uncovered([*KNOBS, "SOLVER.NEW"]) == ["SOLVER.NEW"]
    keys = [row.key for row in ALL]
    assert sorted(keys) == sorted(set(keys)), "a key has two rows"
    assert set(keys).isdisjoint(OBSOLETE), "an obsolete key needs no row"
    assert set(keys) <= set(KNOBS), f"these rows are about no key: {sorted(set(keys) - set(KNOBS))}"
    assert set(KNOBS) == set(Config().flat())


@pytest.mark.parametrize("key", list(ROWS))
def test_a_key_changes_something(key: str) -> None:
    check(ROWS[key])


def name_of(place: str, row: Row) -> str:
    return f"{row.key} in {place}, {row.observe.name}"


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=name_of(place, row)) for place, rows in PLACES.items() for row in rows],
)
def test_a_key_is_not_dead_elsewhere(row: Row) -> None:
    check(row)


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=f"{row.key} {row.a}, {row.b} in {row.observe.name}") for row in SAME]
)
def test_values_that_mean_the_same_are_the_same(row: Row) -> None:
    check_same(row)


def other_than(default: Any) -> Any:
    """Another value of the same type: a bool turned, a text longer, a number doubled."""
    if isinstance(default, bool):
        return not default
    return default + "x" if isinstance(default, str) else default * 2


OTHER_VALUES = {key: other_than(KNOBS[key].default) for key in OBSOLETE}


@pytest.mark.parametrize("name", sorted(OBSERVERS))
def test_an_observer_repeats_itself_and_cannot_be_fooled_by_a_dead_knob(name: str) -> None:
    observer = OBSERVERS[name]
    plainly = Config().with_overrides(observer.base)
    with_dead_ones = Config().with_overrides({**observer.base, **OTHER_VALUES})
    assert with_dead_ones.diff() != plainly.diff()
    assert observer(plainly) == observer(with_dead_ones)


def test_every_observer_is_used() -> None:
    assert set(OBSERVERS) == {row.observe.name for row in ALL}


@pytest.mark.parametrize("key", sorted(OBSOLETE))
def test_an_obsolete_key_says_once_what_replaces_it(key: str) -> None:
    config = load_config(None, {key: OTHER_VALUES[key]}).with_overrides({"SOLVER.MAX_ITER": 7})
    again = config.with_overrides({key: OTHER_VALUES[key]})
    for said in (config.notices, again.notices):
        assert len(said) == 1 and OBSOLETE[key] in said[0]
        assert f"{key} is obsolete and has no effect" in said[0]
    assert load_config(None, {key: KNOBS[key].default}).notices == ()


# ---- the check itself


@pytest.mark.parametrize("dead", sorted(OBSOLETE))
def test_a_dead_knob_is_found(dead: str) -> None:
    row = Row(dead, KNOBS[dead].default, OTHER_VALUES[dead], observe.rates)
    with pytest.raises(DeadKnobError, match=dead):
        check(row)


ONE_OF_EACH = {row.observe.name: row for row in ALL if not row.along}


@pytest.mark.parametrize("name", sorted(ONE_OF_EACH))
def test_a_part_that_ignores_its_key_is_found(name: str) -> None:
    row = ONE_OF_EACH[name]

    def ignores(config: Config) -> Any:
        return row.observe.look(config.with_overrides({row.key: row.a}))

    with pytest.raises(DeadKnobError, match=row.key):
        check(replace(row, observe=Observer(f"{name} without {row.key}", ignores, row.observe.base)))


def test_a_value_that_is_not_held_is_found() -> None:
    inferred = Row("RPN.RPN_ON", False, True, observe.parameter_shapes)  # MODEL.FASTER_RCNN makes it True
    with pytest.raises(DeadKnobError, match="both held"):
        check(inferred)


def test_what_others_do_is_not_credited_to_a_dead_knob() -> None:
    """Neither beside keys that change with it, nor to a key that is refused beside them for another reason."""
    beside = Row("MATLAB", "matlab", "octave", observe.rates, along={"SOLVER.BASE_LR": 0.1})
    with pytest.raises(DeadKnobError, match=r"SOLVER\.BASE_LR alone"):
        check(beside)
    with pytest.raises(ConfigError, match="LRS"):
        check(replace(beside, along={"SOLVER.LR_POLICY": "steps_with_lrs", "SOLVER.STEPS": [0]}))


def test_an_error_is_no_effect() -> None:
    def refuse(config: Config) -> Any:
        raise ValueError(f"not with {config.RNG_SEED}")

    with pytest.raises(ValueError, match="not with"):
        check(Row("RNG_SEED", 3, 4, Observer("refuse", refuse, {})))


@pytest.mark.parametrize("value", [float("nan"), [1.0, float("inf")], object(), {"a": {1, 2}}])
def test_what_differs_from_itself_is_no_observation(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        plain(value)
