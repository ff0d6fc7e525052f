"""The head that finds keypoints in every box: a heat map for each keypoint (Mask R-CNN, He 2017, 5; Detectron).

A keypoint is a class among the S * S cells of its heat map, so the loss is a softmax over places. All classes share the
maps.

Shape legend
    R  regions    C  channels    K  keypoints    M  side of the region's grid    S  side of the heat map
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from detectune.models.layers import Conv, Initializer, gaussian
from detectune.models.mask_head import bilinear_kernel
from detectune.models.targets import Regions
from detectune.models.whole_batch import WholeBatch
from detectune.ops.keypoints import (
    COCO_SIGMAS,
    Normalization,
    heatmaps_to_keypoints,
    keypoints_to_cells,
    nms_oks,
)
from detectune.ops.losses import softmax_cross_entropy
from detectune.structures import Detections, Targets

Border = Literal["fade", "repeat"]


class KeypointHead(nn.Module):
    """Optionally a residual stage, `num_convs` convolutions, optionally a transposed convolution that doubles the side,
    a predictor (which may double it too) and a fixed bilinear enlargement.

    Args:
        in_channels: of the region features, or of `stage`'s output if there is one.
        num_keypoints: K.
        stage: what comes before the convolutions.
        num_convs, conv_dim, kernel: the convolutions, kernel odd.
        init: their weights.
        deconv_dim: channels of the transposed convolution before the predictor; 0 for none.
        deconv_output: the predictor is a transposed convolution.
        deconv_kernel: of both, even.
        predictor_init: the predictor's weights.
        upscale: factor of the enlargement; 1 for none, even if the border fades.
        border: beyond it the enlargement sees zeros (`fade`, Detectron) or the outermost cells again (`repeat`).
        loss_weight: factor of loss_keypoints.
        normalizer_per_image: what the loss divides by, per image of the batch; 0 takes the number of visible keypoints.
        min_visible: a batch must have more visible keypoints than this to count.
    """

    enlarge: Tensor

    def __init__(
        self,
        in_channels: int,
        *,
        num_keypoints: int,
        stage: nn.Module | None = None,
        num_convs: int = 8,
        conv_dim: int = 512,
        kernel: int = 3,
        init: Initializer,
        deconv_dim: int = 0,
        deconv_output: bool = True,
        deconv_kernel: int = 4,
        predictor_init: Initializer,
        upscale: int = 2,
        border: Border = "repeat",
        loss_weight: float = 1.0,
        normalizer_per_image: float = 0.0,
        min_visible: int = 0,
    ) -> None:
        super().__init__()
        self.num_keypoints, self.num_convs = num_keypoints, num_convs
        self.upscale, self.border = upscale, border
        self.loss_weight, self.normalizer_per_image = loss_weight, normalizer_per_image
        self.min_visible, self.whole_batch = min_visible, WholeBatch()
        self.stage = stage
        channels = in_channels
        for i in range(num_convs):
            self.add_module(f"conv{i + 1}", Conv(channels, conv_dim, kernel, relu=True, init=init))
            channels = conv_dim
        self.deconv = None
        if deconv_dim:
            self.deconv = _doubling(channels, deconv_dim, deconv_kernel, gaussian(0.01))
            channels = deconv_dim
        self.predictor: nn.Module
        if deconv_output:
            self.predictor = _doubling(channels, num_keypoints, deconv_kernel, predictor_init)
        else:
            self.predictor = Conv(channels, num_keypoints, 1, init=predictor_init)
        if upscale > 1 and border == "fade":
            self.register_buffer("enlarge", bilinear_kernel(upscale), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Region features [R, C, M, M] to logits [R, K, S, S]."""
        if self.stage is not None:
            x = self.stage(x)
        for i in range(self.num_convs):
            x = self.get_submodule(f"conv{i + 1}")(x)
        if self.deconv is not None:
            x = F.relu_(self.deconv(x))
        x = self.predictor(x)
        if self.upscale == 1:
            return x
        if self.border == "repeat":
            return F.interpolate(x, scale_factor=float(self.upscale), mode="bilinear", align_corners=False)
        kernel = self.enlarge.to(x.dtype).expand(self.num_keypoints, 1, -1, -1)
        return F.conv_transpose2d(
            x, kernel, stride=self.upscale, padding=self.upscale // 2, groups=self.num_keypoints
        )

    def losses(self, logits: Tensor, regions: Regions, targets: Targets) -> dict[str, Tensor]:
        """loss_keypoints over the visible keypoints of foreground regions (is_fg tells padding), their number (unless
        the loss divides by a number of images), and counters.
        """
        num_images = targets.labels.shape[0]
        cell, valid = self.targets_of(regions, targets, logits.shape[-1])
        visible = valid.sum()
        per_image = self.normalizer_per_image
        normalizer = num_images * per_image if per_image else visible.clamp(min=1)
        flat = logits.flatten(2)
        loss = softmax_cross_entropy(flat, cell, valid, normalizer=normalizer)
        counts = {"count_keypoint_accuracy": visible}
        if not per_image:
            counts["count_keypoints"] = visible
        if self.min_visible > 0:
            loss = loss * (self.whole_batch(visible) > self.min_visible)
        with torch.no_grad():
            right = ((flat.argmax(2) == cell) & valid).sum().float()
        return {
            "loss_keypoints": self.loss_weight * loss,
            **counts,
            "stat_keypoint_accuracy": right / visible.clamp(min=1),
            "stat_keypoint_num_visible": visible.float() / num_images,
        }

    @torch.no_grad()
    def targets_of(self, regions: Regions, targets: Targets, size: int) -> tuple[Tensor, Tensor]:
        """The cell of each region's keypoints and whether it counts: int64 and bool [R, K]."""
        if targets.keypoints is None:
            raise ValueError("keypoint targets need the objects' keypoints, and the batch has none")
        points = targets.keypoints[regions.image_index, regions.gt_index]  # [R, K, 3]
        points = torch.cat((regions.measured_points(points[..., :2]), points[..., 2:]), dim=-1)
        cell, valid = keypoints_to_cells(points, regions.measured(regions.boxes), size=size)
        return cell, valid & regions.is_fg[:, None]


