"""Weights files are told by what is in them: container, program, network, and nothing of torch is needed for it."""

from __future__ import annotations

import argparse
import collections
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from weight_families import FAMILIES, state_of

from detectune.errors import WeightsError
from detectune.pickles import dump_pickle
from detectune.weights.detectron import to_detectron
from detectune.weights.files import read_weights
from detectune.weights.recognise import recognise
from detectune.weights.summary import summarise
from detectune.weights.torchvision import to_torchvision
from detectune.weights.writing import detectron2_state

State = dict[str, torch.Tensor]

NETWORKS = {
    "faster R-50 FPN": "R-50 of width 8 + feature pyramid + RPN + box head; 3 classes",
    "mask R-50 FPN": "R-50 of width 8 + feature pyramid + RPN + box head + mask head; 3 classes",
    "mask R-101 FPN": "R-101 of width 8 + feature pyramid + RPN + box head + mask head; 3 classes",
    "mask R-152 FPN": "R-152 of width 8 + feature pyramid + RPN + box head + mask head; 3 classes",
    "mask X-101-32x8d FPN": "X-101-32x2d + feature pyramid + RPN + box head + mask head; 3 classes",
    "mask X-101-64x4d FPN": "X-101-64x1d + feature pyramid + RPN + box head + mask head; 3 classes",
    "faster R-50 C4": "R-50 of width 8 + RPN + box head; 3 classes",
    "mask R-50 C4": "R-50 of width 8 + RPN + box head + mask head; 3 classes",
    "faster R-50 dilated C5": "R-50 of width 8 + RPN + box head; 3 classes",
    "mask R-50 FPN GN": "R-50 of width 8 + feature pyramid + RPN + box head + mask head, group norm; 3 classes",
    "keypoint R-50 FPN": "R-50 of width 8 + feature pyramid + RPN + box head + keypoint head; 1 classes, 5 keypoints",
    "retinanet R-50": "R-50 of width 8 + feature pyramid + RetinaNet head; 3 classes",
    "cascade R-50 FPN": "R-50 of width 8 + feature pyramid + RPN + cascade of 3 box heads; 3 classes",
    "rpn R-50 FPN": "R-50 of width 8 + feature pyramid + RPN",
    "R-FCN R-50": "R-50 of width 8 + RPN + R-FCN score maps; 3 classes",
    "faster VGG16": "VGG16 + RPN + box head; 3 classes",
    "faster VGG_CNN_M": "VGG_CNN_M_1024 + RPN + box head; 3 classes",
}
SYSTEMS: dict[str, tuple[Callable[[State], State], set[str]]] = {
    "detectune": (dict, set()),
    "detectron": (to_detectron, {"cascade R-50 FPN"}),
    "detectron2": (detectron2_state, {"R-FCN R-50", "faster VGG16", "faster VGG_CNN_M"}),
    "torchvision": (
        to_torchvision,
        NETWORKS.keys() - {"faster R-50 FPN", "mask R-101 FPN", "keypoint R-50 FPN", "retinanet R-50"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("family", NETWORKS)
def test_program_and_network(family: str, system: str, tmp_path: Path) -> None:
    translate, lacking = SYSTEMS[system]
    if family in lacking:
        pytest.skip(f"{system} has no such model")
    path = tmp_path / "w"
    torch.save(translate({k: v for k, v in state_of(family).items() if "num_batches" not in k}), path)
    file = recognise(path)
    assert file.system == system
    assert str(summarise(file).network) == NETWORKS[family]


def test_every_family_is_named() -> None:
    assert FAMILIES.keys() - NETWORKS.keys() == {"mask R-50 C4, own stage", "fast R-50 FPN, one box"}


def trainers(state: State) -> dict[str, Any]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3])
    return {
        "bare": state,
        "ordered": collections.OrderedDict(state),
        "detectron2": {"model": state, "optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict(),
                       "iteration": 89999},
        "torchvision's reference": {"model": state, "lr_scheduler": schedule.state_dict(), "epoch": 3,
                                    "args": argparse.Namespace(lr=0.02, device=torch.device("cuda"), data="coco")},
        "lightning": {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 1, "callbacks": {}},
        "data parallel": {"model_state": {f"module.{k}": v for k, v in state.items()}},
        "compiled": {f"_orig_mod.{k}": v for k, v in state.items()},
        "parameters": {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in state.items()},
    }  # fmt: skip


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("kind", trainers({}))
def test_as_trainers_save_them(kind: str, new: bool, tmp_path: Path) -> None:
    peer = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=4
    )
    state = {
        k: v
        for k, v in peer.state_dict().items()
        if k.startswith(("rpn", "roi_heads.box_pred", "backbone.fpn"))
    }
    path = tmp_path / "checkpoint"
    torch.save(trainers(state)[kind], path, _use_new_zipfile_serialization=new)
    file = recognise(path)
    assert file.system == "torchvision" and len(file.arrays) == len(state)
    assert file.container == ("torch file" if new else "old torch file")
    ours, metadata = read_weights(path)
    assert metadata["geometry"] == "torchvision"
    assert torch.equal(ours["rpn.objectness.weight"], state["rpn.head.cls_logits.weight"])


