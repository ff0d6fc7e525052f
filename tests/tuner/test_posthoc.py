"""Inference knobs on raw outputs: any setting's AP is what `test` gives, outputs survive an interruption, and the whole
study from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detectune.cli.main import main
from detectune.config.load import Config, load_config
from detectune.data.shapes import make_shapes
from detectune.engine import testing
from detectune.engine.inference import Predictor
from detectune.engine.trainer import train
from detectune.errors import UserError
from detectune.models.build import build_detector
from detectune.structures import ClassInfo, ImageInfo
from detectune.tuner import posthoc
from detectune.tuner.inference_space import inference_space, needed_reach, outputs_config, within_reach
from detectune.tuner.many_settings import setting_at
from detectune.tuner.operating_point import read_goal
from detectune.tuner.posthoc import Question, replay_of
from detectune.tuner.raw_outputs import RawImage, collect
from detectune.tuner.replay import Replay
from detectune.tuner.replay_choice import Pool, Rules, choose
from detectune.tuner.space import Entry

SIDE = 64
NUM_IMAGES = 12
CLASSES = ClassInfo(("circle", "square", "triangle", "star", "cross"), (1, 2, 3, 4, 5))


def small(root: Path, data: dict[str, Any], name: str = "shapes", **changes: Any) -> Config:
    keys = {
        "DATASETS": data, "TRAIN.DATASETS": ["mine"], "TEST.DATASETS": ["mine"], "TRAIN.SCALES": [SIDE],
        "TRAIN.MAX_SIZE": 80, "TEST.SCALE": SIDE, "TEST.MAX_SIZE": 80, "RESNETS.WIDTH_MULTIPLIER": 0.25, "FPN.DIM": 32,
        "FAST_RCNN.MLP_HEAD_DIM": 64, "MRCNN.DIM_REDUCED": 16, "TRAIN.IMS_PER_BATCH": 4, "TRAIN.BATCH_SIZE_PER_IM": 32,
        "TRAIN.RPN_POST_NMS_TOP_N": 50, "TEST.RPN_PRE_NMS_TOP_N": 100, "TEST.RPN_POST_NMS_TOP_N": 60,
        "TEST.IMS_PER_BATCH": 4, "SOLVER.MAX_ITER": 100, "SOLVER.PRECISION": "fp32", "TRAIN.EVAL_ITERS": 0,
        "TRAIN.LOG_ITERS": 100, "TRAIN.SNAPSHOT_ITERS": 1000, "DATA_LOADER.NUM_THREADS": 0, "MODEL.DEVICE": "cpu",
    }  # fmt: skip
    overrides = keys | {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(root / f"configs/getting_started/{name}.yaml", overrides)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("shapes")
    paths = make_shapes(folder, split="train", num_images=NUM_IMAGES, image_size=(SIDE, 80), seed=1)
    return {"mine": {"images": str(paths.images), "annotations": str(paths.annotations)}}


@pytest.fixture(scope="module")
def trained(
    root: Path, data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, Path]:
    """A Mask R-CNN that has learnt its twelve pictures a little, and its weights."""
    config = small(root, data, TEST__DATASETS=[])
    run = tmp_path_factory.mktemp("run")
    train(config, output_dir=run, log=lambda _: None)
    return small(root, data), run / "model_final.safetensors"


def question(base: Config, task: str, keys: list[str]) -> Question:
    return Question("x", inference_space([Entry(key, {}, "") for key in keys], base, task), f"{task}/AP")


@pytest.mark.parametrize(("task", "settings"), [("bbox", 44), ("segm", 6)])
def test_ap_of_fifty_random_settings_is_what_test_gives(
    trained: tuple[Config, Path], task: str, settings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testing, "NUM_SAMPLES", 0)  # pictures take longer than the network
    monkeypatch.setattr(testing, "NUM_WORST", 0)
    base, weights = trained
    asked = question(base, task, list(within_reach(base, task)))
    replay, _, files = replay_of(asked, base, weights, tmp_path / "cache", log=lambda _: None)
    assert files.size > 0
    rng, seen = np.random.default_rng(1), []
    for number in range(settings):
        values = setting_at(asked.space, base.flat(), rng.random(len(asked.space)))
        config = base.with_overrides(values)
        want = testing.test(config, weights, output_dir=tmp_path / str(number), log=lambda _: None)
        assert replay.measure(config, f"{task}/AP") == pytest.approx(want[f"{task}/AP"], abs=1e-6), values
        seen.append(want[f"{task}/AP"])
    assert min(seen) > 0.002 and len({round(value, 6) for value in seen}) > settings // 2  # not all alike


@pytest.mark.parametrize("geometry", ["detectron", "torchvision"])
@pytest.mark.parametrize("name", ["shapes", "retinanet_shapes"])
def test_detections_are_those_of_the_network(
    root: Path, data: dict[str, Any], name: str, geometry: str
) -> None:
    """Fresh weights in other dialects, one and two stages: the same boxes' scores in the same order."""
    base = small(
        root,
        data,
        name,
        MODEL__GEOMETRY=geometry,
        MODEL__NUM_CLASSES=6,
        TEST__IMS_PER_BATCH=2,
        RETINANET__PRIOR_PROB=0.1,
    )
    asked = question(base, "bbox", [key for key in within_reach(base, "bbox") if "VOTE" not in key])
    reach = needed_reach(asked.space, base, "bbox")

    def predictor(config: Config) -> Predictor:
        torch.manual_seed(3)
        model = build_detector(config, num_classes=6).eval()
        return Predictor(config, model=model, class_info=CLASSES)

    loader = posthoc.build_loader(base, training=False)
    batch = next(iter(loader))
    wide = predictor(outputs_config(base, reach))
    raw = collect(wide, batch.images, all_proposals=bool(reach.anchors), shapes=False, mask_thresh=0.5)
    ids = {one.info.image_id for one in raw}
    records = [record for record in loader.records if record.image_id in ids]
    raw.sort(key=lambda one: one.info.image_id)
    replay = Replay(raw, records, CLASSES, base, all_proposals=bool(reach.anchors))
    rng, total = np.random.default_rng(1), 0
    for _ in range(6):
        config = base.with_overrides(setting_at(asked.space, base.flat(), rng.random(len(asked.space))))
        want = dict(
            zip(
                [i.image_id for i in batch.images.infos], predictor(config).predict(batch.images), strict=True
            )
        )
        for number, one in enumerate(raw):
            found = replay.found(config, "bbox", [number])
            theirs = want[one.info.image_id]
            assert found.label.tolist() == theirs.labels.tolist()
            np.testing.assert_allclose(found.score, theirs.scores.double().numpy(), rtol=1e-5)
            total += len(theirs)
    assert total > 0


