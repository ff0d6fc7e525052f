"""Image files -> uint8 [H, W, 3] RGB, and resizing in the manner of three systems.

Decoding is Pillow's for every format, so that a cut-off file is an error and never a half grey picture.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

from detectune.errors import DataError

ResizeStyle = Literal["detectron", "pillow", "torchvision"]


def load_image(path: str | Path) -> np.ndarray:
    """The picture as seen (EXIF orientation applied), uint8 [H, W, 3] RGB; `DataError` names a bad file.

    Grey, palette, CMYK, transparent and 16-bit images are converted; transparency is dropped.
    """
    try:
        with Image.open(path) as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata; what matters raises
            image = ImageOps.exif_transpose(opened)
            return np.array(_to_rgb(image))
    except FileNotFoundError as error:
        raise DataError(f"{path}: the image file is missing.") from error
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{path}: the image cannot be read ({reason}); the file is cut off or damaged."
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits of grey: whole numbers are 16-bit by convention
        values = np.asarray(image).astype(np.float64)
        if image.mode.startswith("I") and values.max(initial=0) > 255:
            values = values / 257.0
        image = Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8), mode="L")
    return image.convert("RGB")


def target_size(
    height: int, width: int, *, short_side: int, max_size: int, style: ResizeStyle
) -> tuple[int, int, float]:
    """Height and width whose shorter side is `short_side` and whose longer is at most `max_size`, and the factor.

    At least one pixel each. detectron: the rounded long side is held against the limit, sides are rounded half to
    even as OpenCV does. pillow: detectron2's rule, the limit applied to already scaled sides, 0.5 added and cut.
    torchvision: the smaller of both factors, cut.
    """
    short, long = min(height, width), max(height, width)
    scale = short_side / short
    if style == "torchvision":
        scale = min(scale, max_size / long)
        rows, columns = math.floor(height * scale), math.floor(width * scale)
    elif style == "detectron":
        if round(scale * long) > max_size:
            scale = max_size / long
        rows, columns = round(height * scale), round(width * scale)
    else:
        exact_height = scale * height if height >= width else short_side
        exact_width = short_side if height >= width else scale * width
        if (longest := max(exact_height, exact_width)) > max_size:
            again = max_size / longest
            exact_height, exact_width, scale = exact_height * again, exact_width * again, scale * again
        rows, columns = int(exact_height + 0.5), int(exact_width + 0.5)
    return max(1, rows), max(1, columns), scale


def resize_image(
    image: np.ndarray, *, short_side: int, max_size: int, style: ResizeStyle
) -> tuple[torch.Tensor, float, float]:
    """uint8 [H, W, 3] -> [3, h, w] and the factors (x, y) by which coordinates grow.

    pillow: uint8, averages when shrinking, factors w / W and h / H. torchvision: float32, samples, the same
    factors. detectron: float32, samples at exactly the given factor, which is also that of the coordinates.
    """
    height, width = image.shape[:2]
    rows, columns, scale = target_size(height, width, short_side=short_side, max_size=max_size, style=style)
    if style == "pillow":
        if (rows, columns) == (height, width):
            return torch.from_numpy(image).permute(2, 0, 1).contiguous(), 1.0, 1.0
        resized = np.array(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
        tensor = torch.from_numpy(resized).permute(2, 0, 1).contiguous()
        return tensor, columns / width, rows / height
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(torch.float32, copy=True).contiguous()
    if style == "detectron":
        if scale == 1.0:
            return pixels[0], 1.0, 1.0
        # Size and factor are given apart, as OpenCV has them; `F.interpolate` takes only one of the two.
        resized_pixels = torch.ops.aten.upsample_bilinear2d.default(
            pixels, [rows, columns], False, scale, scale
        )
        return resized_pixels[0], scale, scale
    resized_pixels = interpolate(pixels, size=(rows, columns), mode="bilinear", align_corners=False)
    return resized_pixels[0], columns / width, rows / height


def stretch_image(image: np.ndarray, ratio: float) -> np.ndarray:
    """uint8 [H, W, 3] to [H, round(ratio * W), 3], at least one pixel: the width alone is scaled.

    Samples linearly in steps of 1/2048 as OpenCV does, so that Detectron's stretched test images come out bit for bit.
    """
    width = image.shape[1]
    columns = max(1, round(ratio * width))
    position = ((np.arange(columns) + 0.5) * (width / columns) - 0.5).astype(np.float32)
    left = np.floor(position).astype(np.int64)
    fraction = position - left.astype(np.float32)
    beyond = (left < 0) | (left >= width - 1)
    fraction[beyond] = 0
    left = left.clip(0, width - 1)
    right = np.minimum(left + 1, width - 1)
    near = np.rint((1 - fraction) * 2048).astype(np.int32)[:, None]
    far = np.rint(fraction * 2048).astype(np.int32)[:, None]
    mixed = image[:, left].astype(np.int32) * near + image[:, right].astype(np.int32) * far
    stretched: np.ndarray = (((mixed >> 9) + 2) >> 2).astype(np.uint8)
    return stretched
