"""Masks: polygons into the square a mask head predicts, and such squares back into the image.

Shape legend
    R  regions    E  polygon edges per region, padded    P  polygons per region    M  side of a mask    N  detections

A mask's outline is a soup of edges (see `structures.Targets`). `rasterize_edges` fills it exactly as COCO's tools fill
polygons (`frPyObjects` of pycocotools and hotcoco), so that training targets are the original systems' bit for bit.
That rasteriser works on a grid five times as fine: vertices are rounded to it, every edge becomes a digital line, and a
column of pixels is toggled where a line passes the column's centre. Because a line is monotonic, an edge toggles a
column at most once, at a row that has a closed form; the rest is parity.

The way back, `paste_masks` and `masks_to_rles`, comes in three styles that differ by up to a pixel:

    detectron, torchvision  pad the mask by one, grow the box alike, cut its corners to integers (toward zero), stretch
                            bilinearly over x2 - x1 + 1 by y2 - y1 + 1 pixels, keep what is above the threshold
    detectron2              sample the mask at the pixel centres that lie in the box, keep what is not below it

Bilinear stretching is separable, so a mask is two small matrix products over the visible part of its box: memory stays
at one image, and time goes with the area of the boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from hotcoco import mask as coco_mask
from torch import Tensor

from detectune.ops.boxes import expand_boxes
from detectune.ops.routes import static_by_default
from detectune.structures import Segmentation

RasterStyle = Literal["detectron", "detectron2"]
PasteStyle = Literal["detectron", "detectron2", "torchvision"]

_FINE = 5  # COCO's upsampling factor
_SCRATCH_ELEMENTS = 2**24


@torch.no_grad()
def rasterize_edges(
    edges: Tensor,
    edge_polygon: Tensor,
    boxes: Tensor,
    *,
    num_polygons: int,
    size: int,
    method: RasterStyle = "detectron2",
    static: bool | None = None,
) -> Tensor:
    """The part of each outline inside its box, stretched to size x size: bool [R, size, size], row first.

    Args:
        edges: float64 [R, E, 4], x1, y1, x2, y2 in the frame of the boxes. Padding has zero length.
        edge_polygon: int64 [R, E] in 0..num_polygons - 1; polygons are filled by the even-odd rule and joined.
        boxes: float [R, 4].
        method: how coordinates are scaled. `detectron`: (x - x1) * size / max(w, 1) in float32; `detectron2`:
            (x - x1) in float64 times the float32 number size / max(w, 0.1). w is x2 - x1 in both.
        static: True has fixed shapes and never waits for the device; False handles only the crossings there are. By
            default static everywhere but on a CPU. The results are equal.
    """
    if static is None:
        static = static_by_default(edges)
    fine = _fine_endpoints(edges, boxes, size, method)  # [R, E, 4]
    if not static:
        return _rasterize_crossings(fine, edge_polygon, num_polygons, size)
    num_regions, num_edges, _ = edges.shape
    per_region = max(1, size * max(num_edges, num_polygons * (size + 1)))
    rows = max(1, _SCRATCH_ELEMENTS // per_region)
    parts = [
        _rasterize_columns(fine[i : i + rows], edge_polygon[i : i + rows], num_polygons, size)
        for i in range(0, num_regions, rows)
    ]
    return torch.cat(parts) if parts else edges.new_zeros((0, size, size), dtype=torch.bool)


def segmentation_edges(segmentation: Segmentation) -> tuple[np.ndarray, np.ndarray]:
    """The outline of a polygon list or an RLE: edges float64 [E, 4] and the polygon int64 [E] each belongs to.

    An RLE gives the horizontal borders between its pixels, joined into long edges, as one polygon.
    """
    if isinstance(segmentation, dict):
        edges = _rle_edges(segmentation)
        return edges, np.zeros(len(edges), dtype=np.int64)
    edges_of: list[np.ndarray] = [np.zeros((0, 4))]
    polygon: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    for i, ring in enumerate(segmentation):
        points = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
        edges_of.append(np.concatenate((points, np.roll(points, -1, axis=0)), axis=1))
        polygon.append(np.full(len(points), i, dtype=np.int64))
    return np.concatenate(edges_of), np.concatenate(polygon)


def paste_masks(
    masks: Tensor, boxes: Tensor, height: int, width: int, *, method: PasteStyle, thresh: float = 0.5
) -> Tensor:
    """Bool [N, height, width], on the masks' device, of probabilities [N, M, M] in boxes [N, 4] (image pixels)."""
    out = np.zeros((len(masks), height, width), dtype=bool)
    for i, (y, x, patch) in enumerate(_patches(masks, boxes, height, width, method, thresh)):
        out[i, y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    return torch.from_numpy(out).to(masks.device)


def masks_to_rles(
    masks: Tensor, boxes: Tensor, height: int, width: int, *, method: PasteStyle, thresh: float = 0.5
) -> list[dict[str, Any]]:
    """Like `paste_masks`, as N compressed RLEs {"size": [height, width], "counts": str}; one image in memory."""
    canvas = np.zeros((height, width), dtype=np.uint8, order="F")
    rles = []
    for y, x, patch in _patches(masks, boxes, height, width, method, thresh):
        window = canvas[y : y + patch.shape[0], x : x + patch.shape[1]]
        window[...] = patch
        rle = coco_mask.encode(canvas)
        window[...] = 0
        rles.append({"size": [height, width], "counts": rle["counts"].decode("ascii")})
    return rles


def _fine_endpoints(edges: Tensor, boxes: Tensor, size: int, method: RasterStyle) -> Tensor:
    """Edges [R, E, 4] in whole units of the five times finer grid of their box, float64."""
    boxes = boxes.float()
    low, side = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]  # [R, 1, 2]
    points = edges.reshape(*edges.shape[:-1], 2, 2)  # [R, E, 2, 2]: end, axis
    low, side = low[:, :, None], side[:, :, None]
    if method == "detectron":
        scaled = ((points.float() - low) * size / side.clamp(min=1.0)).double()
    else:
        # not size / side, which torch turns into size * (1 / side), rounding twice
        scaled = (points.double() - low) * (torch.full_like(side, size) / side.clamp(min=0.1))
    return torch.trunc(_FINE * scaled + 0.5).flatten(-2)  # a C cast truncates toward zero