def test_masks_and_keypoints_are_those_of_the_network(root: Path, data: dict[str, Any]) -> None:
    """Fresh weights: the candidates' masks and poses, made before anything was suppressed, are those of the test."""
    keys = {
        "MODEL__KEYPOINTS_ON": True, "MODEL__NUM_CLASSES": 6, "KRCNN__NUM_KEYPOINTS": 3, "TEST__IMS_PER_BATCH": 2,
        "KRCNN__ROI_KEYPOINTS_HEAD": "keypoint_rcnn_heads.add_roi_pose_head_v1convX", "KRCNN__NUM_STACKED_CONVS": 1,
        "KRCNN__CONV_HEAD_DIM": 16, "KRCNN__CONV_INIT": "MSRAFill", "KRCNN__ROI_XFORM_RESOLUTION": 7,
        "KRCNN__USE_DECONV_OUTPUT": True, "KRCNN__KEYPOINT_CONFIDENCE": "logit", "TEST__SCORE_THRESH": 0.1,
    }  # fmt: skip
    base = small(root, data, **keys)
    torch.manual_seed(5)
    model = build_detector(base, num_classes=6, num_keypoints=3).eval()
    batch = next(iter(posthoc.build_loader(base, training=False)))
    loader = posthoc.build_loader(base, training=False)
    predictor = Predictor(base, model=model, class_info=loader.class_info)
    raw = collect(predictor, batch.images, all_proposals=False, shapes=True, mask_thresh=0.5)
    raw.sort(key=lambda one: one.info.image_id)
    ids = [one.info.image_id for one in raw]
    records = [record for record in loader.records if record.image_id in ids]
    replay = Replay(raw, records, loader.class_info, base, all_proposals=False)
    soft = collect(predictor, batch.images, all_proposals=False, shapes=True, mask_thresh=None)
    soft.sort(key=lambda one: one.info.image_id)
    assert all(one.rles is None and one.masks is not None for one in soft)
    any_thresh = Replay(soft, records, loader.class_info, base, all_proposals=False)
    areas = {}
    for thresh in (0.45, 0.5, 0.55):
        found = any_thresh.found(base.with_overrides({"MRCNN.THRESH_BINARIZE": thresh}), "segm")
        areas[thresh] = found.area.tolist()
    assert areas[0.5] == replay.found(base, "segm").area.tolist()
    assert sum(areas[0.45]) > sum(areas[0.5]) > sum(areas[0.55])
    want = dict(zip([i.image_id for i in batch.images.infos], predictor.predict(batch.images), strict=True))
    for number, one in enumerate(raw):
        theirs = predictor.rows(want[one.info.image_id], image_id=one.info.image_id)
        assert len(theirs) > 5
        chosen = choose(one, Rules.of(base, all_proposals=False))
        assert one.rles is not None
        assert [one.rles[row] for row in chosen.rows.tolist()] == [row["segmentation"] for row in theirs]
        with_points = [row for row in theirs if "keypoints" in row]
        found = replay.found(base, "keypoints", [number])
        assert found.score.tolist() == pytest.approx([row["keypoint_score"] for row in with_points], rel=1e-4)
        points = np.array([row["keypoints"] for row in with_points]).reshape(-1, 3, 3)
        truth = replay.truths["keypoints"]
        _, overlaps = truth.overlaps(one.info.image_id, found.label, points)
        np.testing.assert_allclose(found.overlaps.max(1, initial=0), overlaps.max(1, initial=0), atol=1e-3)


