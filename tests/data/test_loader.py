"""Batches: equal for any number of workers, from any position, in every dialect; and what stops them."""

from __future__ import annotations

import json
from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detectune.config.load import load_config
from detectune.data.loader import build_loader
from detectune.errors import DataError
from detectune.structures import Batch

MASKS = {
    "MODEL.MASK_ON": True,
    "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs",
    "MRCNN.RESOLUTION": 14,
}
RICH = {
    "TRAIN.SCALES": [40, 48],
    "TRAIN.ASPECT_GROUPING": False,
    "INPUT.CROP_MIN_FRACTION": 0.7,
    "INPUT.BRIGHTNESS": 0.3,
    "INPUT.SATURATION": 0.3,
}


def config_of(tiny, **more):
    tiny.save()
    keys = {
        "DATASETS": {
            "tiny": {"images": str(tiny.images), "annotations": str(tiny.folder / "annotations.json")}
        },
        "TRAIN.DATASETS": ["tiny"],
        "TEST.DATASETS": ["tiny"],
        "TRAIN.SCALES": [40],
        "TRAIN.MAX_SIZE": 100,
        "TEST.SCALE": 40,
        "TEST.MAX_SIZE": 100,
        "DATA_LOADER.NUM_THREADS": 0,
        "MODEL.DEVICE": "cpu",
        "FPN.FPN_ON": True,
        **MASKS,
    }
    return load_config(None, keys | {key.replace("__", "."): value for key, value in more.items()})


def take(loader, count: int) -> list[Batch]:
    return list(islice(loader, count))


def assert_equal(a: Batch, b: Batch) -> None:
    assert a.images.infos == b.images.infos
    assert torch.equal(a.images.tensor, b.images.tensor) and torch.equal(a.images.sizes, b.images.sizes)
    for f in fields(a.targets):
        left, right = getattr(a.targets, f.name), getattr(b.targets, f.name)
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, f.name


def test_workers_and_position_do_not_change_batches(tiny_coco, monkeypatch):
    monkeypatch.setattr("detectune.data.loader.available_cpus", lambda: 2)
    rich = {key.replace(".", "__"): value for key, value in RICH.items()}
    config = config_of(tiny_coco, **rich)
    alone = take(build_loader(config, training=True), 9)
    workers = build_loader(config_of(tiny_coco, **rich, DATA_LOADER__NUM_THREADS=2), training=True)
    assert workers.num_workers == 2
    for a, b in zip(alone, take(workers, 9), strict=True):
        assert_equal(a, b)
    later = build_loader(config, training=True, position=4)
    for a, b in zip(alone[4:], take(later, 5), strict=True):
        assert_equal(a, b)
    assert later.position == 9


