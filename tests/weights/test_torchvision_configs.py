"""The packaged configurations of torchvision's detectors build the network and the numbers that torchvision builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from detectune.config.load import load_config
from detectune.data.coco_names import COCO_CLASSES, COCO_IDS, COCO_PERSON
from detectune.engine.inference import load_detector
from detectune.models.build import build_detector
from detectune.weights.torchvision import from_torchvision

FOLDER = Path(__file__).parents[2] / "configs" / "torchvision"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def peer_of(name: str) -> Any:
    with torch.device("meta"):
        return getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None)


def test_every_detector_in_common_has_one() -> None:
    ours = {"fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn"}
    assert set(NAMES) == ours | {f"{name}_v2" for name in ours} | {"keypointrcnn_resnet50_fpn"}
    theirs = {
        name
        for name in torchvision.models.list_models(module=torchvision.models.detection)
        if "resnet" in name
    }
    assert theirs - set(NAMES) == {"fcos_resnet50_fpn"}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_weights_and_numbers(name: str) -> None:
    config, peer = load_config(FOLDER / f"{name}.yaml"), peer_of(name)
    assert config.notices == () and config.MODEL.GEOMETRY == "torchvision"
    with torch.device("meta"):
        ours = build_detector(config).state_dict()
    counters = ("num_batches_tracked", "loss_normalizer")
    assert {n: v.shape for n, v in ours.items() if not n.endswith(counters)} == {
        n: v.shape for n, v in from_torchvision(peer.state_dict()).items() if not n.endswith(counters)
    }
    resize = peer.transform
    assert (resize.min_size[-1], resize.max_size) == (config.TEST.SCALE, config.TEST.MAX_SIZE)
    assert tuple(resize.min_size) == config.TRAIN.SCALES
    np.testing.assert_allclose([255 * m for m in resize.image_mean[::-1]], config.PIXEL_MEANS[0][0])
    np.testing.assert_allclose([255 * s for s in resize.image_std[::-1]], config.INPUT.PIXEL_STDS)
    if name.startswith("retinanet"):
        assert (peer.score_thresh, peer.topk_candidates) == (
            config.RETINANET.INFERENCE_TH,
            config.RETINANET.PRE_NMS_TOP_N,
        )
        assert (peer.nms_thresh, peer.detections_per_img) == (config.TEST.NMS, config.TEST.DETECTIONS_PER_IM)
        matcher = peer.proposal_matcher
        assert matcher.high_threshold == config.RETINANET.POSITIVE_OVERLAP
        assert matcher.low_threshold == config.RETINANET.NEGATIVE_OVERLAP
        assert (peer.head.regression_head._loss_type == "giou") == (config.RETINANET.BOX_LOSS == "giou")
        return
    rpn, heads = peer.rpn, peer.roi_heads
    for keys, training in ((config.TRAIN, True), (config.TEST, False)):
        rpn.training = training
        assert (rpn.pre_nms_top_n(), rpn.post_nms_top_n()) == (
            keys.RPN_PRE_NMS_TOP_N,
            keys.RPN_POST_NMS_TOP_N,
        )
        assert rpn.nms_thresh == keys.RPN_NMS_THRESH
    assert rpn.fg_bg_sampler.batch_size_per_image == config.TRAIN.RPN_BATCH_SIZE_PER_IM
    assert heads.fg_bg_sampler.batch_size_per_image == config.TRAIN.BATCH_SIZE_PER_IM
    assert heads.fg_bg_sampler.positive_fraction == config.TRAIN.FG_FRACTION
    assert (heads.score_thresh, heads.nms_thresh) == (config.TEST.SCORE_THRESH, config.TEST.NMS)
    assert heads.detections_per_img == config.TEST.DETECTIONS_PER_IM
    assert heads.box_coder.weights == config.MODEL.BBOX_REG_WEIGHTS
    poolers = {
        "FAST_RCNN": heads.box_roi_pool,
        "MRCNN": heads.mask_roi_pool,
        "KRCNN": heads.keypoint_roi_pool,
    }
    for section, pooler in poolers.items():
        if pooler is not None:
            keys = getattr(config, section)
            assert pooler.output_size == (keys.ROI_XFORM_RESOLUTION,) * 2
            assert pooler.sampling_ratio == keys.ROI_XFORM_SAMPLING_RATIO


def test_the_classes_are_cocos_ids(tmp_path: Path) -> None:
    assert [COCO_IDS.names[i - 1] for i in COCO_CLASSES.category_ids] == list(COCO_CLASSES.names)
    assert COCO_IDS.names[11] == "unused 12" and len(COCO_IDS) == 90
    peer = torchvision.models.detection.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(peer.state_dict(), tmp_path / "model.pth")
    _, classes = load_detector(load_config(FOLDER / "keypointrcnn_resnet50_fpn.yaml"), tmp_path / "model.pth")
    assert classes == COCO_PERSON
