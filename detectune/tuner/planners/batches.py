"""How large a batch fits, and from which on a larger one trains no faster. Pure: measuring is the caller's.

The playbook's view: the batch is no knob for the quality of the result, as every batch can be tuned to the same one;
it decides how long that takes. So: the smallest batch that is about as fast as the fastest, then its rate tuned anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detectune.tuner import thresholds as at


@dataclass(frozen=True)
class Measured:
    """A batch that was tried. `images_per_second` is None if it did not fit."""

    batch: int
    images_per_second: float | None
    memory: int | None  # bytes at the peak


@dataclass(frozen=True)
class BatchAdvice:
    """What was found: the largest batch that fits, and the one to take."""

    measured: tuple[Measured, ...]  # by batch
    largest: int | None
    take: int | None
    text: str


def find_batch(
    measure: Callable[[int], Measured],
    *,
    start: int = 1,
    most: int,
    limit: int | None,
    told: Callable[[Measured], None] = lambda _: None,
) -> BatchAdvice:
    """Double the batch while it fits into `limit` bytes and `most` images, then halve the gap to what does not.

    Memory grows about in proportion to the batch, so from two measurements on the next batch is chosen to stay below
    the limit: none is tried that must fail.
    """
    found: dict[int, Measured] = {}
    failed = most + 1

    def fits(batch: int) -> bool:
        result = measure(batch)
        if limit is not None and result.memory is not None and result.memory > limit:
            result = Measured(batch, None, result.memory)
        found[batch] = result
        told(result)
        return result.images_per_second is not None

    batch = start
    while batch < failed:
        if not fits(batch):
            failed = batch
            break
        batch = min(2 * batch, most, _predicted(found, limit, default=2 * batch))
        if batch <= max(found):
            break
    good = max((m.batch for m in found.values() if m.images_per_second is not None), default=None)
    while good is not None and failed <= most and failed - good > max(1, good // at.BATCH_RESOLUTION):
        middle = (good + failed) // 2
        if fits(middle):
            good = middle
        else:
            failed = middle
    return _advise(found, good, limit)


def _predicted(found: dict[int, Measured], limit: int | None, *, default: int) -> int:
    """The largest batch that a line through the last two measurements lets fit."""
    known = sorted((m.batch, m.memory) for m in found.values() if m.memory is not None)
    if limit is None or len(known) < 2:
        return default
    (first, least), (last, memory) = known[-2:]
    slope = (memory - least) / (last - first)
    return default if slope <= 0 else last + int((limit - memory) / slope)


def _advise(found: dict[int, Measured], largest: int | None, limit: int | None) -> BatchAdvice:
    rows = tuple(found[batch] for batch in sorted(found))
    if largest is None:
        return BatchAdvice(
            rows, None, None, "Not even the smallest batch fits; take smaller images or a smaller model."
        )
    speeds = {m.batch: m.images_per_second for m in rows if m.images_per_second is not None}
    fastest = max(speeds.values())
    take = min(batch for batch, speed in speeds.items() if speed >= at.AS_FAST * fastest)
    room = "" if limit is None else f" in {limit / 2**30:.3g} GiB"
    text = (
        f"The largest batch that fits{room} is {largest}. TRAIN.IMS_PER_BATCH={take} reaches {speeds[take]:.3g} images "
        f"per second, {speeds[take] / fastest:.0%} of the fastest; larger ones only take memory."
    )
    return BatchAdvice(rows, largest, take, text)
