"""Whether a sampled value has reached the object that uses it.

After building, what was built is looked at: the optimiser's groups, the schedule, the average, the loader. The table
says where each key must be found. A key without a line there must have been read from the configuration, by the code
of the package, before the first evaluation was over: `WatchedConfig` notes who reads what. So a knob that is no longer
connected ends its trial with a sentence instead of filling a study with noise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from detectune.config.catalogue import KNOBS, SECTIONS
from detectune.config.tree import Config

if TYPE_CHECKING:
    from detectune.engine.running import Run

Look = Callable[["Run"], tuple[str, Any] | None]
"""(where in the run, the value found there); None if a run of this kind has no such place."""


class NotArrivedError(RuntimeError):
    """A sampled value is not where it should be used; the message says which."""


class WatchedConfig:
    """Stands in for a `Config`; notes in `reads` which key was read, and by which file of the package."""

    def __init__(self, config: Any, reads: dict[str, str], prefix: str = "") -> None:
        self._config, self._reads, self._prefix = config, reads, prefix

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and pickling ask before there is a `_config`
            raise AttributeError(name)
        value = getattr(self._config, name)
        key = self._prefix + name
        if key in SECTIONS:
            return WatchedConfig(value, self._reads, f"{key}.")
        if key in KNOBS:
            self._reads.setdefault(key, _reader())
        return value

    def with_overrides(self, overrides: Mapping[str, Any]) -> WatchedConfig:
        """As of a `Config`; the new one is watched too."""
        return WatchedConfig(self._config.with_overrides(overrides), self._reads)


def watch(config: Config) -> tuple[Config, dict[str, str]]:
    """(the configuration, watched; key -> who read it, filled while it is used)."""
    reads: dict[str, str] = {}
    stand_in: Any = WatchedConfig(config, reads)
    return stand_in, reads


def _reader() -> str:
    """file:function of the package that reads the attribute."""
    frame = sys._getframe(2)
    return f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_name}"


def _at(*names: str) -> Look:
    """The value at the end of a path of attributes; None where the path does not lead on."""

    def look(run: Run) -> tuple[str, Any] | None:
        value: Any = run
        for name in names:
            if not hasattr(value, name):
                return None
            value = getattr(value, name)
        return ".".join(names), value

    return look


def _schedule(name: str) -> Look:
    return _at("solver", "schedule", name)


def _group(name: str, *, of: str = "") -> Look:
    """An entry of the optimiser's groups of parameters; `of` names one kind of group."""

    def look(run: Run) -> tuple[str, Any] | None:
        groups = [group for group in run.solver.optimizer.param_groups if of in ("", group["name"])]
        if not groups or not all(name in group for group in groups):
            return None
        values = [group[name] for group in groups]
        found = values[0] if all(value == values[0] for value in values) else values
        return f"solver.optimizer.param_groups[{of or 'all'}].{name}", found

    return look


def _optimizer(run: Run) -> tuple[str, Any] | None:
    name = type(run.solver.optimizer).__name__.lower().removeprefix("detectron")
    return ("solver.optimizer", name) if name in (KNOBS["SOLVER.OPTIMIZER"].choices or ()) else None


def _batch_size(run: Run) -> tuple[str, Any] | None:
    return _at("loader", "specs", "batch_size")(run) or _at("loader", "batch_size")(run)


def _augmentation(name: str) -> Look:
    return _at("loader", "specs", "augmentation", name)


def _strength(position: int) -> Look:
    def look(run: Run) -> tuple[str, Any] | None:
        found = _augmentation("strengths")(run)
        return None if found is None else (f"{found[0]}[{position}]", found[1][position])

    return look


def _decay(run: Run) -> tuple[str, Any]:
    return "average.decay", 0.0 if run.average is None else run.average.decay


