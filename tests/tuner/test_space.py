"""From knobs to a space: ranges, roles, conditions, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detectune.config.catalogue import KNOBS
from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.tuner.distributions import distribution_of, parameter_name, value_of
from detectune.tuner.history import Dimension
from detectune.tuner.space import Entry, make_space
from detectune.tuner.spec import complete, read_objectives, read_study_file


def space_of(**entries: Any) -> Any:
    """Keys as SOLVER__BASE_LR."""
    return make_space(
        [Entry(k.replace("__", "."), v or {}, "study.yaml:3") for k, v in entries.items()], Config()
    )


def refusal(**entries: Any) -> str:
    with pytest.raises(UserError) as refused:
        space_of(**entries)
    return str(refused.value)


def test_ranges_come_from_the_knob_table() -> None:
    space = space_of(
        SOLVER__BASE_LR=None, SOLVER__MOMENTUM=None, SOLVER__NESTEROV=None, SOLVER__WARM_UP_ITERS=None
    )
    assert space["SOLVER.BASE_LR"] == Dimension("SOLVER.BASE_LR", "float", 0.0001, 0.1, "log")
    assert space["SOLVER.MOMENTUM"].scale == "one_minus_log"
    assert space["SOLVER.NESTEROV"].choices == (False, True)
    assert space["SOLVER.WARM_UP_ITERS"].type == "int"


def test_every_knob_with_a_suggested_range_can_be_searched() -> None:
    searchable = [knob.key for knob in KNOBS.values() if knob.search is not None and knob.obsolete is None]
    assert len(searchable) > 100
    for key in searchable:
        dimension = make_space([Entry(key, {}, "")], Config())[key]
        distribution: Any = distribution_of(dimension)
        first = distribution.choices[0] if dimension.choices else distribution.low
        expected = dimension.choices[0] if dimension.choices else None
        assert value_of(dimension, first) == expected or dimension.choices is None
        if dimension.choices is None and dimension.low is not None and dimension.high is not None:
            assert dimension.low <= value_of(dimension, first) <= dimension.high


def test_a_study_file_overrides_range_scale_role_and_condition() -> None:
    space = space_of(
        SOLVER__BETAS={"choices": [[0.9, 0.999], [0.9, 0.99]], "when": {"SOLVER.OPTIMIZER": "adamw"}},
        SOLVER__BASE_LR={"low": 0.01, "high": 0.02, "scale": "linear", "role": "nuisance"},
        SOLVER__OPTIMIZER={"choices": ["sgd", "adamw"]},
    )
    assert space["SOLVER.BASE_LR"] == Dimension("SOLVER.BASE_LR", "float", 0.01, 0.02, role="nuisance")
    assert space["SOLVER.BETAS"].condition == {"SOLVER.OPTIMIZER": ("adamw",)}
    assert space.keys.index("SOLVER.OPTIMIZER") < space.keys.index("SOLVER.BETAS"), "asked before it is known"


def test_knobs_of_one_optimiser_exist_only_for_it() -> None:
    space = space_of(
        SOLVER__MOMENTUM=None, SOLVER__OPTIMIZER={"choices": ["sgd", "adamw"]}, SOLVER__BETAS=None
    )
    assert space["SOLVER.MOMENTUM"].exists({"SOLVER.OPTIMIZER": "sgd"})
    assert not space["SOLVER.MOMENTUM"].exists({"SOLVER.OPTIMIZER": "adamw"})
    assert space["SOLVER.BETAS"].exists({"SOLVER.OPTIMIZER": "adamw"})


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        ({"SOLVER__BASE_LRR": None}, "study.yaml:3: SOLVER.BASE_LRR is unknown; did you mean SOLVER.BASE_LR?"),
        ({"SOLVER__MAX_ITER": None}, "is never tuned"),
        ({"SOLVER__MAX_EPOCHS": None}, "is never tuned"),
        ({"SOLVER__BASE_LR": {"hihg": 1.0}}, "did you mean high?"),
        ({"SOLVER__BASE_LR": {"low": 1.0, "high": 0.1}}, "low must be below high"),
        ({"SOLVER__BASE_LR": {"low": 0.0}}, "above 0"),
        ({"SOLVER__MOMENTUM": {"high": 1.5, "scale": "linear"}}, "must be >= 0 and < 1"),
        ({"SOLVER__MOMENTUM": {"high": 1.0}}, "below 1"),
        ({"SOLVER__BASE_LR": {"role": "scientist"}}, "role must be one of"),
        ({"SOLVER__BASE_LR": {"choices": [0.1]}}, "two or more"),
        ({"SOLVER__OPTIMIZER": {"choices": ["sgd", "sdg"]}}, "SOLVER.OPTIMIZER='sdg' is unknown"),
        ({"SOLVER__STEP_SIZE": None}, "has no suggested range"),
        ({"TRAIN__DATASETS": None}, "give them"),
        ({"SOLVER__BASE_LR": {"when": {"SOLVER.OPTIMISER": "sgd"}}}, "SOLVER.OPTIMIZER"),
        ({"SOLVER__RHO": None, "SOLVER__OPTIMIZER": {"choices": ["sgd", "adam"]}}, "add one of those"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_mend(entries: dict[str, Any], part: str) -> None:
    message = refusal(**entries)
    assert part in message and message.startswith("study.yaml:3: ")


def test_distance_from_one_is_searched_under_an_honest_name() -> None:
    dimension = Dimension("SOLVER.MOMENTUM", "float", 0.8, 0.99, "one_minus_log")
    assert parameter_name(dimension) == "1 - SOLVER.MOMENTUM"
    distribution = distribution_of(dimension)
    assert (distribution.low, distribution.high) == (0.01, 0.2)
    assert value_of(dimension, 0.0357812345) == 0.9642188 and value_of(dimension, 0.2) == 0.8


STUDY = """\
config: digits.yaml
overrides:
  SOLVER: {MAX_ITER: 30}
