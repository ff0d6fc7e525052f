"""Merging views: Detectron's records of heat maps, and numpy one object at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detectune.ops.boxes import box_area
from detectune.ops.merging import merge_views, views_for_size

MERGES = {"HM_AVG": "mean", "HM_MAX": "max"}


def test_golden_heat_maps_by_size(golden) -> None:
    for case in golden("test_results", "test.combine_heatmaps_size_dep"):
        maps = torch.stack([case.tensor(f"heatmaps_{i}") for i in range(len(case.params["us_ts"]))])
        thresh = case.cfg["TEST.KPS_AUG.AREA_TH"]
        used = views_for_size(
            box_area(case.tensor("boxes"), offset=1.0), torch.tensor(case.params["us_ts"]),
            torch.tensor(case.params["ds_ts"]), low=thresh, high=thresh,
        )  # fmt: skip
        assert used.any(0).all() and not used.all()
        merged = merge_views(maps, used, MERGES[case.params["heur"]])
        np.testing.assert_allclose(merged.numpy(), case.outputs["combined"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["mean", "max", "logit_mean"])
@pytest.mark.parametrize("shape", [(), (3,), (4, 5)])
def test_equals_numpy_object_by_object(how, shape) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(5, 7, *shape, generator=generator)
    used = torch.rand(5, 7, generator=generator) < 0.6
    used[0] = True
    merged = merge_views(values, used, how)
    assert merged.shape == (7, *shape)
    for i in range(7):
        mine = values[used[:, i], i].double().numpy()
        if how == "mean":
            want = mine.mean(0)
        elif how == "max":
            want = mine.max(0)
        else:
            want = 1 / (1 + np.exp(-np.log(mine / (1 - mine)).mean(0)))
        np.testing.assert_allclose(merged[i].numpy(), want, rtol=1e-5)


def test_certain_pixels_stay_numbers() -> None:
    values = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    merged = merge_views(values, torch.ones(2, 3, dtype=torch.bool), "logit_mean")
    assert torch.isfinite(merged).all() and merged[0] < 1e-6 and merged[1] > 1 - 1e-6


def test_between_two_thresholds_only_the_plain_scale_counts() -> None:
    areas = torch.tensor([10.0, 50.0, 100.0, 500.0])
    used = views_for_size(
        areas, torch.tensor([False, True, False]), torch.tensor([False, False, True]), low=50, high=100
    )
    assert used.tolist() == [[True] * 4, [True, False, False, False], [False, False, True, True]]
