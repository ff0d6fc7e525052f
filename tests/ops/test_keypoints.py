"""Keypoints against Detectron's goldens, torchvision and plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from detectune.ops import keypoints as ops

COCO_FLIP = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)


def test_golden_cells(golden) -> None:
    for case in golden("keypoints", "keypoints.keypoints_to_heatmap_labels"):
        keypoints = case.tensor("keypoints").transpose(1, 2)  # the original has [N, 3, K]
        cell, valid = ops.keypoints_to_cells(
            keypoints, case.tensor("rois"), size=case.cfg["KRCNN.HEATMAP_SIZE"]
        )
        np.testing.assert_array_equal(cell.numpy(), case.outputs["heatmaps"], err_msg=case.name)
        np.testing.assert_array_equal(valid.numpy(), case.outputs["weights"], err_msg=case.name)


def test_golden_places(golden) -> None:
    for case in golden("keypoints", "keypoints.heatmaps_to_keypoints"):
        maps, boxes = case.tensor("maps"), case.tensor("rois")
        out = ops.heatmaps_to_keypoints(maps, boxes, min_size=case.cfg["KRCNN.INFERENCE_MIN_SIZE"])
        expected = case.outputs["xy_preds"].transpose(0, 2, 1)
        np.testing.assert_allclose(
            out[..., :3].numpy(), expected[..., :3], rtol=1e-5, atol=1e-4, err_msg=case.name
        )
        np.testing.assert_allclose(
            out[..., 3].numpy(), expected[..., 3], rtol=1e-4, atol=1e-9, err_msg=case.name
        )


def test_places_equal_torchvisions() -> None:
    from torchvision.models.detection.roi_heads import heatmaps_to_keypoints

    numbers = torch.Generator().manual_seed(0)
    maps = F.interpolate(torch.randn(12, 17, 7, 7, generator=numbers), (56, 56), mode="bicubic")
    boxes = torch.rand(12, 2, generator=numbers) * 50
    boxes = torch.cat((boxes, boxes + torch.rand(12, 2, generator=numbers) * 80 + 0.2), dim=1)
    places, logits = heatmaps_to_keypoints(maps, boxes)
    out = ops.heatmaps_to_keypoints(maps, boxes)
    torch.testing.assert_close(out[..., 2], logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out[..., :2], places[..., :2], rtol=1e-5, atol=1e-4)


def test_probability_is_a_softmax_over_the_named_map() -> None:
    maps = torch.randn(1, 2, 14, 14, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[0.0, 0.0, 20.0, 11.0]])
    resized = F.interpolate(maps, (11, 20), mode="bicubic", align_corners=False)
    best = resized.flatten(2).max(dim=2).values[0]
    for normalization, over in (("resized", resized), ("predicted", maps)):
        out = ops.heatmaps_to_keypoints(maps, box, normalization=normalization)[0, :, 3]
        expected = best.exp() / over.flatten(2).exp().sum(dim=2)[0]
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-6)


def test_a_keypoint_survives_the_round_trip() -> None:
    boxes = torch.tensor([[10.0, 20.0, 66.0, 76.0]])  # one pixel per cell
    keypoints = torch.tensor(
        [[[30.2, 41.7, 2.0], [10.0, 20.0, 1.0], [66.0, 76.0, 1.0], [5.0, 30.0, 2.0], [30.0, 30.0, 0.0]]]
    )
    cell, valid = ops.keypoints_to_cells(keypoints, boxes, size=56)
    assert valid.tolist() == [[True, True, True, False, False]]
    assert cell.tolist() == [[21 * 56 + 20, 0, 55 * 56 + 55, 0, 0]]
    maps = F.one_hot(cell, 56 * 56).float().reshape(1, 5, 56, 56) * 9
    back = ops.heatmaps_to_keypoints(maps, boxes)[0, :3, :2]
    torch.testing.assert_close(back, torch.tensor([[30.5, 41.5], [10.5, 20.5], [65.5, 75.5]]))


@pytest.mark.parametrize("size", [28, 56])
def test_nothing_in_nothing_out(size: int) -> None:
    assert ops.heatmaps_to_keypoints(torch.zeros(0, 17, size, size), torch.zeros(0, 4)).shape == (0, 17, 4)
    cell, valid = ops.keypoints_to_cells(torch.zeros(0, 17, 3), torch.zeros(0, 4), size=size)
    assert cell.shape == valid.shape == (0, 17)
    assert ops.nms_oks(torch.zeros(0, 17, 4), torch.zeros(0, 4), 0.5).shape == (0,)


def test_cells_never_ask_for_values(traced_without_values) -> None:
    keypoints, boxes = torch.rand(3, 17, 3) * 60, torch.tensor([[5.0, 5.0, 50.0, 40.0]]).expand(3, 4)

    def cells(keypoints: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return ops.keypoints_to_cells(keypoints, boxes, size=28)[0]

    assert torch.equal(traced_without_values(cells, keypoints, boxes), cells(keypoints, boxes))


def test_golden_flips(golden) -> None:
    for case in golden("keypoints", "keypoints.flip_keypoints"):
        keypoints = case.tensor("keypoint_coords").transpose(1, 2)
        out = ops.flip_keypoints(keypoints, case.params["width"], COCO_FLIP, offset=1)
        np.testing.assert_array_equal(out.transpose(1, 2).numpy(), case.outputs["flipped"], err_msg=case.name)
    for case in golden("keypoints", "keypoints.flip_heatmaps"):
        out = ops.flip_heatmaps(case.tensor("heatmaps"), COCO_FLIP)
        np.testing.assert_array_equal(out.numpy(), case.outputs["flipped"], err_msg=case.name)


def test_golden_probabilities(golden) -> None:
    for case in golden("keypoints", "keypoints.scores_to_probs"):
        out = ops.heatmap_probabilities(case.tensor("scores"))
        np.testing.assert_allclose(
            out.numpy(), case.outputs["probs"], rtol=1e-5, atol=1e-9, err_msg=case.name
        )


def test_golden_suppression_by_pose(golden) -> None:
    for case in golden("keypoints", "keypoints.nms_oks"):
        keypoints, boxes = case.tensor("kp_predictions").transpose(1, 2), case.tensor("rois")
        kept = ops.nms_oks(keypoints, boxes, case.params["thresh"], offset=1.0)
        assert kept.tolist() == case.outputs["keep"].tolist(), case.name
        area = (boxes[0, 2] - boxes[0, 0] + 1) * (boxes[0, 3] - boxes[0, 1] + 1)
        similarity = ops.keypoint_similarity(keypoints[0, :, :2], area, keypoints[..., :2])
        np.testing.assert_allclose(similarity.numpy(), case.outputs["oks_first_vs_all"], rtol=1e-5)


def test_similarity_of_a_shifted_pose_is_the_mean_of_gaussians() -> None:
    pose = torch.rand(17, 2) * 100
    area = torch.tensor(2500.0)
    out = ops.keypoint_similarity(pose, area, torch.stack((pose, pose + torch.tensor([3.0, 4.0]))))
    expected = sum(math.exp(-25 / (2 * 2500 * (2 * s) ** 2)) for s in ops.COCO_SIGMAS) / 17
    assert out[0] == 1 and math.isclose(out[1].item(), expected, rel_tol=1e-5)
