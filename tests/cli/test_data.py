"""`detectune data` on every format: VOC's lists and folders, LVIS, proposal files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from detectune.cli.data import app
from detectune.data.proposal_files import read_proposals
from detectune.errors import DataError

XML = (
    "<annotation><size><width>30</width><height>20</height></size><object><name>{name}</name><difficult>0</difficult>"
    "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>{y}</ymax></bndbox></object></annotation>"
)


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for number, name in enumerate(("dog", "cat"), start=1):
        (tmp_path / f"Annotations/00000{number}.xml").write_text(XML.format(name=name, y=12))
        Image.fromarray(np.full((20, 30, 3), 80, np.uint8)).save(tmp_path / f"JPEGImages/00000{number}.jpg")
    (tmp_path / "ImageSets/Main/val.txt").write_text("000001\n000002\n")
    return tmp_path


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("place", ["ImageSets/Main/val.txt", "Annotations"])
def test_check_and_show_voc(kit: Path, place: str):
    report = json.loads(run("check", str(kit / place), "--json"))
    assert report["num_images"] == 2 and report["num_objects"] == 2
    assert {row["name"] for row in report["classes"] if row["objects"]} == {"dog", "cat"}
    run("show", str(kit / place), "--output", str(kit / "shown"))
    assert {path.name for path in (kit / "shown").iterdir()} == {"000001.png", "000002.png"}


def test_check_says_what_is_wrong_with_voc(kit: Path):
    (kit / "Annotations/000001.xml").write_text(
        XML.format(name="dog", y=12).replace("<xmin>1</xmin>", "<xmin>300</xmin>").replace(">10<", ">320<")
    )
    with pytest.raises(DataError, match="box_outside"):
        run("check", str(kit / "ImageSets/Main/val.txt"))


def test_check_lvis(kit: Path):
    document = {
        "images": [{"id": 1, "coco_url": "http://x/val2017/000001.jpg", "height": 20, "width": 30}],
        "annotations": [],
        "categories": [{"id": 3, "name": "dog"}],
    }
    (kit / "lvis.json").write_text(json.dumps(document))
    report = json.loads(run("check", str(kit / "lvis.json"), "--images", str(kit / "JPEGImages"), "--json"))
    assert report["num_images"] == 1 and not report["problems"]


def test_proposals_are_counted_and_converted(tmp_path: Path):
    content = {"boxes": [np.ones((3, 4), np.float32), np.zeros((0, 4))], "ids": [5, 7], "scores": []}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, 2))
    said = run("proposals", str(tmp_path / "a.pkl"), "--output", str(tmp_path / "b.npz"))
    assert "3 boxes without scores for 2 images" in said and "0 to 3, median 1.5" in said
    said = run("proposals", str(tmp_path / "b.npz"), "--output", str(tmp_path / "c.pkl"))
    got = read_proposals(tmp_path / "c.pkl")
    assert got.image_ids == [5, 7] and got.boxes[0].tolist() == [[1, 1, 1, 1]] * 3
    with pytest.raises(DataError, match=r"written as \.pkl or \.npz"):
        run("proposals", str(tmp_path / "a.pkl"), "--output", str(tmp_path / "b.txt"))


def test_a_pickle_with_a_program_ends_with_2_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from detectune.cli.main import main

    target = tmp_path / "made"
    (tmp_path / "bad.pkl").write_bytes(b"cos\nmkdir\n(V" + str(target).encode() + b"\ntR.")
    with pytest.raises(SystemExit) as ended:
        main(["data", "proposals", str(tmp_path / "bad.pkl")])
    assert ended.value.code == 2 and not target.exists()
    assert "names os.mkdir" in capsys.readouterr().err
