"""Ready-made proposals: Detectron's goldens, both kinds of files, and their way into the batch."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from detectune.config.load import load_config
from detectune.data.coco import read_coco
from detectune.data.loader import build_loader
from detectune.data.proposal_files import Proposals, proposal_path, proposals_to_bytes, read_proposals
from detectune.data.proposals import attach_proposals, best_rows, covered_part, usable_rows, without_crowds
from detectune.data.records import training_records
from detectune.data.transforms import crop_objects, flip_objects, inclusive_boxes, objects_of, scale_objects
from detectune.errors import DataError

TINY = {1: [[2, 3, 20, 30], [0, 0, 59, 39], [5, 5, 6, 6]], 2: [[0, 52, 30, 58]], 3: []}


def made(scores: bool = True) -> Proposals:
    boxes = [np.array(own, dtype=np.float32).reshape(-1, 4) for own in TINY.values()]
    values = [np.linspace(1, 0.5, len(own)).astype(np.float32) for own in boxes] if scores else None
    return Proposals(list(TINY), boxes, values)


def file_of(folder: Path, proposals: Proposals, suffix: str) -> Path:
    path = folder / f"proposals{suffix}"
    path.write_bytes(proposals_to_bytes(proposals, suffix, cfg="MODEL: {}"))
    return path


def golden_cases(shared: Path) -> list[dict]:
    rows = json.loads((shared / "golden/detectron/units/json_dataset.json").read_text())
    return [row for row in rows if row["function"].startswith("roidb.combined")]


def test_detectrons_entries(shared: Path, tmp_path: Path):
    """Which proposals each entry has, plain and mirrored, and which lie in crowd regions."""
    arrays = np.load(shared / "golden/detectron/units/json_dataset.npz")
    compared = in_crowds = 0
    for case in golden_cases(shared):
        params, ids = case["params"], case["in_json"]["proposal_ids"]
        annotations = tmp_path / "annotations.json"
        annotations.write_text(json.dumps(case["in_json"]["coco"]))
        boxes = [arrays[f"{case['case']}/in/proposals_{i}"] for i in range(len(ids))]
        path = file_of(tmp_path, Proposals(ids, boxes, None), ".pkl")
        records, info, _ = read_coco([annotations], [tmp_path])
        records = training_records(
            records, gt_min_area=-1, min_side=1.0, need_keypoints=False, source="golden"
        )
        limit = params["proposal_limit"] if params["proposal_limit"] > 0 else None
        by_id = {record.image_id: record for record in attach_proposals(records, path, limit=limit)}
        prefix = f"{case['case']}/out/entry"
        for i in sorted({int(key[len(prefix) :].split("/")[0]) for key in arrays if key.startswith(prefix)}):
            told = case["out_json"][f"entry{i}/info"]
            record = by_id[told["id"]]
            given = arrays[f"{prefix}{i}/gt_classes"] == 0
            theirs = arrays[f"{prefix}{i}/boxes"][given]
            crowded = arrays[f"{prefix}{i}/max_overlaps"][given] == -1
            filtered = without_crowds(record, thresh=params["crowd_filter_thresh"])
            for ours, expected in ((record, theirs), (filtered, theirs[~crowded])):
                objects = objects_of(ours, masks=False, keypoints=False, keypoint_shift=0)
                if told["flipped"]:
                    objects = flip_objects(
                        objects, record.width, keypoint_flip=info.keypoint_flip, keypoint_shift=0
                    )
                np.testing.assert_allclose(
                    inclusive_boxes(objects.proposals, 1.0), expected, atol=2e-5, rtol=0
                )
            compared += len(theirs)
            in_crowds += int(crowded.sum())
    assert compared > 500 and in_crowds > 0


def test_order_of_treatment():
    boxes = np.array(
        [
            [-50, -50, 1.4, 50],  # clipped to 0..1.4: wider than 2 pixels only with the pixel at its end
            [10.4, 10, 40, 40],
            [10.2, 9.8, 40.3, 39.9],  # equals the one before after rounding
            [10, 10, 11, 40],  # 2 wide: too narrow
            [10, 10, 12, 40],
            [90, 90, 300, 300],
            [95, 95, 400, 400],  # clipped alike but for the start
            [96, 96, 99, 99],
        ],
        dtype=np.float32,
    )
    assert usable_rows(boxes, 100, 100, limit=None).tolist() == [0, 1, 4, 5, 6, 7]
    assert usable_rows(boxes, 100, 100, limit=3).tolist() == [0, 1, 4]
    assert usable_rows(boxes[:0], 100, 100, limit=3).tolist() == []


@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
@pytest.mark.parametrize("scores", [True, False])
def test_files_round_trip(suffix: str, scores: bool, tmp_path: Path):
    given = made(scores)
    got = read_proposals(file_of(tmp_path, given, suffix))
    assert got.image_ids == given.image_ids
    for ours, theirs in zip(got.boxes, given.boxes, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if scores:
        for ours, theirs in zip(got.scores, given.scores, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    else:
        assert got.scores is None or all((own == 0).all() for own in got.scores)
    assert proposals_to_bytes(given, suffix) == proposals_to_bytes(given, suffix)
    assert len(read_proposals(file_of(tmp_path, Proposals([], [], None), suffix))) == 0


def test_detectron_reads_what_we_write(tmp_path: Path):
    content = pickle.loads(proposals_to_bytes(made(), ".pkl", cfg="a: 1"))
    assert sorted(content) == ["boxes", "cfg", "ids", "scores"] and content["cfg"] == "a: 1"
    assert content["ids"] == [1, 2, 3] and content["boxes"][0].dtype == np.float32
    assert content["boxes"][2].shape == (0, 4)


def test_old_files(tmp_path: Path):
    """Selective search: 'indexes', boxes of other types, a column of scores, numpy's integers."""
    old = {
        "indexes": [np.int64(7), np.int32(9)],
        "boxes": [np.array([[1, 2, 3, 4]], dtype=np.uint16), np.zeros((0,))],
        "scores": [np.array([[0.5]]), np.zeros((0, 1))],
    }
    for protocol in range(4):
        (tmp_path / "old.pkl").write_bytes(pickle.dumps(old, protocol))
        got = read_proposals(tmp_path / "old.pkl")
        assert got.image_ids == [7, 9] and got.boxes[0].tolist() == [[1, 2, 3, 4]]
        assert got.boxes[1].shape == (0, 4) and got.scores[0].tolist() == [0.5]