def _toggle_row(ends: tuple[Tensor, Tensor, Tensor, Tensor], column: Tensor, size: int) -> Tensor:
    """The pixel row in 0..size from which an edge toggles pixel column `column`, as a float64 whole number.

    `ends` are x and y of both ends on the fine grid; meaningful only where the edge passes from fine column
    c = 5 * column + 2 to c + 1. The digital line steps along its longer axis and rounds the other coordinate; the
    toggle lies at the smaller y of the two points on either side of the passage. Sums are formed in the order of
    COCO's C code, so that ties round alike.
    """
    x0, y0, x1, y1 = ends
    dx, dy = (x1 - x0).abs(), (y1 - y0).abs()
    wide = dx >= dy
    swap = torch.where(wide, x0 > x1, y0 > y1)
    xs, xe = torch.where(swap, x1, x0), torch.where(swap, x0, x1)
    ys, ye = torch.where(swap, y1, y0), torch.where(swap, y0, y1)
    c = column * _FINE + 2

    slope = (ye - ys) / dx  # wide: y as a function of x
    before = torch.floor(ys + slope * (c - xs) + 0.5)
    after = torch.floor(ys + slope * (c + 1 - xs) + 0.5)
    wide_y = torch.minimum(before, after)

    slope = (xe - xs) / dy  # tall: find the first step t at which the rounded x is past the border
    guess = torch.ceil((c + 0.5 - xs) / slope)
    first = guess + 1
    for step in (guess, guess - 1):
        x = xs + slope * step + 0.5
        past = torch.where(slope > 0, x >= c + 1, x < c + 1)
        first = torch.where(past, step, first)
    tall_y = ys + first - 1

    y = torch.where(wide, wide_y, tall_y)
    return torch.floor((y + 2) / _FINE).clamp(0, size)


def _rasterize_columns(fine: Tensor, edge_polygon: Tensor, num_polygons: int, size: int) -> Tensor:
    """Every edge against every column: bool [R, size, size]."""
    num_regions = len(fine)
    x0, y0, x1, y1 = fine[..., None].unbind(-2)  # [R, E, 1]
    column = torch.arange(size, device=fine.device, dtype=torch.float64)
    c = column * _FINE + 2
    crosses = (torch.minimum(x0, x1) <= c) & (c < torch.maximum(x0, x1))  # [R, E, size]
    row = _toggle_row((x0, y0, x1, y1), column, size).where(crosses, 0.0).to(torch.int64)
    plane = edge_polygon[..., None] * size + column.to(torch.int64)
    index = plane * (size + 1) + row  # [R, E, size]
    toggles = torch.zeros(
        (num_regions, num_polygons * size * (size + 1)), dtype=torch.int32, device=fine.device
    )
    toggles.scatter_add_(1, index.flatten(1), crosses.to(torch.int32).flatten(1))
    toggles = toggles.view(num_regions, num_polygons, size, size + 1)
    inside = (toggles.cumsum(dim=-1) % 2 == 1)[..., :size]  # [R, P, x, y]
    return inside.any(dim=1).transpose(1, 2).contiguous()


