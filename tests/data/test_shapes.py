"""The generated data set: same for a seed, right to the pixel, whole or absent on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from detectune.data.cache import cached_folder
from detectune.data.coco import read_coco
from detectune.data.datasets import BUILT_IN, resolve_dataset
from detectune.data.shapes import OUTLINES, Style, draw_picture, make_shapes
from detectune.errors import DataError, OutputError


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("shapes"), split="train", num_images=60)


def test_it_reads_without_a_problem(shapes):
    records, info, problems = read_coco([shapes.annotations], [shapes.images])
    assert not problems and len(records) == 60
    assert info.names == tuple(OUTLINES) and info.keypoint_flip == (0, 2, 1)
    counts = np.bincount(np.concatenate([r.labels for r in records]), minlength=6)
    assert counts[1:].min() >= 15
    outlines = [s for r in records for s in r.segmentations]
    assert any(isinstance(s, dict) for s in outlines) and any(isinstance(s, list) for s in outlines)
    assert {(r.height, r.width) for r in records} == {(128, 160), (160, 128)}


def test_outlines_boxes_and_areas_agree_and_nothing_overlaps(shapes):
    content = json.loads(shapes.annotations.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    union: dict[int, np.ndarray] = {}
    for annotation in content["annotations"]:
        height, width = sizes[annotation["image_id"]]
        outline = annotation["segmentation"]
        rle = mask.merge(mask.frPyObjects(outline, height, width)) if isinstance(outline, list) else outline
        pixels = mask.decode(rle).astype(bool)
        x, y, w, h = annotation["bbox"]
        rows, columns = np.nonzero(pixels)
        inside = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose([x, y, x + w, y + h], inside, atol=1.5)
        assert pixels.sum() == annotation["area"]
        seen = union.setdefault(annotation["image_id"], np.zeros((height, width), bool))
        assert not (seen & pixels).any()
        seen |= pixels


def test_the_picture_shows_what_is_annotated():
    style = Style(noise=0.0, empty_fraction=0.0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        picture, objects = draw_picture(rng, style)
        for item in objects:
            inner = item.visible.copy()
            for axis in (0, 1):  # away from smooth borders
                inner &= np.roll(item.visible, 1, axis) & np.roll(item.visible, -1, axis)
            if inner.sum() > 20:
                assert picture[inner].astype(float).std(0).max() < 20
            assert item.polygon.min() >= 0 and (item.polygon.max(0) <= picture.shape[1::-1]).all()
            assert item.visible.sum() >= style.least_visible * item.mask.sum()


def test_a_colour_occurs_once_in_a_picture_and_never_tells_the_class_alone():
    classes: dict[int, set[str]] = {}
    for seed in range(150):
        _, objects = draw_picture(np.random.default_rng(seed), Style(image_size=(96, 96)))
        assert len({item.colour for item in objects}) == len(objects)
        for item in objects:
            classes.setdefault(item.colour, set()).add(item.name)
    assert len(classes) == 10 and all(len(names) >= 2 for names in classes.values())


def test_keypoints_lie_on_the_triangle_left_of_right(shapes):
    content = json.loads(shapes.annotations.read_text())
    rows = [a for a in content["annotations"] if "keypoints" in a]
    assert len(rows) >= 10 and {a["category_id"] for a in rows} == {3}
    for a in rows:
        top, left, right = np.array(a["keypoints"]).reshape(3, 3)
        assert left[0] < right[0] and top[1] < min(left[1], right[1])
    assert {v for a in rows for v in a["keypoints"][2::3]} <= {1, 2}


def test_a_seed_repeats_and_a_smaller_set_is_a_part(tmp_path, shapes):
    again = make_shapes(tmp_path, split="train", num_images=12)
    for path in sorted(again.images.iterdir()):
        assert path.read_bytes() == (shapes.images / path.name).read_bytes()
    small, large = (json.loads(s.annotations.read_text()) for s in (again, shapes))
    assert small["images"] == large["images"][:12]
    assert small["annotations"] == large["annotations"][: len(small["annotations"])]
    val = make_shapes(tmp_path, split="val", num_images=2)
    other = make_shapes(tmp_path, split="train", num_images=2, seed=8)
    pictures = [np.asarray(Image.open(sorted(s.images.iterdir())[0])) for s in (val, other, again)]
    assert len({p.tobytes() for p in pictures}) == 3


def test_a_second_call_takes_what_is_there(tmp_path):
    first = make_shapes(tmp_path, split="val", num_images=2)
    stamp = first.annotations.stat().st_mtime_ns
    assert make_shapes(tmp_path, split="val", num_images=2) == first
    assert first.annotations.stat().st_mtime_ns == stamp
    assert [p.name for p in tmp_path.iterdir()] == [first.annotations.parent.name]


MAKE = """
import sys
from pathlib import Path
from detectune.data.shapes import make_shapes
print("ready", flush=True)
sys.stdin.readline()
print(make_shapes(Path(sys.argv[1]), split="train", num_images=6).annotations)
"""


def test_two_processes_make_one_data_set(tmp_path):
    # A program in a string, not a pool: a pool's workers would have to import this file, which an installed package
    # does not bring along, and a pool whose workers cannot start waits forever.
    command = [sys.executable, "-c", MAKE, str(tmp_path)]
    makers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for maker in makers:
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:  # both are past their imports, so that they make at the same time
        maker.stdin.write("go\n")
        maker.stdin.flush()
    made = [maker.communicate(timeout=120)[0] for maker in makers]
    assert [maker.returncode for maker in makers] == [0, 0]
    assert len(set(made)) == 1 and Path(made[0].strip()).is_file()
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interrupted_making_leaves_nothing(tmp_path):
    def fill(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        cached_folder("made", fill, parent=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_moves_on_where_it_cannot_write(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setenv("DETECTUNE_CACHE", str(blocked))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "elsewhere"))
    made = cached_folder("x", lambda folder: (folder / "a").touch())
    assert made.is_relative_to(tmp_path / "elsewhere") and (made / "a").exists()
    with pytest.raises(OutputError, match="DETECTUNE_CACHE"):
        cached_folder("x", lambda folder: None, parent=blocked)


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write everywhere")
def test_a_full_read_only_cache_is_used(tmp_path):
    first = make_shapes(tmp_path, split="val", num_images=2)
    tmp_path.chmod(0o555)
    assert make_shapes(tmp_path, split="val", num_images=2) == first
    tmp_path.chmod(0o755)


def test_names(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTUNE_CACHE", str(tmp_path))
    monkeypatch.setitem(BUILT_IN, "shapes_val", BUILT_IN["shapes_val"])
    own = {"shapes_val": {"images": "/i", "annotations": "/a.json"}}
    assert resolve_dataset("shapes_val", own).annotations == Path("/a.json")
    with pytest.raises(DataError, match="did you mean shapes_train"):
        resolve_dataset("shapes_trian", {})
