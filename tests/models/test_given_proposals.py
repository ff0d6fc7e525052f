"""Regions of equal cells, against the obvious loop, and Detectron's way of counting them."""

from __future__ import annotations

import numpy as np
import torch

from detectune.models.given_proposals import first_of_equals


def test_kinds_are_those_of_rounded_corners() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(200, 4, generator=generator) * 60
    image = torch.randint(0, 2, (200,), generator=generator)
    first, kind = first_of_equals(boxes, image, scale=1 / 16)
    cells = np.round(np.concatenate((image[:, None].numpy(), boxes.numpy() * np.float32(1 / 16)), 1))
    seen: dict[tuple[float, ...], int] = {}
    for row, key in enumerate(map(tuple, cells)):
        representative = seen.setdefault(key, row)
        assert int(first[kind[row]]) == representative
    assert len(first) == len(seen) < 190


def test_none() -> None:
    first, kind = first_of_equals(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), scale=0.1)
    assert len(first) == len(kind) == 0
