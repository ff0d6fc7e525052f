"""Random numbers for the images of a batch, the same whatever number of processes shares the batch.

Two processes that train on halves of a batch must draw for an image what one process draws for it. So each draws for
the whole batch, with equal generators, and takes the rows of its own images: some numbers are made in vain, none
travels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class PartGenerator(torch.Generator):
    """A generator that knows which images of the whole batch it serves: from `first` on, of `total`."""

    first: int = 0
    total: int = 0


def part_generator(device: torch.device, seed: int, *, first: int, total: int) -> PartGenerator:
    """A `PartGenerator` on `device`, started at `seed`."""
    generator = PartGenerator(device)
    generator.manual_seed(seed)
    generator.first, generator.total = first, total
    return generator


def draw_for_images(
    generator: torch.Generator | None, num_images: int, draw: Callable[[int], Tensor]
) -> Tensor:
    """Numbers [num_images, ...] for the images at hand; `draw(n)` makes them from the generator for n images."""
    if not isinstance(generator, PartGenerator):
        return draw(num_images)
    if generator.first + num_images > generator.total:
        raise ValueError(f"{num_images} images from {generator.first} on are more than {generator.total}")
    return draw(generator.total)[generator.first : generator.first + num_images]
