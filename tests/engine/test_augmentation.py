"""Test-time augmentation against a plain loop over images, as Detectron documents it; and what each key does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from detectune.config.load import load_config
from detectune.config.tree import Config
from detectune.data.collate import single_image
from detectune.data.images import resize_image, stretch_image
from detectune.engine.augmentation import AugmentedDetector, BoxPlan, Plan, SizeRule
from detectune.engine.build_augmentation import build_plan
from detectune.engine.inference import Predictor
from detectune.engine.views import Seen, View
from detectune.errors import UserError
from detectune.models.build import build_detector
from detectune.models.detections import select_detections
from detectune.models.rcnn import RCNN
from detectune.models.rpn import Proposals
from detectune.ops.boxes import decode_boxes
from detectune.ops.keypoints import heatmaps_to_keypoints
from detectune.ops.nms import nms
from detectune.structures import ClassInfo, Detections, ImageBatch, ImageInfo

SMALL = {
    "MODEL.TYPE": "generalized_rcnn", "MODEL.FASTER_RCNN": True, "MODEL.MASK_ON": True,
    "MODEL.NUM_CLASSES": 4, "MODEL.DEVICE": "cpu",
    "MODEL.CONV_BODY": "FPN.add_fpn_ResNet18_conv5_body", "RESNETS.WIDTH_MULTIPLIER": 0.25,
    "FPN.FPN_ON": True, "FPN.MULTILEVEL_ROIS": True, "FPN.MULTILEVEL_RPN": True, "FPN.DIM": 16,
    "FPN.RPN_ANCHOR_START_SIZE": 16,
    "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_2mlp_head", "FAST_RCNN.MLP_HEAD_DIM": 32,
    "FAST_RCNN.ROI_XFORM_METHOD": "RoIAlign", "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO": 2,
    "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs", "MRCNN.DIM_REDUCED": 16,
    "MRCNN.CONV_INIT": "MSRAFill",
    "MRCNN.ROI_XFORM_METHOD": "RoIAlign", "MRCNN.ROI_XFORM_SAMPLING_RATIO": 2, "MRCNN.RESOLUTION": 28,
    "MRCNN.ROI_XFORM_RESOLUTION": 14,
    "TEST.RPN_PRE_NMS_TOP_N": 60, "TEST.RPN_POST_NMS_TOP_N": 30, "TEST.SCALE": 64, "TEST.MAX_SIZE": 100,
    "TEST.NMS": 0.5, "TEST.SCORE_THRESH": 0.3, "TEST.DETECTIONS_PER_IM": 30,
}  # fmt: skip

EVERY_VIEW = {
    "ENABLED": True, "H_FLIP": True, "SCALES": [48, 96], "SCALE_H_FLIP": True, "MAX_SIZE": 120,
    "ASPECT_RATIOS": [0.75], "ASPECT_RATIO_H_FLIP": True,
}  # fmt: skip

DIALECTS = ("detectron", "detectron2", "torchvision")


def keys(section: str, **values: Any) -> dict[str, Any]:
    return {f"TEST.{section}.{name}": value for name, value in values.items()}


def small_config(**overrides: Any) -> Config:
    return load_config(None, SMALL | overrides)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Soft blobs, 60 x 80."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 8, 10, generator=generator) * 255
    fine = F.interpolate(coarse, size=(60, 80), mode="bicubic").clamp(0, 255)
    return fine[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


@pytest.fixture(scope="module")
@torch.no_grad()
def weights(photo: np.ndarray) -> dict[str, Tensor]:
    """Of a network that has opinions about the photo: scores far apart, boxes that move, masks with an inside."""
    torch.manual_seed(5)
    model = build_detector(small_config()).eval()
    batch = single_image(photo, short_side=64, max_size=100, style="pillow", stride=32)
    features = model.features_of(batch)
    boxes = model.propose(features, batch).boxes[0]
    image_index = torch.zeros(len(boxes), dtype=torch.int64)
    logits = model.box_head(model.box_pooler(features, boxes, image_index, static=False)).logits
    scale = 2 / logits.std(0)
    model.box_head.cls_score.weight *= scale[:, None]
    model.box_head.cls_score.bias -= logits.mean(0) * scale
    masks = model.mask_head(model.mask_pooler(features, boxes, image_index, static=False))
    scale = 2 / masks.std((0, 2, 3))
    model.mask_head.predictor.weight *= scale[:, None, None, None]
    model.mask_head.predictor.bias -= masks.mean((0, 2, 3)) * scale
    return model.state_dict()


@pytest.fixture(scope="module")
def predict_with(weights: dict[str, Tensor]) -> Callable[..., Predictor]:
    def make(overrides: dict[str, Any]) -> Predictor:
        config = small_config(**overrides)
        model = build_detector(config)
        model.load_state_dict(weights)
        return Predictor(config, model=model, class_info=ClassInfo(("a", "b", "c"), (1, 2, 3)))

    return make


# --- the loop over images ------------------------------------------------------------------------------------------

SlowView = tuple[int, int, bool, float]


def all_views(section: Any, test: Any) -> list[SlowView]:
    """(short side, limit, mirrored, stretch) of every further version that Detectron makes."""
    views: list[SlowView] = []
    if section.H_FLIP:
        views.append((test.SCALE, test.MAX_SIZE, True, 1.0))
    for scale in section.SCALES:
        views.append((scale, section.MAX_SIZE, False, 1.0))
        if section.SCALE_H_FLIP:
            views.append((scale, section.MAX_SIZE, True, 1.0))
    for ratio in section.ASPECT_RATIOS:
        views.append((test.SCALE, test.MAX_SIZE, False, ratio))
        if section.ASPECT_RATIO_H_FLIP:
            views.append((test.SCALE, test.MAX_SIZE, True, ratio))
    return views


class SlowDetector:
    """The same network, driven by hand."""

    def __init__(
        self, predictor: Predictor, config: Config, pixels: np.ndarray, given: Tensor | None = None
    ) -> None:
        self.given = given
        self.model: RCNN = predictor.model
        self.config, self.pixels = config, pixels
        self.style = predictor._style
        self.offset = predictor.geometry.offset
        self.plain: SlowView = (config.TEST.SCALE, config.TEST.MAX_SIZE, False, 1.0)

    def batch(self, view: SlowView) -> ImageBatch:
        short, longest, mirrored, stretch = view
        pixels = self.pixels if stretch == 1 else stretch_image(self.pixels, stretch)
        pixels = np.fliplr(pixels).copy() if mirrored else pixels
        image, scale_x, scale_y = resize_image(pixels, short_side=short, max_size=longest, style=self.style)
        h, w = image.shape[1:]
        padded = torch.zeros(1, 3, -(-h // 32) * 32, -(-w // 32) * 32)
        padded[0, :, :h, :w] = image
        info = ImageInfo(0, "", *pixels.shape[:2], scale_x, scale_y)
        images = ImageBatch(padded, torch.tensor([[h, w]]), (info,))
        if self.given is not None:
            images.proposals = self.move(self.given, view, images)[None]
            images.proposals_valid = torch.ones(1, len(self.given), dtype=torch.bool)
        return images

    def move(self, boxes: Tensor, view: SlowView, batch: ImageBatch) -> Tensor:
        """Original frame to the view's network frame, coordinate by coordinate."""
        info = batch.infos[0]
        out = boxes.clone()
        for box in out.reshape(-1, 4):
            box[0] *= view[3]
            box[2] *= view[3]
            if view[2]:
                box[0], box[2] = info.width - box[2] - self.offset, info.width - box[0] - self.offset
            box[0] *= info.scale_x
            box[2] *= info.scale_x
            box[1] *= info.scale_y
            box[3] *= info.scale_y
        return out

    def boxes_in(self, view: SlowView) -> tuple[Tensor, Tensor]:
        """Scores [R, K] and boxes [R, K, 4] in the original frame."""
        batch, model = self.batch(view), self.model
        info = batch.infos[0]
        features = model.backbone(model.normalize(batch))
        proposals = model.propose(features, batch)
        regions = proposals.boxes[0][proposals.valid[0]]
        pooled = model.box_pooler(
            features, regions, torch.zeros(len(regions), dtype=torch.int64), static=False
        )
        out = model.box_head(pooled)
        unit = torch.tensor([info.scale_x, info.scale_y, info.scale_x, info.scale_y])
        weights = model.box_head.box_weights
        boxes = decode_boxes(out.deltas, regions / unit, weights=weights, offset=self.offset).view(
            len(regions), -1, 4
        )
        boxes[..., 0::2] = boxes[..., 0::2].clamp(0, info.width - self.offset)
        boxes[..., 1::2] = boxes[..., 1::2].clamp(0, info.height - self.offset)
        if view[2]:
            left = boxes[..., 0].clone()
            boxes[..., 0] = info.width - boxes[..., 2] - self.offset
            boxes[..., 2] = info.width - left - self.offset
        boxes[..., 0::2] /= view[3]
        return out.logits.softmax(1), boxes

    def detections(self) -> tuple[Tensor, Tensor, Tensor]:
        test = self.config.TEST
        section = test.BBOX_AUG
        views = [*all_views(section, test), self.plain] if section.ENABLED else [self.plain]
        scores, boxes = [], []
        for view in views:
            view_scores, view_boxes = self.boxes_in(view)
            if section.ENABLED and section.SCALE_SIZE_DEP:
                area = (view_boxes[..., 2:] - view_boxes[..., :2] + self.offset).prod(-1)
                if view[0] > test.SCALE:
                    view_scores = view_scores * (area < section.AREA_TH_LO)
                if view[0] < test.SCALE:
                    view_scores = view_scores * (area >= section.AREA_TH_HI)
            scores.append(view_scores)
            boxes.append(view_boxes)
        stacked, stacked_boxes = torch.cat(scores), torch.cat(boxes)
        found = []
        for label in range(1, stacked.shape[1]):
            rows = (stacked[:, label] > test.SCORE_THRESH).nonzero()[:, 0]
            mine, its = stacked_boxes[rows, label], stacked[rows, label]
            keep = nms(mine, its, test.NMS, offset=self.offset, inclusive=self.offset > 0)
            found += [(float(its[i]), label, mine[i]) for i in keep.tolist()]
        found.sort(key=lambda d: -d[0])
        found = found[: test.DETECTIONS_PER_IM]
        return (
            torch.stack([box for _, _, box in found]),
            torch.tensor([score for score, _, _ in found]),
            torch.tensor([label for _, label, _ in found]),
        )

    def masks(self, boxes: Tensor, labels: Tensor) -> Tensor:
        test = self.config.TEST
        section = test.MASK_AUG
        views = [self.plain, *(all_views(section, test) if section.ENABLED else [])]
        area = (boxes[:, 2:] - boxes[:, :2] + self.offset).prod(-1)
        predictions = []
        for view in views:
            batch = self.batch(view)
            features = self.model.backbone(self.model.normalize(batch))
            rois = self.move(boxes, view, batch)
            pooled = self.model.mask_pooler(
                features, rois, torch.zeros(len(rois), dtype=torch.int64), static=False
            )
            masks = self.model.mask_head(pooled)[torch.arange(len(rois)), labels].sigmoid()
            predictions.append(masks.flip(2) if view[2] else masks)
        out = []
        for i in range(len(boxes)):
            mine = []
            for view, masks in zip(views, predictions, strict=True):
                if section.SCALE_SIZE_DEP and area[i] < section.AREA_TH and view[0] < test.SCALE:
                    continue
                if section.SCALE_SIZE_DEP and area[i] >= section.AREA_TH and view[0] > test.SCALE:
                    continue
                mine.append(masks[i].double().numpy())
            if section.HEUR == "SOFT_AVG":
                out.append(np.mean(mine, axis=0))
            elif section.HEUR == "SOFT_MAX":
                out.append(np.max(mine, axis=0))
            else:
                logit = np.mean([-np.log((1 - y) / np.maximum(y, 1e-20)) for y in mine], axis=0)
                out.append(1 / (1 + np.exp(-logit)))
        return torch.from_numpy(np.stack(out)).float()


