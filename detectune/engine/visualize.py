"""Drawing: detections and annotations on photographs, so that a person can judge them.

Boxes, translucent masks with an outline, keypoints with their skeleton, and labels on a plate of the same colour. Line
width and text grow with the image, labels stay inside it and move out of each other's way. Images are uint8
[H, W, 3] RGB numpy arrays, coordinates in the original frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask
from PIL import Image, ImageDraw, ImageFont

from detectune.structures import ClassInfo, Detections, Record

# Okabe and Ito's palette for all kinds of colour vision, black and yellow replaced, and lighter or darker cousins.
PALETTE = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (204, 121, 167), (86, 180, 233), (148, 103, 189),
    (188, 189, 34), (140, 86, 75), (23, 190, 207), (227, 119, 194), (44, 160, 44),
)  # fmt: skip
MASK_OPACITY = 0.4
DRAWN_LOGIT = 2.0  # keypoints must be above; Detectron's bound
Rect = tuple[float, float, float, float]


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    class_info: ClassInfo,
    *,
    score_thresh: float = 0.0,
) -> np.ndarray:
    """A copy of `image` with detections (original frame, `rles` for masks), the best on top."""
    kept = detections[detections.scores >= score_thresh]
    labels = kept.labels.tolist()
    texts = [
        f"{class_info.names[label - 1]} {score:.2f}"
        for label, score in zip(labels, kept.scores.tolist(), strict=True)
    ]
    keypoints = None if kept.keypoints is None else kept.keypoints[:, :, :3].cpu().numpy().copy()
    if keypoints is not None:
        known = np.array([class_info.has_keypoints(label) for label in labels], dtype=bool)
        keypoints[..., 2] = (keypoints[..., 2] > DRAWN_LOGIT) & known[:, None]
    return _draw(image, kept.boxes.cpu().numpy(), labels, texts, kept.rles, keypoints, class_info)


def draw_record(image: np.ndarray, record: Record, class_info: ClassInfo) -> np.ndarray:
    """A copy of `image` with its annotations; crowds are named as such."""
    texts = [
        class_info.names[int(label) - 1] + (" (crowd)" if crowd else "")
        for label, crowd in zip(record.labels, record.is_crowd, strict=True)
    ]
    rles = [_as_rle(s, record.height, record.width) for s in record.segmentations]
    return _draw(image, record.boxes, record.labels.tolist(), texts, rles, record.keypoints, class_info)


def side_by_side(left: np.ndarray, right: np.ndarray, *, gap: int = 8) -> np.ndarray:
    """Two images of equal height next to each other, with a white gap."""
    if left.shape[0] != right.shape[0]:
        raise ValueError(f"heights differ: {left.shape[0]} and {right.shape[0]}")
    between = np.full((left.shape[0], gap, 3), 255, dtype=np.uint8)
    return np.concatenate((left, between, right), axis=1)


def _draw(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int],
    texts: Sequence[str],
    rles: Sequence[dict[str, Any] | None] | None,
    keypoints: np.ndarray | None,
    class_info: ClassInfo,
) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width)
    line = max(1, round(side / 250))
    font = ImageFont.load_default(size=max(9, min(28, round(side / 30))))
    colours = [PALETTE[(label - 1) % len(PALETTE)] for label in labels]
    pixels = image.copy()
    from_worst = range(len(labels) - 1, -1, -1)
    for i in from_worst:
        rle = None if rles is None else rles[i]
        if rle is not None:
            _tint(pixels, coco_mask.decode(rle).astype(bool), colours[i], line)
    canvas = Image.fromarray(pixels)
    pen = ImageDraw.Draw(canvas)
    for i in from_worst:
        x1, y1, x2, y2 = (float(v) for v in boxes[i])
        x1, x2 = np.clip((x1, x2), 0, width - 1)
        y1, y2 = np.clip((y1, y2), 0, height - 1)
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colours[i], width=line)
        if keypoints is not None:
            _draw_keypoints(pen, keypoints[i], class_info, colours[i], line)
    if side >= 48:  # on less there is no room for letters
        plates: list[Rect] = []
        for i in range(len(labels)):  # the best choose their places first
            _draw_label(pen, texts[i], boxes[i], colours[i], font, (width, height), plates)
    return np.asarray(canvas)


def _tint(pixels: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], line: int) -> None:
    """Colour the pixels under a mask, with a solid rim."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size == 0:
        return
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    inside, part = mask[window], pixels[window]
    blended = part[inside] * (1 - MASK_OPACITY) + np.array(colour) * MASK_OPACITY
    part[inside] = blended.astype(np.uint8)
    core = np.pad(inside, 1)
    core = core[1:-1, 1:-1] & core[:-2, 1:-1] & core[2:, 1:-1] & core[1:-1, :-2] & core[1:-1, 2:]
    part[inside & ~core] = colour


def _draw_keypoints(
    pen: ImageDraw.ImageDraw,
    points: np.ndarray,
    class_info: ClassInfo,
    colour: tuple[int, int, int],
    line: int,
) -> None:
    """Points [K, 3] whose third number is above 0, and the skeleton between them."""
    seen = points[:, 2] > 0
    bones = [
        (*points[a, :2].tolist(), *points[b, :2].tolist())
        for a, b in class_info.keypoint_skeleton
        if seen[a] and seen[b]
    ]
    for fill, width in (
        ((255, 255, 255), line + 2),
        (colour, line),
    ):  # a white rim shows on the mask's own colour
        for bone in bones:
            pen.line(bone, fill=fill, width=width)
    radius = line + 1
    for x, y in points[seen, :2].tolist():
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(255, 255, 255))


def _draw_label(
    pen: ImageDraw.ImageDraw,
    text: str,
    box: np.ndarray,
    colour: tuple[int, int, int],
    font: Any,
    size: tuple[int, int],
    plates: list[Rect],
) -> None:
    """The text on a plate: above the box, else inside at its top, else below; over others only if all are taken."""
    left, top, right, bottom = font.getbbox(text)
    pad = 2
    w, h = right - left + 2 * pad, bottom - top + 2 * pad
    if w > size[0] or h > size[1]:
        return
    x1, y1, _, y2 = (float(v) for v in box)
    places = [(x1, y1 - h), (x1, y1), (x1, y2 - h), (x1, y2), *((x1, y1 + k * h) for k in range(1, 6))]
    clamped = [(min(max(x, 0), size[0] - w), min(max(y, 0), size[1] - h)) for x, y in places]
    x, y = next(
        (p for p in clamped if not any(_overlap((*p, p[0] + w, p[1] + h), q) for q in plates)), clamped[0]
    )
    plates.append((x, y, x + w, y + h))
    pen.rectangle((x, y, x + w, y + h), fill=colour)
    red, green, blue = colour
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
    pen.text((x + pad - left, y + pad - top), text, fill=(255, 255, 255) if dark else (0, 0, 0), font=font)


def _overlap(a: Rect, b: Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _as_rle(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    """One RLE of polygons or an RLE of either kind."""
    if segmentation is None:
        return None
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            rle: dict[str, Any] = coco_mask.frPyObjects(segmentation, height, width)
            return rle
        return segmentation
    rings = [np.asarray(ring, dtype=np.float64).tolist() for ring in segmentation]
    merged: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(rings, height, width))
    return merged
