"""Labelled images: the split of MNIST, the stand-in, one's own data, and the batches that are made of them."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detectune.config.load import load_config
from detectune.data import labelled
from detectune.data.idx import read_idx_pair
from detectune.data.labelled import LabelledImages, load_labelled, read_known, read_labelled, with_shape
from detectune.data.labelled_loader import LabelledLoader, build_labelled_loader, join
from detectune.downloads import DownloadError
from detectune.errors import DataError
from detectune.ops.warps import Warp


def test_the_split_is_nielsens(shared: Path) -> None:
    root = shared / "data/mnist"
    pixels, classes = read_idx_pair(*(root / f"train-{name}.gz" for name in labelled.PAIR))
    parts = {split: read_labelled(f"mnist_{split}", root) for split in ("train", "val", "test", "trainval")}
    assert {split: len(labels) for split, (_, labels) in parts.items()} == {
        "train": 50_000, "val": 10_000, "test": 10_000, "trainval": 60_000,
    }  # fmt: skip
    joined = torch.cat([parts["train"][0], parts["val"][0]])
    assert joined.shape == (60_000, 1, 28, 28) and np.array_equal(joined[:, 0].numpy(), pixels)
    assert torch.equal(joined, parts["trainval"][0])
    assert np.array_equal(torch.cat([parts["train"][1], parts["val"][1]]).numpy(), classes)


def test_the_digits_need_no_files_and_say_what_they_are() -> None:
    parts = [read_known(f"digits_{split}") for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [1197, 300, 300]
    assert all("not MNIST" in part.source and part.images.shape[1:] == (1, 8, 8) for part in parts)
    everything = torch.cat([part.images for part in parts]).flatten(1)
    assert len(everything.unique(dim=0)) == 1797, "no image is in two parts"
    assert int(everything.max()) == 255 and len(set(parts[1].labels.tolist())) == 10


def test_names_that_are_not_known_are_answered_with_the_nearest() -> None:
    with pytest.raises(
        DataError, match=r"'mnist_tran' of labelled images is not known; did you mean mnist_train\?"
    ):
        load_labelled("mnist_tran", {})
    with pytest.raises(DataError, match="has format coco, which has no label for a whole image"):
        load_labelled("mine", {"mine": {"images": "a", "annotations": "b.json"}})


def test_a_name_may_ask_for_the_beginning_of_a_set() -> None:
    few, whole = load_labelled("digits_val[:20]", {}), load_labelled("digits_val", {})
    assert len(few) == 20 and torch.equal(few.images, whole.images[:20]) and few.name == "digits_val[:20]"
    for count in (0, 301):
        with pytest.raises(DataError, match=rf"asks for {count} of digits_val's 300 images"):
            load_labelled(f"digits_val[:{count}]", {})


def test_missing_files_are_fetched_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a server's stand-in; a file with another digest is refused, and nothing of it is kept."""
    content = {
        "train-images-idx3-ubyte.gz": b"\0\0\x08\x03" + bytes(12),
        "train-labels-idx1-ubyte.gz": b"wrong",
    }
    asked = []

    def fetch(address: str, place: Path, *, check: Any) -> None:
        asked.append(address)
        part = tmp_path / "part"
        part.write_bytes(content[place.name])
        try:
            check(part)
        except ValueError as error:
            raise DownloadError(str(error)) from error
        place.parent.mkdir(exist_ok=True)
        part.rename(place)

    for variable in ("MNIST_DIR", "DETECTUNE_DATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DETECTUNE_SHARED", str(tmp_path / "nowhere"))
    monkeypatch.setattr(labelled, "fetch", fetch)
    digest = hashlib.md5(content["train-images-idx3-ubyte.gz"]).hexdigest()
    monkeypatch.setitem(labelled.DIGESTS["mnist"], "train-images-idx3-ubyte.gz", digest)
    with pytest.raises(
        DataError, match=r"not found: train-images.*MD5 digest .* in place of .*Set MNIST_DIR"
    ) as error:
        load_labelled("mnist_train", {}, download_cache=str(tmp_path))
    assert "digits_train" in str(error.value) and len(asked) == 2
    assert [file.name for file in (tmp_path / "mnist").iterdir()] == ["train-images-idx3-ubyte.gz"]


def test_folders_of_images_are_classes(tmp_path: Path) -> None:
    for name, level, size in (("cat", 10, (6, 4)), ("dog", 200, (12, 8))):
        (tmp_path / name / "more").mkdir(parents=True)
        Image.new("L", size, level).save(tmp_path / name / "a.png")
        Image.new("RGB", size, (level, level, level)).save(tmp_path / name / "more" / "b.bmp")
    entry = {"images": str(tmp_path), "annotations": str(tmp_path), "format": "folders"}
    data = load_labelled("pets", {"pets": entry})
    assert data.class_info.names == ("cat", "dog") and data.labels.tolist() == [0, 0, 1, 1]
    assert data.images.shape == (4, 1, 4, 6) and data.images[:, 0, 0, 0].tolist() == [10, 10, 200, 200]
    Image.new("RGB", (6, 4), (10, 0, 99)).save(tmp_path / "cat" / "c.png")
    coloured = load_labelled("pets", {"pets": entry})
    assert coloured.images.shape == (5, 3, 4, 6) and coloured.images[1, :, 0, 0].tolist() == [10, 0, 99]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: None, "is no folder"),
        (lambda root: (root / "cat").mkdir(parents=True), "has 1 folders; a classifier needs"),
        (lambda root: [(root / n).mkdir(parents=True) for n in ("cat", "dog")], "cat has no image"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path: Path, make: Any, said: str) -> None:
    make(tmp_path / "pets")
    with pytest.raises(DataError, match=said):
        load_labelled(
            "pets", {"pets": {"images": str(tmp_path / "pets"), "annotations": "", "format": "folders"}}
        )


