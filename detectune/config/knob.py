"""What a knob is: one configuration key with everything a person or a tuner needs to know about it.

`knob(...)` makes a pydantic field and stores the description beside the constraints, so that one declaration
serves validation, documentation, the JSON schema and the search spaces. `collect_knobs` reads the declarations
back as `Knob` records, keyed by the path under which the value is found (`SOLVER.BASE_LR`).

Knows nothing about single keys (the section files) nor about YAML (`load.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, is_typeddict

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

Kind = Literal[
    "data",
    "architecture",
    "sampling",
    "loss",
    "optimisation",
    "regularisation",
    "inference",
    "evaluation",
    "runtime",
]
Stage = Literal["nothing", "inference", "training", "architecture"]
Scale = Literal["linear", "log", "one_minus_log"]

METADATA = "x-knob"  # the key in a field's JSON-schema extras that holds our description


@dataclass(frozen=True)
class Search:
    """Where tuning a knob usually pays: an interval on a scale, or a list of values.

    `one_minus_log` is for values near 1 whose distance from 1 matters (momentum 0.9, 0.99, 0.999).
    """

    low: float | None = None
    high: float | None = None
    scale: Scale = "linear"
    choices: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        if self.choices is not None:
            if self.low is not None or self.high is not None or len(self.choices) < 2:
                raise ValueError(f"a search over choices needs two or more and no interval: {self}")
            return
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"a search interval needs low < high: {self}")
        if (self.scale == "log" and self.low <= 0) or (self.scale == "one_minus_log" and self.high >= 1):
            raise ValueError(f"the interval does not fit its scale: {self}")


def linear(low: float, high: float) -> Search:
    """Every value of the interval is equally likely."""
    return Search(low, high, "linear")


def log(low: float, high: float) -> Search:
    """Every factor is equally likely: for values whose order of magnitude matters."""
    return Search(low, high, "log")


def one_minus_log(low: float, high: float) -> Search:
    """Every factor of the distance from 1 is equally likely."""
    return Search(low, high, "one_minus_log")


def among(*choices: Any) -> Search:
    """One of the listed values."""
    return Search(choices=choices)


@dataclass(frozen=True)
class Range:
    """Legal values of a number, or of each number in a sequence. None means no bound."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        bounds = [f"{signs[name]} {bound:g}" for name, bound in asdict(self).items() if bound is not None]
        return " and ".join(bounds)


@dataclass(frozen=True)
class Knob:
    """One key of the configuration.

    `type` is the Python type by name: bool, int, float, str, tuple, list or mapping; `element` the type of a
    sequence's members (nested lists: of the innermost) or of a mapping's plain values. `range` and `choices` constrain
    the value, or the members. `stage` is what must be redone when the value changes. `obsolete` says what replaced a
    key that is accepted but no longer does anything.
    """

    key: str
    default: Any
    type: str
    doc: str
    unit: str | None
    range: Range | None
    choices: tuple[Any, ...] | None
    kind: Kind
    stage: Stage
    search: Search | None
    source: str
    obsolete: str | None
    element: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain containers only; bounds that do not exist are left out, an absent range or search is null."""
        record = asdict(self)
        for name in ("range", "search"):
            if record[name] is not None:
                record[name] = {bound: value for bound, value in record[name].items() if value is not None}
        return record


def knob(
    default: Any,
    doc: str,
    *,
    kind: Kind,
    stage: Stage,
    source: str = "Detectron",
    unit: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    pattern: str | None = None,
    min_length: int | None = None,
    search: Search | None = None,
    obsolete: str | None = None,
) -> Any:
    """Declares one key: `BASE_LR: float = knob(0.001, "...", kind="optimisation", stage="training", gt=0)`.

    Args:
        default: the value, or a function without arguments that returns it.
        doc: one or two sentences: what it does, and what happens when it is raised or lowered.
        stage: what must be redone when the value changes.
        source: the paper and section, or the code, that it comes from.
        ge, gt, le, lt: bounds of a number. Bounds of a sequence's members belong into its annotation,
            `tuple[Annotated[int, Field(gt=0)], ...]`, and choices too, `Literal["step", "cosine_decay"]`.
        pattern: regular expression that a string must match.
        min_length: least number of members of a sequence.
        obsolete: what to do instead, for a key that no longer does anything.
    """
    described = {"kind": kind, "stage": stage, "unit": unit, "search": search, "source": source}
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt, "pattern": pattern, "min_length": min_length}
    keywords: dict[str, Any] = {name: bound for name, bound in bounds.items() if bound is not None}
    keywords["default_factory" if callable(default) else "default"] = default
    extra: dict[str, Any] = {METADATA: described | {"obsolete": obsolete}}
    if obsolete is not None:
        extra["deprecated"] = True  # editors strike the key through
    return Field(description=doc, json_schema_extra=extra, **keywords)


class Section(BaseModel):
    """A frozen group of knobs. Types are strict (a bool is no number, "3" is no number), except that an int may
    stand for a float, and a list and a tuple for each other, as in Detectron."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        defer_build=True,  # a process that never builds a configuration does not pay for validators
        field_title_generator=lambda name, _: name,
    )

    @model_validator(mode="before")
    @classmethod
    def _unify_sequences(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            name: _cast_sequence(value, cls.model_fields[name].annotation)
            if name in cls.model_fields
            else value
            for name, value in values.items()
        }


