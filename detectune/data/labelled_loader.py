"""Batches of labelled images that lie in memory. No processes, no files: an epoch is a permutation of a tensor.

Batch number p is a function of (seed, p) alone. Images are gathered and augmented a few thousand at a time, so that a
step of a small network pays for a slice of a tensor and nothing else; numbers of block b of epoch e come from
(seed, e, b).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectune.config.tree import Config
from detectune.data.labelled import LabelledImages, load_labelled, with_shape
from detectune.errors import DataError
from detectune.ops.warps import Warp, warp_images
from detectune.structures import ClassInfo, LabelledBatch

NO_WARP = Warp()
ORDER, WARPS = range(2)  # separate streams of random numbers
BLOCK = 2048  # images gathered at a time, about


@dataclass
class LabelledLoader:
    """Training: endless batches from `position` on. Otherwise every image once, in order.

    An epoch has N // batch_size batches, at least one, in a new random order; the few images left over differ from
    epoch to epoch. Of `parts` processes that share the batches of `batch_size` images, process `part` gets its
    consecutive share.
    """

    data: LabelledImages
    batch_size: int
    training: bool
    seed: int = 0
    warp: Warp = NO_WARP
    position: int = 0
    part: int = 0
    parts: int = 1
    problems: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)  # nothing can be broken: the data is in memory
    skipped: int = 0
    _order_of: tuple[int, np.ndarray] = field(default_factory=lambda: (-1, np.zeros(0, np.int64)), init=False)

    @property
    def class_info(self) -> ClassInfo:
        return self.data.class_info

    @property
    def num_images(self) -> int:
        return len(self.data)

    @property
    def batches_per_epoch(self) -> int:
        return max(1, self.num_images // self.batch_size)

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the data."""
        return self.data.fingerprint()

    def __iter__(self) -> Iterator[LabelledBatch]:
        return self._training_batches() if self.training else self._ordered_batches()

    def _training_batches(self) -> Iterator[LabelledBatch]:
        share = self.batch_size // self.parts
        while True:
            block = self.block(self.position)
            assert block.labels is not None
            for start in range(self.part * share, len(block), self.batch_size):
                own = slice(start, start + share)
                self.position += 1
                yield LabelledBatch(block.images[own], block.labels[own], block.indices[own], self.data.name)

    def block(self, position: int) -> LabelledBatch:
        """Whole training batches in a row, from number `position` to the last of its block, as one."""
        per_block = max(1, BLOCK // self.batch_size)
        epoch, row = divmod(position, self.batches_per_epoch)
        block, first = divmod(row, per_block)
        images, labels, indices = self._block(epoch, block, per_block)
        rest = slice(first * self.batch_size, None)
        return LabelledBatch(images[rest], labels[rest], indices[rest], self.data.name)

    def _block(self, epoch: int, block: int, per_block: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and their indices of a block of batches, augmented."""
        if self.num_images < self.batch_size:
            order = np.resize(self._order(epoch), self.batch_size)
        else:
            size = per_block * self.batch_size
            order = self._order(epoch)[: self.batches_per_epoch * self.batch_size][
                block * size : (block + 1) * size
            ]
        indices = torch.from_numpy(order)
        images = self.data.images.index_select(0, indices)  # whole rows: 20 times as fast as [indices]
        if not self.warp.nothing:
            images = warp_images(images, self.warp, seed=(self.seed, WARPS, epoch, block))
        return images, self.data.labels[indices], indices

    def _order(self, epoch: int) -> np.ndarray:
        """The permutation of an epoch; the last one is remembered."""
        if self._order_of[0] != epoch:
            rng = np.random.default_rng([self.seed, ORDER, epoch])
            self._order_of = (epoch, rng.permutation(self.num_images))
        return self._order_of[1]

    def _ordered_batches(self) -> Iterator[LabelledBatch]:
        starts = range(0, self.num_images, self.batch_size)
        for start in starts[
            len(starts) * self.part // self.parts : len(starts) * (self.part + 1) // self.parts
        ]:
            own = slice(start, start + self.batch_size)
            indices = torch.arange(start, min(start + self.batch_size, self.num_images))
            yield LabelledBatch(self.data.images[own], self.data.labels[own], indices, self.data.name)


def build_labelled_loader(
    config: Config,
    *,
    training: bool,
    dataset: str | None = None,
    position: int = 0,
    part: int = 0,
    parts: int = 1,
) -> LabelledLoader:
    """Batches of TRAIN.DATASETS (joined) or of one test set; `dataset` names another.

    Raises:
        DataError: before anything is trained, if the data cannot be used.
    """
    names = (dataset,) if dataset else config.TRAIN.DATASETS if training else config.TEST.DATASETS[:1]
    if not names:
        key = "TRAIN" if training else "TEST"
        raise DataError(
            f"{key}.DATASETS is empty; name a data set, such as mnist_{'train' if training else 'val'}."
        )
    sets = [load_labelled(name, config.DATASETS, download_cache=config.DOWNLOAD_CACHE) for name in names]
    if config.CLASSIFIER.INPUT_SHAPE:
        sets = [with_shape(data, config.CLASSIFIER.INPUT_SHAPE) for data in sets]
    return make_loader(config, join(sets), training=training, position=position, part=part, parts=parts)


def make_loader(
    config: Config, data: LabelledImages, *, training: bool, position: int = 0, part: int = 0, parts: int = 1
) -> LabelledLoader:
    """The batches of images that are in memory already."""
    given = config.CLASSIFIER
    warp = Warp(
        shift=given.SHIFT,
        rotation=given.ROTATION,
        zoom=given.ZOOM,
        elastic=given.ELASTIC,
        smoothness=given.ELASTIC_SMOOTHNESS,
    )
    return LabelledLoader(
        data,
        config.TRAIN.IMS_PER_BATCH * parts if training else config.TEST.IMS_PER_BATCH,
        training,
        seed=config.RNG_SEED,
        warp=warp,
        position=position,
        part=part,
        parts=parts,
    )


def join(sets: list[LabelledImages]) -> LabelledImages:
    """Several data sets as one; they must have the same classes and shape of images."""
    first = sets[0]
    if len(sets) == 1:
        return first
    for other in sets[1:]:
        if other.class_info.names != first.class_info.names:
            raise DataError(f"{first.name} and {other.name} have different classes and cannot be joined.")
        if other.images.shape[1:] != first.images.shape[1:]:
            raise DataError(
                f"{first.name} has images of {list(first.images.shape[1:])} and {other.name} of "
                f"{list(other.images.shape[1:])} (channels, height, width); set CLASSIFIER.INPUT_SHAPE."
            )
    return LabelledImages(
        " + ".join(data.name for data in sets),
        torch.cat([data.images for data in sets]),
        torch.cat([data.labels for data in sets]),
        first.class_info,
        "; ".join(dict.fromkeys(data.source for data in sets)),
    )