def test_loading_leaves_the_global_generators_alone(tiny_coco):
    config = config_of(tiny_coco)
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    take(build_loader(config, training=True), 3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_a_batch_in_the_network_frame(tiny_coco):
    config = config_of(tiny_coco, TEST__IMS_PER_BATCH=3, TEST__SCALE=80)
    (batch,) = build_loader(config, training=False)
    assert batch.images.tensor.dtype == torch.uint8
    assert batch.images.tensor.shape == (3, 3, 128, 128)  # padded to 32
    assert batch.images.sizes.tolist() == [[67, 100], [100, 67], [80, 80]]
    info = batch.images.infos[0]
    assert (info.image_id, info.height, info.width, info.flipped) == (1, 40, 60, False)
    targets = batch.targets
    assert targets.valid.tolist() == [[True, True], [True, True], [False, False]]
    assert targets.labels.tolist() == [[1, 2], [1, 1], [0, 0]]
    assert targets.is_crowd.tolist() == [[False, False], [False, True], [False, False]]
    scale = torch.tensor([100 / 60, 67 / 40, 100 / 60, 67 / 40])
    torch.testing.assert_close(targets.boxes[0, 0], torch.tensor([10.0, 10, 30, 26]) * scale)
    assert targets.edges.shape == (3, 2, 7, 4) and targets.num_polygons == 2
    assert targets.edge_polygon[1, 0].tolist() == [0, 0, 0, 0, 1, 1, 1]
    top = torch.tensor([10.0, 10, 30, 10], dtype=torch.float64)
    torch.testing.assert_close(targets.edges[0, 0, 0], top * scale, rtol=1e-6, atol=0)
    assert not targets.edges[1, 1].any()  # a crowd needs none
    assert not batch.images.tensor[0, :, 67:].any()


def test_dialects_decide_boxes_pixels_and_padding(tiny_coco):
    batches = {}
    for dialect in ("detectron", "detectron2", "torchvision"):
        config = config_of(tiny_coco, MODEL__GEOMETRY=dialect, TEST__SCALE=80)
        batches[dialect] = next(iter(build_loader(config, training=False)))
    scale = 100 / 60
    torch.testing.assert_close(
        batches["detectron"].targets.boxes[0, 0],
        torch.tensor([10.0, 10, 29, 25]) * scale,
        rtol=1e-6,
        atol=1e-5,
    )
    assert batches["detectron2"].targets.boxes[0, 0, 2] == 30 * scale
    assert batches["torchvision"].images.sizes.tolist() == [[66, 100]]
    assert [b.images.tensor.dtype for b in batches.values()] == [torch.float32, torch.uint8, torch.float32]
    config = config_of(
        tiny_coco, MODEL__GEOMETRY="detectron2", INPUT__RESIZE="torchvision", FPN__FPN_ON=False
    )
    assert next(iter(build_loader(config, training=False))).images.tensor.shape[2:] == (40, 60)


def test_training_keeps_empty_images_and_drops_small_objects(tiny_coco):
    loader = build_loader(config_of(tiny_coco, TRAIN__GT_MIN_AREA=200), training=True)
    assert [len(r) for r in loader.records] == [1, 2, 0]
    seen = set()
    for batch in take(loader, 6):
        for info, valid in zip(batch.images.infos, batch.targets.valid, strict=True):
            seen.add((info.image_id, int(valid.sum())))
    assert seen == {(1, 1), (2, 2), (3, 0)}
    with pytest.raises(DataError, match=r"no object is left to train on of 4; lower TRAIN.GT_MIN_AREA"):
        build_loader(config_of(tiny_coco, TRAIN__GT_MIN_AREA=5000), training=True)


def test_mirrored_targets_follow_the_pixels(tiny_coco):
    config = config_of(tiny_coco, TRAIN__IMS_PER_BATCH=1)
    plain = {b.images.infos[0].image_id: b for b in build_loader(config, training=False)}
    mirrored = [b for b in take(build_loader(config, training=True), 6) if b.images.infos[0].flipped]
    assert len(mirrored) == 3
    for batch in mirrored:
        other = plain[batch.images.infos[0].image_id]
        height, width = batch.images.sizes[0].tolist()
        there = other.images.tensor[..., :height, :width].flip(-1)
        assert torch.equal(batch.images.tensor[..., :height, :width], there)
        if batch.targets.valid.any():
            torch.testing.assert_close(
                batch.targets.boxes[..., 0], width - other.targets.boxes[..., 2], rtol=0, atol=1e-4
            )


def test_several_data_sets_are_joined(tmp_path, tiny_coco_at):
    first, second = tiny_coco_at(tmp_path / "a"), tiny_coco_at(tmp_path / "b")
    second.save()
    config = config_of(first)
    datasets = config.DATASETS | {
        "other": {"images": str(second.images), "annotations": str(second.folder / "annotations.json")}
    }
    joined = config.with_overrides({"DATASETS": datasets, "TRAIN.DATASETS": ["tiny", "other"]})
    assert len(build_loader(joined, training=True).records) == 6
    assert len(build_loader(joined, training=False, dataset="other").records) == 3


def break_image(tiny, image_id: int) -> Path:
    path = tiny.images / f"{image_id}.png"
    path.write_bytes(path.read_bytes()[:400])
    return path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_image_is_named(tiny_coco, num_workers, monkeypatch):
    monkeypatch.setattr("detectune.data.loader.available_cpus", lambda: 2)
    path = break_image(tiny_coco, 2)
    config = config_of(tiny_coco, DATA_LOADER__NUM_THREADS=num_workers)
    with pytest.raises(DataError) as caught:
        take(build_loader(config, training=True), 6)
    assert str(path) in str(caught.value) and "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_and_missing_images_are_skipped_and_counted_on_demand(tiny_coco, num_workers, monkeypatch):
    monkeypatch.setattr("detectune.data.loader.available_cpus", lambda: 2)
    break_image(tiny_coco, 2)
    (tiny_coco.images / "1.png").unlink()
    keys = {"TRAIN__SKIP_BROKEN_IMAGES": True, "DATA_LOADER__NUM_THREADS": num_workers}
    with pytest.raises(DataError, match=r"1 image files are missing .*1.png"):
        build_loader(config_of(tiny_coco), training=True)
    loader = build_loader(config_of(tiny_coco, **keys), training=True)
    assert len(loader.records) == 2
    assert any("1 missing images are left out" in line for line in loader.problems)
    batches = take(loader, 6)
    assert {info.image_id for b in batches for info in b.images.infos} == {3}
    assert loader.skipped == 1 and list(loader.left_out) == [str(tiny_coco.images / "2.png")]
    with pytest.raises(DataError, match=r"missing"):
        build_loader(config_of(tiny_coco, **keys), training=False)


def test_when_no_image_can_be_read_it_says_so(tiny_coco):
    for image_id in (1, 2, 3):
        break_image(tiny_coco, image_id)
    config = config_of(tiny_coco, TRAIN__SKIP_BROKEN_IMAGES=True)
    with pytest.raises(DataError, match="None of the 3 images can be read"):
        take(build_loader(config, training=True), 1)


def test_an_image_of_another_size_is_named(tiny_coco):
    Image.new("RGB", (33, 44)).save(tiny_coco.images / "1.png")
    with pytest.raises(
        DataError, match=r"1.png: the image is 33 x 44 pixels, its annotations are for 60 x 40"
    ):
        list(build_loader(config_of(tiny_coco), training=False))


def test_an_annotation_outside_its_image_stops_training_first(tiny_coco):
    tiny_coco.add(id=55, bbox=[500, 3, 10, 10])
    with pytest.raises(
        DataError, match=r"tiny: 1 objects lie wholly outside their image \(annotation 55, 1.png"
    ):
        build_loader(config_of(tiny_coco), training=True)


def test_outlines_and_keypoints_are_demanded_only_where_used(tiny_coco):
    for annotation in tiny_coco.content["annotations"]:
        annotation.pop("segmentation")
    with pytest.raises(DataError, match=r"no object has an outline, but MODEL.MASK_ON is True"):
        build_loader(config_of(tiny_coco), training=True)
    boxes_only = build_loader(config_of(tiny_coco, MODEL__MASK_ON=False), training=True)
    assert boxes_only.problems == []
    assert take(boxes_only, 1)[0].targets.edges is None


def test_problems_that_were_mended_are_told(tiny_coco):
    tiny_coco.add(id=55, bbox=[3, 3, 0, 5])
    loader = build_loader(config_of(tiny_coco), training=True)
    assert len(loader.problems) == 1 and loader.problems[0].startswith(
        "tiny: 1 objects have a box without width"
    )


def test_unknown_data_sets_are_answered_with_the_known(tiny_coco):
    config = config_of(tiny_coco)
    with pytest.raises(DataError, match=r"'tony' is not known; did you mean tiny\? Known: shapes_train, "):
        build_loader(config, training=False, dataset="tony")
    with pytest.raises(DataError, match=r"TRAIN.DATASETS is empty"):
        build_loader(config.with_overrides({"TRAIN.DATASETS": []}), training=True)


def test_keypoints_are_shifted_and_images_without_are_left_out(shared):
    folder = shared / "data/coco_mini"
    keys = {
        "DATASETS": {
            "people": {
                "images": str(folder / "train2017"),
                "annotations": str(folder / "annotations/person_keypoints_train2017.json"),
            }
        },
        "TRAIN.DATASETS": ["people"],
        "TRAIN.SCALES": [64],
        "TRAIN.MAX_SIZE": 100,
        "TRAIN.USE_FLIPPED": False,
        "DATA_LOADER.NUM_THREADS": 0,
        "MODEL.KEYPOINTS_ON": True,
        "KRCNN.ROI_KEYPOINTS_HEAD": "keypoint_rcnn_heads.add_roi_pose_head_v1convX",
        "KRCNN.HEATMAP_SIZE": 56,
        "KRCNN.UP_SCALE": 2,
        "KRCNN.USE_DECONV_OUTPUT": True,
        "KRCNN.ROI_XFORM_RESOLUTION": 14,
    }
    annotations = json.loads((folder / "annotations/person_keypoints_train2017.json").read_text())[
        "annotations"
    ]
    by_image = {a["image_id"]: [] for a in annotations}
    for a in annotations:
        by_image[a["image_id"]].append(a["keypoints"])
    for dialect, shift in (("detectron", 0.0), ("detectron2", 0.5)):
        loader = build_loader(load_config(None, keys | {"MODEL.GEOMETRY": dialect}), training=True)
        assert len(loader.records) == 28
        batch = take(loader, 1)[0]
        assert batch.targets.keypoints.shape[2:] == (17, 3)
        info = batch.images.infos[0]
        first = torch.tensor(by_image[info.image_id][0], dtype=torch.float32).reshape(17, 3)
        there = (first[:, 2:] > 0).float()
        scale = torch.tensor([info.scale_x, info.scale_y])
        torch.testing.assert_close(
            batch.targets.keypoints[0, 0, :, :2], (first[:, :2] + shift * there) * scale
        )
