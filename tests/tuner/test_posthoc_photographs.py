"""A study on real annotations: outputs of a made-up detector on photographs of coco_mini, with a known best answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detectune.config.load import Config, load_config
from detectune.data.coco import read_coco
from detectune.evaluation.coco import evaluate_coco
from detectune.structures import ClassInfo, ImageInfo, Record
from detectune.tuner.inference_space import inference_space
from detectune.tuner.posthoc import Question, study
from detectune.tuner.raw_outputs import RawImage
from detectune.tuner.replay import Replay
from detectune.tuner.replay_choice import Rules, choose
from detectune.tuner.space import Entry

NAMES = 12  # classes that are kept: the most frequent ones, which keeps the test short


@pytest.fixture(scope="module")
def photographs(shared: Path) -> tuple[list[Record], ClassInfo]:
    folder = shared / "data" / "coco_mini"
    records, info, _ = read_coco([folder / "annotations/instances_val2017.json"], [folder / "val2017"])
    counts = np.bincount(np.concatenate([record.labels for record in records]), minlength=len(info) + 1)
    kept = np.argsort(-counts[1:], kind="stable")[:NAMES] + 1
    new = np.zeros(len(info) + 1, dtype=np.int64)
    new[kept] = np.arange(1, NAMES + 1)
    few = []
    for record in records:
        rows = np.flatnonzero(new[record.labels])
        few.append(
            replace(
                record, boxes=record.boxes[rows], labels=new[record.labels[rows]], is_crowd=record.is_crowd[rows],
                areas=record.areas[rows], segmentations=[record.segmentations[i] for i in rows],
                annotation_ids=record.annotation_ids[rows], keypoints=None,
            )
        )  # fmt: skip
    names = tuple(info.names[k - 1] for k in kept)
    return few, ClassInfo(names, tuple(info.category_ids[k - 1] for k in kept))


def outputs(records: list[Record], seed: int) -> list[RawImage]:
    """Each object seen a few times, the better placed the higher its score; and things that are not there."""
    rng = np.random.default_rng(seed)
    images = []
    for record in sorted(records, key=lambda record: record.image_id):
        boxes, scores, labels = [np.zeros((0, 4))], [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
        for box, label in zip(record.boxes.astype(float), record.labels, strict=True):
            count = 1 + int(rng.poisson(2))
            off = rng.normal(0, 0.08, (count, 4))
            sides = np.tile(box[2:] - box[:2], 2)
            boxes.append(box + off * sides)
            scores.append(np.clip(0.85 - 1.5 * np.abs(off).sum(1) + rng.normal(0, 0.1, count), 0.01, 0.99))
            labels.append(np.full(count, label))
        nowhere = rng.uniform(0, 1, (12, 2)) * (record.width, record.height)
        boxes.append(np.concatenate((nowhere * 0.7, nowhere * 0.7 + 40), 1))
        scores.append(rng.beta(1, 6, 12))
        labels.append(rng.integers(1, NAMES + 1, 12))
        score = np.concatenate(scores)
        order = np.argsort(-score)
        images.append(
            RawImage(
                ImageInfo(record.image_id, record.file_name, record.height, record.width),
                torch.tensor([record.height, record.width]),
                torch.from_numpy(np.concatenate(boxes)[order]).float(),
                torch.from_numpy(score[order]).float(),
                torch.from_numpy(np.concatenate(labels)[order]),
                torch.arange(len(score)),
            )
        )
    return images


def replay_of(
    photographs: tuple[list[Record], ClassInfo], root: Path, seed: int, **changes: object
) -> tuple[Config, Replay]:
    records, info = photographs
    keys = {"MODEL.NUM_CLASSES": NAMES + 1, "TEST.RPN_POST_NMS_TOP_N": 1000, "TEST.SCORE_THRESH": 0.01}
    overrides = keys | {key.replace("__", "."): value for key, value in changes.items()}
    config = load_config(root / "configs/getting_started/shapes.yaml", overrides)
    return config, Replay(outputs(records, seed), records, info, config, all_proposals=False)


def test_ap_on_real_annotations_is_cocos(photographs: tuple[list[Record], ClassInfo], root: Path) -> None:
    """Crowds among them. The rows are made from the chosen candidates, without the overlaps that were kept."""
    config, replay = replay_of(photographs, root, 0)
    records, info = photographs
    for changes in ({}, {"TEST.NMS": 0.8, "TEST.DETECTIONS_PER_IM": 20}, {"TEST.SOFT_NMS.ENABLED": True}):
        changed = config.with_overrides(changes)
        rows = []
        for raw in replay.images:
            one = choose(raw, Rules.of(changed, all_proposals=False))
            for row, score in zip(one.rows.tolist(), one.scores.tolist(), strict=True):
                x1, y1, x2, y2 = raw.boxes[row].tolist()
                x1, x2 = (min(max(x, 0.0), float(raw.info.width)) for x in (x1, x2))
                y1, y2 = (min(max(y, 0.0), float(raw.info.height)) for y in (y1, y2))
                category = info.category_ids[int(raw.labels[row]) - 1]
                box = [x1, y1, x2 - x1, y2 - y1]
                rows.append(
                    {"image_id": raw.info.image_id, "category_id": category, "bbox": box, "score": score}
                )
        want = evaluate_coco(records, rows, class_info=info, iou_types=["bbox"]).metrics
        for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"):
            assert replay.measure(changed, f"bbox/{name}") == pytest.approx(want[f"bbox/{name}"], abs=1e-9), (
                name
            )
        assert 0.05 < want["bbox/AP"] < 0.95


def test_all_images_at_once_equal_one_by_one(photographs: tuple[list[Record], ClassInfo], root: Path) -> None:
    config, fast = replay_of(photographs, root, 3)
    slow = Replay(fast.images, photographs[0], photographs[1], config, all_proposals=False, at_once=False)
    some = list(range(0, len(fast), 2))
    for changes in (
        {"TEST.NMS": 0.3, "TEST.DETECTIONS_PER_IM": 5},
        {"TEST.SOFT_NMS.ENABLED": True, "TEST.SOFT_NMS.METHOD": "gaussian", "TEST.RPN_POST_NMS_TOP_N": 30},
        {
            "TEST.BBOX_VOTE.ENABLED": True,
            "TEST.BBOX_VOTE.SCORING_METHOD": "IOU_AVG",
            "TEST.SCORE_THRESH": 0.2,
        },
        {"TEST.BBOX_VOTE.ENABLED": True, "TEST.SOFT_NMS.ENABLED": True, "TEST.BBOX_VOTE.VOTE_TH": 0.6},
    ):
        changed = config.with_overrides(changes)
        ours, theirs = fast.found(changed, "bbox", some), slow.found(changed, "bbox", some)
        assert len(ours) > 50 and ours.image.tolist() == theirs.image.tolist()
        assert ours.label.tolist() == theirs.label.tolist()
        np.testing.assert_allclose(ours.score, theirs.score, rtol=1e-6)
        assert fast.measure(changed, "bbox/AP", some) == pytest.approx(
            slow.measure(changed, "bbox/AP", some), abs=1e-9
        )


def asked(config: Config, keys: dict[str, dict[str, object]], seed: int) -> Question:
    space = inference_space([Entry(key, content, "") for key, content in keys.items()], config, "bbox")
    return Question("photographs", space, "bbox/AP", settings=16, seed=seed)


def test_a_real_gain_is_adopted_and_holds_for_new_outputs(
    photographs: tuple[list[Record], ClassInfo], root: Path
) -> None:
    """Hardly any suppression to begin with: duplicates cost AP, and less of an overlap is right."""
    config, replay = replay_of(photographs, root, 1, TEST__NMS=0.95)
    verdict = study(
        asked(config, {"TEST.NMS": {"low": 0.2, "high": 0.95}}, 1), config, replay, log=lambda _: None
    )
    assert verdict["decision"] == "adopt" and verdict["changes"]["TEST.NMS"][1] < 0.8
    assert verdict["halves"]["report"]["low"] > 0 and verdict["sentence"].startswith("Adopt")
    fresh, again = replay_of(photographs, root, 2, TEST__NMS=0.95)
    after = fresh.with_overrides({key: value for key, (_, value) in verdict["changes"].items()})
    assert again.measure(after, "bbox/AP") > again.measure(fresh, "bbox/AP")


@pytest.mark.parametrize("seed", range(2))
def test_knobs_that_do_next_to_nothing_change_nothing(
    photographs: tuple[list[Record], ClassInfo], root: Path, seed: int
) -> None:
    """Around the best overlap, and far more detections than there are: the tuning half's gain is luck."""
    config, replay = replay_of(photographs, root, seed, TEST__NMS=0.5)
    keys = {"TEST.NMS": {"low": 0.46, "high": 0.54}, "TEST.SCORE_THRESH": {"low": 0.01, "high": 0.015}}
    verdict = study(asked(config, keys, seed), config, replay, log=lambda _: None)
    assert verdict["decision"] == "keep" and verdict["sentence"].startswith("Keep what you have")
    tune = verdict["halves"]["tune"]
    assert tune["after"] >= tune["before"]