@dataclass(frozen=True)
class PoseRule:
    """How heat maps become keypoints, and which detections go because a better one has nearly the same keypoints."""

    min_size: int = 0  # pixels a side that a heat map is read at, at least
    normalization: Normalization = "predicted"  # see `ops.keypoints.heatmaps_to_keypoints`
    original_frame: bool = (
        False  # maps are read, and poses compared, in the original image's pixels (Detectron)
    )
    oks_thresh: float = 1.0  # detections of one class more alike than this lose the worse one; 1: none
    sigmas: tuple[float, ...] = COCO_SIGMAS
    offset: float = 0.0


def place_keypoints(
    maps: Tensor, found: Detections, scale_xy: tuple[float, float], rule: PoseRule
) -> Detections:
    """The detections of one image (network frame) with the keypoints of their maps [N, K, S, S].

    `scale_xy` is network over original pixels.
    """
    boxes = found.boxes
    unit = boxes.new_tensor((*scale_xy, *scale_xy)) if rule.original_frame else None
    if unit is not None:
        boxes = boxes / unit
    points = heatmaps_to_keypoints(maps, boxes, min_size=rule.min_size, normalization=rule.normalization)
    kept = None
    if rule.oks_thresh < 1:
        kept = torch.zeros(len(found), dtype=torch.bool, device=boxes.device)
        for label in found.labels.unique():
            rows = (found.labels == label).nonzero()[:, 0]
            best = nms_oks(points[rows], boxes[rows], rule.oks_thresh, offset=rule.offset, sigmas=rule.sigmas)
            kept[rows[best]] = True
    if unit is not None:
        points = torch.cat((points[..., :2] * unit[:2], points[..., 2:]), dim=-1)
    posed = Detections(found.boxes, found.scores, found.labels, masks=found.masks, keypoints=points)
    return posed if kept is None else posed[kept]


def _doubling(in_channels: int, out_channels: int, kernel: int, init: Initializer) -> nn.ConvTranspose2d:
    """A transposed convolution to twice the side."""
    layer = nn.ConvTranspose2d(in_channels, out_channels, kernel, stride=2, padding=kernel // 2 - 1)
    init(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
