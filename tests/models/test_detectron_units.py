"""What Detectron's RPN proposes, and what it and the heads are to learn: its own unit records, case by case.

Detectron lets a crowd's box be the object of a region; ours never does. Regions that overlap a crowd most are therefore
left out of the comparison. (Its filter of regions inside crowds was off when the records were made.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detectune.models.box_head import BoxHead
from detectune.models.keypoint_head import KeypointHead, PoseRule, place_keypoints
from detectune.models.layers import msra
from detectune.models.mask_head import MaskHead
from detectune.models.rpn import ProposalRule, Rpn, RpnSampling, ScoredAnchors
from detectune.models.targets import (
    Regions,
    RegionSampling,
    draw_posed_regions,
    region_candidates,
    sample_regions,
)
from detectune.ops.anchors import cell_anchors, grid_anchors
from detectune.ops.boxes import box_iou, encode_boxes
from detectune.ops.masks import segmentation_edges
from detectune.structures import Detections, Targets

RPN_CASES = ("001", "002", "003", "005", "007", "008", "010", "011", "012", "014", "015", "016")
HEAD_CASES = ("000", "001", "004", "005", "006", "007")


def _case(shared: Path, group: str, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    folder = shared / "golden" / "detectron" / "units"
    case = next(c for c in json.loads((folder / f"{group}.json").read_text()) if c["case"] == name)
    arrays = np.load(folder / f"{group}.npz")
    return case, {k.removeprefix(f"{name}/"): arrays[k] for k in arrays.files if k.startswith(f"{name}/")}


def _plain_targets(boxes: np.ndarray) -> Targets:
    count = len(boxes)
    return Targets(
        torch.from_numpy(boxes)[None], torch.ones(1, count, dtype=torch.int64),
        torch.zeros(1, count, dtype=torch.bool), torch.ones(1, count, dtype=torch.bool),
    )  # fmt: skip


@pytest.mark.parametrize("name", RPN_CASES)
def test_rpn_targets(name: str, shared: Path) -> None:
    case, arrays = _case(shared, "targets_rpn", f"get_rpn_blobs.{name}")
    how, keys = case["params"]["anchors"], case["cfg"]
    if "levels" in how:
        sizes = {level: (how["start_size"] * 2 ** (level - how["levels"][0]),) for level in how["levels"]}
        strides = {level: 2**level for level in sizes}
    else:
        sizes, strides = {4: tuple(how["sizes"])}, {4: how["stride"]}
    cells = {
        level: cell_anchors(
            stride=strides[level],
            sizes=sizes[level],
            aspect_ratios=how["aspect_ratios"],
            rounding="detectron",
        )
        for level in sizes
    }
    sampling = RpnSampling(
        high=keys.get("TRAIN.RPN_POSITIVE_OVERLAP", 0.7), low=keys.get("TRAIN.RPN_NEGATIVE_OVERLAP", 0.3),
        straddle=keys["TRAIN.RPN_STRADDLE_THRESH"], promoted_as_background=True,
    )  # fmt: skip
    rule = ProposalRule(1, 1, 0.7)
    rpn = Rpn(
        8, dim=8, cells=cells, strides=strides, train_rule=rule, test_rule=rule, sampling=sampling, offset=1.0
    )
    shapes = {
        level: arrays[f"out/lvl{level}_labels" if "levels" in how else "out/labels"].shape for level in cells
    }
    anchors = torch.cat(
        [grid_anchors(cells[level], shapes[level][2], shapes[level][3], strides[level]) for level in cells]
    )
    targets = _plain_targets(arrays["in/gt_boxes"])
    size = torch.tensor([[case["params"]["im_height"], case["params"]["im_width"]]])
    fg, bg, index = (row[0] for row in rpn._label_anchors(anchors, targets, size))
    deltas = encode_boxes(anchors, targets.boxes[0][index], weights=(1.0, 1.0, 1.0, 1.0), offset=1.0)
    first = 0
    for level, (_, count, height, width) in shapes.items():
        rows = slice(first, first + count * height * width)
        first = rows.stop
        prefix = f"out/lvl{level}_" if "levels" in how else "out/"
        label = torch.where(bg, 0, torch.where(fg, 1, -1))[rows].view(height, width, count).permute(2, 0, 1)
        np.testing.assert_array_equal(label.numpy(), arrays[f"{prefix}labels"][0])
        grid = deltas[rows].view(height, width, count, 4)
        for (a, y, x), want, used in zip(
            arrays[f"{prefix}target_locations_ayx"], arrays[f"{prefix}targets"],
            arrays[f"{prefix}inside_weights_at_locations"], strict=True,
        ):  # fmt: skip
            if used.any():
                assert label[a, y, x] == 1
                np.testing.assert_allclose(grid[y, x, a].numpy(), want, rtol=1e-4, atol=1e-5)


def _outline(segmentation: Any) -> Any:
    """An RLE as it is, polygons as arrays."""
    return segmentation if isinstance(segmentation, dict) else [np.asarray(ring) for ring in segmentation]


PROPOSAL_CASES = ("000", "001", "003", "005", "006", "008", "010", "011", "012", "014")
FILTER_CASES = ("000", "002", "004", "005", "007", "008", "010", "011", "013", "014")


def _single_level(cells: torch.Tensor, stride: float, rule: ProposalRule) -> Rpn:
    return Rpn(
        8,
        dim=8,
        cells={0: cells},
        strides={0: stride},
        train_rule=rule,
        test_rule=rule,
        sampling=RpnSampling(),
        offset=1.0,
    )


@pytest.mark.parametrize("name", PROPOSAL_CASES)
def test_proposals(name: str, shared: Path) -> None:
    case, arrays = _case(shared, "proposals", f"GenerateProposalsOp.{name}")
    phase = "TRAIN" if case["params"]["train"] else "TEST"
    keys = {key.removeprefix(f"{phase}.RPN_"): value for key, value in case["cfg"].items()}
    rule = ProposalRule(
        keys["PRE_NMS_TOP_N"], keys["POST_NMS_TOP_N"], keys["NMS_THRESH"], min_size=max(keys["MIN_SIZE"], 1),
        min_size_original=True, centre_inside=True,
    )  # fmt: skip
    stride = 1 / case["params"]["spatial_scale"]
    rpn = _single_level(torch.from_numpy(arrays["in/anchors"]), stride, rule)
    logits, deltas = (
        torch.from_numpy(arrays["in/rpn_cls_probs"]),
        torch.from_numpy(arrays["in/rpn_bbox_pred"]),
    )
    anchors = grid_anchors(rpn.anchors.get_buffer("cell0"), *logits.shape[2:], stride)
    scored = ScoredAnchors(
        anchors, logits.permute(0, 2, 3, 1).flatten(1),
        deltas.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)), (len(anchors),),
    )  # fmt: skip
    info = torch.from_numpy(arrays["in/im_info"])
    found = rpn.propose(scored, info[:, :2], rule, info[:, 2:].expand(-1, 4))
    for image in range(len(info)):
        rows = arrays["out/rpn_rois"][:, 0] == image
        valid = found.valid[image]
        np.testing.assert_allclose(
            found.scores[image, valid].numpy(), arrays["out/rpn_roi_probs"][rows, 0], rtol=1e-6
        )
        np.testing.assert_allclose(
            found.boxes[image, valid].numpy(), arrays["out/rpn_rois"][rows, 1:], atol=1e-3
        )


@pytest.mark.parametrize("name", FILTER_CASES)
def test_small_proposals(name: str, shared: Path) -> None:
    case, arrays = _case(shared, "proposals", f"filter_boxes.{name}")
    rule = ProposalRule(
        1, 1, 0.7, min_size=max(case["params"]["min_size"], 1), min_size_original=True, centre_inside=True
    )
    rpn = _single_level(torch.zeros(1, 4), 1, rule)
    height, width, scale = arrays["in/im_info"].tolist()
    boxes = torch.from_numpy(arrays["in/boxes"])[None, None]
    kept = rpn.acceptable(boxes, torch.tensor([[height, width]]), rule, torch.full((1, 4), scale))[0, 0]
    np.testing.assert_array_equal(kept.nonzero()[:, 0].numpy(), arrays["out/keep"])


def _entries(case: dict[str, Any], arrays: dict[str, np.ndarray]) -> Targets:
    """Both images' objects, moved to the network frame."""
    scales = case["params"]["im_scales"]
    outlines = [[segmentation_edges(_outline(s)) for s in image] for image in case["in_json"]["segms"]]
    count = max(len(arrays[f"in/entry{i}/boxes"]) for i in range(2))
    longest = max(len(edges) for image in outlines for edges, _ in image)
    out = Targets(
        torch.zeros(2, count, 4), torch.zeros(2, count, dtype=torch.int64), torch.zeros(2, count, dtype=torch.bool),
        torch.zeros(2, count, dtype=torch.bool), torch.zeros(2, count, longest, 4, dtype=torch.float64),
        torch.zeros(2, count, longest, dtype=torch.int64), num_polygons=2,
    )  # fmt: skip
    for i, image in enumerate(outlines):
        boxes = torch.from_numpy(arrays[f"in/entry{i}/boxes"])
        rows = slice(0, len(boxes))
        out.boxes[i, rows] = boxes * scales[i]
        out.labels[i, rows] = torch.from_numpy(arrays[f"in/entry{i}/gt_classes"]).long()
        out.is_crowd[i, rows] = torch.from_numpy(arrays[f"in/entry{i}/is_crowd"]).bool()
        out.valid[i, rows] = True
        for g, (edges, polygon) in enumerate(image):
            out.edges[i, g, : len(edges)] = torch.from_numpy(edges) * scales[i]
            out.edge_polygon[i, g, : len(edges)] = torch.from_numpy(polygon)
    return out


