"""Anchors against Detectron's goldens, torchvision's generator and detectron2's published numbers."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from detectune.ops.anchors import cell_anchors, grid_anchors

RATIOS = (0.5, 1.0, 2.0)


def test_golden_cells(golden) -> None:
    for case in golden("anchors", "generate_anchors"):
        out = cell_anchors(**case.params, rounding="detectron")
        np.testing.assert_allclose(out.numpy(), case.outputs["anchors"], rtol=1e-6, err_msg=case.name)


def test_golden_retinanet_cells_are_made_octave_by_octave(golden) -> None:
    for case in golden("anchors", "retinanet._create_cell_anchors"):
        octaves = case.cfg["RETINANET.SCALES_PER_OCTAVE"]
        for level in range(case.cfg["FPN.RPN_MIN_LEVEL"], case.cfg["FPN.RPN_MAX_LEVEL"] + 1):
            stride = 2.0**level
            cells = [
                cell_anchors(
                    stride=stride,
                    sizes=[stride * 2 ** (octave / octaves) * case.cfg["RETINANET.ANCHOR_SCALE"]],
                    aspect_ratios=[ratio],
                    rounding="detectron",
                )
                for octave in range(octaves)
                for ratio in case.cfg["RETINANET.ASPECT_RATIOS"]
            ]
            np.testing.assert_allclose(torch.cat(cells).numpy(), case.outputs[f"level{level}"], rtol=1e-6)


def test_golden_fields_bit_for_bit(golden) -> None:
    for case in golden("anchors", "data_utils.get_field_of_anchors"):
        cell = cell_anchors(
            stride=case.params["stride"],
            sizes=case.params["anchor_sizes"],
            aspect_ratios=case.params["anchor_aspect_ratios"],
            rounding="detectron",
        )
        side = case.meta["out_json"]["field_size"]
        field = grid_anchors(cell, side, side, case.params["stride"]).numpy()
        assert list(field.shape) == case.meta["out_json"]["shape"]
        np.testing.assert_array_equal(field[:64], case.outputs["first64"])
        np.testing.assert_array_equal(field[-64:], case.outputs["last64"])
        np.testing.assert_array_equal(field[::997], case.outputs["every997th"])
        assert hashlib.sha256(field.tobytes()).hexdigest() == case.meta["out_json"]["sha256"]


@pytest.mark.parametrize("sizes", [(32.0,), (32.0, 64.0, 512.0)])
def test_torchvisions_anchors(sizes) -> None:
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    generator = AnchorGenerator((sizes,), (RATIOS,))
    images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    (expected,) = generator(images, [torch.zeros(1, 8, 8, 12)])
    cell = cell_anchors(stride=8, sizes=sizes, aspect_ratios=RATIOS, rounding="torchvision")
    assert torch.equal(grid_anchors(cell, 8, 12, 8, device="cpu"), expected)


def test_exact_anchors_are_size_major_with_the_wanted_area_and_ratio() -> None:
    cell = cell_anchors(stride=16, sizes=(32, 64), aspect_ratios=RATIOS, rounding="none").double()
    assert cell.shape == (6, 4)
    for row, (size, ratio) in zip(cell, [(s, r) for s in (32, 64) for r in RATIOS], strict=True):
        width, height = float(row[2] - row[0]), float(row[3] - row[1])
        assert math.isclose(width * height, size**2, rel_tol=1e-6)
        assert math.isclose(height / width, ratio, rel_tol=1e-6)
        assert float(row[0] + row[2]) == 0.0 == float(row[1] + row[3])


def test_detectron2s_numbers() -> None:
    """The default cell of detectron2's documentation: sizes 32, 64; ratios 0.25, 1, 4."""
    expected = [
        [-32.0, -8.0, 32.0, 8.0],
        [-16.0, -16.0, 16.0, 16.0],
        [-8.0, -32.0, 8.0, 32.0],
        [-64.0, -16.0, 64.0, 16.0],
        [-32.0, -32.0, 32.0, 32.0],
        [-16.0, -64.0, 16.0, 64.0],
    ]
    cell = cell_anchors(stride=4, sizes=(32, 64), aspect_ratios=(0.25, 1, 4), rounding="none")
    assert torch.equal(cell, torch.tensor(expected))


def test_grid_runs_row_column_anchor() -> None:
    cell = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 2.0, 2.0]])
    grid = grid_anchors(cell, 2, 3, 10).reshape(2, 3, 2, 4)
    for row in range(2):
        for column in range(3):
            for anchor in range(2):
                shift = torch.tensor([column, row, column, row]) * 10.0
                assert torch.equal(grid[row, column, anchor], cell[anchor] + shift)


def test_empty_grid() -> None:
    assert grid_anchors(torch.zeros(3, 4), 0, 5, 4).shape == (0, 4)
