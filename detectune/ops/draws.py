"""Random numbers for the images of a batch, the same whatever number of processes shares the batch.

Two processes that train on halves of a batch must draw for an image what one process draws for it. So each draws for
the whole batch, with equal generators, and takes the rows of its own images: some numbers are made in vain, none
travels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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


def draw_kept(
    shape: Sequence[int],
    keep: float,
    *,
    generator: torch.Generator | None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """1 with probability `keep`, above 0, else 0, each by itself: what dropout multiplies by.

    On a CPU one random number of 64 bits serves four values, which takes a fifth of the time of `bernoulli_`;
    `keep` is met to 1 / 131,072.
    """
    if device is not None and device.type != "cpu":
        return torch.empty(tuple(shape), dtype=dtype, device=device).bernoulli_(keep, generator=generator)
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    # Of the numbers -2^15 .. 2^15 - 1 those from `least` on are kept.
    least = min(round((1 - keep) * 2**16), 2**16 - 1) - 2**15
    return (bits.view(torch.int16)[:count].view(tuple(shape)) >= least).to(dtype)
