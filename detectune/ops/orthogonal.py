"""The nearest orthogonal matrix, by products alone: Muon's step (Jordan 2024, kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Muon's quintic iteration (Jordan 2024): steepest at 0, singular values end within 0.7 to 1.2."""


def orthogonal(matrix: Tensor, *, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """U V^T, nearly, of matrix = U S V^T [..., A, B], by Newton-Schulz iteration: matrix products only.

    X <- a X + (b X X^T + c (X X^T)^2) X from X = matrix / |matrix|_F, which leaves U and V alone and takes every
    singular value through the same polynomial, towards 1.
    """
    a, b, c = NEWTON_SCHULZ
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if is_tall else matrix
    x = x.flatten(0, -3) if x.dim() > 3 else x  # [A, B] or [N, A, B]
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    add_product = torch.addmm if x.dim() == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        x = add_product(x, add_product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).reshape(matrix.shape)
