"""A classifier in the trainer: it learns, is measured, goes on bit for bit, and its weights file tells what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from detectune import Predictor, load_config, train
from detectune.config.best_metric import check_classifier_metric
from detectune.config.tree import Config
from detectune.data import labelled
from detectune.data.labelled import read_known, with_shape
from detectune.engine import starting
from detectune.engine.checkpoint import load_checkpoint
from detectune.engine.classification import ClassPredictor
from detectune.engine.finite import NonFiniteLossError
from detectune.engine.hooks import Hook
from detectune.engine.running import Run
from detectune.engine.testing import test as run_test
from detectune.errors import DataError, UserError, WeightsError
from detectune.weights.native import load_weights

LAYERS = ["conv 8 3x3", "batchnorm", "relu", "maxpool 2", "dense 20", "dropout 0.2", "tanh", "softmax 10"]


def config_of(**changes: Any) -> Config:
    keys = {
        "MODEL.TYPE": "classifier", "MODEL.DEVICE": "cpu", "CLASSIFIER.LAYERS": LAYERS, "CLASSIFIER.SHIFT": 1,
        "CLASSIFIER.ROTATION": 5.0, "TRAIN.DATASETS": ["digits_train"], "TEST.DATASETS": ["digits_val", "digits_test"],
        "TRAIN.IMS_PER_BATCH": 20, "TEST.IMS_PER_BATCH": 100, "SOLVER.BASE_LR": 0.1, "SOLVER.MAX_ITER": 20,
        "SOLVER.WARM_UP_ITERS": 0, "SOLVER.EMA_DECAY": 0.9, "TRAIN.LOG_ITERS": 5, "TRAIN.SNAPSHOT_ITERS": 10,
        "RNG_SEED": 5,
    }  # fmt: skip
    return load_config(None, keys | {key.replace("__", "."): value for key, value in changes.items()})


def quiet(_: str) -> None:
    return


class StopAt(Hook):
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_step(self, run: Run) -> None:
        if run.iteration == self.iteration:
            raise KeyboardInterrupt


def tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    members = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for member in members for tensor in tensors(member)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few epochs with all that it leaves."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    config = config_of(SOLVER__MAX_ITER=300, TRAIN__EVAL_ITERS=100, SOLVER__BASE_LR=0.05)
    train(config, output_dir=folder, log=quiet)
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_and_is_measured_on_every_test_set(trained: Path) -> None:
    tests = [row for row in rows_of(trained) if row["kind"] == "evaluation"]
    assert [(row["iteration"], row["dataset"]) for row in tests] == [
        (i, name) for i in (100, 200, 300) for name in ("digits_val", "digits_test")
    ]
    assert tests[-1]["classification/accuracy"] > 0.85 and tests[-1]["classification/loss"] < 0.6
    summary = json.loads((trained / "evaluation/digits_test/metrics.json").read_text())
    confusion = np.array(json.loads((trained / "evaluation/digits_test/confusion.json").read_text()))
    mistakes = json.loads((trained / "evaluation/digits_test/mistakes.json").read_text())
    assert confusion.sum() == 300 and "not MNIST" in summary["source"]
    assert summary["metrics"]["classification/accuracy"] == pytest.approx(confusion.trace() / 300)
    assert len(mistakes) == 300 - confusion.trace()
    assert (trained / "checkpoints/best.safetensors").is_file()


def test_twenty_steps_are_ten_and_ten_bit_for_bit(tmp_path: Path) -> None:
    """With dropout, warps, batch norm and a weight average, all of which draw numbers or keep a state."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config_of(), output_dir=whole, log=quiet)
    with pytest.raises(KeyboardInterrupt):
        train(config_of(), hooks=[StopAt(13)], output_dir=parts, log=quiet)
    train(config_of(), output_dir=parts, log=quiet)
    first, second = (load_checkpoint(folder / "checkpoints/iter_0000020.pt") for folder in (whole, parts))
    for part in ("model", "solver", "average", "random"):
        pairs = list(zip(tensors(first[part]), tensors(second[part]), strict=True))
        assert all(torch.equal(a, b) for a, b in pairs), part
    assert len(tensors(first["model"])) > 8
    losses = [[row["loss"] for row in rows_of(f) if row["kind"] == "train"] for f in (whole, parts)]
    assert losses[0] == losses[1]


