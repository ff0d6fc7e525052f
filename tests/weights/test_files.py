"""Weights files of every kind arrive under our names; others are refused by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from detectune.errors import WeightsError
from detectune.pickles import dump_pickle
from detectune.weights.files import read_weights
from detectune.weights.native import save_weights

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("nested", [True, False], ids=["checkpoint", "pretrained body"])
def test_detectrons_blobs(tmp_path: Path, nested: bool) -> None:
    blobs = {"fc6_w": WEIGHT, "fc6_w_momentum": WEIGHT, "fc6_b": WEIGHT[:, 0]}
    path = tmp_path / "model.pkl"
    path.write_bytes(dump_pickle({"blobs": blobs, "cfg": "NUM_GPUS: 1\n"} if nested else blobs))
    state, metadata = read_weights(path)
    assert set(state) == {"box_head.fc1.weight", "box_head.fc1.bias"} and metadata["geometry"] == "detectron"
    assert state["box_head.fc1.weight"].tolist() == WEIGHT.tolist()
    state["box_head.fc1.bias"][0] = 7.0  # memory of its own, which may be written


def test_detectron2s_pickle(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(
        dump_pickle(
            {"model": {"roi_heads.box_head.fc1.weight": WEIGHT}, "__author__": "Detectron2 Model Zoo"}
        )
    )
    state, _ = read_weights(path)
    assert state["box_head.fc1.weight"].tolist() == WEIGHT.tolist()


def test_our_own_file_keeps_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, {"w": torch.ones(2)}, {"geometry": "detectron"})
    state, metadata = read_weights(path)
    assert state["w"].tolist() == [1, 1] and metadata["geometry"] == "detectron"


def test_other_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    with pytest.raises(WeightsError, match="no such weights file"):
        read_weights(path)
    path.write_bytes(dump_pickle({"all_boxes": []}))
    with pytest.raises(WeightsError, match="no weights in this pickle"):
        read_weights(path)
    path.write_bytes(pickle.dumps({"blobs": Path("x")}))  # a class
    with pytest.raises(WeightsError, match=r"model\.pkl"):
        read_weights(path)
