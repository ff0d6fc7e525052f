"""Several processes draw for their images what one draws for all."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detectune.ops.draws import draw_for_images, draw_kept, part_generator
from detectune.ops.matching import sample_rows

CPU = torch.device("cpu")


def test_parts_are_the_whole_also_in_successive_draws() -> None:
    def draws(generator: torch.Generator, count: int) -> list[Tensor]:
        def draw(num_images: int) -> Tensor:
            return torch.rand((num_images, 5), generator=generator)

        return [draw_for_images(generator, count, draw) for _ in range(3)]

    whole = draws(torch.Generator().manual_seed(4), 6)
    parts = [draws(part_generator(CPU, 4, first=first, total=6), 2) for first in (0, 2, 4)]
    for step in range(3):
        assert torch.equal(torch.cat([part[step] for part in parts]), whole[step])
    assert not torch.equal(parts[0][0], parts[1][0])
    assert torch.equal(draw_for_images(None, 2, lambda n: torch.full((n,), 7)), torch.tensor([7, 7]))


def test_an_image_gets_its_samples_wherever_it_is() -> None:
    fg = torch.rand(4, 300, generator=torch.Generator().manual_seed(0)) < 0.2
    settings = {"num": 40, "fg_fraction": 0.5}
    whole = sample_rows(fg, ~fg, **settings, generator=torch.Generator().manual_seed(9))
    for first in (0, 2):
        rows = slice(first, first + 2)
        own = sample_rows(
            fg[rows], ~fg[rows], **settings, generator=part_generator(CPU, 9, first=first, total=4)
        )
        assert torch.equal(own.index, whole.index[rows]) and torch.equal(own.is_fg, whole.is_fg[rows])


def test_more_images_than_the_batch_has_are_refused() -> None:
    with pytest.raises(ValueError, match="2 images from 3 on are more than 4"):
        draw_for_images(part_generator(CPU, 0, first=3, total=4), 2, lambda n: torch.zeros(n))


@pytest.mark.parametrize("keep", [1e-3, 0.1, 1 / 3, 0.5, 0.8, 0.999, 1.0])
def test_the_share_that_is_kept(keep: float) -> None:
    kept = draw_kept((1000, 1003), keep, generator=torch.Generator().manual_seed(3))
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    error = math.sqrt(keep * (1 - keep) / kept.numel()) + 2**-17
    assert abs(float(kept.mean()) - keep) <= 4 * error


def test_neighbours_that_share_a_random_number_are_independent() -> None:
    """Four values are parts of one number of 64 bits: none of them, sign included, tells of another."""
    kept = draw_kept((200_000, 4), 0.5, generator=torch.Generator().manual_seed(0))
    correlations = torch.corrcoef(kept.T)
    assert float((correlations - torch.eye(4)).abs().max()) < 0.01
    assert kept.mean(dim=0).tolist() == pytest.approx([0.5] * 4, abs=0.005)


def test_the_generator_decides() -> None:
    first, again, next_one = (
        draw_kept((5, 3), 0.5, generator=generator, dtype=torch.bfloat16)
        for generator in (torch.Generator().manual_seed(1), *2 * [torch.Generator().manual_seed(1)])
    )
    assert torch.equal(first, again) and not torch.equal(again, next_one)
    assert first.dtype == torch.bfloat16 and first.shape == (5, 3)