def test_gradients_by_hand_are_those_of_autograd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand, by_autograd = tmp_path / "by_hand", tmp_path / "by_autograd"
    train(config_of(), output_dir=by_hand, log=quiet)
    monkeypatch.setattr(starting, "backprop_by_hand", lambda *_: None)
    train(config_of(), output_dir=by_autograd, log=quiet)
    rows = [[r for r in rows_of(folder) if r["kind"] == "train"] for folder in (by_hand, by_autograd)]
    assert len(rows[0]) == 4
    for name in ("loss", "gradient_norm"):
        assert [r[name] for r in rows[0]] == pytest.approx([r[name] for r in rows[1]], rel=1e-5)


def test_other_seeds_give_other_networks(tmp_path: Path) -> None:
    found = []
    for seed in (5, 6):
        result = train(
            config_of(RNG_SEED=seed, TEST__DATASETS=[]), output_dir=tmp_path / str(seed), log=quiet
        )
        found.append(load_weights(result.weights)[0]["layers.0.weight"])
    assert not torch.equal(*found)


def test_weights_are_enough_to_test_and_to_name_images(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = trained / "model_final.safetensors"
    state, metadata = load_weights(weights)
    assert json.loads(metadata["input_shape"]) == [1, 8, 8] and "layers.0.weight" in state
    config = config_of()
    again = run_test(config, weights, output_dir=tmp_path)
    last = [row for row in rows_of(trained) if row.get("dataset") == "digits_val"][-1]
    assert again["classification/accuracy"] == last["classification/accuracy"]
    predictor = ClassPredictor(config, weights)
    data = read_known("digits_test")
    right = 0
    for image, label in zip(data.images[:30], data.labels[:30].tolist(), strict=True):
        Image.fromarray(image[0].numpy()).save(tmp_path / "digit.png")
        found = predictor(tmp_path / "digit.png")
        assert found.shape == (10,) and float(found.sum()) == pytest.approx(1.0, abs=1e-5)
        right += int(found.argmax()) == label
    assert right > 20
    larger = config_of(TEST__DATASETS=["digits_test"], CLASSIFIER__INPUT_SHAPE=[1, 8, 8])
    assert run_test(larger, weights, output_dir=tmp_path)["classification/accuracy"] > 0.8
    monkeypatch.setattr(labelled, "_digits", lambda name, split: with_shape(data, (1, 9, 9)))
    with pytest.raises(
        DataError, match=r"images of 1 x 9 x 9, but the network sees 1 x 8 x 8; set CLASSIFIER"
    ):
        run_test(config_of(TEST__DATASETS=["digits_test"]), weights, output_dir=tmp_path)
    with pytest.raises(UserError, match="take ClassPredictor"):
        Predictor(config, weights)
    with pytest.raises(WeightsError, match=r"does not fit CLASSIFIER\.LAYERS"):
        ClassPredictor(config_of(CLASSIFIER__LAYERS=["dense 20", "tanh", "softmax 10"]), weights)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"CLASSIFIER__LAYERS": ["softmax 9"]}, "ends with 9 outputs, but the data set has 10 classes"),
        (
            {"CLASSIFIER__LAYERS": ["conv 4 9x9", "softmax 10"]},
            r"layer 1 .*what reaches it is 1 x 8 x 8, smaller",
        ),
        (
            {"TRAIN__BEST_METRIC": "bbox/AP"},
            "is not measured for a classifier; it is classification/accuracy or",
        ),
        ({"TEST__DATASETS": ["digits_vall"]}, "did you mean digits_val"),
    ],
)
def test_mistakes_are_told_before_training(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        train(config_of(**changes), output_dir=tmp_path, log=quiet)


def test_a_classifier_without_layers_is_no_configuration() -> None:
    with pytest.raises(UserError, match=r"MODEL\.TYPE is classifier but CLASSIFIER\.LAYERS is empty"):
        config_of(CLASSIFIER__LAYERS=[])
    with pytest.raises(UserError, match=r"INPUT_SHAPE is .*give channels, height and width"):
        config_of(CLASSIFIER__INPUT_SHAPE=[8, 8])
    with pytest.raises(UserError, match="smoothing is for log_likelihood"):
        config_of(CLASSIFIER__LABEL_SMOOTHING=0.1, CLASSIFIER__LOSS="quadratic")


def test_a_diverging_network_is_stopped_and_its_images_are_named(tmp_path: Path) -> None:
    config = config_of(CLASSIFIER__LAYERS=["dense 20", "relu", "softmax 10"], SOLVER__BASE_LR=1e30)
    with pytest.raises(NonFiniteLossError, match=r"images: numbers \d+, .* of digits_train"):
        train(config, output_dir=tmp_path, log=quiet)


def test_the_metric_that_decides_is_accuracy_by_default() -> None:
    assert check_classifier_metric("") == "classification/accuracy"
    assert check_classifier_metric("classification/loss") == "classification/loss"
