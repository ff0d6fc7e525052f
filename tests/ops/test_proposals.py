"""Detectron's proposal stages, put together from the operations alone: what the goldens hold, the parts can do."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detectune.ops.anchors import grid_anchors
from detectune.ops.boxes import centre_inside, clip_boxes, decode_boxes, large_enough
from detectune.ops.nms import nms
from detectune.ops.roi import assign_levels


def propose(
    logits: Tensor, deltas: Tensor, info: Tensor, cell: Tensor, stride: float, settings
) -> tuple[Tensor, Tensor]:
    """One image, logits [A, H, W] and deltas [4A, H, W]: the best, decoded, clipped, large enough, after NMS."""
    num_cells, height, width = logits.shape
    scores = logits.permute(1, 2, 0).reshape(-1)
    deltas = deltas.reshape(num_cells, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4)
    anchors = grid_anchors(cell, height, width, stride)
    before, after = settings["RPN_PRE_NMS_TOP_N"], settings["RPN_POST_NMS_TOP_N"]
    order = torch.sort(scores, descending=True, stable=True).indices
    order = order[:before] if before > 0 else order
    boxes = decode_boxes(deltas[order], anchors[order], weights=(1.0, 1.0, 1.0, 1.0), offset=1.0)
    boxes, scores = clip_boxes(boxes, info[:2], offset=1.0), scores[order]
    min_size = float(max(settings["RPN_MIN_SIZE"], 1))
    keep = large_enough(boxes / info[2], min_size, offset=1.0) & centre_inside(boxes, info[:2], offset=1.0)
    boxes, scores = boxes[keep], scores[keep]
    if settings["RPN_NMS_THRESH"] > 0:
        kept = nms(boxes, scores, settings["RPN_NMS_THRESH"], offset=1.0, inclusive=True)
        kept = kept[:after] if after > 0 else kept
        boxes, scores = boxes[kept], scores[kept]
    return boxes, scores


def by_rows(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rows in an order that does not depend on how equal scores were sorted."""
    table = np.concatenate((boxes, scores.reshape(-1, 1)), axis=1)
    return table[np.lexsort(table.round(2).T)]


def test_golden_proposals(golden) -> None:
    for case in golden("proposals", "ops.GenerateProposalsOp.forward"):
        prefix = "TRAIN." if case.params["train"] else "TEST."
        settings = {k.removeprefix(prefix): v for k, v in case.cfg.items() if k.startswith(prefix)}
        rois, probabilities = case.outputs["rpn_rois"], case.outputs["rpn_roi_probs"]
        for image in range(len(case.inputs["im_info"])):
            boxes, scores = propose(
                case.tensor("rpn_cls_probs")[image],
                case.tensor("rpn_bbox_pred")[image],
                case.tensor("im_info")[image],
                case.tensor("anchors").float(),
                1 / case.params["spatial_scale"],
                settings,
            )
            here = rois[:, 0] == image
            np.testing.assert_allclose(
                by_rows(boxes.numpy(), scores.numpy()),
                by_rows(rois[here, 1:], probabilities[here]),
                rtol=1e-5, atol=1e-3, err_msg=case.name,
            )  # fmt: skip


def test_golden_collection_over_levels(golden) -> None:
    """All levels' proposals together, the highest scores kept, then assigned to levels of the pyramid."""
    for case in golden("proposals", "ops.CollectAndDistributeFpnRpnProposalsOp.forward"):
        prefix = "TRAIN." if case.params["train"] else "TEST."
        rois = torch.cat([case.tensor(f"rpn_rois_fpn{level}") for level in range(2, 7)])
        scores = torch.cat([case.tensor(f"rpn_roi_probs_fpn{level}") for level in range(2, 7)])[:, 0]
        order = torch.sort(scores, descending=True, stable=True).indices
        rois = rois[order[: case.cfg[f"{prefix}RPN_POST_NMS_TOP_N"]]]
        np.testing.assert_array_equal(rois.numpy(), case.outputs["rois"], err_msg=case.name)
        levels = assign_levels(
            rois[:, 1:], min_level=2, max_level=5, canonical_scale=224, canonical_level=4, offset=1.0,
            eps_inside_log=1e-6,
        )  # fmt: skip
        for level in range(2, 6):
            np.testing.assert_array_equal(rois[levels == level].numpy(), case.outputs[f"rois_fpn{level}"])