def test_boxes_with_the_same_voters_keep_their_order() -> None:
    """They get one score; which of them comes first is what the model's own voting leaves."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [30, 30, 40, 40]])
    raw = RawImage(
        ImageInfo(1, "a", 64, 64, 1.0, 1.0), torch.tensor([64, 64]), boxes, torch.tensor([0.5, 0.9, 0.3]),
        torch.tensor([1, 1, 1]), torch.arange(3),
    )  # fmt: skip
    config = Config().with_overrides(
        {"TEST.NMS": 0.9, "TEST.BBOX_VOTE.ENABLED": True, "TEST.BBOX_VOTE.VOTE_TH": 0.5,
         "TEST.BBOX_VOTE.SCORING_METHOD": "AVG"}
    )  # fmt: skip
    rules = Rules.of(config, all_proposals=False)
    alone = choose(raw, rules)
    assert alone.scores[0] == alone.scores[1] and alone.rows.tolist() == [1, 0, 2]
    together = Pool([raw], num_classes=1, offset=rules.offset).choose(rules, np.arange(1))
    assert together[0].tolist() == alone.rows.tolist()
    assert together[1].tolist() == alone.scores.tolist()


def test_an_interrupted_collection_goes_on(
    trained: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, weights = trained
    asked = question(base, "bbox", ["TEST.NMS"])
    monkeypatch.setattr(posthoc, "PART_IMAGES", 4)
    seen: list[int] = []

    def counted(predictor: Any, images: Any, **options: Any) -> Any:
        seen.extend(info.image_id for info in images.infos)
        if len(seen) > 8:
            raise KeyboardInterrupt
        return collect(predictor, images, **options)

    whole, _, _ = replay_of(asked, base, weights, tmp_path / "whole", log=lambda _: None)
    monkeypatch.setattr(posthoc, "collect", counted)
    with pytest.raises(KeyboardInterrupt):
        replay_of(asked, base, weights, tmp_path / "cut", log=lambda _: None)
    before, seen[:] = seen[:8], []
    again, _, files = replay_of(asked, base, weights, tmp_path / "cut", log=lambda _: None)
    assert len(seen) == NUM_IMAGES - 8 and not set(seen) & set(before)
    for a, b in zip(whole.images, again.images, strict=True):
        assert a.info == b.info and torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores)
    with pytest.raises(UserError, match=r"narrower search .*needed: .*anchors a level"):
        replay_of(
            question(base, "bbox", ["TEST.RPN_NMS_THRESH"]),
            base,
            weights,
            tmp_path / "cut",
            log=lambda _: None,
        )
    other = base.with_overrides({"TEST.SCALE": 48})
    with pytest.raises(UserError, match=r"another network or data set \(TEST.SCALE differ\)"):
        replay_of(asked, other, weights, tmp_path / "cut", log=lambda _: None)
    files.parts()[0].write_bytes(b"PK")
    with pytest.raises(UserError, match="delete it, and its images are run again"):
        replay_of(asked, base, weights, tmp_path / "cut", log=lambda _: None)


def test_a_study_from_the_command_line(
    trained: tuple[Config, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, weights = trained
    file = tmp_path / "mine.yaml"
    file.write_text(base.to_yaml())
    words = [
        "tune", str(file), "--stage", "inference", "--weights", str(weights), "--objective", "bbox/AP", "--trials",
        "24", "--operating-point", "f1", "--output", str(tmp_path / "study"),
    ]  # fmt: skip
    with pytest.raises(SystemExit) as end:
        main(words)
    said = capsys.readouterr().out
    assert end.value.code == 0, said
    verdict = json.loads((tmp_path / "study" / "verdict.json").read_text())
    tune, report = verdict["halves"]["tune"], verdict["halves"]["report"]
    assert tune["images"] == report["images"] == NUM_IMAGES // 2
    assert verdict["decision"] == ("adopt" if report["low"] > 0 and verdict["changes"] else "keep")
    best = load_config(tmp_path / "study" / "best.yaml")
    taken = verdict["changes"] if verdict["decision"] == "adopt" else {}
    assert {key: best.flat()[key] for key in taken} == {key: after for key, (_, after) in taken.items()}
    assert {row["class"] for row in verdict["operating_point"]["classes"]} == set(CLASSES.names)
    assert set(best.TEST.SCORE_THRESH_PER_CLASS) == set(CLASSES.names)
    for text in (f"{report['after']:.4f}", f"{tune['after']:.4f}", "MiB", "thresholds for f1"):
        assert text in said
    page = (tmp_path / "study" / "report.html").read_text()
    assert verdict["sentence"].split(":")[0] in page and "reporting half" in page and "cross" in page
    with pytest.raises(SystemExit):  # the page is written again from the files alone
        main(["report", str(tmp_path / "study")])
    assert "report.html" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["tune", str(tmp_path / "study")])
    assert "is a study of inference knobs; give its command again" in capsys.readouterr().err


def test_thresholds_of_an_operating_point_are_what_infer_and_test_apply(
    trained: tuple[Config, Path], data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right, wrong and missed of each class are those that the study counted; so is the AP under them."""
    monkeypatch.setattr(testing, "NUM_SAMPLES", 0)
    monkeypatch.setattr(testing, "NUM_WORST", 0)
    base, weights = trained
    # thresholds of an earlier goal, which this study must neither use nor keep
    before = base.with_overrides({"TEST.SCORE_THRESH_PER_CLASS": {"star": 1.0}})
    space = inference_space([Entry("TEST.NMS", {}, "")], base, "bbox")
    asked = Question("x", space, "bbox/AP", settings=4, goal=read_goal("f1"))
    verdict = posthoc.run_inference_study(asked, before, weights, tmp_path / "study", log=lambda _: None)
    rows = verdict["operating_point"]["classes"]
    best = load_config(tmp_path / "study" / "best.yaml")
    assert {row["class"]: row["threshold"] for row in rows} == best.TEST.SCORE_THRESH_PER_CLASS
    difference = load_config(tmp_path / "study" / "diff.yaml").TEST.SCORE_THRESH_PER_CLASS
    assert difference == best.TEST.SCORE_THRESH_PER_CLASS

    metrics = testing.test(best, weights, output_dir=tmp_path / "test", log=lambda _: None)
    found = json.loads((tmp_path / "test/evaluation/mine/detections.json").read_text())
    seen_in_both = {
        row["class"]: (row["tune"], row["report"]) for row in rows if row["tune"] and row["report"]
    }
    counted = {
        name: sum(half["objects"] - half["missed"] + half["wrong"] for half in halves)
        for name, halves in seen_in_both.items()
    }
    assert len(counted) >= 3 and sum(counted.values()) > 5
    for name, count in counted.items():
        assert sum(row["category_name"] == name for row in found) == count
    replay, _, _ = replay_of(asked, best, weights, tmp_path / "study" / "cache", log=lambda _: None)
    assert replay.measure(best, "bbox/AP") == pytest.approx(metrics["bbox/AP"], abs=1e-6)
    without = best.with_overrides({"TEST.SCORE_THRESH_PER_CLASS": {}})
    assert replay.measure(without, "bbox/AP") > metrics["bbox/AP"]

    file = str(tmp_path / "study" / "best.yaml")
    given, output = data["mine"]["images"], str(tmp_path / "seen")
    words = ["infer", file, given, "--weights", str(weights), "--output", output]
    seen = []
    for more in ([], ["--set", "TEST.SCORE_THRESH_PER_CLASS={}"]):
        with pytest.raises(SystemExit) as end:
            main(words + more)
        assert end.value.code == 0
        seen.append(json.loads((tmp_path / "seen/detections.json").read_text()))
    least = best.TEST.SCORE_THRESH_PER_CLASS
    reached = [row for row in seen[1] if row["score"] >= least[row["category_name"]]]
    assert seen[0] == reached and 0 < len(reached) < len(seen[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--knobs", "TEST.SCORE_THRESH_PER_CLASS"], "--operating-point f1 chooses it"),
        (["--objective", "bbox/AP=minimize"], "looks for the highest bbox/AP"),
        (["--objective", "bbox/AP,segm/AP"], "looks at one metric at a time"),
        (["--knobs", "SOLVER.BASE_LR"], "needs training: tune it without --stage inference"),
        (["--knobs", "TEST.SCALE"], "changes what the network computes"),
        (
            ["--knobs", "TEST.BBOX_VOTE.ENABLED", "--objective", "segm/AP"],
            "masks and keypoints of moved boxes",
        ),
        (["--knobs", "MRCNN.THRESH_BINARIZE", "--objective", "bbox/AP"], "acts on masks alone"),
        (["--objective", "bbox/AP90"], "cannot measure bbox/AP90"),
        (["--objective", "keypoints/AP"], "MODEL.KEYPOINTS_ON is False"),
        (["TEST.BBOX_AUG.ENABLED=True"], "one view of each image"),
        (["--workers", "2"], "--workers is for trials that train"),
        (["--operating-point", "f0"], "none of f1"),
        (["--weights", "nowhere.pth"], "nowhere.pth"),
    ],
)
def test_what_cannot_be_answered_is_said(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["tune", "getting_started/shapes", "--stage", "inference", *words])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
