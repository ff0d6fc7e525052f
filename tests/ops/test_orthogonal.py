"""Orthogonalising by products, against the singular value decomposition."""

from __future__ import annotations

import pytest
import torch

from detectune.ops.orthogonal import orthogonal


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (3, 6, 4)])
def test_orthogonalising_keeps_directions_and_brings_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    got = orthogonal(matrix)
    inner = u.mT @ got @ vt.mT
    values = inner.diagonal(dim1=-2, dim2=-1)
    assert values.min() > 0.6 and values.max() < 1.3
    torch.testing.assert_close(inner, torch.diag_embed(values), rtol=0, atol=1e-12)
