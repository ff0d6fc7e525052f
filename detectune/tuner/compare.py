"""Two configurations, trained over the same seeds: is the second better, by more than the noise?

A side is a run directory or a configuration. What a run directory measured itself counts as one of its seeds, unless
it is a trial of a study: a trial is looked at because its value was high, so that value says too much.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detectune.config.best_metric import best_metric
from detectune.config.load import load_config
from detectune.config.tree import Config
from detectune.engine.run_directory import write_text
from detectune.engine.trainer import result_of
from detectune.errors import UserError
from detectune.tuner.noise import Method, difference, more_seeds, seeds_needed
from detectune.tuner.outcomes import Outcome
from detectune.tuner.repeats import Repeat, run_repeats, value_of
from detectune.tuner.spec import usual_direction
from detectune.tuner.trial_program import OUTCOME
from detectune.tuner.workers import Pool

FORMAT = 1
SEEDS = "seeds"  # the folder of a side's runs with other seeds


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        file: its configuration.
        folder: where its runs with other seeds go.
        own: (seed, value) of the run itself, if it counts.
        notice: why a run that is there does not count; empty otherwise.
    """

    name: str
    file: Path
    folder: Path
    config: Config
    own: tuple[int, float] | None = None
    notice: str = ""


def read_side(given: Path, *, output: Path, metric: str | None) -> Side:
    """A run directory, or a configuration file whose runs go below `output`.

    Raises:
        UserError: if it is neither.
    """
    if given.is_dir():
        file = given / "config.yaml"
        if not file.is_file():
            raise UserError(f"{given} is no run directory: there is no config.yaml in it.")
        config = load_config(file)
        own, notice = _own_value(given, config, metric or best_metric(config))
        return Side(str(given), file, given / SEEDS, config, own, notice)
    if not given.is_file():
        raise UserError(f"There is no run directory and no configuration {given}.")
    config = load_config(given)
    folder = output / given.stem
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.yaml"
    write_text(file, config.to_yaml())
    return Side(str(given), file, folder / SEEDS, config)


def choose_seeds(sides: Sequence[Side], count: int) -> list[int]:
    """`count` seeds: those of runs that are there already, then 1, 2, 3, ..."""
    seeds = [side.own[0] for side in sides if side.own is not None]
    seeds += range(1, count + len(seeds) + 1)
    return list(dict.fromkeys(seeds))[:count]


def compare(
    first: Side,
    second: Side,
    *,
    seeds: int,
    metric: str | None,
    method: Method,
    pool: Pool,
    workers: int,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Train what is missing and judge; what `judge` returns.

    Raises:
        UserError: if the sides are not measured alike.
    """
    wanted = metric or best_metric(first.config)
    _check_comparable(first, second, wanted, given=metric is not None)
    numbers = choose_seeds((first, second), seeds)
    repeats = [
        Repeat(side.name, side.folder / f"{seed:04d}", side.file, {}, seed)
        for seed in numbers
        for side in (first, second)
        if side.own is None or side.own[0] != seed
    ]
    ends = run_repeats(repeats, metric=wanted, pool=pool, workers=workers, log=log)
    found = {str(repeat.folder): end for repeat, end in zip(repeats, ends, strict=True)}
    samples = [[_value(side, seed, found) for seed in numbers] for side in (first, second)]
    return judge(
        (first.name, second.name), samples, seeds=numbers, metric=wanted, method=method,
        maximize=usual_direction(wanted) == "maximize",
    )  # fmt: skip


def judge(
    names: tuple[str, str],
    samples: Sequence[Sequence[float | None]],
    *,
    seeds: Sequence[int],
    metric: str,
    maximize: bool,
    method: Method = "welch",
) -> dict[str, Any]:
    """What `comparison.json` holds: values by seed, the interval of the gain, `adopt`, and it all in one sentence.

    None in a sample is a run that did not come to its end: a configuration that trains only with some seeds is not
    adopted, whatever it reaches with them.
    """
    content: dict[str, Any] = {
        "format": FORMAT, "metric": metric, "maximize": maximize, "seeds": list(seeds),
        "sides": [{"name": n, "values": list(v)} for n, v in zip(names, samples, strict=True)],
        "adopt": False, "interval": None,
    }  # fmt: skip
    lost = [[s for s, v in zip(seeds, values, strict=True) if v is None] for values in samples]
    if lost[1]:
        return content | {
            "conclusion": f"Keep {names[0]}: {names[1]} did not come to its end with seed "
            f"{', '.join(map(str, lost[1]))}."
        }
    if lost[0]:
        return content | {
            "adopt": True,
            "conclusion": f"Adopt {names[1]}: {names[0]} did not come to its end with seed "
            f"{', '.join(map(str, lost[0]))}, and it did.",
        }
    first, second = ([v for v in values if v is not None] for values in samples)
    gap = difference(first, second, maximize=maximize, method=method)
    content |= {"adopt": gap.word == "better", "interval": asdict(gap) | {"word": gap.word}}
    range_text = f"{gap.mean:+.4g}, {gap.confidence:.0%} interval {gap.low:+.4g} to {gap.high:+.4g}"
    over = f"over {len(seeds)} seeds"
    if gap.word == "better":
        said = f"Adopt {names[1]}: its gain in {metric} {over} is {range_text}, more than noise."
    elif gap.word == "worse":
        said = f"Keep {names[0]}: {names[1]} is worse in {metric} {over}, {range_text}."
    else:
        more = more_seeds(seeds_needed(first, second), len(seeds))
        said = f"A tie: keep {names[0]}. The gain in {metric} {over} is {range_text}, which holds 0; {more}."
    return content | {"conclusion": said}


def write_comparison(file: Path, content: dict[str, Any]) -> None:
    """`comparison.json`, or whatever `file` is called."""
    write_text(file, json.dumps(content, indent=1) + "\n")


def _value(side: Side, seed: int, found: dict[str, Outcome | None]) -> float | None:
    if side.own is not None and side.own[0] == seed:
        return side.own[1]
    return value_of(found[str(side.folder / f"{seed:04d}")])


def _own_value(run: Path, config: Config, metric: str) -> tuple[tuple[int, float] | None, str]:
    """((seed, value) of a finished run, why it does not count)."""
    if (run / OUTCOME).is_file():
        return None, f"{run} is a trial that was chosen for its value, which therefore does not count."
    if not (run / "model_final.safetensors").is_file():
        return None, f"{run} is not finished and does not count."
    value = result_of(run).metrics.get(metric)
    if value is None:
        return None, f"{run} has not measured {metric} and does not count."
    return (config.RNG_SEED, float(value)), ""


def _check_comparable(first: Side, second: Side, metric: str, *, given: bool) -> None:
    for key in ("TEST.DATASETS", "MODEL.TYPE"):
        values = [side.config.flat()[key] for side in (first, second)]
        if values[0] != values[1]:
            raise UserError(
                f"{first.name} has {key}={values[0]} and {second.name} {values[1]}: they cannot be compared. Give both "
                "the same."
            )
    if not first.config.TEST.DATASETS:
        raise UserError(f"{first.name} has no TEST.DATASETS to be measured on; name one.")
    if not given and best_metric(second.config) != metric:
        raise UserError(
            f"{first.name} is judged by {metric} and {second.name} by {best_metric(second.config)}; choose one with "
            "--metric."
        )