PLACES: dict[str, Look] = {
    "SOLVER.BASE_LR": _schedule("base_lr"),
    "SOLVER.LR_POLICY": _schedule("lr_policy"),
    "SOLVER.GAMMA": _schedule("gamma"),
    "SOLVER.STEPS": _schedule("steps"),
    "SOLVER.STEP_SIZE": _schedule("step_size"),
    "SOLVER.LRS": _schedule("lrs"),
    "SOLVER.LR_FINAL_FRACTION": _schedule("lr_final_fraction"),
    "SOLVER.POLY_POWER": _schedule("poly_power"),
    "SOLVER.ONE_CYCLE_PEAK": _schedule("one_cycle_peak"),
    "SOLVER.WARM_UP_METHOD": _schedule("warm_up_method"),
    "SOLVER.WARM_UP_ITERS": _schedule("warm_up_iters"),
    "SOLVER.WARM_UP_FACTOR": _schedule("warm_up_factor"),
    "SOLVER.OPTIMIZER": _optimizer,
    "SOLVER.CLIP_GRADIENT_NORM": _at("solver", "clip_gradient_norm"),
    "SOLVER.SCALE_MOMENTUM": _at("solver", "scale_momentum"),
    "SOLVER.SCALE_MOMENTUM_THRESHOLD": _at("solver", "scale_momentum_threshold"),
    "SOLVER.WEIGHT_DECAY": _group("weight_decay", of="weight"),
    "SOLVER.WEIGHT_DECAY_GN": _group("weight_decay", of="norm"),
    "SOLVER.MOMENTUM": _group("momentum"),
    "SOLVER.NESTEROV": _group("nesterov"),
    "SOLVER.BETAS": _group("betas"),
    "SOLVER.EPS": _group("eps"),
    "SOLVER.RHO": _group("rho"),
    "SOLVER.ALPHA": _group("alpha"),
    "SOLVER.EMA_DECAY": _decay,
    "TRAIN.IMS_PER_BATCH": _batch_size,
    "TRAIN.SCALES": _augmentation("scales"),
    "TRAIN.MAX_SIZE": _augmentation("max_size"),
    "TRAIN.USE_FLIPPED": _augmentation("flips"),
    "INPUT.CROP_MIN_FRACTION": _augmentation("crop_min_fraction"),
    "INPUT.BRIGHTNESS": _strength(0),
    "INPUT.CONTRAST": _strength(1),
    "INPUT.SATURATION": _strength(2),
    "CLASSIFIER.SHIFT": _at("loader", "warp", "shift"),
    "CLASSIFIER.ROTATION": _at("loader", "warp", "rotation"),
    "CLASSIFIER.ZOOM": _at("loader", "warp", "zoom"),
    "CLASSIFIER.ELASTIC": _at("loader", "warp", "elastic"),
    "CLASSIFIER.ELASTIC_SMOOTHNESS": _at("loader", "warp", "smoothness"),
}
"""Where the values of keys lie in a run that has been built."""

RESCALED = ("SOLVER.BASE_LR", "SOLVER.STEPS", "SOLVER.STEP_SIZE", "SOLVER.WARM_UP_ITERS", "SOLVER.LRS")
"""Keys that SOLVER.REFERENCE_BATCH scales to the batch: their place holds another value on purpose."""


def check_built(run: Run, sampled: Mapping[str, Any], reads: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Key -> {value, found, how} for the sampled keys that have arrived when everything is built.

    Raises:
        NotArrivedError: if the place of a key holds another value.
    """
    scaled = run.config.SOLVER.REFERENCE_BATCH > 0
    record: dict[str, dict[str, Any]] = {}
    for key, value in sampled.items():
        look = PLACES.get(key)
        at = None if look is None or (scaled and key in RESCALED) else look(run)
        if at is not None:
            place, found = at
            if not _same(found, value):
                raise NotArrivedError(
                    f"{key}={value} did not arrive: {place} is {found!r}, so the value changes nothing. This is a "
                    "mistake in the program, or a knob that the other settings switch off."
                )
            record[key] = {"value": value, "found": place, "how": "object"}
        elif key in reads:
            record[key] = {"value": value, "found": reads[key], "how": "read"}
    return record


def check_read(sampled: Mapping[str, Any], reads: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Key -> {value, found, how} for keys without a place, once training and evaluation have had their chance.

    Raises:
        NotArrivedError: for a key that nothing has read.
    """
    unread = [key for key in sampled if key not in reads]
    if unread:
        raise NotArrivedError(
            f"{unread[0]}={sampled[unread[0]]} did not arrive: nothing has read it, neither while building nor in the "
            "first evaluation, so the value changes nothing. The other settings may switch it off."
        )
    return {key: {"value": value, "found": reads[key], "how": "read"} for key, value in sampled.items()}


def _same(found: Any, value: Any) -> bool:
    if isinstance(found, list | tuple) and isinstance(value, list | tuple):
        return [*found] == [*value]
    return bool(found == value)