ONE = {"boxes": [np.ones((2, 4))], "ids": [1], "scores": [np.ones(2)]}
ENDLESS: list = [1.0]
for _ in range(40):  # written out, it has 2^40 numbers
    ENDLESS = [ENDLESS, ENDLESS]
WRONG = {
    "boxes without end": (ONE | {"boxes": [ENDLESS]}, "no numbers"),
    "scores without end": (ONE | {"scores": [ENDLESS]}, "no numbers"),
    "ids without end": (ONE | {"ids": [ENDLESS]}, "whole number"),
    "a file without end": (ENDLESS, "dict"),
    "a list": ([1], "dict"),
    "no ids": ({"boxes": []}, "'boxes' and 'ids'"),
    "ids without boxes": ({"ids": [1]}, "'boxes' and 'ids'"),
    "more ids": (ONE | {"ids": [1, 2]}, "one entry for each image"),
    "fewer scores": (ONE | {"scores": [np.ones(1)]}, "2 proposals and 1 scores"),
    "lists of scores": (ONE | {"scores": [np.ones(2), np.ones(2)]}, "one entry for each image"),
    "a single box": (ONE | {"boxes": [np.array(3.0)]}, "not a single one"),
    "an id of many digits": (ONE | {"ids": [2**70]}, "whole number"),
    "numbers beyond float32": (ONE | {"boxes": [np.full((2, 4), 1e300)]}, "not finite"),
    "a single id": (ONE | {"ids": np.array(1), "boxes": []}, "one entry for each image"),
    "text ids": (ONE | {"ids": ["a"]}, "whole number"),
    "true ids": (ONE | {"ids": [True]}, "whole number"),
    "five columns": (ONE | {"boxes": [np.ones((2, 5))]}, "shape"),
    "text boxes": (ONE | {"boxes": [["a"]]}, "no numbers"),
    "text arrays": (ONE | {"boxes": [np.array(["a"])]}, "array of numbers"),
    "no boxes": (ONE | {"boxes": [None]}, "array of numbers"),
    "not finite": (ONE | {"boxes": [np.full((2, 4), np.nan)]}, "not finite"),
    "an id twice": ({"boxes": [np.ones((1, 4))] * 2, "ids": [4, 4]}, "4 occurs twice"),
    "boxes of two numbers": (ONE | {"boxes": [[[1, 2], [1, 2]]]}, "four for each box"),
    "ragged": (ONE | {"boxes": [[[1, 2, 3, 4], [1, 2]]]}, "no numbers"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_contents(kind: str, tmp_path: Path):
    content, said = WRONG[kind]
    path = tmp_path / "wrong.pkl"
    path.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(DataError, match=said) as caught:
        read_proposals(path)
    assert str(path) in str(caught.value)


def test_wrong_archives(tmp_path: Path):
    path = tmp_path / "wrong.npz"
    good = {"image_ids": np.array([1]), "counts": np.array([2]), "boxes": np.ones((2, 4))}
    for change, said in [
        ({"counts": np.array([1])}, "contradict"),
        ({"counts": np.array([-2])}, "contradict"),
        ({"counts": np.array([2, 2**63, 2**63], np.uint64), "image_ids": np.array([1, 2, 3])}, "contradict"),
        ({"counts": np.array([2.0])}, "contradict"),
        ({"scores": np.ones(3)}, "contradict"),
        ({"boxes": np.ones((2, 3))}, "shape"),
        ({"image_ids": np.array([1.5])}, "whole number"),
        ({"boxes": None}, "boxes is missing|no archive"),
    ]:
        arrays = {k: v for k, v in (good | change).items() if v is not None}
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=said):
            read_proposals(path)
    np.savez(path, **(good | {"boxes": np.array([{}], dtype=object)}), allow_pickle=True)
    with pytest.raises(DataError, match="no archive of arrays"):
        read_proposals(path)
    np.savez_compressed(path, **(good | {"boxes": np.zeros((10**6, 4))}))
    with pytest.raises(DataError, match="unpacks to"):
        read_proposals(path)
    np.savez(path, **good)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut off"):
        read_proposals(path)


def test_archives_of_other_things(tmp_path: Path):
    path = tmp_path / "other.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("image_ids", "counts", "boxes"):
            archive.writestr(name, b"no array")
    with pytest.raises(DataError, match="image_ids is missing"):
        read_proposals(path)
    np.savez_compressed(path, image_ids=np.arange(1000), counts=np.ones(1000, int), boxes=np.ones((1000, 4)))
    damaged = bytearray(path.read_bytes())
    for place in range(60, len(damaged) - 400, 37):
        damaged[place] ^= 0x55
    path.write_bytes(bytes(damaged))
    with pytest.raises(DataError):
        read_proposals(path)


def test_missing_files(tmp_path: Path):
    (tmp_path / "proposals_train.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"Did you mean .*proposals_train\.pkl"):
        read_proposals(tmp_path / "proposal_train.pkl")
    with pytest.raises(DataError, match="empty"):
        read_proposals(tmp_path / "proposals_train.pkl")
    address = "https://dl.fbaipublicfiles.com/detectron/35998355/x/rpn_proposals.pkl"
    with pytest.raises(DataError, match=r"35998355/x/rpn_proposals\.pkl"):
        proposal_path(address, root=tmp_path, download_cache=str(tmp_path / "cache"))
    place = tmp_path / "cache/35998355/x/rpn_proposals.pkl"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x")
    assert proposal_path(address, root=tmp_path, download_cache=str(tmp_path / "cache")) == place
    assert proposal_path("a.pkl", root=tmp_path, download_cache="") == tmp_path / "a.pkl"


def test_part_of_a_box_in_a_crowd():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], dtype=np.float32)
    regions = np.array([[0, 0, 10, 20], [0, 0, 100, 100]], dtype=np.float32)
    np.testing.assert_allclose(covered_part(boxes, regions), [[1, 1], [0.5, 1], [0, 1]])


