"""Lines whose conversion has its own tests elsewhere: that flags, files and messages meet."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detectune.pickles import load_pickle


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(name: str, shape: tuple[int, int], kind: int, rest: bytes) -> bytes:
    head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack("<2i", *shape))
    return element(14, head + element(1, name.encode()) + rest)


def test_boxes_of_selective_search_become_proposals(work: Path, tool) -> None:
    ids = sorted(entry["id"] for entry in json.loads((work / "data/annotations.json").read_text())["images"])
    cells = b"".join(
        matrix("", (1, 4), 6, element(9, struct.pack("<4d", 1, 2, 11, 12 + number)))
        for number in range(len(ids))
    )
    header = b"MATLAB 5.0".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49)
    (work / "boxes.mat").write_bytes(header + matrix("boxes", (1, len(ids)), 1, cells))
    assert (
        tool("convert_selective_search", "tiny", "boxes.mat", "out.pkl", "--cfg", "tiny.yaml", cwd=work) == 0
    )
    content = load_pickle(work / "out.pkl")
    assert list(content["ids"]) == ids
    assert [boxes.tolist() for boxes in content["boxes"]] == [[[1, 0, 11 + n, 10]] for n in range(len(ids))]


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer whose number and content need two bytes at most."""
    tag, size = number << 3 | 2, len(content)
    return b"".join(bytes([n]) if n < 128 else bytes([n & 127 | 128, n >> 7]) for n in (tag, size)) + content


def test_weights_of_caffe_become_blobs(tool, tmp_path: Path) -> None:
    weight = np.arange(12, dtype=np.float32).reshape(2, 3, 2, 1)
    blob = field(5, weight.tobytes()) + field(7, field(1, bytes(weight.shape)))
    layer = field(1, b"conv1") + field(2, b"Convolution") + field(7, blob)
    (tmp_path / "net.caffemodel").write_bytes(field(1, b"net") + field(100, layer))
    words = ["--prototxt", "net.prototxt", "--caffemodel", "net.caffemodel", "--output", "net.pkl"]
    assert tool("pickle_caffe_blobs", *words, cwd=tmp_path) == 0
    blobs = load_pickle(tmp_path / "net.pkl")
    np.testing.assert_array_equal(blobs["conv1_w"], weight)
    assert set(blobs) == {"conv1_w", "conv1_b"} and not blobs["conv1_b"].any()


def test_cityscapes_becomes_cocos_form(tool, tmp_path: Path) -> None:
    pytest.importorskip("detectune.data.cityscapes", reason="the conversion is not there")
    for split in ("train", "val"):
        name = "aachen/aachen_000000_000019"
        for kind in ("leftImg8bit", "gtFine"):
            (tmp_path / kind / split / "aachen").mkdir(parents=True)
        ids = np.zeros((8, 10), dtype=np.uint16)
        ids[2:4, 3:7] = 26001
        Image.fromarray(ids).save(tmp_path / "gtFine" / split / f"{name}_gtFine_instanceIds.png")
        Image.new("RGB", (10, 8)).save(tmp_path / "leftImg8bit" / split / f"{name}_leftImg8bit.png")
    words = ("--dataset", "cityscapes_instance_only", "--datadir", ".", "--outdir", "made")
    assert tool("convert_cityscapes_to_coco", *words, cwd=tmp_path) == 0
    files = sorted((tmp_path / "made").glob("*.json"))
    assert len(files) == 2
    (found,) = json.loads(files[0].read_text())["annotations"]
    assert found["bbox"] == [3, 2, 4, 2]


def test_other_data_sets_than_cityscapes_are_refused(tool, capsys, tmp_path: Path) -> None:
    words = ("--dataset", "cocostuff", "--datadir", ".", "--outdir", ".")
    assert tool("convert_cityscapes_to_coco", *words, cwd=tmp_path) == 2
    assert "cityscapes_instance_only" in capsys.readouterr().err