def network_detections(predictor: Predictor, pixels: np.ndarray) -> tuple[Detections, Tensor]:
    """What the predictor finds, and its boxes in the original frame."""
    config_scale, limit = predictor._short_side, predictor._max_size
    image, scale_x, scale_y = resize_image(
        pixels, short_side=config_scale, max_size=limit, style=predictor._style
    )
    h, w = image.shape[1:]
    padded = torch.nn.functional.pad(image, (0, -w % 32, 0, -h % 32))[None]
    info = ImageInfo(0, "", *pixels.shape[:2], scale_x, scale_y)
    found = predictor.predict_network(ImageBatch(padded, torch.tensor([[h, w]]), (info,)), [pixels])[0]
    return found, found.boxes / torch.tensor([scale_x, scale_y] * 2)


@pytest.mark.parametrize("geometry", DIALECTS)
@pytest.mark.parametrize("size_dependent", [False, True])
@torch.no_grad()
def test_equals_the_loop_over_images(predict_with, photo, geometry: str, size_dependent: bool) -> None:
    heuristic = {"detectron": "SOFT_AVG", "detectron2": "SOFT_MAX", "torchvision": "LOGIT_AVG"}[geometry]
    overrides = {
        "MODEL.GEOMETRY": geometry,
        **keys("BBOX_AUG", **EVERY_VIEW, SCALE_SIZE_DEP=size_dependent, AREA_TH_LO=300, AREA_TH_HI=500),
        **keys("MASK_AUG", **EVERY_VIEW, SCALE_SIZE_DEP=size_dependent, AREA_TH=400, HEUR=heuristic),
    }
    predictor = predict_with(overrides)
    slow = SlowDetector(predictor, small_config(**overrides), photo)
    want_boxes, want_scores, want_labels = slow.detections()
    found, boxes = network_detections(predictor, photo)
    assert len(found) == len(want_scores) >= 5
    assert found.labels.tolist() == want_labels.tolist()
    torch.testing.assert_close(found.scores, want_scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(boxes, want_boxes, atol=2e-2, rtol=0)
    torch.testing.assert_close(found.masks, slow.masks(want_boxes, want_labels), atol=2e-3, rtol=0)


@pytest.mark.parametrize("geometry", DIALECTS)
def test_without_further_views_nothing_changes(predict_with, photo, geometry: str) -> None:
    plain = predict_with({"MODEL.GEOMETRY": geometry})
    assert plain.augmented is None
    want = plain(photo)
    for section in ("BBOX_AUG", "MASK_AUG"):
        augmented = predict_with({"MODEL.GEOMETRY": geometry, **keys(section, ENABLED=True)})
        have = augmented(photo)
        assert augmented.augmented is not None and len(have) == len(want) > 3
        torch.testing.assert_close(have.boxes, want.boxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(have.scores, want.scores)
        assert have.labels.tolist() == want.labels.tolist()
        assert have.rles == want.rles


@pytest.mark.parametrize("geometry", ["detectron", "detectron2"])
def test_the_mirror_image_has_the_mirrored_answer(predict_with, photo, geometry: str) -> None:
    """With both an image and its mirror looked at, neither side is special."""
    predictor = predict_with(
        {"MODEL.GEOMETRY": geometry, **keys("BBOX_AUG", ENABLED=True, H_FLIP=True),
         **keys("MASK_AUG", ENABLED=True, H_FLIP=True)}
    )  # fmt: skip
    offset, width = predictor.geometry.offset, photo.shape[1]
    here, boxes = network_detections(predictor, photo)
    there, mirrored = network_detections(predictor, np.fliplr(photo).copy())
    assert len(here) == len(there) > 3
    back = torch.stack((width - mirrored[:, 2] - offset, mirrored[:, 1], width - mirrored[:, 0] - offset,
                        mirrored[:, 3]), 1)  # fmt: skip
    torch.testing.assert_close(boxes, back, atol=1e-2, rtol=0)
    torch.testing.assert_close(here.scores, there.scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(here.masks, there.masks.flip(-1), atol=1e-3, rtol=0)


def test_soft_suppression_and_voting_see_all_views(predict_with, photo) -> None:
    union = keys("BBOX_AUG", ENABLED=True, H_FLIP=True) | {"TEST.DETECTIONS_PER_IM": 0}
    hard = predict_with(union)(photo)
    voted = predict_with(union | keys("BBOX_VOTE", ENABLED=True, VOTE_TH=0.6))(photo)
    assert hard.scores.tolist() == voted.scores.tolist() and not torch.allclose(hard.boxes, voted.boxes)
    soft = predict_with(union | keys("SOFT_NMS", ENABLED=True))(photo)
    assert len(soft) > len(hard)


@pytest.mark.parametrize("section", ["BBOX_AUG", "MASK_AUG"])
@pytest.mark.parametrize(
    ("before", "change"),
    [
        ({}, {"H_FLIP": True}),
        ({}, {"SCALES": [96]}),
        ({"SCALES": [96]}, {"MAX_SIZE": 90}),
        ({"SCALES": [96]}, {"SCALE_H_FLIP": True}),
        ({"SCALES": [48, 96]}, {"SCALE_SIZE_DEP": True}),
        ({}, {"ASPECT_RATIOS": [1.5]}),
        ({"ASPECT_RATIOS": [1.5]}, {"ASPECT_RATIO_H_FLIP": True}),
    ],
    ids=str,
)
def test_every_key_changes_what_is_found(predict_with, photo, section: str, before: Any, change: Any) -> None:
    without, _ = network_detections(predict_with(keys(section, ENABLED=True, **before)), photo)
    found, _ = network_detections(predict_with(keys(section, ENABLED=True, **(before | change))), photo)
    if section == "MASK_AUG":
        assert torch.equal(found.boxes, without.boxes) and not torch.allclose(found.masks, without.masks)
    else:
        assert len(found) != len(without) or not torch.allclose(found.boxes, without.boxes)


def test_area_thresholds_divide_small_from_large(predict_with, photo) -> None:
    def boxes_with(**values: int) -> int:
        return len(
            predict_with(keys("BBOX_AUG", ENABLED=True, SCALES=[48, 96], SCALE_SIZE_DEP=True, **values))(
                photo
            )
        )

    plain = len(predict_with({})(photo))
    assert boxes_with(AREA_TH_LO=0, AREA_TH_HI=10**6) == plain, "no box is small or large enough"
    assert boxes_with(AREA_TH_LO=0, AREA_TH_HI=0) > plain < boxes_with(AREA_TH_LO=10**6, AREA_TH_HI=10**6)
    low, high = (
        network_detections(
            predict_with(keys("MASK_AUG", ENABLED=True, SCALES=[96], SCALE_SIZE_DEP=True, AREA_TH=area)),
            photo,
        )[0].masks
        for area in (0, 10**6)
    )
    only_plain, _ = network_detections(predict_with({}), photo)
    torch.testing.assert_close(low, only_plain.masks, atol=1e-4, rtol=0)
    assert not torch.allclose(high, only_plain.masks)


def test_maxima_are_above_means(predict_with, photo) -> None:
    masks = {
        how: network_detections(predict_with(keys("MASK_AUG", ENABLED=True, H_FLIP=True, HEUR=how)), photo)[
            0
        ].masks
        for how in ("SOFT_AVG", "SOFT_MAX", "LOGIT_AVG")
    }
    assert (masks["SOFT_MAX"] >= masks["SOFT_AVG"] - 1e-6).all()
    for a, b in itertools.combinations(masks.values(), 2):
        assert not torch.allclose(a, b)


GIVEN = torch.tensor([[5.0, 5, 30, 30], [20, 10, 70, 50], [40, 20, 60, 45], [2, 30, 50, 58], [60, 5, 78, 25]])


@pytest.mark.parametrize("geometry", DIALECTS)
@pytest.mark.parametrize(
    ("scores_how", "boxes_how"), [("mean", "mean"), ("plain", "mean"), ("mean", "plain")]
)
@pytest.mark.parametrize("size_dependent", [False, True])
@torch.no_grad()
def test_given_regions_are_averaged_over_views(
    predict_with, photo, monkeypatch, geometry: str, scores_how: Any, boxes_how: Any, size_dependent: bool
) -> None:
    """A region is the same in every view, so its scores and boxes have a mean (Fast R-CNN)."""

    def given(self: RCNN, features: Any, images: ImageBatch) -> Proposals:
        return Proposals(images.proposals, torch.zeros(images.proposals.shape[:2]), images.proposals_valid)

    monkeypatch.setattr(RCNN, "propose", given)
    overrides = {"MODEL.GEOMETRY": geometry, **keys("BBOX_AUG", **EVERY_VIEW)}
    config = small_config(**overrides)
    predictor = predict_with(overrides)
    rule = predictor.model.detection_rule
    sizes = SizeRule(700, 700) if size_dependent else None
    plan = build_plan(config)
    boxes_plan = BoxPlan(plan.boxes.views, scores_how, boxes_how, sizes)
    augmented = AugmentedDetector(
        predictor.model, Plan(plan.plain, boxes_plan), style=predictor._style, stride=32
    )
    slow = SlowDetector(predictor, config, photo, given=GIVEN)
    views = [*all_views(config.TEST.BBOX_AUG, config.TEST), slow.plain]
    parts = [slow.boxes_in(view) for view in views]
    area = (GIVEN[:, 2:] - GIVEN[:, :2] + slow.offset).prod(-1)
    scores, boxes = parts[-1][0].clone(), parts[-1][1].clone()
    for i in range(len(GIVEN)):
        counted = [
            part for view, part in zip(views, parts, strict=True)
            if not (size_dependent and view[0] > 64 and area[i] >= 700)
            and not (size_dependent and view[0] < 64 and area[i] < 700)
        ]  # fmt: skip
        if scores_how == "mean":
            scores[i] = sum(part[0][i] for part in counted) / len(counted)
        if boxes_how == "mean":
            boxes[i] = sum(part[1][i] for part in counted) / len(counted)
    want = select_detections(GIVEN, scores, torch.tensor(photo.shape[:2]), rule, lambda r, k: boxes[r, k])
    found = augmented.predict(photo, slow.batch(slow.plain))
    info = slow.batch(slow.plain).infos[0]
    assert len(found) == len(want[1]) >= 3 and found.labels.tolist() == want[2].tolist()
    torch.testing.assert_close(found.scores, want[1], atol=1e-4, rtol=0)
    unit = torch.tensor([info.scale_x, info.scale_y] * 2)
    torch.testing.assert_close(found.boxes / unit, want[0], atol=2e-2, rtol=0)


def test_an_image_without_detections(predict_with, photo) -> None:
    every = keys("BBOX_AUG", **EVERY_VIEW) | keys("MASK_AUG", **EVERY_VIEW)
    found = predict_with(every | {"TEST.SCORE_THRESH": 1.0})(photo)
    assert len(found) == 0 and found.rles == []


def test_images_of_a_batch_are_seen_one_by_one(predict_with, photo, tmp_path) -> None:
    """From files, as a data set's are; alone and beside a larger one."""
    from PIL import Image

    from detectune.data.collate import Sample, collate
    from detectune.data.transforms import Objects

    predictor = predict_with(
        keys("BBOX_AUG", ENABLED=True, H_FLIP=True) | keys("MASK_AUG", ENABLED=True, H_FLIP=True)
    )
    nothing = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), [], [], None)
    samples = []
    for i, pixels in enumerate((photo, np.ascontiguousarray(photo[:40].repeat(2, 1)))):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        image, sx, sy = resize_image(pixels, short_side=64, max_size=100, style=predictor._style)
        samples.append(
            Sample(image, nothing, ImageInfo(i, str(tmp_path / f"{i}.png"), *pixels.shape[:2], sx, sy))
        )
    batch = collate(samples, stride=32, masks=False, keypoints=False)
    alone, beside = predictor(photo), predictor.predict(batch.images)[0]
    assert len(alone) == len(beside) > 3
    torch.testing.assert_close(alone.boxes, beside.boxes)
    assert alone.rles == beside.rles


def test_views_are_made_once_and_forgotten(predict_with, photo, monkeypatch) -> None:
    """Box and mask views coincide: seven looks instead of fourteen."""
    predictor = predict_with(keys("BBOX_AUG", **EVERY_VIEW) | keys("MASK_AUG", **EVERY_VIEW))
    looks = []
    see = RCNN.features_of

    def counted(self: RCNN, images: ImageBatch) -> Any:
        looks.append(images.tensor.shape)
        return see(self, images)

    monkeypatch.setattr(RCNN, "features_of", counted)
    predictor(photo)
    assert len(looks) == 1 + 1 + 4 + 2


def test_no_plan_where_nothing_is_enabled_or_there_is_no_head() -> None:
    plan = build_plan(small_config())
    assert plan.boxes is plan.masks is plan.keypoints is None
    without = small_config(**{"MODEL.MASK_ON": False}, **keys("MASK_AUG", **EVERY_VIEW))
    assert build_plan(without).masks is None


def test_order_of_views_is_detectrons() -> None:
    config = small_config(**keys("BBOX_AUG", **EVERY_VIEW))
    views = build_plan(config).boxes.views
    assert [(v.short_side, v.max_size, v.flip, v.stretch) for v in views] == all_views(
        config.TEST.BBOX_AUG, config.TEST
    )


def test_other_models_say_that_they_look_once() -> None:
    from detectune.engine.build_augmentation import build_augmentation

    config = small_config(**keys("BBOX_AUG", ENABLED=True))
    said: list[str] = []
    model = torch.nn.Linear(1, 1)
    augmented = build_augmentation(
        config, model, style="pillow", stride=32, keypoint_flip=(), log=said.append
    )
    assert augmented is None and len(said) == 1 and "TEST.BBOX_AUG has no effect" in said[0]


def test_regions_at_the_scale_of_the_image(golden) -> None:
    for case in golden("test_results", "test._get_rois_blob"):
        scale = case.params["im_scale"]
        images = single_image(
            np.zeros((4, 4, 3), np.uint8), short_side=4, max_size=4, style="detectron", stride=1
        )
        images.infos = (ImageInfo(0, "", 4, 4, scale, scale),)
        seen = Seen(View(4, 4), images, {}, offset=1.0)
        want = case.outputs["rois_blob"]
        assert not want[:, 0].any()
        np.testing.assert_allclose(seen.to_network(case.tensor("im_rois")).numpy(), want[:, 1:], rtol=1e-6)


# --- keypoints -----------------------------------------------------------------------------------------------------

POSES = {
    "MODEL.MASK_ON": False, "MODEL.KEYPOINTS_ON": True, "MODEL.NUM_CLASSES": 2, "KRCNN.NUM_KEYPOINTS": 3,
    "KRCNN.ROI_KEYPOINTS_HEAD": "keypoint_rcnn_heads.add_roi_pose_head_v1convX", "KRCNN.NUM_STACKED_CONVS": 2,
    "KRCNN.CONV_HEAD_DIM": 16, "KRCNN.CONV_HEAD_KERNEL": 3, "KRCNN.ROI_XFORM_METHOD": "RoIAlign",
    "KRCNN.ROI_XFORM_RESOLUTION": 7, "KRCNN.ROI_XFORM_SAMPLING_RATIO": 2, "KRCNN.USE_DECONV_OUTPUT": True,
    "KRCNN.UP_SCALE": 2, "KRCNN.HEATMAP_SIZE": 28, "TEST.DETECTIONS_PER_IM": 12,
}  # fmt: skip
FLIP = (0, 2, 1)


@pytest.fixture(scope="module")
@torch.no_grad()
def pose_weights(photo: np.ndarray) -> dict[str, Tensor]:
    torch.manual_seed(6)
    model = build_detector(small_config(**POSES)).eval()
    batch = single_image(photo, short_side=64, max_size=100, style="pillow", stride=32)
    features = model.features_of(batch)
    boxes = model.propose(features, batch).boxes[0]
    image_index = torch.zeros(len(boxes), dtype=torch.int64)
    logits = model.box_head(model.box_pooler(features, boxes, image_index, static=False)).logits
    scale = 2 / logits.std(0)
    model.box_head.cls_score.weight *= scale[:, None]
    model.box_head.cls_score.bias -= logits.mean(0) * scale
    maps = model.keypoint_head(model.keypoint_pooler(features, boxes, image_index, static=False))
    model.keypoint_head.predictor.weight *= 3 / maps.std()
    return model.state_dict()


@pytest.fixture(scope="module")
def poses_with(pose_weights: dict[str, Tensor]) -> Callable[..., Predictor]:
    def make(overrides: dict[str, Any]) -> Predictor:
        config = small_config(**(POSES | overrides))
        model = build_detector(config)
        model.load_state_dict(pose_weights)
        info = ClassInfo(("person",), (1,), ("nose", "left", "right"), FLIP)
        return Predictor(config, model=model, class_info=info)

    return make


def test_keypoints_in_the_mirror_need_to_know_left_and_right() -> None:
    config = small_config(**POSES, **keys("KPS_AUG", ENABLED=True, H_FLIP=True))
    with pytest.raises(UserError, match=r"nothing says which of them change places.*TEST\.DATASETS"):
        Predictor(config, model=build_detector(config))
    config = small_config(**POSES, **keys("KPS_AUG", ENABLED=True, SCALES=(48,)))
    assert Predictor(config, model=build_detector(config)).augmented is not None


def slow_keypoints(slow: SlowDetector, boxes: Tensor) -> Tensor:
    """x, y, logit, probability [N, K, 4] in the original frame."""
    test = slow.config.TEST
    section = test.KPS_AUG
    views = [slow.plain, *(all_views(section, test) if section.ENABLED else [])]
    predictions = []
    for view in views:
        batch = slow.batch(view)
        features = slow.model.backbone(slow.model.normalize(batch))
        rois = slow.move(boxes, view, batch)
        image_index = torch.zeros(len(rois), dtype=torch.int64)
        maps = slow.model.keypoint_head(slow.model.keypoint_pooler(features, rois, image_index, static=False))
        if view[2]:
            maps = torch.stack([maps[:, k] for k in FLIP], 1).flip(3)
        predictions.append(maps)
    area = (boxes[:, 2:] - boxes[:, :2] + slow.offset).prod(-1)
    merged = []
    for i in range(len(boxes)):
        mine = []
        for view, maps in zip(views, predictions, strict=True):
            if section.SCALE_SIZE_DEP and area[i] < section.AREA_TH and view[0] < test.SCALE:
                continue
            if section.SCALE_SIZE_DEP and area[i] >= section.AREA_TH and view[0] > test.SCALE:
                continue
            mine.append(maps[i])
        merged.append(sum(mine) / len(mine) if section.HEUR == "HM_AVG" else torch.stack(mine).amax(0))
    rule = slow.model.pose_rule
    info = slow.batch(slow.plain).infos[0]
    unit = torch.tensor([1.0] * 4 if rule.original_frame else [info.scale_x, info.scale_y] * 2)
    points = heatmaps_to_keypoints(
        torch.stack(merged), boxes * unit, min_size=rule.min_size, normalization=rule.normalization
    )
    points[..., :2] /= unit[:2]
    return points


@pytest.mark.parametrize("geometry", DIALECTS)
@pytest.mark.parametrize(
    ("size_dependent", "heuristic"), [(False, "HM_AVG"), (True, "HM_AVG"), (True, "HM_MAX")]
)
@torch.no_grad()
def test_keypoints_equal_the_loop(
    poses_with, photo, geometry: str, size_dependent: bool, heuristic: str
) -> None:
    overrides = {
        "MODEL.GEOMETRY": geometry,
        **keys("BBOX_AUG", ENABLED=True, H_FLIP=True),
        **keys("KPS_AUG", **EVERY_VIEW, SCALE_SIZE_DEP=size_dependent, AREA_TH=400, HEUR=heuristic),
    }
    predictor = poses_with(overrides)
    slow = SlowDetector(predictor, small_config(**(POSES | overrides)), photo)
    want_boxes, want_scores, _ = slow.detections()
    found, boxes = network_detections(predictor, photo)
    assert len(found) == len(want_scores) >= 5
    torch.testing.assert_close(boxes, want_boxes, atol=2e-2, rtol=0)
    want = slow_keypoints(slow, want_boxes)
    have = predictor(photo).keypoints
    near = (have[..., :2] - want[..., :2]).abs().amax(
        -1
    ) < 0.3  # a maximum between two cells may fall either way
    assert near.float().mean() > 0.95
    torch.testing.assert_close(have[..., 2], want[..., 2], atol=2e-2, rtol=1e-3)
    torch.testing.assert_close(have[..., 3], want[..., 3], atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("geometry", DIALECTS)
def test_keypoints_without_further_views_are_the_plain_ones(poses_with, photo, geometry: str) -> None:
    want = poses_with({"MODEL.GEOMETRY": geometry})(photo)
    for section in ("BBOX_AUG", "KPS_AUG"):
        have = poses_with({"MODEL.GEOMETRY": geometry, **keys(section, ENABLED=True)})(photo)
        assert len(have) == len(want) > 3
        torch.testing.assert_close(have.keypoints[..., 2:], want.keypoints[..., 2:], atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ({}, {"H_FLIP": True}),
        ({"H_FLIP": True}, {"HEUR": "HM_MAX"}),
        ({}, {"SCALES": [96]}),
        ({"SCALES": [96]}, {"MAX_SIZE": 90}),
        ({"SCALES": [96]}, {"SCALE_H_FLIP": True}),
        ({"SCALES": [48, 96]}, {"SCALE_SIZE_DEP": True}),
        ({"SCALES": [96], "SCALE_SIZE_DEP": True, "AREA_TH": 0}, {"AREA_TH": 10**6}),
        ({}, {"ASPECT_RATIOS": [1.5]}),
        ({"ASPECT_RATIOS": [1.5]}, {"ASPECT_RATIO_H_FLIP": True}),
    ],
    ids=str,
)
def test_every_key_changes_the_keypoints(poses_with, photo, before: Any, change: Any) -> None:
    without = poses_with(keys("KPS_AUG", ENABLED=True, **before))(photo)
    found = poses_with(keys("KPS_AUG", ENABLED=True, **(before | change)))(photo)
    assert torch.equal(found.boxes, without.boxes)
    assert not torch.allclose(found.keypoints[..., 2], without.keypoints[..., 2])


def test_poses_suppress_each_other_after_the_merge(poses_with, photo) -> None:
    views = keys("BBOX_AUG", ENABLED=True, H_FLIP=True) | keys("KPS_AUG", ENABLED=True, H_FLIP=True)
    every = poses_with(views)(photo)
    fewer = poses_with(views | {"KRCNN.NMS_OKS": True})(photo)
    assert 0 < len(fewer) < len(every) and len(fewer.keypoints) == len(fewer)


def test_an_image_without_poses(poses_with, photo) -> None:
    views = keys("BBOX_AUG", **EVERY_VIEW) | keys("KPS_AUG", **EVERY_VIEW)
    found = poses_with(views | {"TEST.SCORE_THRESH": 1.0})(photo)
    assert len(found) == 0 and found.keypoints.shape == (0, 3, 4)
