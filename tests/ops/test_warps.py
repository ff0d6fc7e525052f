"""Warps against the slow way, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from detectune.ops.warps import Warp, sample_images, shift_images, smooth_noise, warp_images, warped_grid


def images(count: int = 3, channels: int = 2, height: int = 9, width: int = 7) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, channels, height, width), dtype=np.uint8))


def slow_shift(image: np.ndarray, dy: int, dx: int) -> np.ndarray:
    moved = np.zeros_like(image)
    height, width = image.shape[1:]
    for y in range(height):
        for x in range(width):
            if 0 <= y - dy < height and 0 <= x - dx < width:
                moved[:, y, x] = image[:, y - dy, x - dx]
    return moved


def slow_sample(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Bilinear between the four pixels around (y, x); what lies outside is 0."""
    top, left = math.floor(y), math.floor(x)
    value = np.zeros(len(image))
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
            value += image[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


def slow_warp(
    image: np.ndarray, angle: float, zoom: float, shift: np.ndarray, field: np.ndarray
) -> np.ndarray:
    """The formula of the module, for one image."""
    _, height, width = image.shape
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    warped = np.zeros(image.shape)
    for y in range(height):
        for x in range(width):
            dy, dx = np.array([y, x]) - centre
            # Undone: the picture was turned counter-clockwise as seen, where y points down.
            turned = np.array(
                [math.cos(angle) * dy + math.sin(angle) * dx, math.cos(angle) * dx - math.sin(angle) * dy]
            )
            at = centre + turned / zoom - shift + field[y, x]
            warped[:, y, x] = slow_sample(image, at[0], at[1])
    return warped


def test_whole_shifts_are_exact_and_keep_bytes() -> None:
    shifts = torch.tensor([[0, 0], [2, -1], [-3, 3]])
    found = shift_images(images(), shifts)
    assert found.dtype == torch.uint8
    for moved, image, (dy, dx) in zip(found, images(), shifts.tolist(), strict=True):
        assert np.array_equal(moved.numpy(), slow_shift(image.numpy(), dy, dx))


def test_a_warp_is_the_formula_pixel_by_pixel() -> None:
    rng = np.random.default_rng(1)
    angles, zooms = rng.uniform(-0.5, 0.5, 3), rng.uniform(0.8, 1.2, 3)
    shifts, field = rng.integers(-2, 3, (3, 2)), rng.normal(0, 0.7, (3, 9, 7, 2))
    grid = warped_grid(9, 7, *(torch.from_numpy(a) for a in (angles, zooms, shifts, field)))
    found = sample_images(images(), grid.float())
    for i, image in enumerate(images().numpy()):
        expected = slow_warp(image, angles[i], zooms[i], shifts[i], field[i])
        np.testing.assert_allclose(found[i].numpy(), expected, atol=2e-3)


def test_a_quarter_turn_is_counter_clockwise() -> None:
    square = images(1, 1, 5, 5)
    quarter = warped_grid(5, 5, torch.tensor([math.pi / 2]), torch.ones(1), torch.zeros(1, 2), None)
    turned = sample_images(square, quarter)[0, 0]
    np.testing.assert_allclose(turned.numpy(), np.rot90(square[0, 0].numpy()), atol=1e-2)


@pytest.mark.parametrize("smoothness", [1.5, 4.0])
def test_noise_is_smooth_and_of_unit_deviation_everywhere(smoothness: float) -> None:
    noise = smooth_noise(400, 12, 10, smoothness=smoothness, generator=torch.Generator().manual_seed(0))
    assert noise.shape == (400, 12, 10, 2)
    deviations = noise.std(dim=0)
    assert float(deviations.min()) > 0.8 and float(deviations.max()) < 1.2, (
        "the borders are as rough as the middle"
    )
    # A Gaussian field smoothed by deviation s correlates over a distance d as exp(-d^2 / 4 s^2).
    neighbours = float((noise[:, :, 1:] * noise[:, :, :-1]).mean() / noise.square().mean())
    assert neighbours == pytest.approx(math.exp(-1 / (4 * smoothness**2)), abs=0.02)


def test_all_numbers_come_from_the_seed() -> None:
    for warp in (Warp(shift=2), Warp(rotation=10), Warp(zoom=0.1), Warp(elastic=1.0), Warp(1, 5.0, 0.1, 0.5)):
        same, again, other = (warp_images(images(), warp, seed=seed) for seed in ((1, 2), (1, 2), (1, 3)))
        assert torch.equal(same, again) and not torch.equal(same, other), warp
        assert same.dtype == (torch.uint8 if warp == Warp(shift=2) else torch.float32)
        assert not torch.equal(same.float(), images().float())
    assert Warp().nothing and not Warp(zoom=0.1).nothing


def test_shifts_reach_every_place_up_to_their_limit() -> None:
    dot = torch.zeros(500, 1, 7, 7, dtype=torch.uint8)
    dot[:, :, 3, 3] = 1
    places = warp_images(dot, Warp(shift=2), seed=(0,)).nonzero()[:, 2:]
    assert {tuple(p) for p in places.tolist()} == {(y, x) for y in range(1, 6) for x in range(1, 6)}
