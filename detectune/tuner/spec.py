"""What a study is to do: from a study file or the command line to one checked record, and its copy in the study.

config: getting_started/shapes          # the configuration around which is searched
overrides: {SOLVER.MAX_ITER: 100}
knobs:
  SOLVER.BASE_LR:                       # range and scale from the knob table
  SOLVER.WEIGHT_DECAY: {low: 0.0001, high: 0.1, scale: log, role: nuisance}
  SOLVER.BETAS: {choices: [[0.9, 0.999], [0.9, 0.99]], when: {SOLVER.OPTIMIZER: [adamw]}}
  SOLVER.CLIP_GRADIENT_NORM: {role: fixed, value: 5.0}
objectives: [bbox/AP]                   # or {bbox/AP: maximize, seconds_per_image: minimize}
sampler: tpe
pruner: none
trials: 24
minutes: 30
"""

from __future__ import annotations

import difflib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from detectune.config.load import apply_overrides, load_config
from detectune.config.tree import Config
from detectune.config.yaml_reader import Document, read_text, read_yaml
from detectune.errors import UserError
from detectune.tuner.designs import grid_size
from detectune.tuner.distributions import distributions_of
from detectune.tuner.history import Objective, Space, dimension_as_json, dimension_from_json
from detectune.tuner.samplers import PRUNERS, SAMPLERS, PrunerName, SamplerName
from detectune.tuner.space import Entry, fixed_values, make_space

FILE_KEYS = (
    "config", "name", "overrides", "knobs", "objectives", "sampler", "pruner", "trials", "minutes",
    "trial_minutes", "workers", "seed", "population",
)  # fmt: skip
DEFAULT_TRIALS = 24
SMALLER_IS_BETTER = ("loss", "seconds", "memory", "error")  # in the last part of a metric's name
MAY_CHANGE = ("trials", "minutes", "trial_minutes")
"""What may differ when a study is gone on with: how far it goes, not what it asks."""


@dataclass(frozen=True)
class Spec:
    """A study, complete: with it and its base configuration anyone can begin or join it.

    Attributes:
        trials: the total, over all sessions and workers.
        minutes: for the whole study; None: no limit.
        trial_minutes: for each trial; None: no limit.
        seed: from which, with a trial's number, all randomness of the trial follows.
        population: how many trials are trained together as one program; 0: each by itself.
    """

    name: str
    space: Space
    objectives: tuple[Objective, ...]
    sampler: SamplerName = "auto"
    pruner: PrunerName = "none"
    trials: int = DEFAULT_TRIALS
    minutes: float | None = None
    trial_minutes: float | None = None
    seed: int = 1
    population: int = 0


@dataclass
class Request:
    """What a study file and the command line ask for, before it is checked. None: not said."""

    config: str | None = None
    name: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    knobs: list[Entry] = field(default_factory=list)
    objectives: Any = None
    sampler: str | None = None
    pruner: str | None = None
    trials: int | None = None
    minutes: float | None = None
    trial_minutes: float | None = None
    workers: int | None = None
    seed: int | None = None
    population: int | None = None
    place: str = ""  # the study file, for messages


def is_study_file(path: Path) -> bool:
    """Whether a YAML file describes a study and not a configuration."""
    try:
        content = read_yaml(read_text(path)).value
    except (OSError, UnicodeDecodeError):
        return False
    return isinstance(content, Mapping) and bool({"config", "knobs"} & set(content))


