"""Which images come next and what is done to them: every random number of the data pipeline, drawn in one place.

Batch number p is a function of (seed, p) alone. So results do not depend on the number of workers, and training
goes on after any batch without replaying what came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from detectune.data.images import ResizeStyle
from detectune.data.transforms import Move

ORDER, FLIPS, MOVES = range(3)  # separate streams of random numbers


@dataclass(frozen=True)
class SampleSpec:
    """One image of a batch: the record's index and its move."""

    index: int
    move: Move


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image."""

    scales: tuple[int, ...]  # short sides, one is drawn for each image
    max_size: int
    style: ResizeStyle
    flips: bool = False
    crop_min_fraction: float = 1.0
    strengths: tuple[float, float, float] = (0.0, 0.0, 0.0)  # brightness, contrast, saturation


@dataclass
class TrainingBatches:
    """Endless batches of `SampleSpec` from `position` on. Iterating does not change it.

    An epoch has N // batch_size batches, at least one, in a new random order; the few images left over differ from
    epoch to epoch. With `wide` given (bool [N], is the image wider than high), the images of a batch are all wide or
    all high, but for at most one mixed batch per epoch.
    With flips each image is mirrored in one of two successive epochs, at random in the first.
    Of `parts` processes that share the batches of `batch_size` images, process `part` gets its consecutive share.
    """

    seed: int
    num_images: int
    batch_size: int
    augmentation: Augmentation
    wide: np.ndarray | None = None
    position: int = 0
    part: int = 0
    parts: int = 1
    _epoch: int = field(default=-1, init=False)
    _table: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64), init=False)
    _flips: np.ndarray = field(default_factory=lambda: np.zeros(0, bool), init=False)

    @property
    def batches_per_epoch(self) -> int:
        return max(1, self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleSpec]]:
        position = self.position
        while True:
            yield self.batch(position)
            position += 1

    def batch(self, position: int) -> list[SampleSpec]:
        """The batch with the given number, counted from the beginning of training."""
        epoch, row = divmod(position, self.batches_per_epoch)
        if epoch != self._epoch:
            self._table, self._flips, self._epoch = self._order(epoch), self._mirrored(epoch), epoch
        rng = np.random.default_rng([self.seed, MOVES, position])
        whole = [
            SampleSpec(int(index), self._move(rng, flip=bool(self._flips[index])))
            for index in self._table[row]
        ]
        share = self.batch_size // self.parts
        return whole[self.part * share : (self.part + 1) * share]

    def _order(self, epoch: int) -> np.ndarray:
        """int64 [batches_per_epoch, batch_size]: the images of each batch."""
        rng = np.random.default_rng([self.seed, ORDER, epoch])
        order = rng.permutation(self.num_images)
        if self.num_images < self.batch_size:
            return np.resize(order, (1, self.batch_size))
        order = order[
            : self.batches_per_epoch * self.batch_size
        ]  # the rest sits this epoch out, whatever its shape
        if self.wide is not None:
            groups = [order[self.wide[order]], order[~self.wide[order]]]
            whole = [len(group) // self.batch_size * self.batch_size for group in groups]
            parts = [group[:n] for group, n in zip(groups, whole, strict=True)]
            parts += [group[n:] for group, n in zip(groups, whole, strict=True)]
            order = np.concatenate(parts)
        table = order.reshape(-1, self.batch_size)
        return table[rng.permutation(len(table))]

    def _mirrored(self, epoch: int) -> np.ndarray:
        """bool [N]: which images are mirrored in this epoch."""
        if not self.augmentation.flips:
            return np.zeros(self.num_images, dtype=bool)
        rng = np.random.default_rng([self.seed, FLIPS, epoch // 2])
        mirrored = rng.random(self.num_images) < 0.5
        return mirrored if epoch % 2 == 0 else ~mirrored

    def _move(self, rng: np.random.Generator, *, flip: bool) -> Move:
        """Always draws the same number of values, so that one setting does not shift another's."""
        given = self.augmentation
        draws = rng.random(8)
        crop = None
        if given.crop_min_fraction < 1:
            low = given.crop_min_fraction
            part_x, part_y = low + (1 - low) * draws[2:4]
            crop = (float(draws[0]), float(draws[1]), float(part_x), float(part_y))
        brightness, contrast, saturation = (
            float(1 + strength * (2 * draw - 1))
            for strength, draw in zip(given.strengths, draws[4:7], strict=True)
        )
        return Move(
            short_side=given.scales[int(draws[7] * len(given.scales))],
            max_size=given.max_size,
            style=given.style,
            flip=flip,
            crop=crop,
            colours=(brightness, contrast, saturation),
        )


def ordered_batches(num_images: int, batch_size: int, move: Move) -> list[list[SampleSpec]]:
    """Every image once, in order, all moved alike."""
    specs = [SampleSpec(i, move) for i in range(num_images)]
    return [specs[i : i + batch_size] for i in range(0, num_images, batch_size)]


def is_wide(sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """bool [N] of (height, width): at least as wide as high, as Detectron divides them."""
    table = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    wide: np.ndarray = table[:, 1] >= table[:, 0]
    return wide
