"""What all detectors do with images before and after the network: pixels to inputs, sizes to clip to.

Shape legend
    B  images    H, W  pixels of the padded batch
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectune.models.pixels import normalize_pixels
from detectune.structures import ImageBatch

Features = dict[int, Tensor]


class Detector(nn.Module):
    """A network on normalised images.

    Args:
        pixel_mean, pixel_std: RGB, for pixels 0..255.
        clip_proposals_to: in tests proposals may reach as far as the image's sides rounded up to a multiple of this.
        drop_padding: leave out rows that only pad, which makes shapes depend on values. None: on a CPU only.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        clip_proposals_to: int = 1,
        drop_padding: bool | None = None,
    ) -> None:
        super().__init__()
        self.clip_proposals_to = clip_proposals_to
        self.drop_padding = drop_padding
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std)[:, None, None], persistent=False)

    def normalize(self, images: ImageBatch) -> Tensor:
        """Pixels 0..255 to what the backbone wants: float32 [B, 3, H, W], zero in the padding."""
        return normalize_pixels(
            images, self.pixel_mean, self.pixel_std, drop_padding=self._drops_padding(images)
        )

    def clipping_sizes(self, sizes: Tensor) -> Tensor:
        """Height and width [B, 2] that proposals are clipped to in tests."""
        unit = self.clip_proposals_to
        return sizes if unit == 1 else (sizes + unit - 1) // unit * unit

    def _drops_padding(self, images: ImageBatch) -> bool:
        """Whether rows that only pad are left out for these images."""
        return images.tensor.device.type == "cpu" if self.drop_padding is None else self.drop_padding


def original_units(images: ImageBatch) -> Tensor:
    """Network over original pixels, float32 [B, 4] (x, y, x, y), on the images' device without waiting for it."""
    units = torch.tensor([(info.scale_x, info.scale_y) * 2 for info in images.infos])
    if images.tensor.is_cuda:
        units = units.pin_memory()
    return units.to(images.tensor.device, non_blocking=True)
