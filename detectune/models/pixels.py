"""Pixels as a network wants them.

Shape legend
    B  images    H, W  pixels of the padded batch
"""

from __future__ import annotations

import torch
from torch import Tensor

from detectune.structures import ImageBatch


def normalize_pixels(images: ImageBatch, mean: Tensor, std: Tensor, *, drop_padding: bool) -> Tensor:
    """(pixel - mean) / std with `mean` and `std` [3, 1, 1]: float32 [B, 3, H, W], zero in the padding.

    `drop_padding` asks for the images' sizes on the host, which is free on a CPU and cheaper than a mask there.
    """
    x = (images.tensor.float() - mean) / std
    height, width = x.shape[-2:]
    if drop_padding:
        for i, (h, w) in enumerate(images.sizes.tolist()):
            x[i, :, h:].zero_()
            x[i, :, :, w:].zero_()
        return x
    rows = torch.arange(height, device=x.device) < images.sizes[:, :1]  # [B, H]
    columns = torch.arange(width, device=x.device) < images.sizes[:, 1:]
    return x * (rows[:, None, :, None] & columns[:, None, None, :])