def test_sets_that_do_not_fit_are_not_joined() -> None:
    digits = read_known("digits_val")
    assert len(join([digits, digits])) == 600
    small = LabelledImages("small", digits.images[:, :, :4], digits.labels, digits.class_info, "")
    with pytest.raises(DataError, match=r"images of \[1, 8, 8\] and small of \[1, 4, 8\]"):
        join([digits, small])


def test_images_take_the_shape_that_is_asked_for() -> None:
    digits = read_known("digits_val")
    assert with_shape(digits, (1, 8, 8)) is digits
    large = with_shape(digits, (3, 16, 16))
    assert large.images.shape == (300, 3, 16, 16) and large.images.dtype == torch.uint8
    assert torch.equal(large.images[:, 0], large.images[:, 2])
    again = with_shape(large, (1, 8, 8)).images.float()
    original = digits.images.float()
    moved = (again - original.roll(1, 0)).abs().mean()  # how far other digits are from them
    assert float((again - original).abs().mean()) < 0.6 * float(moved)
    coloured = LabelledImages("c", large.images * torch.tensor([1, 0, 0])[:, None, None].byte(), digits.labels,
                              digits.class_info, "")  # fmt: skip
    grey = with_shape(coloured, (1, 16, 16)).images
    assert torch.equal(grey[:, 0], (large.images[:, 0].float() * 0.299).round().byte())
    with pytest.raises(DataError, match=r"images of 3 channels, but CLASSIFIER\.INPUT_SHAPE asks for 2"):
        with_shape(coloured, (2, 16, 16))


# ---- batches


def made(**changes: Any) -> LabelledLoader:
    defaults: dict[str, Any] = {
        "batch_size": 50,
        "training": True,
        "seed": 3,
        "warp": Warp(shift=1, elastic=0.5),
    }
    return LabelledLoader(read_known("digits_train"), **(defaults | changes))


def first(loader: LabelledLoader, count: int) -> list[Any]:
    return list(itertools.islice(loader, count))


def test_an_epoch_shows_every_image_once_and_the_next_another_order() -> None:
    batches = first(made(), 46)
    assert all(len(batch) == 50 for batch in batches)
    epochs = [torch.cat([b.indices for b in part]) for part in (batches[:23], batches[23:])]
    assert all(len(epoch.unique()) == 1150 for epoch in epochs) and not torch.equal(*epochs)
    data = read_known("digits_train")
    plain = first(made(warp=Warp()), 1)[0]
    assert torch.equal(plain.images, data.images[plain.indices]) and plain.images.dtype == torch.uint8
    assert torch.equal(plain.labels, data.labels[plain.indices])


@pytest.mark.parametrize("size", [7, 50, 2000])
def test_a_batch_is_a_function_of_seed_and_position(size: int) -> None:
    batches = first(made(batch_size=size), 30)
    for position in (1, 13, 29):
        again = first(made(batch_size=size, position=position), 1)[0]
        assert torch.equal(again.images, batches[position].images)
        assert torch.equal(again.indices, batches[position].indices)
    assert not torch.equal(first(made(batch_size=size, seed=4), 1)[0].indices, batches[0].indices)


def test_processes_share_a_batch() -> None:
    whole = first(made(), 3)
    for part, batch in itertools.product(range(2), range(3)):
        own = first(made(part=part, parts=2), 3)[batch]
        assert torch.equal(own.images, whole[batch].images[25 * part : 25 * part + 25])


def test_a_small_data_set_fills_the_batch_by_repetition() -> None:
    data = read_known("digits_test")
    few = LabelledImages("few", data.images[:3], data.labels[:3], data.class_info, "")
    batch = first(LabelledLoader(few, 8, True), 1)[0]
    assert len(batch) == 8 and sorted(set(batch.indices.tolist())) == [0, 1, 2]


def test_tests_see_every_image_once_in_order() -> None:
    batches = list(made(training=False, batch_size=500))
    assert torch.equal(torch.cat([b.indices for b in batches]), torch.arange(1197))
    halves = [list(made(training=False, batch_size=500, part=part, parts=2)) for part in range(2)]
    assert torch.equal(torch.cat([b.indices for half in halves for b in half]), torch.arange(1197))


def test_the_builder_reads_the_configuration() -> None:
    config = load_config(
        None,
        {
            "MODEL.TYPE": "classifier", "CLASSIFIER.LAYERS": ["softmax 10"], "TRAIN.DATASETS": ["digits_train"],
            "TRAIN.IMS_PER_BATCH": 4, "TEST.IMS_PER_BATCH": 100, "CLASSIFIER.SHIFT": 2, "RNG_SEED": 9,
        },
    )  # fmt: skip
    loader = build_labelled_loader(config, training=True, parts=2)
    assert (loader.batch_size, loader.seed, loader.warp.shift, loader.num_images) == (8, 9, 2, 1197)
    resized = build_labelled_loader(
        config.with_overrides({"CLASSIFIER.INPUT_SHAPE": (1, 6, 5)}), training=True
    )
    assert first(resized, 1)[0].images.shape == (4, 1, 6, 5)
    alone = build_labelled_loader(
        config.with_overrides({"DATA_LOADER.NUM_THREADS": 0}), training=True, parts=2
    )
    assert torch.equal(first(alone, 1)[0].images, first(loader, 1)[0].images), "workers change nothing"
    with pytest.raises(DataError, match=r"TEST\.DATASETS is empty; name a data set, such as mnist_val"):
        build_labelled_loader(config, training=False)