knobs:
  SOLVER.BASE_LR: {low: 0.01, high: 0.1}
  SOLVER.MOMENTUM:
  SOLVER.WEIGHT_DECAY: {role: fixed, value: 0.001}
objectives: {classification/accuracy: maximize, classification/loss: minimize}
trials: 5
"""


def test_a_study_file_is_read_with_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    request = read_study_file(file)
    spec = complete(request, Config(), default_name="study", default_metric="bbox/AP")
    assert spec.space.keys == ("SOLVER.BASE_LR", "SOLVER.MOMENTUM") and spec.trials == 5
    assert [o.direction for o in spec.objectives] == ["maximize", "minimize"]
    assert request.overrides == {"SOLVER.MAX_ITER": 30}
    assert [entry.place for entry in request.knobs] == [f"{file}:{line}" for line in (5, 6, 7)]


def test_objectives_have_their_usual_direction_or_the_one_that_is_named() -> None:
    given = ["bbox/AP", "classification/loss", "classification/accuracy=minimize"]
    found = read_objectives(given, "bbox/AP", "")
    assert [(o.metric, o.direction) for o in found] == [
        ("bbox/AP", "maximize"),
        ("classification/loss", "minimize"),
        ("classification/accuracy", "minimize"),
    ]
    with pytest.raises(UserError, match="bbox/AP must be maximize or minimize, not 'up'"):
        read_objectives(["bbox/AP=up"], "bbox/AP", "")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("trails: 5", "study.yaml:10: trails is unknown; did you mean trials?"),
        ("sampler: tpee", "sampler 'tpee' is unknown; did you mean tpe?"),
        ("pruner: median", "A pruner needs one objective"),
        ("sampler: cmaes", "cmaes searches for one objective"),
        ("minutes: -1", "minutes must be above 0"),
        ("seed: x", "study.yaml:10: seed must be an integer, not 'x'"),
    ],
)
def test_mistakes_in_a_study_file(tmp_path: Path, line: str, part: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY + line + "\n")
    with pytest.raises(UserError) as refused:
        complete(read_study_file(file), Config(), default_name="s", default_metric="bbox/AP")
    assert part in str(refused.value)


def test_a_grid_is_as_large_as_the_trials_allow() -> None:
    from detectune.tuner.designs import grid_point
    from detectune.tuner.distributions import distributions_of

    space = space_of(SOLVER__BASE_LR=None, SOLVER__NESTEROV=None)
    distributions = distributions_of(space)
    points = [grid_point(distributions, seed=0, number=n, trials=9) for n in range(8)]
    assert len({tuple(point.values()) for point in points}) == 8
    rates = sorted({point["SOLVER.BASE_LR"] for point in points})
    assert rates == pytest.approx([0.0001, 0.001, 0.01, 0.1])