def config_of(tiny, tmp_path: Path, suffix: str = ".pkl", **more):
    tiny.save()
    path = file_of(tmp_path, made(), suffix)
    keys = {
        "DATASETS": {
            "tiny": {"images": str(tiny.images), "annotations": str(tiny.folder / "annotations.json")}
        },
        "TRAIN.DATASETS": ["tiny"],
        "TEST.DATASETS": ["tiny"],
        "TRAIN.PROPOSAL_FILES": [str(path)],
        "TEST.PROPOSAL_FILES": [str(path)],
        "TRAIN.SCALES": [80],
        "TRAIN.MAX_SIZE": 200,
        "TEST.SCALE": 80,
        "TEST.MAX_SIZE": 200,
        "DATA_LOADER.NUM_THREADS": 0,
        "MODEL.DEVICE": "cpu",
    }
    return load_config(None, keys | more)


@pytest.mark.parametrize("dialect", ["detectron", "detectron2", "torchvision"])
@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
def test_batches_have_proposals(tiny_coco, tmp_path: Path, dialect: str, suffix: str):
    loader = build_loader(
        config_of(tiny_coco, tmp_path, suffix, **{"MODEL.GEOMETRY": dialect}), training=False
    )
    for batch in loader:
        images = batch.images
        assert images.proposals.dtype == torch.float32 and images.proposals_valid.dtype == torch.bool
        assert images.proposals.shape == (*images.proposals_valid.shape, 4)
        for i, info in enumerate(images.infos):
            own = torch.tensor(TINY[info.image_id], dtype=torch.float32).reshape(-1, 4)
            sides = own[:, 2:] - own[:, :2] + 1
            own = own[(sides > (2 if dialect == "detectron" else 0)).all(1)]
            scale = torch.tensor([info.scale_x, info.scale_y] * 2)
            end = torch.tensor([0.0, 0, 1, 1]) * (dialect != "detectron")
            valid = images.proposals_valid[i]
            torch.testing.assert_close(images.proposals[i, valid], (own + end) * scale, atol=1e-4, rtol=0)
            assert not images.proposals[i, ~valid].any() and not images.proposal_scores[i, ~valid].any()
            assert (images.proposal_scores[i, valid] > 0).all()
    assert images.to("cpu").proposals is not None