def _claimed_by_crowd(
    boxes: torch.Tensor, image: torch.Tensor, targets: Targets, case: dict[str, Any]
) -> np.ndarray:
    """Bool [R]: the object that a region overlaps most is a crowd."""
    scale = torch.tensor(case["params"]["im_scales"])[image.long()][:, None]
    objects = targets.boxes[image.long()] / scale[..., None]  # [R, G, 4]
    overlap = box_iou((boxes / scale)[:, None], objects, offset=1.0)[:, 0]
    best = overlap.where(targets.valid[image.long()], -1.0).argmax(1)
    return (targets.is_crowd[image.long(), best] & (overlap.amax(1) > 0)).numpy()


def _proposals(
    case: dict[str, Any], arrays: dict[str, np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Proposals [2, P, 4], which of them are real, and network over original pixels [2, 4]."""
    rois = torch.from_numpy(arrays["in/rois"])
    per_image = [rois[rois[:, 0] == i, 1:] for i in range(2)]
    count = max(len(r) for r in per_image)
    proposals, valid = torch.zeros(2, count, 4), torch.zeros(2, count, dtype=torch.bool)
    for i, boxes in enumerate(per_image):
        proposals[i, : len(boxes)], valid[i, : len(boxes)] = boxes, True
    return proposals, valid, torch.tensor(case["params"]["im_scales"])[:, None].expand(2, 4)


def _everything(case: dict[str, Any], proposals: torch.Tensor, targets: Targets) -> RegionSampling:
    """A sample large enough for every candidate."""
    return RegionSampling(
        batch_size=proposals.shape[1] + targets.labels.shape[1], fg_fraction=1.0, offset=1.0, original_frame=True,
        bg_thresh_lo=case["cfg"]["TRAIN.BG_THRESH_LO"],
    )  # fmt: skip


def _in_order(regions: Regions, case: dict[str, Any], targets: Targets) -> Regions:
    """Sorted as the records are, without what a crowd claims."""
    keys = (*regions.boxes.numpy().round(2).T[::-1], regions.image_index.numpy())
    regions = regions[torch.from_numpy(np.lexsort(keys))]
    return regions[torch.from_numpy(~_claimed_by_crowd(regions.boxes, regions.image_index, targets, case))]


def _sorted_regions(case: dict[str, Any], arrays: dict[str, np.ndarray], targets: Targets) -> Regions:
    proposals, valid, units = _proposals(case, arrays)
    sampling = _everything(case, proposals, targets)
    regions = sample_regions(proposals, valid, targets, sampling, None, drop_padding=True, units=units)
    return _in_order(regions, case, targets)


@pytest.mark.parametrize("name", HEAD_CASES)
def test_head_targets(name: str, shared: Path) -> None:
    case, arrays = _case(shared, "targets_fast_rcnn", f"GenerateProposalLabels.{name}")
    targets = _entries(case, arrays)
    regions = _sorted_regions(case, arrays, targets)
    rois = torch.from_numpy(arrays["out/rois"])
    ours = ~_claimed_by_crowd(rois[:, 1:], rois[:, 0], targets, case)
    arrays = arrays | {
        k: arrays[k][ours] for k in arrays if k.startswith(("out/rois", "out/labels", "out/bbox"))
    }
    assert ours.sum() >= 0.8 * len(ours) and len(regions.labels) == len(arrays["out/rois"])
    np.testing.assert_allclose(regions.boxes.numpy(), arrays["out/rois"][:, 1:], atol=2e-3)
    np.testing.assert_array_equal(regions.image_index.numpy(), arrays["out/rois"][:, 0])
    np.testing.assert_array_equal(regions.labels.numpy(), arrays["out/labels_int32"])
    agnostic = case["cfg"]["MODEL.CLS_AGNOSTIC_BBOX_REG"]
    head = BoxHead(
        2, 1, num_classes=case["cfg"]["MODEL.NUM_CLASSES"], fc_dims=(2,), agnostic=agnostic, offset=1.0
    )
    objects = targets.boxes[regions.image_index, regions.gt_index]
    seen = encode_boxes(
        regions.measured(regions.boxes), regions.measured(objects), weights=head.box_weights, offset=1.0
    ).numpy()
    for row, label in enumerate(regions.labels.tolist()):
        used = arrays["out/bbox_inside_weights"][row].reshape(-1, 4)
        assert (used.sum(1) > 0).tolist() == [
            k == (min(label, 1) if agnostic else label) > 0 for k in range(len(used))
        ]
        if label:
            want = arrays["out/bbox_targets"][row].reshape(-1, 4)[min(label, 1) if agnostic else label]
            np.testing.assert_allclose(seen[row], want, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["000", "005", "006"])
def test_mask_targets(name: str, shared: Path) -> None:
    case, arrays = _case(shared, "targets_fast_rcnn", f"GenerateProposalLabels.{name}")
    targets = _entries(case, arrays)
    regions = _sorted_regions(case, arrays, targets)
    inside = regions[regions.is_fg]
    rois = torch.from_numpy(arrays["out/mask_rois"])
    ours = ~_claimed_by_crowd(rois[:, 1:], rois[:, 0], targets, case)
    arrays = arrays | {k: arrays[k][ours] for k in ("out/mask_rois", "out/masks_int32")}
    np.testing.assert_allclose(inside.boxes.numpy(), arrays["out/mask_rois"][:, 1:], atol=2e-3)
    side, classes = case["cfg"]["MRCNN.RESOLUTION"], case["cfg"]["MODEL.NUM_CLASSES"]
    head = MaskHead(
        2,
        num_classes=classes,
        num_convs=0,
        dim=2,
        init=msra,
        raster="detectron",
        match_outlines=True,
        offset=1.0,
    )
    for static in (False, True):
        have = head.targets_of(inside, targets, side, static=static).numpy()
        for row, label in enumerate(inside.labels.tolist()):
            want = arrays["out/masks_int32"][row].reshape(classes, side, side)
            np.testing.assert_array_equal(have[row], want[label])
            assert (np.delete(want, label, axis=0) == -1).all()


@pytest.mark.parametrize("name", ["001", "004", "007"])
def test_keypoint_targets(name: str, shared: Path) -> None:
    case, arrays = _case(shared, "targets_fast_rcnn", f"GenerateProposalLabels.{name}")
    targets = _entries(case, arrays)
    scales = case["params"]["im_scales"]
    targets.keypoints = torch.zeros(*targets.labels.shape, 17, 3)
    for i in range(2):
        points = torch.from_numpy(arrays[f"in/entry{i}/gt_keypoints"]).float().transpose(1, 2)
        targets.keypoints[i, : len(points)] = points * torch.tensor([scales[i], scales[i], 1.0])
    proposals, valid, units = _proposals(case, arrays)
    sampling = _everything(case, proposals, targets)
    candidates = region_candidates(proposals, valid, targets, sampling, units)
    regions = draw_posed_regions(candidates, targets, sampling, None, drop_padding=True)
    regions = _in_order(regions, case, targets)
    rois = torch.from_numpy(arrays["out/keypoint_rois"])
    ours = ~_claimed_by_crowd(rois[:, 1:], rois[:, 0], targets, case)
    assert 0 < len(regions.labels) == ours.sum()
    np.testing.assert_allclose(regions.boxes.numpy(), arrays["out/keypoint_rois"][ours, 1:], atol=2e-3)
    size, num_images = case["cfg"]["KRCNN.HEATMAP_SIZE"], 2
    head = KeypointHead(
        2,
        num_keypoints=17,
        num_convs=0,
        init=msra,
        predictor_init=msra,
        normalizer_per_image=3.0,
        min_visible=5,
    )
    cell, counts = head.targets_of(regions, targets, size)
    weights = arrays["out/keypoint_weights"].reshape(-1, 17)[ours]
    np.testing.assert_array_equal(counts.numpy(), weights)
    cells = arrays["out/keypoint_locations_int32"].reshape(-1, 17)[ours]
    same = (cell.numpy() == cells)[counts.numpy()]
    assert same.mean() > 0.99  # a coordinate on the border of two cells may round either way
    if ours.all():  # the factor on the mean when the loss is not over visible keypoints
        factor = weights.sum() / (
            num_images * case["cfg"]["TRAIN.BATCH_SIZE_PER_IM"] * case["cfg"]["TRAIN.FG_FRACTION"] * 17
        )
        assert arrays["out/keypoint_loss_normalizer"] == pytest.approx(factor, rel=1e-5)


@pytest.mark.parametrize("name", ["001", "002", "003", "004"])
def test_keypoint_results(name: str, shared: Path) -> None:
    case, arrays = _case(shared, "test_results", f"keypoint_results.{name}")
    boxes, maps = torch.from_numpy(arrays["in/ref_boxes"]), torch.from_numpy(arrays["in/pred_heatmaps"])
    dets = torch.from_numpy(arrays["in/cls_boxes_1"])
    order = torch.argsort(dets[:, 4], descending=True)
    scale = (0.5, 1.6)
    found = Detections(
        boxes[order] * torch.tensor(scale * 2), dets[order, 4], torch.ones(len(dets), dtype=torch.int64)
    )
    rule = PoseRule(
        min_size=case["cfg"]["KRCNN.INFERENCE_MIN_SIZE"], normalization="resized", original_frame=True, offset=1.0,
        oks_thresh=0.3 if case["cfg"]["KRCNN.NMS_OKS"] else 1.0,
    )  # fmt: skip
    posed = place_keypoints(maps[order], found, scale, rule)
    want_boxes, want = arrays["out/cls_boxes_1"], arrays["out/cls_keyps_1"].transpose(0, 2, 1)
    order_there = np.argsort(-want_boxes[:, 4], kind="stable")
    np.testing.assert_allclose(posed.scores.numpy(), want_boxes[order_there, 4], rtol=1e-6)
    assert posed.keypoints is not None
    have = posed.keypoints / torch.tensor([*scale, 1.0, 1.0])
    np.testing.assert_allclose(have[..., :3].numpy(), want[order_there][..., :3], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(have[..., 3].numpy(), want[order_there][..., 3], rtol=1e-3, atol=1e-6)