def _cast_sequence(value: Any, annotation: Any) -> Any:
    """Lists and tuples as the annotation wants them, at every depth; anything else unchanged."""
    if not isinstance(value, list | tuple):
        return value
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    container = get_origin(annotation)
    if container not in (list, tuple):
        return value
    return container(_cast_sequence(member, get_args(annotation)[0]) for member in value)


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section class that a field holds, or None for a knob."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def collect_knobs(section: type[Section], prefix: str = "") -> dict[str, Knob]:
    """Every key under a section class with its description, in the order of declaration."""
    knobs: dict[str, Knob] = {}
    for name, field in section.model_fields.items():
        inner = section_of(field)
        if inner is None:
            knobs[prefix + name] = _describe(prefix + name, field)
        else:
            knobs |= collect_knobs(inner, f"{prefix}{name}.")
    return knobs


def _describe(key: str, field: FieldInfo) -> Knob:
    extra = field.json_schema_extra
    if not isinstance(extra, Mapping) or METADATA not in extra:
        raise TypeError(f"{key} is not declared with knob()")
    described: Mapping[str, Any] = extra[METADATA]  # type: ignore[assignment]  # pydantic calls it JsonValue
    container, innermost, constraints = _peel(field)
    return Knob(
        key=key,
        default=field.get_default(call_default_factory=True),
        type=container or _type_name(innermost),
        doc=field.description or "",
        range=_range_of(constraints),
        choices=get_args(innermost) if get_origin(innermost) is Literal else None,
        element=_type_name(innermost) if container else None,
        **described,
    )


def _peel(field: FieldInfo) -> tuple[str | None, Any, list[Any]]:
    """(list, tuple, mapping or None; the innermost type; all constraints met on the way)."""
    container, kind, constraints = None, field.annotation, list(field.metadata)
    while get_origin(kind) in (list, tuple, Annotated) or _is_plain_mapping(kind):
        origin: Any = get_origin(kind)
        if origin is Annotated:
            for item in get_args(kind)[1:]:
                constraints += item.metadata if isinstance(item, FieldInfo) else [item]
        else:
            container = container or ("mapping" if origin is dict else origin.__name__)
        kind = get_args(kind)[1 if origin is dict else 0]
    return container, kind, constraints


def _is_plain_mapping(kind: Any) -> bool:
    """Names to single values; DATASETS, names to groups of them, is described as a whole."""
    if get_origin(kind) is not dict:
        return False
    value = get_args(kind)[1]
    return (get_args(value)[0] if get_origin(value) is Annotated else value) in (bool, int, float, str)


def _range_of(constraints: list[Any]) -> Range | None:
    bounds = {
        name: getattr(item, name)
        for item in constraints
        for name in ("ge", "gt", "le", "lt")
        if getattr(item, name, None) is not None
    }
    return Range(**bounds) if bounds else None


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return type(get_args(kind)[0]).__name__
    if get_origin(kind) in (dict, Mapping) or is_typeddict(kind):
        return "mapping"
    return str(kind.__name__)