def read_study_file(path: Path) -> Request:
    """What a study file asks for.

    Raises:
        UserError: with file and line for what is wrong.
    """
    document = read_yaml(read_text(path))
    if document.problems:
        place, sentence = document.problems[0]
        raise UserError(f"{path}:{place}: {sentence}" if place else f"{path}: {sentence}")
    content = document.value
    for key in content:
        if key not in FILE_KEYS:
            near = difflib.get_close_matches(str(key), FILE_KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"a study has {', '.join(FILE_KEYS)}."
            raise UserError(f"{_place(path, document, key)}: {key} is unknown; {hint}")
    request = Request(place=str(path), knobs=_entries(path, document))
    for key in ("config", "name", "sampler", "pruner"):
        _take(request, path, document, key, (str,), "a text")
    for key in ("trials", "workers", "seed", "population"):
        _take(request, path, document, key, (int,), "an integer")
    for key in ("minutes", "trial_minutes"):
        _take(request, path, document, key, (int, float), "a number")
    overrides = content.get("overrides") or {}
    if not isinstance(overrides, Mapping):
        raise UserError(
            f"{_place(path, document, 'overrides')}: overrides must be a mapping of keys to values."
        )
    request.overrides = _flat(overrides)
    request.objectives = content.get("objectives")
    return request


def complete(request: Request, base: Config, *, default_name: str, default_metric: str) -> Spec:
    """The checked study of a request around the configuration `base`."""
    place = f"{request.place}: " if request.place else ""
    sampler, pruner = request.sampler or "auto", request.pruner or "none"
    for word, value, allowed in (("sampler", sampler, SAMPLERS), ("pruner", pruner, PRUNERS)):
        if value not in allowed:
            near = difflib.get_close_matches(value, allowed, n=1)
            hint = f"did you mean {near[0]}? Otherwise " if near else ""
            raise UserError(f"{place}{word} {value!r} is unknown; {hint}choose one of: {', '.join(allowed)}.")
    counts = {
        "trials": request.trials,
        "minutes": request.minutes,
        "trial_minutes": request.trial_minutes,
        "population": request.population,
    }
    for word, count in counts.items():
        if count is not None and not count > 0:
            raise UserError(f"{place}{word} must be above 0, not {count}.")
    searched = [entry for entry in request.knobs if entry.content.get("role") != "fixed"]
    spec = Spec(
        name=request.name or default_name,
        space=make_space(searched, base),
        objectives=read_objectives(request.objectives, default_metric, place),
        sampler=sampler,  # type: ignore[arg-type]  # checked above
        pruner=pruner,  # type: ignore[arg-type]
        trials=request.trials or DEFAULT_TRIALS,
        minutes=request.minutes,
        trial_minutes=request.trial_minutes,
        seed=1 if request.seed is None else request.seed,
        population=request.population or 0,
    )
    _check_together(spec, base, place)
    return spec if spec.sampler != "grid" else replace(spec, trials=_whole_grid(spec, place))


def base_config(request: Request, file: Path, words: Sequence[str]) -> Config:
    """The configuration around which is searched: its file, the study's overrides and fixed knobs, then `words`."""
    base = load_config(file)
    if request.overrides:
        base = base.with_overrides(request.overrides)
    fixed = fixed_values(request.knobs)
    if fixed:
        base = base.with_overrides(fixed)
    return apply_overrides(base, words) if words else base


def read_objectives(given: Any, default_metric: str, place: str) -> tuple[Objective, ...]:
    """Objectives from a metric, a list of metrics, or a mapping of metrics to maximize or minimize.

    A metric alone has its usual direction, `METRIC=minimize` the one that is named.
    """
    if given is None:
        given = [default_metric]
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list) and all(isinstance(metric, str) for metric in given) and given:
        words = [text.partition("=") for text in given]
        given = {metric: direction if sign else usual_direction(metric) for metric, sign, direction in words}
    if isinstance(given, Mapping) and given:
        for metric, direction in given.items():
            if direction not in ("maximize", "minimize"):
                raise UserError(
                    f"{place}objectives: {metric} must be maximize or minimize, not {direction!r}."
                )
        return tuple(Objective(metric, direction) for metric, direction in given.items())
    raise UserError(
        f"{place}objectives must be metrics, as [bbox/AP] or {{bbox/AP: maximize}}, not {given!r}."
    )


def usual_direction(metric: str) -> Any:
    """Losses, times and memory fall; everything else rises."""
    last = metric.rpartition("/")[2]
    return "minimize" if any(word in last for word in SMALLER_IS_BETTER) else "maximize"


def as_document(spec: Spec) -> dict[str, Any]:
    """The record as plain containers, which `from_document` reads."""
    return {
        "format": 1,
        "name": spec.name,
        "objectives": {objective.metric: objective.direction for objective in spec.objectives},
        "sampler": spec.sampler,
        "pruner": spec.pruner,
        "trials": spec.trials,
        "minutes": spec.minutes,
        "trial_minutes": spec.trial_minutes,
        "seed": spec.seed,
        "population": spec.population,
        "space": [dimension_as_json(dimension) for dimension in spec.space],
    }


