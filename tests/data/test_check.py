"""`detectune data check` and `show`: counts, problems, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from detectune.cli.data import app
from detectune.data.check import check_dataset
from detectune.data.datasets import locate_dataset
from detectune.errors import DataError


def test_statistics(tiny_coco):
    report = check_dataset(tiny_coco.save(), tiny_coco.images)
    assert (report.num_images, report.num_empty_images) == (3, 1)
    assert (report.num_objects, report.num_crowd) == (3, 1)
    assert (report.num_polygons, report.num_rle, report.num_without_outline) == (3, 1, 0)
    assert (report.num_small, report.num_medium, report.num_large) == (2, 1, 0)
    assert [(c.name, c.category_id, c.objects, c.images) for c in report.classes] == [
        ("cat", 3, 2, 2),
        ("dog", 7, 1, 1),
    ]
    assert (report.box_aspect.least, report.box_aspect.most) == (pytest.approx(0.4), pytest.approx(1.25))
    assert (report.image_width.least, report.image_width.median, report.image_width.most) == (40, 48, 60)
    assert not report.fatal and "No problems found." in report.to_text()


def test_coco_mini_counts_are_the_published_ones(shared):
    folder = shared / "data/coco_mini"
    path = folder / "annotations/instances_val2017.json"
    report = check_dataset(path, folder / "val2017", read_images=False)
    assert (report.num_images, report.num_objects + report.num_crowd, report.num_crowd) == (79, 624, 5)
    assert (report.num_small, report.num_medium, report.num_large) == (284, 162, 173)
    assert sum(row.objects > 0 for row in report.classes) == 78
    assert locate_dataset(str(path)).images.samefile(folder / "val2017")


def test_every_image_is_opened(tiny_coco):
    Image.new("RGB", (9, 8)).save(tiny_coco.images / "1.png")
    (tiny_coco.images / "2.png").write_bytes(b"no image")
    (tiny_coco.images / "3.png").unlink()
    report = check_dataset(tiny_coco.save(), tiny_coco.images)
    assert report.problems.counts == {"missing_image": 1, "image_size": 1, "unreadable_image": 1}
    assert "1.png: 9 x 8, annotated 60 x 40" in report.to_text()
    quick = check_dataset(tiny_coco.save(), tiny_coco.images, read_images=False)
    assert quick.problems.counts == {"missing_image": 1}


def test_a_clean_data_set_is_told_on_stdout(tiny_coco):
    result = CliRunner().invoke(app, ["check", str(tiny_coco.save())])
    assert result.exit_code == 0 and "cat" in result.stdout and "No problems found." in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 60


def test_the_report_as_json(tiny_coco):
    tiny_coco.add(id=55, bbox=[1, 1, 0, 4])
    result = CliRunner().invoke(app, ["check", str(tiny_coco.save()), "--json"])
    report = json.loads(result.stdout)
    assert report["num_images"] == 3 and report["classes"][0]["name"] == "cat"
    assert [(p["kind"], p["count"], p["fatal"]) for p in report["problems"]] == [("degenerate_box", 1, False)]


def test_what_stops_training_is_a_user_error(tiny_coco):
    tiny_coco.add(id=55, category_id=12)
    result = CliRunner().invoke(app, ["check", str(tiny_coco.save())])
    assert isinstance(result.exception, DataError)
    assert "unknown_category (1)" in str(result.exception)
    assert "These stop training:" in result.stdout and "annotation 55" in result.stdout


def test_images_are_looked_for_around_the_file(tiny_coco, tmp_path: Path):
    assert locate_dataset(str(tiny_coco.save())).images.samefile(tiny_coco.images)
    elsewhere = tmp_path / "deep" / "down"
    elsewhere.mkdir(parents=True)
    (elsewhere / "a.json").write_text(json.dumps(tiny_coco.content))
    with pytest.raises(DataError, match="--images"):
        locate_dataset(str(elsewhere / "a.json"))
    assert locate_dataset(str(elsewhere / "a.json"), str(tiny_coco.images)).images == tiny_coco.images


def test_a_misspelt_name_or_file_is_answered_with_the_nearest(tiny_coco):
    with pytest.raises(DataError, match="did you mean shapes_train"):
        locate_dataset("shapes_tran")
    tiny_coco.save()
    with pytest.raises(DataError, match=r"Did you mean .*annotations.json"):
        locate_dataset(str(tiny_coco.folder / "annotation.json"))
    with pytest.raises(DataError) as caught:
        locate_dataset(str(tiny_coco.folder / "x.json"))
    assert "Did you mean" not in str(caught.value)


def test_show_draws(tiny_coco, tmp_path: Path):
    pytest.importorskip("detectune.engine.visualize")
    output = tmp_path / "out"
    result = CliRunner().invoke(app, ["show", str(tiny_coco.save()), "--output", str(output), "--num", "2"])
    assert result.exit_code == 0, result.exception
    assert sorted(p.name for p in output.iterdir()) == ["1.png", "3.png"]
    drawn = Image.open(output / "1.png")
    assert drawn.size == (60, 40) and drawn.tobytes() != Image.open(tiny_coco.images / "1.png").tobytes()