@pytest.mark.parametrize(("dialect", "first"), [("detectron", 2), ("detectron2", 3)])
def test_limits_and_crowds_follow_the_configuration(tiny_coco, tmp_path: Path, dialect: str, first: int):
    """The first image has a proposal of two pixels a side, which Detectron drops."""

    def counts(training: bool, **more) -> dict[int, int]:
        config = config_of(tiny_coco, tmp_path, **more, **{"MODEL.GEOMETRY": dialect})
        loader = build_loader(config, training=training)
        return {record.image_id: len(record.proposals) for record in loader.records}

    assert counts(False) == {1: first, 2: 1, 3: 0}
    assert counts(False, **{"TEST.PROPOSAL_LIMIT": 1}) == {1: 1, 2: 1, 3: 0}
    assert counts(True, **{"TEST.PROPOSAL_LIMIT": 1}) == {
        1: first,
        2: 0,
        3: 0,
    }  # the second image's lies in a crowd
    assert counts(True, **{"TRAIN.CROWD_FILTER_THRESH": 0.0}) == {1: first, 2: 1, 3: 0}


def test_a_model_that_proposes_by_itself_reads_no_file(tiny_coco, tmp_path: Path):
    more = {"MODEL.RPN_ONLY": True, "TRAIN.PROPOSAL_FILES": ["absent.pkl"]}
    config = config_of(tiny_coco, tmp_path, **more)
    batch = next(iter(build_loader(config, training=True)))
    assert batch.images.proposals is None and batch.images.proposals_valid is None


def test_mistakes(tiny_coco, tmp_path: Path):
    config = config_of(tiny_coco, tmp_path, **{"TRAIN.PROPOSAL_FILES": [str(tmp_path / "absent.pkl")]})
    with pytest.raises(DataError, match=r"absent\.pkl"):
        build_loader(config, training=True)
    file_of(tmp_path, Proposals([1], [np.zeros((0, 4), np.float32)], None), ".pkl")
    with pytest.raises(DataError, match="2 of 3 images have no proposals, such as image id 2"):
        build_loader(
            config.with_overrides({"TRAIN.PROPOSAL_FILES": [str(tmp_path / "proposals.pkl")]}), training=True
        )