def from_document(content: Mapping[str, Any]) -> Spec:
    """The record that `as_document` wrote."""
    return Spec(
        name=content["name"],
        space=Space(tuple(dimension_from_json(dimension) for dimension in content["space"])),
        objectives=tuple(Objective(metric, way) for metric, way in content["objectives"].items()),
        **{key: content[key] for key in ("sampler", "pruner", "trials", "minutes", "trial_minutes", "seed")},
        population=content.get("population", 0),
    )


def read_spec(file: Path) -> Spec:
    """The record in a study's study.yaml.

    Raises:
        UserError: if it is not there or cannot be understood.
    """
    try:
        return from_document(read_yaml(read_text(file)).value)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read as a study: {type(error).__name__} {error}.") from error


def to_yaml(content: Mapping[str, Any]) -> str:
    """Plain containers as YAML."""
    stream = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = None  # lists and mappings of plain values on one line
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel's initial value is None
    writer.dump(dict(content), stream)
    return stream.getvalue()


def differences(old: Spec, new: Spec) -> list[str]:
    """What of `new` asks another question than `old`, one phrase each."""
    before, after = as_document(old), as_document(new)
    if old.population and new.population:  # of another size: the checkpoints are still those of members
        after["population"] = before["population"]
    return [
        f"{key} was {before[key]!r}, is {after[key]!r}"
        for key in before
        if key not in (*MAY_CHANGE, "format") and before[key] != after[key]
    ]


def _check_together(spec: Spec, base: Config, place: str) -> None:
    if len(spec.objectives) > 1 and spec.pruner != "none":
        raise UserError(
            f"{place}A pruner needs one objective, but there are {len(spec.objectives)}; take none."
        )
    if len(spec.objectives) > 1 and spec.sampler == "cmaes":
        raise UserError(f"{place}cmaes searches for one objective; take auto, gp or tpe for several.")
    if spec.sampler == "cmaes" and all(dimension.choices is not None for dimension in spec.space):
        raise UserError(f"{place}cmaes searches numbers, but every knob here has choices; take auto or grid.")
    if spec.population and spec.pruner != "none":
        raise UserError(
            f"{place}A population trains all of its members to the end, so nothing can be pruned; take the pruner none."
        )
    length = math.inf if base.SOLVER.MAX_EPOCHS else base.SOLVER.MAX_ITER
    if spec.pruner != "none" and not 0 < base.TRAIN.EVAL_ITERS < length:
        raise UserError(
            f"{place}The pruner {spec.pruner} compares trials while they train, which needs evaluations: set "
            "TRAIN.EVAL_ITERS to a part of SOLVER.MAX_ITER, or take the pruner none."
        )
    if base.NUM_GPUS != 1:
        raise UserError(
            f"{place}NUM_GPUS is {base.NUM_GPUS}, but a trial has one process; use more GPUs with --workers."
        )


def _whole_grid(spec: Spec, place: str) -> int:
    """How many trials a grid within the study's total has."""
    size = grid_size(distributions_of(spec.space), trials=spec.trials)
    if size > spec.trials:
        raise UserError(
            f"{place}Even the coarsest grid over these {len(spec.space)} knobs has {size} points, more than the "
            f"{spec.trials} trials; raise trials or take the sampler sobol."
        )
    return size


def _entries(path: Path, document: Document) -> list[Entry]:
    knobs = document.value.get("knobs") or {}
    if isinstance(knobs, list):
        knobs = dict.fromkeys(knobs)
    if not isinstance(knobs, Mapping):
        raise UserError(
            f"{_place(path, document, 'knobs')}: knobs must be a mapping of keys to their ranges."
        )
    entries = []
    for key, content in knobs.items():
        place = _place(path, document, "knobs", str(key))
        if content is not None and not isinstance(content, Mapping):
            raise UserError(f"{place}: {key} must have words such as low and high, not {content!r}.")
        entries.append(Entry(str(key), content or {}, place))
    return entries


def _take(
    request: Request, path: Path, document: Document, key: str, kinds: tuple[type, ...], name: str
) -> None:
    value = document.value.get(key)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise UserError(f"{_place(path, document, key)}: {key} must be {name}, not {value!r}.")
    setattr(request, key, value)


def _place(path: Path, document: Document, *keys: str) -> str:
    line = document.lines.get(keys, 0)
    return f"{path}:{line}" if line else str(path)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Full key -> value, of nested sections or full keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inside = isinstance(value, Mapping) and f"{prefix}{key}" != "DATASETS"
        flat |= _flat(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}": value}
    return flat
