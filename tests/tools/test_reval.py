"""Saved detections are evaluated again by the rules of their data set's format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detectune.data.shapes import TRIANGLE_POINTS, make_shapes
from detectune.evaluation.coco import KEYPOINT_NAMES
from detectune.evaluation.detectron_results import detections_pickle, pack_detections

DOG = """<object><name>dog</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>
<ymax>{}</ymax></bndbox></object>"""


def ap_of(said: str, task: str) -> float:
    return float(next(line for line in said.splitlines() if line.startswith(f"{task} ")).split()[1])


def test_voc_by_vocs_rules(tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The best detection is a difficult dog: of no account in VOC, wrong by COCO's rules."""
    root = tmp_path / "data/VOCdevkit/VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    dogs = DOG.format(0, 5, 5, 50, 35) + DOG.format(1, 52, 2, 59, 12)
    (root / "Annotations/000002.xml").write_text(
        f"<annotation><size><width>60</width><height>40</height></size>{dogs}</annotation>"
    )
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(root / "JPEGImages/000002.jpg")
    (root / "ImageSets/Main/test.txt").write_text("000002\n")
    monkeypatch.setenv("DETECTUNE_DATA", str(tmp_path / "data"))
    rows = [
        {"image_id": 2, "category_id": 12, "bbox": [51, 1, 8, 11], "score": 0.9},
        {"image_id": 2, "category_id": 12, "bbox": [4, 4, 46, 31], "score": 0.8},
    ]
    (tmp_path / "found").mkdir()
    (tmp_path / "found/detections.json").write_text(json.dumps(rows))
    for force, expected in ((False, 1.0), (True, 0.5)):
        (tmp_path / "rules.yaml").write_text(f"TEST: {{FORCE_JSON_DATASET_EVAL: {force}}}\n")
        words = ("found", "--dataset", "voc_2007_test", "--comp", "--cfg", "rules.yaml")
        assert tool("reval", *words, cwd=tmp_path) == 0
        assert ap_of(capsys.readouterr().out, "box") == pytest.approx(expected, abs=1e-3)
    lines = (tmp_path / "found/voc/comp4_det_test_dog.txt").read_text().splitlines()
    assert [(line.split()[0], float(line.split()[1])) for line in lines] == [("000002", 0.9), ("000002", 0.8)]


def test_keypoints_with_the_sigmas_of_the_configuration(tool, tmp_path: Path, capsys) -> None:
    paths = make_shapes(tmp_path / "made", split="val", num_images=6, image_size=(64, 80))
    truth = json.loads(paths.annotations.read_text())
    rows = []
    for entry in truth["annotations"]:
        if not entry.get("num_keypoints"):
            continue
        points = np.array(entry["keypoints"], dtype=float).reshape(-1, 3)
        points[:, :2] += 3  # off by a few pixels: right or wrong as the sigmas have it
        rows.append({key: entry[key] for key in ("image_id", "category_id", "bbox")})
        rows[-1] |= {"score": 0.9, "keypoints": points.flatten().tolist()}
    assert rows and "AP" in KEYPOINT_NAMES
    (tmp_path / "found").mkdir()
    (tmp_path / "found/detections.json").write_text(json.dumps(rows))
    found = []
    for sigma in (0.01, 0.5):
        sigmas = [sigma] * len(TRIANGLE_POINTS)
        (tmp_path / "mine.yaml").write_text(
            f"DATASETS: {{mine: {{images: {paths.images}, annotations: {paths.annotations}}}}}\n"
            f"KRCNN: {{NUM_KEYPOINTS: {len(sigmas)}, OKS_SIGMAS: {sigmas}}}\n"
        )
        assert tool("reval", "found", "--dataset", "mine", "--comp", "--cfg", "mine.yaml", cwd=tmp_path) == 0
        found.append(ap_of(capsys.readouterr().out, "keypoint"))
    assert found[0] < 0.1 < 0.9 < found[1]


def test_keypoints_are_ranked_as_the_configuration_says(tool, tmp_path: Path, capsys) -> None:
    """Of two finds of each pose the right one has the better box, the wrong one the higher logits; both are saved."""
    paths = make_shapes(tmp_path / "made", split="val", num_images=6, image_size=(64, 80))
    truth = json.loads(paths.annotations.read_text())
    rows = []
    for entry in truth["annotations"]:
        if not entry.get("num_keypoints"):
            continue
        points = np.array(entry["keypoints"], dtype=float).reshape(-1, 3)
        for shift, score, logit in ((0, 0.9, 1.0), (9, 0.5, 3.0)):
            moved = np.column_stack((points[:, :2] + shift, np.full(len(points), 0.8)))
            rows.append({key: entry[key] for key in ("image_id", "category_id", "bbox")})
            rows[-1] |= {
                "score": score,
                "keypoints": moved.flatten().tolist(),
                "keypoint_logits": [logit] * len(points),
            }
    classes = [category["id"] for category in truth["categories"]]
    rows = [row | {"label": classes.index(row["category_id"]) + 1} for row in rows]
    ids = [image["id"] for image in truth["images"]]
    content = pack_detections(rows, image_ids=ids, num_classes=len(classes) + 1, config_yaml="")
    (tmp_path / "detections.pkl").write_bytes(detections_pickle(content))
    sigmas = [0.1] * len(TRIANGLE_POINTS)
    found, written = {}, {}
    for confidence in ("bbox", "prob", "logit"):
        (tmp_path / "mine.yaml").write_text(
            f"DATASETS: {{mine: {{images: {paths.images}, annotations: {paths.annotations}}}}}\n"
            f"KRCNN: {{NUM_KEYPOINTS: {len(sigmas)}, OKS_SIGMAS: {sigmas}, KEYPOINT_CONFIDENCE: {confidence}}}\n"
        )
        assert tool("reval", ".", "--dataset", "mine", "--comp", "--cfg", "mine.yaml", cwd=tmp_path) == 0
        found[confidence] = ap_of(capsys.readouterr().out, "keypoint")
        results = json.loads((tmp_path / "keypoints_mine_results.json").read_text())
        written[confidence] = {round(row["score"], 6) for row in results}
    assert found["bbox"] > 0.99 and found["logit"] < 0.6
    assert written == {"bbox": {0.9, 0.5}, "prob": {0.8}, "logit": {1.0, 3.0}}
    for row in rows:
        del row["keypoint_logits"]
    content = pack_detections(rows, image_ids=ids, num_classes=len(classes) + 1, config_yaml="")
    (tmp_path / "detections.pkl").write_bytes(detections_pickle(content))
    assert tool("reval", ".", "--dataset", "mine", "--comp", "--cfg", "mine.yaml", cwd=tmp_path) == 2
    assert "no logits of keypoints" in capsys.readouterr().err
