"""Detectron's names of data sets: what they mean, where they are looked for, and what is said where they are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from detectune.config.load import load_config
from detectune.data.datasets import BUILT_IN, locate_dataset, resolve_dataset
from detectune.data.formats import FORMATS, read_places
from detectune.data.known_datasets import KNOWN, data_roots
from detectune.data.loader import build_loader
from detectune.data.shapes import DatasetPaths
from detectune.errors import DataError, UserError


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without data, and no variable."""
    monkeypatch.delenv("DETECTUNE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def install(tiny, root: Path, images: str, annotations: str) -> None:
    """The tiny data set under a catalogue's names."""
    shutil.copytree(tiny.images, root / images, dirs_exist_ok=True)
    (root / annotations).parent.mkdir(parents=True, exist_ok=True)
    (root / annotations).write_text(json.dumps(tiny.content))


def test_every_name_of_detectrons_configurations_is_known(shared: Path):
    values = json.loads((shared / "golden/detectron/yaml_values.json").read_text())
    named = {
        name
        for config in values.values()
        for key in ("TRAIN.DATASETS", "TEST.DATASETS")
        for name in config.get(key) or ()
    }
    assert len(named) > 5 and named <= set(KNOWN)


def test_names_are_no_built_in_ones_and_formats_exist():
    assert not set(KNOWN) & set(BUILT_IN)
    for name, layouts in KNOWN.items():
        for layout in layouts:
            assert layout.format in FORMATS, name
            assert not Path(layout.images).is_absolute() and not Path(layout.annotations).is_absolute()


def test_each_kind_in_detectrons_layout():
    def first(name: str) -> tuple[str, str]:
        return KNOWN[name][0].images, KNOWN[name][0].annotations

    assert first("coco_2014_train") == ("coco/coco_train2014", "coco/annotations/instances_train2014.json")
    assert first("coco_2014_minival") == (
        "coco/coco_val2014",
        "coco/annotations/instances_minival2014.json",
    )
    assert first("coco_2014_valminusminival")[0] == "coco/coco_val2014"
    assert first("keypoints_coco_2014_minival")[1] == "coco/annotations/person_keypoints_minival2014.json"
    assert first("keypoints_coco_2017_train") == (
        "coco/coco_train2017",
        "coco/annotations/person_keypoints_train2017.json",
    )
    assert first("coco_2015_test-dev") == (
        "coco/coco_test2015",
        "coco/annotations/image_info_test-dev2015.json",
    )
    assert first("coco_stuff_val") == ("coco/coco_val2014", "coco/annotations/coco_stuff_val.json")
    assert first("cityscapes_fine_instanceonly_seg_val") == (
        "cityscapes/images",
        "cityscapes/annotations/instancesonly_gtFine_val.json",
    )


@pytest.mark.parametrize("images", ["coco/coco_val2017", "coco/val2017", "coco/images/val2017"])
@pytest.mark.parametrize("root", ["variable", "detectron/datasets/data", "cache"])
def test_coco_is_found(tiny_coco, somewhere: Path, monkeypatch: pytest.MonkeyPatch, images: str, root: str):
    folder = somewhere / root
    install(tiny_coco, folder, images, "coco/annotations/instances_val2017.json")
    if root == "variable":
        monkeypatch.setenv("DETECTUNE_DATA", str(folder))
    config = load_config(
        None,
        {
            "TEST.DATASETS": ["coco_2017_val"],
            "DOWNLOAD_CACHE": str(somewhere / "cache"),
            "DATA_LOADER.NUM_THREADS": 0,
            "MODEL.DEVICE": "cpu",
        },
    )
    loader = build_loader(config, training=False)
    assert len(loader.records) == 3 and Path(loader.records[0].file_name).parent == folder / images


def test_the_variable_comes_first(tiny_coco, somewhere: Path, monkeypatch: pytest.MonkeyPatch):
    for root in ("first", "detectron/datasets/data"):
        install(
            tiny_coco,
            somewhere / root,
            "coco/coco_train2014",
            "coco/annotations/instances_train2014.json",
        )
    monkeypatch.setenv("DETECTUNE_DATA", str(somewhere / "first"))
    assert resolve_dataset("coco_2014_train", {}).images == somewhere / "first/coco/coco_train2014"
    own = {"images": "/i", "annotations": "/a.json"}
    assert resolve_dataset("coco_2014_train", {"coco_2014_train": own}).images == Path("/i")
    assert data_roots("/cache")[-1] == Path("/cache")


def test_what_is_missing_is_named(tiny_coco, somewhere: Path):
    with pytest.raises(DataError) as caught:
        resolve_dataset("coco_2014_minival", {}, download_cache="/cache")
    said = str(caught.value)
    for part in (
        "coco/coco_val2014",
        "coco/annotations/instances_minival2014.json",
        str(somewhere / "detectron/datasets/data"),
        "/cache",
        "DETECTUNE_DATA is not set",
        "DATASETS: {coco_2014_minival:",
    ):
        assert part in said
    (somewhere / "detectron/datasets/data/coco/coco_val2014").mkdir(parents=True)
    with pytest.raises(DataError, match=r"Only .*coco_val2014 is there"):
        resolve_dataset("coco_2014_minival", {})


def test_near_names(somewhere: Path):
    with pytest.raises(DataError, match="did you mean coco_2014_train"):
        resolve_dataset("coco_2014_trian", {})
    with pytest.raises(DataError, match="did you mean voc_2007_test"):
        locate_dataset("voc_2007_tset")


def test_test_images_have_no_annotations(tiny_coco, somewhere: Path, monkeypatch: pytest.MonkeyPatch):
    del tiny_coco.content["annotations"]
    install(tiny_coco, somewhere, "coco/test2017", "coco/annotations/image_info_test-dev2017.json")
    monkeypatch.setenv("DETECTUNE_DATA", str(somewhere))
    (records,), info, problems = read_places([resolve_dataset("coco_2017_test-dev", {})])
    assert len(records) == 3 and sum(map(len, records)) == 0 and not problems and len(info) == 2


def test_lvis_names_images_by_address(tiny_coco, somewhere: Path, monkeypatch: pytest.MonkeyPatch):
    for entry in tiny_coco.content["images"]:
        entry["coco_url"] = f"http://images.cocodataset.org/val2017/{entry.pop('file_name')}"
    install(tiny_coco, somewhere, "coco/val2017", "lvis/lvis_v1_val.json")
    monkeypatch.setenv("DETECTUNE_DATA", str(somewhere))
    place = resolve_dataset("lvis_v1_val", {})
    assert place.format == "lvis"
    for images in (place.images, somewhere / "coco/val2017"):
        (records,), _, problems = read_places([DatasetPaths(images, place.annotations, "lvis")])
        assert len(records) == 3 and "missing_image" not in problems.counts
    assert locate_dataset(str(place.annotations), str(place.images)) == place


def test_an_unknown_format_is_refused():
    said = r"DATASETS.a.format must be one of 'coco', 'voc', .*, not 'yolo'"
    with pytest.raises(UserError, match=said):
        load_config(None, {"DATASETS": {"a": {"images": "i", "annotations": "a", "format": "yolo"}}})
