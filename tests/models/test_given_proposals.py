"""Regions of equal cells, against the obvious loop, and Detectron's way of counting them."""

from __future__ import annotations

import numpy as np
import torch

from detectune.models.box_head import BoxOutput
from detectune.models.given_proposals import first_of_equals
from detectune.models.rfcn import VotingBoxHead
from detectune.models.targets import RegionSampling, sample_regions
from detectune.ops.boxes import encode_boxes
from detectune.structures import Targets


def test_kinds_are_those_of_rounded_corners() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(200, 4, generator=generator) * 60
    image = torch.randint(0, 2, (200,), generator=generator)
    first, kind = first_of_equals(boxes, image, scale=1 / 16)
    cells = np.round(np.concatenate((image[:, None].numpy(), boxes.numpy() * np.float32(1 / 16)), 1))
    seen: dict[tuple[float, ...], int] = {}
    for row, key in enumerate(map(tuple, cells)):
        representative = seen.setdefault(key, row)
        assert int(first[kind[row]]) == representative
    assert len(first) == len(seen) < 190


def test_none() -> None:
    first, kind = first_of_equals(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), scale=0.1)
    assert len(first) == len(kind) == 0


def test_boxes_of_coarse_regions_are_named_but_not_learnt() -> None:
    objects = torch.tensor([[[10.0, 10.0, 50.0, 50.0]]])
    one = torch.ones(1, 1, dtype=torch.bool)
    targets = Targets(objects, one.long(), ~one, one)
    proposals = torch.tensor([[[10.0, 10.0, 50.0, 46.0], [10.0, 10.0, 50.0, 34.0], [60.0, 60.0, 80.0, 80.0]]])
    found = {}
    for thresh in (0.0, 0.8):  # the overlaps are 0.9, 0.6 and 0, and the object joins with 1
        sampling = RegionSampling(batch_size=4, fg_fraction=1.0, box_thresh=thresh)
        regions = sample_regions(proposals, one.expand(1, 3), targets, sampling, None, drop_padding=True)
        head = VotingBoxHead(num_classes=2, agnostic=True)
        deltas = torch.ones(len(regions.labels), 4)
        found[thresh] = head.losses(BoxOutput(torch.zeros(len(deltas), 2), deltas), regions, targets)
        found[thresh]["regions"] = regions
    assert int(found[0.0]["regions"].is_fg.sum()) == int(found[0.8]["regions"].is_fg.sum()) == 3
    assert found[0.0]["regions"].has_box is None
    assert int(found[0.8]["regions"].has_box.sum()) == 2
    assert torch.equal(found[0.0]["loss_cls"], found[0.8]["loss_cls"])
    coarse = encode_boxes(proposals[0, 1:2], objects[0], weights=(10.0, 10.0, 5.0, 5.0))
    missing = (1 - coarse).abs().sum() / 4  # one loss over four regions
    torch.testing.assert_close(found[0.0]["loss_bbox"] - found[0.8]["loss_bbox"], missing)
