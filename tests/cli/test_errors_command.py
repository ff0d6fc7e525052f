"""`detectune errors` on a run directory and on a file: table, page, JSON, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detectune.cli.main import main
from detectune.config.load import load_config
from detectune.data.shapes import make_shapes


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Path:
    """A run directory whose detections are the truth, with half of the first image's objects of another class."""
    paths = make_shapes(tmp_path / "data", split="val", num_images=6, image_size=(64, 80), seed=4)
    config = load_config(
        root / "configs/getting_started/shapes.yaml",
        {
            "DATASETS": {"mine": {"images": str(paths.images), "annotations": str(paths.annotations)}},
            "TEST.DATASETS": ["mine"],
        },
    )
    folder = tmp_path / "run"
    (folder / "evaluation" / "mine").mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    document = json.loads(paths.annotations.read_text())
    rows: list[dict[str, Any]] = []
    for i, annotation in enumerate(document["annotations"]):
        category = annotation["category_id"]
        if i % 2:
            category = next(c["id"] for c in document["categories"] if c["id"] != category)
        rows.append(
            {"image_id": annotation["image_id"], "category_id": category, "score": 0.9, "bbox": annotation["bbox"]}
        )  # fmt: skip
    (folder / "evaluation" / "mine" / "detections.json").write_text(json.dumps(rows))
    return folder


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return int(end.value.code or 0)


def test_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("errors", str(run)) == 0
    said = capsys.readouterr().out
    assert "Most is lost to classification" in said and "SOLVER.MAX_ITER" in said and "taken for" in said
    assert "By size: AP " in said and max(map(len, said.splitlines()[:-1])) <= 80
    report = json.loads((run / "evaluation" / "mine" / "errors.json").read_text())
    assert report["counts"]["right"] == report["objects"] // 2
    assert 0 < report["counts"]["classification"] <= report["objects"] // 2
    page = (run / "evaluation" / "mine" / "errors.html").read_text()
    assert "classification" in page and "star" in page and "SOLVER.BASE_LR" in page


def test_of_a_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "evaluation" / "mine" / "detections.json"
    annotations = next((tmp_path / "data").rglob("annotations.json"))
    assert call("errors", str(file), "--dataset", str(annotations), "--json") == 0
    assert json.loads(capsys.readouterr().out)["largest"] == "classification"


def test_mistakes(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "evaluation" / "mine" / "detections.json"
    cases = [
        ([str(tmp_path)], "holds no detections"),
        ([str(run), "--dataset", "other"], "no evaluation of other; it has mine"),
        ([str(run), "--task", "pose"], "bbox and segm"),
        ([str(run), "--task", "segm"], "row 0 has no segmentation"),
        ([str(file)], "--dataset"),
        ([str(file), "--dataset", "shapes_val"], "which the data set does not have"),
    ]
    rows = json.loads(file.read_text())
    rows[0]["image_id"] = 10**9
    file.write_text(json.dumps(rows))
    cases[-1] = ([str(run)], "row 0 is of image 1000000000")
    for words, message in cases:
        assert call("errors", *words) == 2
        assert message in capsys.readouterr().err
