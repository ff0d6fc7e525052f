"""What Detectron's RetinaNet is to learn: its own unit records, case by case."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detectune.models.build import build_detector
from detectune.models.retinanet_loss import label_anchors, normalized
from detectune.structures import Targets

CASES = ("001", "002", "003", "005", "007", "008")


def _case(shared: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    folder = shared / "golden" / "detectron" / "units"
    case = next(c for c in json.loads((folder / "targets_retinanet.json").read_text()) if c["case"] == name)
    arrays = np.load(folder / "targets_retinanet.npz")
    return case, {k.removeprefix(f"{name}/"): arrays[k] for k in arrays.files if k.startswith(f"{name}/")}


def _targets(arrays: dict[str, np.ndarray], scales: list[float]) -> Targets:
    boxes = [arrays[f"in/boxes_{i}"] for i in range(len(scales))]
    size = (len(boxes), max(len(rows) for rows in boxes))
    out = Targets(
        torch.zeros(*size, 4), torch.zeros(size, dtype=torch.int64),
        torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool),
    )  # fmt: skip
    for i, (rows, scale) in enumerate(zip(boxes, scales, strict=True)):
        out.boxes[i, : len(rows)] = torch.from_numpy(rows * np.float32(scale))
        out.labels[i, : len(rows)] = torch.from_numpy(arrays[f"in/gt_classes_{i}"])
        out.is_crowd[i, : len(rows)] = torch.from_numpy(arrays[f"in/is_crowd_{i}"])
        out.valid[i, : len(rows)] = True
    return out


@pytest.mark.parametrize("name", CASES)
def test_anchor_targets(name: str, shared: Path, make_retinanet: Callable[..., Any]) -> None:
    case, arrays = _case(shared, f"add_retinanet_blobs.{name}")
    model = build_detector(make_retinanet({"MODEL.GEOMETRY": "detectron"} | case["cfg"]))
    labels = {level: arrays[f"out/retnet_cls_labels_fpn{level}"] for level in range(3, 8)}
    maps = {level: torch.zeros(1, 1, *grid.shape[2:]) for level, grid in labels.items()}
    side = case["params"]["image_height"], case["params"]["image_width"]
    anchors = model.anchors(maps, side)
    targets = _targets(arrays, case["params"]["im_scales"])
    wanted = label_anchors(anchors, targets, model.focal_rule)
    label = torch.where(wanted.has_class, wanted.label, -1)
    first = 0
    for level, want in labels.items():
        batch, count, height, width = want.shape
        rows = slice(first, first + count * height * width)
        first = rows.stop
        grid = label[:, rows].view(batch, height, width, count).permute(0, 3, 1, 2)
        np.testing.assert_array_equal(grid.numpy(), want)
        places = arrays[f"out/retnet_roi_fg_bbox_locs_fpn{level}"].astype(int)
        deltas = arrays[f"out/retnet_roi_bbox_targets_fpn{level}"]
        has_box = wanted.has_box[:, rows].view(batch, height, width, count)
        ours = wanted.deltas[:, rows].view(batch, height, width, count, 4)
        if case["cfg"]["RETINANET.CLASS_SPECIFIC_BBOX"]:
            # The original lets all anchors of a cell share one box per class, so places do not tell the anchor;
            # anchors without a class learn no box.
            has_class = (wanted.label[:, rows] > 0).view(batch, height, width, count)
            assert int((has_box & has_class).sum()) == len(places)
            continue
        assert int(has_box.sum()) == len(places)
        for (image, channel, y, x), want_delta in zip(places, deltas, strict=True):
            anchor = channel // 4
            assert has_box[image, y, x, anchor]
            np.testing.assert_allclose(ours[image, y, x, anchor].numpy(), want_delta, rtol=1e-4, atol=1e-5)
    num_fg = wanted.has_box.sum(1).float()
    scaled = normalized(torch.ones(len(num_fg)), num_fg, model.focal_rule.normalizer, None)
    assert float(scaled) == pytest.approx(len(num_fg) / arrays["out/retnet_fg_num"].item())


def test_cells(shared: Path, make_retinanet: Callable[..., Any]) -> None:
    folder = shared / "golden" / "detectron" / "units"
    cases = [
        c
        for c in json.loads((folder / "anchors.json").read_text())
        if c["function"] == "retinanet._create_cell_anchors"
    ]
    assert len(cases) == 2
    arrays = np.load(folder / "anchors.npz")
    for case in cases:
        model = build_detector(make_retinanet({"MODEL.GEOMETRY": "detectron"} | case["cfg"]))
        for level in range(3, 8):
            want = arrays[f"{case['case']}/out/level{level}"]
            have = model.anchors.get_buffer(f"cell{level}").numpy()
            np.testing.assert_allclose(have, want, rtol=1e-6)
