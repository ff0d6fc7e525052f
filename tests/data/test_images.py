"""Decoding every kind of file, and resizing exactly as three systems do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from detectune.data.images import load_image, resize_image, stretch_image, target_size
from detectune.errors import DataError

PHOTOS = ("000000168974", "000000184324", "17790319373_bd19b24cfc_k")
MEANS = np.array([102.9801, 115.9465, 122.7717]).reshape(3, 1, 1)  # blue, green, red


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", PHOTOS)
def test_pillow_style_equals_detectron2_bit_for_bit(shared: Path, name: str):
    image = load_image(shared / f"golden/images/{name}.jpg")
    expected = np.asarray(Image.open(shared / f"golden/resized/{name}.png"))
    resized, scale_x, scale_y = resize_image(image, short_side=400, max_size=667, style="pillow")
    assert resized.dtype == torch.uint8
    np.testing.assert_array_equal(resized.permute(1, 2, 0).numpy(), expected)
    assert scale_x == expected.shape[1] / image.shape[1] and scale_y == expected.shape[0] / image.shape[0]


def test_detectron_style_equals_detectrons_blobs(shared: Path):
    folder = shared / "golden/detectron/units"
    arrays = np.load(folder / "blob.npz")
    cases = [
        c for c in json.loads((folder / "blob.json").read_text()) if c["function"].startswith("blob.prep_im")
    ]
    assert len(cases) >= 15
    for case in cases:
        expected, params = case["out_json"], case["params"]
        if "image" in case.get("in_arrays", ()):
            image = arrays[f"{case['case']}/in/image"][:, :, ::-1]
        else:
            image = load_image(shared / "golden/images" / case["in_json"]["image_file"])
        if params.get("rot90_counter_clockwise_first"):
            image = np.rot90(image)
        resized, scale, _ = resize_image(
            np.ascontiguousarray(image),
            short_side=params["target_size"],
            max_size=params["max_size"],
            style="detectron",
        )
        assert list(resized.shape[1:]) == expected["im_shape"][:2], case["case"]
        assert scale == expected["im_scale"]
        blob = np.zeros(expected["blob_shape"][1:])
        blob[:, : resized.shape[1], : resized.shape[2]] = resized.flip(0).numpy() - MEANS
        np.testing.assert_allclose(blob.mean((1, 2)), expected["mean"], atol=1e-4)
        np.testing.assert_allclose(blob.std((1, 2)), expected["std"], atol=1e-4)
        if "blob" in case["out_arrays"]:
            np.testing.assert_allclose(arrays[f"{case['case']}/out/blob"][0], blob, atol=2e-3)
        else:
            corner = arrays[f"{case['case']}/out/crop_top_left"]
            np.testing.assert_allclose(corner, blob[:, : corner.shape[1], : corner.shape[2]], atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 61), (33, 33), (20, 200), (7, 5)])
def test_torchvision_style_equals_its_transform(height, width):
    image = picture(height, width)
    transform = GeneralizedRCNNTransform(50, 83, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], size_divisible=1)
    boxes = torch.tensor([[1.0, 2.0, 4.5, 5.0]])
    images, targets = transform(
        [torch.from_numpy(image).permute(2, 0, 1) / 255],
        [{"boxes": boxes, "labels": torch.tensor([1])}],
    )
    resized, scale_x, scale_y = resize_image(image, short_side=50, max_size=83, style="torchvision")
    assert tuple(resized.shape[1:]) == images.image_sizes[0]
    torch.testing.assert_close(resized / 255, images.tensors[0], atol=1e-5, rtol=0)
    factors = torch.tensor([scale_x, scale_y, scale_x, scale_y])
    torch.testing.assert_close(boxes * factors, targets[0]["boxes"])


@pytest.mark.parametrize("style", ["detectron", "pillow", "torchvision"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (2500, 2), (3, 4)])
def test_huge_and_tiny_images_keep_a_pixel(style, height, width):
    resized, scale_x, scale_y = resize_image(picture(height, width), short_side=64, max_size=100, style=style)
    assert min(resized.shape) >= 1 and max(resized.shape) <= 100
    assert scale_x > 0 and scale_y > 0


def test_the_long_side_is_limited():
    for style in ("detectron", "pillow", "torchvision"):
        rows, columns, scale = target_size(100, 400, short_side=64, max_size=100, style=style)
        assert (rows, columns) == (25, 100) and scale == 0.25


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("P", "png"), ("RGBA", "png"), ("LA", "png"), ("1", "png"), ("CMYK", "jpg"), ("L", "jpg")],
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, suffix: str):
    image = Image.fromarray(picture(9, 12)).convert(mode)
    image.save(tmp_path / f"a.{suffix}")
    loaded = load_image(tmp_path / f"a.{suffix}")
    assert loaded.shape == (9, 12, 3) and loaded.dtype == np.uint8
    with Image.open(tmp_path / f"a.{suffix}") as opened:
        np.testing.assert_array_equal(loaded, np.asarray(opened.convert("RGB")))


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path):
    values = np.array([[0, 257, 257 * 100], [65535, 257 * 200, 128]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(load_image(tmp_path / "deep.png")[..., 0], [[0, 1, 100], [255, 200, 0]])


def test_exif_orientation_is_applied(tmp_path: Path):
    image = Image.fromarray(picture(10, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png"), np.rot90(np.asarray(image), -1))


def test_bad_files_are_named(tmp_path: Path):
    Image.fromarray(picture(80, 80)).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image")
    for name in ("cut.jpg", "empty.jpg", "text.png"):
        with pytest.raises(DataError, match=f"{name}: the image cannot be read"):
            load_image(tmp_path / name)
    with pytest.raises(DataError, match=r"absent.jpg: the image file is missing"):
        load_image(tmp_path / "absent.jpg")


def test_stretching_equals_detectrons_bit_for_bit(golden):
    cases = golden("blob", "image.aspect_ratio_rel")
    assert {case.params["aspect_ratio"] > 1 for case in cases} == {True, False}
    for case in cases:
        stretched = stretch_image(case.inputs["image"], case.params["aspect_ratio"])
        np.testing.assert_array_equal(stretched, case.outputs["image"], err_msg=case.name)


def test_a_narrow_image_keeps_a_column():
    assert stretch_image(np.full((3, 2, 3), 7, np.uint8), 0.1).shape == (3, 1, 3)
