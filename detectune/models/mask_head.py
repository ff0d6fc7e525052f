"""The head that draws a mask in every box (Mask R-CNN, He 2017; the fully convolutional heads of Detectron).

Shape legend
    R  regions    C  channels    K  channels of the predictor: classes with background, or 1    M  side of the mask
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from detectune.models.layers import Conv, Initializer, NormFactory, gaussian, linear
from detectune.models.targets import Regions
from detectune.ops.losses import mask_bce, select_channel
from detectune.ops.masks import RasterStyle, rasterize_edges
from detectune.structures import Targets


class MaskHead(nn.Module):
    """Optionally the body's last stage, `num_convs` 3x3 convolutions, a transposed convolution that doubles the side, a
    1x1 predictor (or a fully connected one), and optionally a fixed bilinear enlargement.

    Args:
        in_channels: C, of what the convolutions see: behind `stage` if there is one.
        num_classes: classes, background included.
        stage: region features to those that the convolutions see.
        upsample_init: of the transposed convolution; `init` if not given.
        fc_sides: with a fully connected predictor, the side of the maps that it sees and M; it is not enlarged.
        class_specific: a mask per class, else one for all.
        dilation: of the 3x3 convolutions.
        upsample_ratio: bilinear enlargement behind the predictor; 1 for none.
        loss_weight: factor of loss_mask.
        raster: how polygons become targets; see `ops.masks.rasterize_edges`.
        match_outlines: a region learns the object whose outline's bounding box overlaps it most (Detectron), which may
            differ from the object it was labelled by.
    """

    enlarge: Tensor

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        stage: nn.Module | None = None,
        num_convs: int = 4,
        dim: int = 256,
        dilation: int = 1,
        norm: NormFactory | None = None,
        init: Initializer,
        upsample_init: Initializer | None = None,
        predictor_init: Initializer | None = None,
        fc_sides: tuple[int, int] | None = None,
        class_specific: bool = True,
        upsample_ratio: int = 1,
        loss_weight: float = 1.0,
        raster: RasterStyle = "detectron2",
        match_outlines: bool = False,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_convs, self.class_specific, self.upsample_ratio = num_convs, class_specific, upsample_ratio
        self.loss_weight, self.raster = loss_weight, raster
        self.match_outlines, self.offset = match_outlines, offset
        self.res5 = stage
        self.mask_side = None if fc_sides is None else fc_sides[1]
        channels = in_channels
        for i in range(num_convs):
            conv = Conv(channels, dim, 3, dilation=dilation, norm=norm, relu=True, init=init)
            self.add_module(f"conv{i + 1}", conv)
            channels = dim
        self.upsample = nn.ConvTranspose2d(channels, dim, 2, stride=2)
        (upsample_init or init)(self.upsample.weight)
        assert self.upsample.bias is not None
        nn.init.zeros_(self.upsample.bias)
        out_channels = num_classes if class_specific else 1
        self.predictor: Conv | nn.Linear
        if fc_sides is None:
            self.predictor = Conv(dim, out_channels, 1, init=predictor_init or gaussian(0.001))
        else:
            seen, drawn = fc_sides
            self.predictor = linear(dim * seen * seen, out_channels * drawn * drawn, gaussian(0.001))
        if upsample_ratio > 1:
            self.register_buffer("enlarge", bilinear_kernel(upsample_ratio), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Region features [R, C, m, m] to logits [R, K, M, M]."""
        return self._logits(self._trunk(x))

    def predict(self, x: Tensor, labels: Tensor) -> Tensor:
        """Probabilities float32 [R, M, M] of one label (int64 [R]) per region; other classes are not computed."""
        x = self._trunk(x)
        if self.mask_side is not None:
            channel = labels if self.class_specific else torch.zeros_like(labels)
            return select_channel(self._logits(x), channel).float().sigmoid()
        if self.class_specific:
            weight = self.predictor.weight[labels].flatten(1).to(x.dtype)  # [R, C]
            assert self.predictor.bias is not None
            bias = self.predictor.bias[labels].to(x.dtype)
            logits = torch.einsum("rc,rchw->rhw", weight, x) + bias[:, None, None]
            logits = self._enlarged(logits[:, None])[:, 0]
        else:
            logits = self._enlarged(self.predictor(x))[:, 0]
        return logits.float().sigmoid()

    def losses(
        self, logits: Tensor, regions: Regions, targets: Targets, *, static: bool
    ) -> dict[str, Tensor]:
        """loss_mask of foreground regions (is_fg tells padding), averaged over their pixels, their number, and an
        accuracy.
        """
        size = logits.shape[-1]
        channel = regions.labels if self.class_specific else torch.zeros_like(regions.labels)
        wanted = self.targets_of(regions, targets, size, static=static)
        num_fg = regions.is_fg.sum()
        count = num_fg.clamp(min=1)
        loss = mask_bce(logits, channel, wanted, regions.is_fg, normalizer=count)
        with torch.no_grad():
            right = ((select_channel(logits, channel) > 0) == wanted).float().mean((1, 2))
        return {
            "loss_mask": self.loss_weight * loss,
            "count_mask": num_fg,
            "count_mask_accuracy": num_fg,
            "stat_mask_accuracy": right.where(regions.is_fg, 0.0).sum() / count,
        }

    @torch.no_grad()
    def targets_of(self, regions: Regions, targets: Targets, size: int, *, static: bool) -> Tensor:
        """Bool [R, size, size]: each region's object inside its box."""
        if targets.edges is None or targets.edge_polygon is None:
            raise ValueError("mask targets need the objects' outlines, and the batch has none")
        image, row = regions.image_index, regions.gt_index
        if self.match_outlines:
            row = best_outlines(regions, targets, offset=self.offset)
        edges, boxes = regions.measured(targets.edges[image, row]), regions.measured(regions.boxes)
        return rasterize_edges(
            edges, targets.edge_polygon[image, row], boxes,
            num_polygons=targets.num_polygons, size=size, method=self.raster, static=static,
        )  # fmt: skip

    def _trunk(self, x: Tensor) -> Tensor:
        if self.res5 is not None:
            x = self.res5(x)
        for i in range(self.num_convs):
            x = self.get_submodule(f"conv{i + 1}")(x)
        return F.relu_(self.upsample(x))

    def _logits(self, x: Tensor) -> Tensor:
        if self.mask_side is None:
            return self._enlarged(self.predictor(x))
        logits: Tensor = self.predictor(x.flatten(1))
        return logits.unflatten(1, (-1, self.mask_side, self.mask_side))

    def _enlarged(self, logits: Tensor) -> Tensor:
        """Logits [R, K, m, m] enlarged bilinearly; beyond the border they fade to zero, as in Detectron."""
        ratio = self.upsample_ratio
        if ratio == 1:
            return logits
        channels = logits.shape[1]
        kernel = self.enlarge.to(logits.dtype).expand(channels, 1, -1, -1)
        return F.conv_transpose2d(logits, kernel, stride=ratio, padding=ratio // 2, groups=channels)


def bilinear_kernel(ratio: int) -> Tensor:
    """The [2 * ratio, 2 * ratio] kernel of a transposed convolution that enlarges `ratio` times (ratio even)."""
    side = 2 * ratio
    centre = ratio - 0.5
    tent = 1 - (torch.arange(side) - centre).abs() / ratio
    return tent[:, None] * tent[None, :]


def best_outlines(regions: Regions, targets: Targets, *, offset: float) -> Tensor:
    """int64 [R]: for each region the object of its image whose outline's bounding box it overlaps most."""
    assert targets.edges is not None
    edges = targets.edges  # [B, G, E, 4]
    real = ((edges[..., :2] != edges[..., 2:]).any(-1) & targets.valid[..., None])[..., None]  # [B, G, E, 1]
    ends = edges.unflatten(-1, (2, 2))  # [B, G, E, end, axis]
    low = ends.amin(3).where(real, torch.inf).amin(2)  # [B, G, 2]
    high = ends.amax(3).where(real, -torch.inf).amax(2)
    outlines = torch.cat((low, high), -1).float()
    usable = targets.valid & ~targets.is_crowd & real.any(2)[..., 0]
    outlines = outlines.where(usable[..., None], -1e6)
    image = regions.image_index
    candidates = regions.measured(outlines[image])  # [R, G, 4]
    boxes = regions.measured(regions.boxes)
    top = torch.maximum(boxes[:, None, :2], candidates[..., :2])
    bottom = torch.minimum(boxes[:, None, 2:], candidates[..., 2:])
    inter = (bottom - top + offset).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2] + offset).prod(-1)[:, None]
    union = area + (candidates[..., 2:] - candidates[..., :2] + offset).prod(-1) - inter
    best, index = (inter / union).max(1)
    return torch.where(best > 0, index, regions.gt_index)