def _rasterize_crossings(fine: Tensor, edge_polygon: Tensor, num_polygons: int, size: int) -> Tensor:
    """Only the columns that an edge crosses: bool [R, size, size]. Shapes depend on the values."""
    num_regions = len(fine)
    x0, _, x1, _ = fine.unbind(-1)
    low, high = torch.minimum(x0, x1), torch.maximum(x0, x1)
    first = torch.ceil((low - 2) / _FINE).clamp(0, size)  # the first column with 5 * column + 2 >= low
    count = (torch.ceil((high - 2) / _FINE).clamp(0, size) - first).flatten().to(torch.int64)
    edge = torch.repeat_interleave(count)  # [T], one row per crossing
    within = torch.arange(len(edge)) - (count.cumsum(0) - count)[edge]
    column = first.flatten()[edge] + within
    x0, y0, x1, y1 = fine.reshape(-1, 4)[edge].unbind(-1)
    row = _toggle_row((x0, y0, x1, y1), column, size).to(torch.int64)
    region = edge // max(1, fine.shape[1])
    shape, group = torch.unique(region * num_polygons + edge_polygon.flatten()[edge], return_inverse=True)
    index = (group * size + column.to(torch.int64)) * (size + 1) + row
    toggles = torch.bincount(index, minlength=len(shape) * size * (size + 1)).view(-1, size, size + 1)
    inside = (toggles.to(torch.uint8).cumsum(dim=-1, dtype=torch.uint8) & 1)[
        ..., :size
    ]  # wraps, keeps parity
    covering = torch.zeros((num_regions, size, size), dtype=torch.int32)
    covering.index_add_(0, shape // num_polygons, inside.to(torch.int32))
    return (covering > 0).transpose(1, 2).contiguous()


def _rle_edges(rle: dict[str, Any]) -> np.ndarray:
    height, width = rle["size"]
    compressed = coco_mask.frPyObjects(rle, height, width) if isinstance(rle["counts"], list) else rle
    pixels = coco_mask.decode(compressed).astype(np.int8)  # [height, width]
    border = np.diff(np.pad(pixels, ((1, 1), (0, 0))), axis=0) != 0  # [height + 1, width]: above each row
    ends = np.diff(np.pad(border, ((0, 0), (1, 1))).astype(np.int8), axis=1)  # [height + 1, width + 1]
    y, x_start = np.nonzero(ends == 1)
    x_stop = np.nonzero(ends == -1)[1]
    return np.stack((x_start, y, x_stop, y), axis=1).astype(np.float64)


def _patches(
    masks: Tensor, boxes: Tensor, height: int, width: int, method: PasteStyle, thresh: float
) -> Iterator[tuple[int, int, np.ndarray]]:
    """For each mask the top row, left column and bool pixels of the part of the image it can touch."""
    side = masks.shape[-1]
    values = masks.detach().float().cpu().numpy()
    boxes = boxes.detach().float().cpu()
    if method == "detectron2":
        for mask, (x1, y1, x2, y2) in zip(values, boxes.numpy(), strict=True):
            top, down = _sampling_weights(y1, y2, side, height)
            left, across = _sampling_weights(x1, x2, side, width)
            yield top, left, down @ mask @ across.T >= thresh
        return
    values = np.pad(values, ((0, 0), (1, 1), (1, 1)))
    corners = expand_boxes(boxes, (side + 2.0) / side).to(torch.int64).tolist()  # toward zero
    for mask, (x1, y1, x2, y2) in zip(values, corners, strict=True):
        top, down = _stretching_weights(y1, y2, side + 2, height)
        left, across = _stretching_weights(x1, x2, side + 2, width)
        yield top, left, down @ mask @ across.T > thresh


def _sampling_weights(low: np.float32, high: np.float32, side: int, length: int) -> tuple[int, np.ndarray]:
    """Where pixel centres fall on `side` cells spread over low..high: the first pixel, and weights [pixels, side].

    Beyond the outermost cells' centres the mask fades to zero.
    """
    if not high > low:
        return 0, np.zeros((0, side), dtype=np.float32)
    start = int(np.clip(np.floor(low) - 1, 0, length))
    stop = int(np.clip(np.ceil(high) + 1, start, length))
    centre = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
    position = (((centre - low) / (high - low) * 2 - 1 + 1) * side - 1) / 2
    cell = np.floor(position)
    return start, _two_taps(cell.astype(np.int64), position - cell, side)


def _stretching_weights(low: int, high: int, side: int, length: int) -> tuple[int, np.ndarray]:
    """The same for `side` cells stretched over the pixels low..high, both included; the outermost cells go on."""
    size = max(high - low + 1, 1)
    start, stop = max(low, 0), min(high + 1, length)
    if stop <= start:
        return 0, np.zeros((0, side), dtype=np.float32)
    pixel = np.arange(start - low, stop - low, dtype=np.float64)
    position = ((pixel + 0.5) * (side / size) - 0.5).astype(np.float32).clip(0, side - 1)
    cell = np.floor(position)
    return start, _two_taps(cell.astype(np.int64), position - cell, side)


def _two_taps(cell: np.ndarray, fraction: np.ndarray, side: int) -> np.ndarray:
    """Weights [pixels, side] that mix `cell` and `cell + 1`; taps outside are dropped."""
    cells = np.arange(side)
    first = np.where(cells == cell[:, None], 1 - fraction[:, None], 0)
    second = np.where(cells == cell[:, None] + 1, fraction[:, None], 0)
    return (first + second).astype(np.float32)
