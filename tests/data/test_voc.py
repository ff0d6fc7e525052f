"""Pascal VOC's folders and XML files as records, the kit's and people's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detectune.config.load import load_config
from detectune.data.check import check_dataset
from detectune.data.datasets import locate_dataset
from detectune.data.formats import read_places
from detectune.data.loader import build_loader
from detectune.data.records import DataSettings, load_datasets
from detectune.data.shapes import DatasetPaths
from detectune.data.voc import CLASSES, read_voc_images
from detectune.errors import DataError

SETTINGS = DataSettings(masks=False, keypoints=False, skip_broken=False)
OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>"
    "<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>"
    "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
)


def xml(name: str, objects, width: int = 60, height: int = 40) -> str:
    inside = "".join(OBJECT.format(name=n, difficult=d, box=b) for n, b, d in objects)
    return (
        f"<annotation><filename>{name}.jpg</filename><size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>{inside}</annotation>"
    )


def make_kit(root: Path, images: dict[str, list], splits: dict[str, list[str]]) -> Path:
    """Annotations, JPEGImages and ImageSets/Main below `root`."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, objects in images.items():
        (root / "Annotations" / f"{name}.xml").write_text(xml(name, objects))
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
    for split, names in splits.items():
        (root / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


IMAGES = {
    "000005": [("dog", (1, 1, 20, 30), 0), ("cat", (11, 6, 60, 40), 1)],
    "000012": [("person", (30.5, 2, 45, 38), 0)],
    "000017": [],
}


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    return make_kit(
        tmp_path / "VOCdevkit/VOC2007",
        IMAGES,
        {"trainval": ["000012", "000005", "000017"], "test": ["000017", "000005"]},
    )


def place(kit: Path, split: str = "trainval") -> DatasetPaths:
    return DatasetPaths(kit / "JPEGImages", kit / f"ImageSets/Main/{split}.txt", "voc")


def test_records(kit: Path):
    (records,), info, problems = read_places([place(kit)])
    assert info.names == CLASSES and info.category_ids == tuple(range(1, 21))
    assert [record.image_id for record in records] == [12, 5, 17]
    assert [len(record) for record in records] == [1, 1, 0]
    np.testing.assert_allclose(records[1].boxes, [[0, 0, 20, 30]])  # pixels 1..20 are 20 wide
    np.testing.assert_allclose(records[0].boxes, [[29.5, 1, 45, 38]])
    assert records[1].labels.tolist() == [CLASSES.index("dog") + 1] and records[1].areas.tolist() == [600]
    assert problems.counts == {"ignored": 1, "no_segmentation": 2} and not problems.fatal()
    assert all(Path(record.file_name).is_file() for record in records)


def test_difficult_objects_are_kept_for_the_evaluation(kit: Path):
    images = read_voc_images(kit / "ImageSets/Main/test.txt", kit / "JPEGImages")
    assert [image.name for image in images] == ["000017", "000005"]
    assert images[1].classes == ("dog", "cat") and images[1].difficult.tolist() == [False, True]
    np.testing.assert_allclose(images[1].boxes, [[0, 0, 20, 30], [10, 5, 60, 40]])


def test_detectrons_names_find_the_kit(kit: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DETECTUNE_DATA", str(kit.parents[1]))
    records, info, lines = load_datasets(["voc_2007_trainval"], {}, SETTINGS)
    assert len(records) == 3 and len(info) == 20 and any("ignore" in line for line in lines)
    assert locate_dataset("voc_2007_test") == place(kit, "test")


def test_a_configuration_trains_on_it(kit: Path):
    entry = {"images": str(kit / "JPEGImages"), "annotations": str(kit / "ImageSets/Main/trainval.txt")}
    config = load_config(
        None,
        {
            "DATASETS": {"pets": {**entry, "format": "voc"}},
            "TRAIN.DATASETS": ["pets"],
            "TRAIN.SCALES": [40],
            "DATA_LOADER.NUM_THREADS": 0,
            "MODEL.DEVICE": "cpu",
        },
    )
    assert config.DATASETS["pets"]["format"] == "voc"
    assert load_config(None, {"DATASETS": config.DATASETS}).DATASETS == config.DATASETS
    batch = next(iter(build_loader(config, training=True)))
    assert batch.targets is not None and batch.images.tensor.shape[1] == 3


def test_joined_years_share_their_classes(tmp_path: Path):
    first = make_kit(tmp_path / "VOC2007", IMAGES, {"trainval": list(IMAGES)})
    second = make_kit(tmp_path / "VOC2012", {"2008_000001": IMAGES["000005"]}, {"trainval": ["2008_000001"]})
    records, info, _ = read_places([place(first), place(second)])
    assert info.names == CLASSES and [len(own) for own in records] == [3, 1]
    assert records[1][0].image_id == 2008000001


def test_own_classes_come_from_every_file(tmp_path: Path):
    """So that training and test lists have the same ones, whichever occur in them."""
    images = {"scan_a": [("screw", (1, 1, 5, 5), 0)], "scan_b": [("nut", (2, 2, 9, 9), 0)]}
    root = make_kit(tmp_path / "own", images, {"train": ["scan_a"], "val": ["scan_b"]})
    (train,), info, _ = read_places([place(root, "train")])
    (val,), other, _ = read_places([place(root, "val")])
    assert info.names == other.names == ("nut", "screw")
    assert train[0].labels.tolist() == [2] and val[0].labels.tolist() == [1] and val[0].image_id == 1


def test_a_folder_of_xml_files(kit: Path):
    found = locate_dataset(str(kit / "Annotations"))
    assert found == DatasetPaths((kit / "JPEGImages").resolve(), kit / "Annotations", "voc")
    report = check_dataset(found.annotations, found.images, format=found.format)
    assert report.num_images == 3 and report.num_objects == 2 and not report.fatal


def test_class_lists_with_marks_after_the_names(kit: Path):
    (kit / "ImageSets/Main/dog_train.txt").write_text("000005  1\n000012 -1\n")
    images = read_voc_images(kit / "ImageSets/Main/dog_train.txt", kit / "JPEGImages")
    assert [image.image_id for image in images] == [5, 12]


WRONG = {
    "no XML": ("<annotation>", "not valid XML"),
    "no size": ("<annotation></annotation>", "<size>"),
    "no box": (xml("x", []).replace("</size>", "</size><object><name>a</name></object>"), "no <bndbox>"),
    "no name": (xml("x", [("", (1, 1, 2, 2), 0)]), "no <name>"),
    "no number": (xml("x", [("dog", ("a", 1, 2, 2), 0)]), "<xmin> is 'a'"),
    "infinite": (xml("x", [("dog", ("inf", 1, 2, 2), 0)]), "<xmin> is 'inf'"),
    "an empty number": (xml("x", [("dog", ("", 1, 2, 2), 0)]), "no <xmin>"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_mistakes_in_a_file(kind: str, kit: Path):
    content, said = WRONG[kind]
    path = kit / "Annotations/000012.xml"
    path.write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        read_voc_images(kit / "ImageSets/Main/trainval.txt", kit / "JPEGImages")
    assert str(path) in str(caught.value)


def test_entities_do_not_multiply(kit: Path):
    bomb = '<!DOCTYPE a [<!ENTITY b "' + "x" * 100 + '">' + "".join(
        f'<!ENTITY c{i} "{("&b;" if i == 0 else f"&c{i - 1};") * 20}">' for i in range(8)
    ) + "]><annotation><filename>&c7;</filename></annotation>"  # fmt: skip
    (kit / "Annotations/000012.xml").write_text(bomb)
    with pytest.raises(DataError, match=r"not valid XML|<size>"):
        read_voc_images(kit / "ImageSets/Main/trainval.txt", kit / "JPEGImages")


def test_missing_files(kit: Path, tmp_path: Path):
    (kit / "Annotations/000012.xml").unlink()
    with pytest.raises(DataError, match=r"000012\.xml"):
        read_places([place(kit)])
    with pytest.raises(DataError, match="list of image names"):
        read_places([place(kit, "val")])
    (kit / "ImageSets/Main/empty.txt").write_text("\n")
    with pytest.raises(DataError, match="no names in it"):
        read_places([place(kit, "empty")])
    lost = tmp_path / "a/b/c/lost.txt"
    lost.parent.mkdir(parents=True)
    lost.write_text("x\n")
    with pytest.raises(DataError, match="XML files are looked for"):
        read_places([DatasetPaths(tmp_path / "a/b/c", lost, "voc")])
    with pytest.raises(DataError, match="folder without XML files"):
        locate_dataset(str(lost.parent))
