"""`detectune infer`: which images, under which names, and what a broken one costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from detectune.cli.infer import drawn_name, find_images
from detectune.errors import UserError


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path)
    return path


def test_folders_are_searched_and_names_are_relative(tmp_path: Path) -> None:
    first, second = picture(tmp_path / "in/a.jpg"), picture(tmp_path / "in/deep/b.png")
    (tmp_path / "in/notes.txt").write_text("no image")
    single = picture(tmp_path / "c.jpg")
    found = find_images([tmp_path / "in", single], beside=tmp_path / "out")
    assert found == [(first, "a.jpg"), (second, "deep/b.png"), (single, "c.jpg")]


def test_equal_names_stay_apart_and_the_same_file_counts_once(tmp_path: Path) -> None:
    files = [picture(tmp_path / folder / "a.jpg") for folder in ("one", "two", "three/two")]
    found = find_images([*files, files[0]], beside=tmp_path / "out")
    assert [file for file, _ in found] == files
    assert len({name for _, name in found}) == 3 and all(name.endswith("a.jpg") for _, name in found)


def test_what_an_earlier_call_drew_is_not_taken_for_input(tmp_path: Path) -> None:
    kept = picture(tmp_path / "a.jpg")
    picture(tmp_path / "drawn/a.jpg")
    assert find_images([tmp_path], beside=tmp_path / "drawn") == [(kept, "a.jpg")]


@pytest.mark.parametrize("name", ["absent.jpg", "empty"])
def test_nothing_to_look_at_is_a_mistake(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name):
        find_images([tmp_path / name], beside=tmp_path / "out")


def test_drawn_images_are_jpeg_and_do_not_overwrite_each_other() -> None:
    assert [drawn_name(n) for n in ("a.jpg", "b/a.JPEG", "a.png")] == ["a.jpg", "b/a.JPEG", "a.png.jpg"]


def fast_rcnn(tiny: Path) -> Path:
    """Weights of a Fast R-CNN like tiny.yaml's detector, which is given its proposals."""
    from detectune.config.load import load_config
    from detectune.models.build import build_detector
    from detectune.weights.native import save_weights

    text = tiny.read_text().replace("FASTER_RCNN: true, MASK_ON: true", "FASTER_RCNN: false")
    (tiny.parent / "fast.yaml").write_text(text.replace("SCALE: 64", "SCORE_THRESH: 0.0, SCALE: 64"))
    torch.manual_seed(0)
    model = build_detector(load_config(tiny.parent / "fast.yaml"), num_classes=6)
    save_weights(tiny.parent / "fast.safetensors", model.state_dict(), {"geometry": "detectron2"})
    return tiny.parent / "fast.safetensors"


def test_given_proposals_are_what_a_fast_rcnn_looks_at(tiny: Path, call: Callable[..., int], capsys) -> None:
    weights = fast_rcnn(tiny)
    photo = sorted((tiny.parent / "data/images").iterdir())[0]
    regions = tiny.parent / "regions.json"
    regions.write_text(json.dumps({photo.name: {"boxes": [[4, 6, 40, 50], [20, 10, 60, 60]]}}))
    words = ("infer", tiny.parent / "fast.yaml", "--weights", weights, "--output", "drawn")
    assert call(*words, "--proposals", regions, photo) == 0
    rows = json.loads(Path("drawn/detections.json").read_text())
    assert 0 < len(rows) <= 2 * 5, "two regions, each once for a class"
    assert call(*words, photo) == 2 and "--proposals FILE" in capsys.readouterr().err
    other = sorted((tiny.parent / "data/images").iterdir())[1]
    assert call(*words, "--proposals", regions, other) == 2
    said = capsys.readouterr().err
    assert f"regions.json: there are no proposals for {other.name}" in said and "Traceback" not in said


def test_proposals_for_a_detector_that_makes_its_own_are_a_mistake(
    tiny: Path, call: Callable[..., int], capsys
) -> None:
    weights = fast_rcnn(tiny)
    assert (
        call("infer", tiny, "--weights", weights, "--output", "o", "--proposals", "r.json", "data/images")
        == 2
    )
    assert "--proposals is for detectors that do not propose" in capsys.readouterr().err
