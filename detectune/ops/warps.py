"""Shifts, turns, zooms and elastic bends of small images, many at a time.

Every pixel of the result is looked up at a place of the original: for the pixel at p = (y, x), with c the centre of
the image,

    q = c + R(-angle) (p - c) / zoom - shift + field(p)

bilinear between the four pixels around q, 0 outside the image. `field` is Gaussian noise smoothed by a Gaussian
(Simard et al. 2003, "Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis",
section 2), here scaled so that each component has the deviation that was asked for.

Shape legend
    N  images    C, H, W  channels, height, width
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


@dataclass(frozen=True)
class Warp:
    """How far images may be warped at random."""

    shift: int = 0  # whole pixels in each direction, uniform
    rotation: float = 0.0  # degrees to either side, uniform
    zoom: float = 0.0  # factor within 1 plus or minus this, uniform
    elastic: float = 0.0  # deviation of the displacements, pixels
    smoothness: float = 4.0  # deviation of the Gaussian that smooths them, pixels

    @property
    def nothing(self) -> bool:
        """Whether images stay as they are."""
        return not (self.shift or self.rotation or self.zoom or self.elastic)


def warp_images(images: Tensor, warp: Warp, *, seed: Sequence[int]) -> Tensor:
    """Images [N, C, H, W], each warped at random; all numbers come from `seed`.

    Whole shifts alone keep the type of the pixels, anything else gives float32.
    """
    count, _, height, width = images.shape
    mixed = np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
    shifts = torch.randint(-warp.shift, warp.shift + 1, (count, 2), generator=generator)
    if not (warp.rotation or warp.zoom or warp.elastic):
        return shift_images(images, shifts)
    draws = torch.rand((count, 2), generator=generator) * 2 - 1
    angles = draws[:, 0] * math.radians(warp.rotation)
    zooms = 1 + draws[:, 1] * warp.zoom
    field = None
    if warp.elastic:
        field = warp.elastic * smooth_noise(
            count, height, width, smoothness=warp.smoothness, generator=generator
        )
    return sample_images(images, warped_grid(height, width, angles, zooms, shifts, field))


def shift_images(images: Tensor, shifts: Tensor) -> Tensor:
    """Each image [C, H, W] moved by its whole (dy, dx) of `shifts` int64 [N, 2]; 0 comes in."""
    _, channels, height, width = images.shape
    most = int(shifts.abs().max())
    padded = F.pad(images, (most, most, most, most))
    rows = torch.arange(height) + most - shifts[:, :1]  # [N, H]
    columns = torch.arange(width) + most - shifts[:, 1:]
    places = rows[:, :, None] * padded.shape[3] + columns[:, None, :]  # [N, H, W]
    flat = places.reshape(len(images), 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, flat).view_as(images)


def warped_grid(
    height: int, width: int, angles: Tensor, zooms: Tensor, shifts: Tensor, field: Tensor | None
) -> Tensor:
    """Where each pixel of the results is looked up, float32 [N, H, W, 2] as (y, x) in pixels of the original.

    Angles [N] in radians turn the content counter-clockwise as seen (y points down), zooms [N] enlarge it, shifts
    [N, 2] move it by (dy, dx); `field` [N, H, W, 2] comes on top.
    """
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    y = torch.arange(height) - centre_y
    x = torch.arange(width) - centre_x
    cos, sin = (angles.cos() / zooms)[:, None, None], (angles.sin() / zooms)[:, None, None]
    rows = cos * y[:, None] + sin * x + (centre_y - shifts[:, 0])[:, None, None]
    columns = cos * x - sin * y[:, None] + (centre_x - shifts[:, 1])[:, None, None]
    grid = torch.stack((rows, columns), dim=3)
    return grid if field is None else grid + field


def sample_images(images: Tensor, grid: Tensor) -> Tensor:
    """Bilinear samples float32 [N, C, H, W] of images at `grid` [N, H, W, 2], (y, x) in pixels; 0 outside."""
    height, width = images.shape[2:]
    x = grid[..., 1] * (2 / max(width - 1, 1)) - 1
    y = grid[..., 0] * (2 / max(height - 1, 1)) - 1
    places = torch.stack((x, y), dim=3)
    return F.grid_sample(images.float(), places, mode="bilinear", padding_mode="zeros", align_corners=True)


def smooth_noise(
    count: int, height: int, width: int, *, smoothness: float, generator: torch.Generator
) -> Tensor:
    """Noise float32 [count, height, width, 2] of mean 0 and deviation 1, smooth over `smoothness` pixels.

    What white noise under a Gaussian of that deviation is: values at the distance d correlate as
    exp(-d^2 / (4 smoothness^2)), everywhere alike. Such a field bends at few places, so it is drawn as weights of the
    few eigenvectors of its covariance: some 300 random numbers for an image of 28 x 28, not 4,000.
    """
    rows, columns = smooth_shapes(height, smoothness), smooth_shapes(width, smoothness)
    weights = torch.randn((count, 2, rows.shape[1], columns.shape[1]), generator=generator)
    field: Tensor = rows @ weights @ columns.T
    return field.permute(0, 2, 3, 1)


@lru_cache(maxsize=16)
def smooth_shapes(size: int, smoothness: float) -> Tensor:
    """The shapes float32 [size, K] of a smooth row: with independent weights of deviation 1 their sum is such a row.

    What is left out is less than a millionth of the strongest one's variance.
    """
    places = torch.arange(size, dtype=torch.float64)
    covariance = torch.exp(-((places[:, None] - places) ** 2) / (4 * smoothness**2))
    variances, shapes = torch.linalg.eigh(covariance)
    kept = variances > 1e-6 * variances[-1]
    shapes = shapes[:, kept]
    # A shape and its negative are as good: the same on every machine is the one whose largest value is positive.
    largest = shapes.abs().argmax(dim=0, keepdim=True)
    signed: Tensor = shapes * shapes.gather(0, largest).sign() * variances[kept].sqrt()
    return signed.float()
