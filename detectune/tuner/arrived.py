"""Whether a sampled value has reached the object that uses it.

After building, what was built is looked at: the model's parts, the optimiser's groups, the schedule, the loader, and
after the first evaluation what that was done with. `places.py` says where each key must be found. A key without a
place in a run of this kind must have been read from the configuration, by the code of the package, before the first
evaluation was over: `WatchedConfig` notes who reads what. So a knob that is no longer connected ends its trial with a
sentence instead of filling a study with noise.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Protocol

from detectune.config.catalogue import KNOBS, SECTIONS
from detectune.config.tree import Config
from detectune.tuner.looking import ABSENT
from detectune.tuner.places import PLACES, RESCALED


class Built(Protocol):
    """What has been built from a configuration: a `Run`, or a member of a population.

    Looked at are its `model`, `solver`, `loader`, `average` and, where there is one, `tested`.
    """

    @property
    def config(self) -> Config: ...


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


def check_built(
    run: Built, sampled: Mapping[str, Any], reads: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Key -> {value, found, how} for the sampled keys that have arrived when everything is built.

    Keys whose place is built only for an evaluation wait for `check_used`.

    Raises:
        NotArrivedError: if the place of a key holds another value.
    """
    record = _found_in_objects(run, sampled)
    for key, value in sampled.items():
        if key not in PLACES and key in reads:
            record[key] = {"value": value, "found": reads[key], "how": "read"}
    return record


def check_used(run: Built, sampled: Mapping[str, Any], reads: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The same for the other keys, once training and evaluation have had their chance: without a place they must have
    been read.

    Raises:
        NotArrivedError: for a key whose place holds another value, or that nothing has read.
    """
    record = _found_in_objects(run, sampled)
    return record | check_read({key: v for key, v in sampled.items() if key not in record}, reads)


def _found_in_objects(run: Built, sampled: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    scaled = run.config.SOLVER.REFERENCE_BATCH > 0
    record: dict[str, dict[str, Any]] = {}
    for key, value in sampled.items():
        place = PLACES.get(key)
        if place is None or (scaled and key in RESCALED):
            continue
        found = place.look(run)
        if found is ABSENT:
            continue
        if not place.same(found, value):
            raise NotArrivedError(
                f"{key}={value} did not arrive: {place.name} is {found!r}, so the value changes nothing. This is a "
                "mistake in the program, or a knob that the other settings switch off."
            )
        record[key] = {"value": value, "found": place.name, "how": "object"}
    return record


def check_read(sampled: Mapping[str, Any], reads: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Key -> {value, found, how} for keys without a place.

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
