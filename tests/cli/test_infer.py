"""`detectune infer`: which images, under which names, and what a broken one costs."""

from __future__ import annotations

from pathlib import Path

import pytest
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