def test_every_type_and_view_of_a_tensor(tmp_path: Path) -> None:
    base = torch.arange(24.0)
    tensors = {
        "transposed_w": base.reshape(4, 6).t(), "slice_w": base[3:9:2], "scalar_w": torch.tensor(3.5),
        "half_w": base.half(), "bfloat_w": base.bfloat16(), "long_w": base.long(), "empty_w": torch.zeros(0, 4),
        "double_w": base.double(), "byte_w": base.byte(),
        "last_w": base.reshape(2, 3, 2, 2).to(memory_format=torch.channels_last),
    }  # fmt: skip
    for new in (True, False):
        torch.save(tensors, tmp_path / "t.pth", _use_new_zipfile_serialization=new)
        state, _ = read_weights(tmp_path / "t.pth")
        for name, value in tensors.items():
            assert state[name].dtype == value.dtype and torch.equal(state[name], value), name
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "t.safetensors")
    state, _ = read_weights(tmp_path / "t.safetensors")
    for name, value in tensors.items():
        assert state[name].dtype == value.dtype and torch.equal(state[name], value), name


@pytest.mark.parametrize("flavour", [2, 4, "python 2"])
def test_large_arrays_of_pickles_stay_in_the_file_until_wanted(flavour: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    blobs = {
        "fc6_w": rng.normal(size=(300, 200)).astype(np.float32),
        "fc6_b": rng.normal(size=200).astype(np.float32),
    }
    blobs["fc7_w"] = np.asfortranarray(rng.normal(size=(200, 300)))
    content = {"blobs": blobs, "cfg": "A: 1\n"}
    raw = dump_pickle(content, python2=True) if flavour == "python 2" else pickle.dumps(content, flavour)
    (tmp_path / "m.pkl").write_bytes(raw)
    file = recognise(tmp_path / "m.pkl")
    assert [(a.dtype, a.shape) for a in file.arrays.values()] == [
        (str(v.dtype), v.shape) for v in blobs.values()
    ]
    for name, value in blobs.items():
        np.testing.assert_array_equal(file.arrays[name].load(), value)
    assert file.metadata["cfg"] == "A: 1\n"


NO_WEIGHTS = {
    "a web page": (b"<!DOCTYPE html>", "a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    "text": (b"hello, world, this is text", "it begins with"),
    "a list": (pickle.dumps([1, 2]), "holds a list"),
    "other keys": (pickle.dumps({"all_boxes": []}), "holds all_boxes"),
    "half a safetensors file": (b"\xff\xff\x00\x00\x00\x00\x00\x00{", "it begins with"),
    "nothing": (b"", "is empty"),
    "an ordinary zip file": (b"PK\x03\x04" + bytes(60), "zip directory"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_is_no_weights_file(kind: str, tmp_path: Path) -> None:
    content, said = NO_WEIGHTS[kind]
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=said) as caught:
        recognise(tmp_path / "w.pth")
    assert str(tmp_path / "w.pth") in str(caught.value)


def test_show_needs_no_torch(tmp_path: Path) -> None:
    """For every container; the process itself says what it imported."""
    state = state_of("faster R-50 FPN")
    torch.save(state, tmp_path / "a.pth")
    torch.save(state, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "c.safetensors")
    blobs = {name: value.numpy() for name, value in to_detectron(state).items() if "." not in name}
    (tmp_path / "d.pkl").write_bytes(dump_pickle({"blobs": blobs, "cfg": "A: 1"}))
    program = (
        "import sys\nfrom detectune.cli.main import main\n"
        "try: main(['weights', 'show', sys.argv[1]])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    for name in ("a.pth", "b.pth", "c.safetensors", "d.pkl"):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / name)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "R-50 of width 8 + feature pyramid + RPN + box head; 3 classes" in done.stdout