def test_joined_data_sets_with_equal_ids_have_their_own_files(tiny_coco, tiny_coco_at, tmp_path: Path):
    other = tiny_coco_at(tmp_path / "other")
    other.save()
    first = file_of(tmp_path, made(), ".pkl")
    second = tmp_path / "second.npz"
    shifted = Proposals([3, 2, 1], [np.array([[1, 1, 9, 9]], np.float32)] * 3, None)
    second.write_bytes(proposals_to_bytes(shifted, ".npz"))
    config = config_of(tiny_coco, tmp_path)
    entry = {"images": str(other.images), "annotations": str(other.folder / "annotations.json")}
    config = config.with_overrides(
        {
            "DATASETS": {**config.DATASETS, "other": entry},
            "TRAIN.DATASETS": ["tiny", "other"],
            "TRAIN.PROPOSAL_FILES": [str(first), str(second)],
            "TRAIN.CROWD_FILTER_THRESH": 0.0,
        }
    )
    records = build_loader(config, training=True).records
    assert [len(record.proposals) for record in records] == [3, 1, 0, 1, 1, 1]
    assert records[5].proposals.tolist() == [[1, 1, 10, 10]]


def test_crop_and_scale(tiny_coco, tmp_path: Path):
    tiny_coco.save()
    records, _, _ = read_coco([tiny_coco.folder / "annotations.json"], [tiny_coco.images])
    record = attach_proposals(records, file_of(tmp_path, made(), ".pkl"), limit=None)[0]
    objects = objects_of(record, masks=False, keypoints=False, keypoint_shift=0)
    cropped = crop_objects(objects, (30, 10, 50, 35))
    assert cropped.proposals.tolist() == [[0, 0, 20, 25]] and cropped.proposal_scores.tolist() == [0.75]
    assert len(cropped) <= len(objects)
    scaled = scale_objects(cropped, 2.0, 3.0)
    assert scaled.proposals.tolist() == [[0, 0, 40, 75]]
    assert record.proposals.tolist() == [[2, 3, 21, 31], [0, 0, 60, 40]]  # unchanged


@pytest.mark.parametrize("mode", [None, 0, 1])
def test_detectron2s_files_have_continuous_boxes_and_logits(mode: int | None, tmp_path: Path) -> None:
    corners = np.array([[2, 3, 20, 30], [0, 0, 60, 40]], dtype=np.float32)
    sides = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
    content = {
        "ids": [7],
        "boxes": [sides if mode == 1 else corners],
        "objectness_logits": [np.float32([-1, 2])],
    }
    (tmp_path / "theirs.pkl").write_bytes(
        pickle.dumps(content if mode is None else content | {"bbox_mode": mode}, 2)
    )
    found = read_proposals(tmp_path / "theirs.pkl")
    assert found.image_ids == [7] and found.scores is not None and found.scores[0].tolist() == [-1, 2]
    np.testing.assert_array_equal(found.boxes[0], corners - [0, 0, 1, 1])
    (tmp_path / "turned.pkl").write_bytes(pickle.dumps(content | {"bbox_mode": 4}, 2))
    with pytest.raises(DataError, match="bbox_mode is 4; 0"):
        read_proposals(tmp_path / "turned.pkl")


def test_detectron2_takes_the_best_and_keeps_what_detectron_drops() -> None:
    boxes = np.array(
        [[0, 0, 9, 9], [0, 0, 9.2, 9], [3, 3, 4, 4], [-9, 5, -1, 8], [5, 5, 30, 30]], dtype=np.float32
    )
    scores = np.array([0.1, 0.5, 0.4, 0.9, 0.3], dtype=np.float32)
    assert usable_rows(boxes, 20, 20, limit=None).tolist() == [0, 4]  # alike, small, outside
    assert best_rows(boxes, scores, 20, 20, limit=None).tolist() == [1, 2, 4, 0]
    assert best_rows(boxes, scores, 20, 20, limit=2).tolist() == [1, 2]
    assert best_rows(boxes, None, 20, 20, limit=2).tolist() == [0, 1]
