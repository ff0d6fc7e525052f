"""Every layer's hand-written gradient against autograd's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detectune.models.backprop import Backprop, targets_of
from detectune.models.classifier import Classifier
from detectune.models.layer_list import parse_layers
from detectune.structures import LabelledBatch

BATCH, SHAPE = 6, (2, 9, 8)

NETWORKS = {
    "dense": ["dense 7", "sigmoid", "softmax 3"],
    "softmax alone": ["softmax 3"],
    "deep": ["dense 7", "tanh", "dense 6", "relu", "dense 5", "sigmoid", "softmax 3"],
    "picture": ["conv 4 3x2", "relu", "maxpool 2", "softmax 3"],
    "stride and pad": [
        "conv 4 3x3 stride 2 pad 1",
        "tanh",
        "conv 3 2x2 pad 1",
        "maxpool 3 stride 1",
        "softmax 3",
    ],
    "activation first": ["sigmoid", "maxpool 2", "conv 3 3x3", "relu", "softmax 3"],
    "dropout": ["conv 4 3x3", "relu", "dropout 0.3", "dense 7", "sigmoid", "dropout 0.5", "softmax 3"],
    "left to autograd": [
        "conv 4 3x3",
        "batchnorm",
        "gelu",
        "meanpool 2",
        "dense 5",
        "elu",
        "batchnorm",
        "softmax 3",
    ],
}


@pytest.mark.parametrize("texts", NETWORKS.values(), ids=NETWORKS.keys())
def test_scores_and_gradients_are_those_of_autograd(texts: list[str]) -> None:
    model = classifier(texts)
    images, labels = batch()
    expected = gradients_by_autograd(model, images, labels)
    backprop = Backprop(model, batch_size=BATCH)
    for _ in range(2):  # memory is used again
        scores = backprop.step(
            model.inputs(images), targets_of(model, labels), torch.Generator().manual_seed(5)
        )
    torch.testing.assert_close(scores, model.scores(images, torch.Generator().manual_seed(5)))
    assert_gradients(model, expected)


@pytest.mark.parametrize("end", [["softmax 3"], ["dense 3", "sigmoid"]], ids=["softmax", "sigmoids"])
@pytest.mark.parametrize("loss", ["matched", "quadratic"])
def test_losses(end: list[str], loss: str) -> None:
    matched = "log_likelihood" if end == ["softmax 3"] else "cross_entropy"
    model = classifier(["dense 5", "tanh", *end], loss=matched if loss == "matched" else loss)
    images, labels = batch()
    expected = gradients_by_autograd(model, images, labels)
    Backprop(model, batch_size=BATCH).step(model.inputs(images), targets_of(model, labels))
    assert_gradients(model, expected)


def test_label_smoothing() -> None:
    model = classifier(["dense 5", "tanh", "softmax 3"], label_smoothing=0.2)
    images, labels = batch()
    expected = gradients_by_autograd(model, images, labels)
    Backprop(model, batch_size=BATCH).step(model.inputs(images), targets_of(model, labels))
    assert_gradients(model, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_in_the_place_of_model_and_autograd(smoothing: float) -> None:
    model = classifier(["dense 5", "tanh", "softmax 3"], label_smoothing=smoothing)
    images, labels = batch()
    expected = gradients_by_autograd(model, images, labels)
    backprop = Backprop(model, batch_size=BATCH)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = None  # as an optimiser leaves it
        found = backprop(LabelledBatch(images, labels, labels), None)
        torch.testing.assert_close(found, model(LabelledBatch(images, labels, labels)))
        assert_gradients(model, expected)


def classifier(texts: list[str], *, loss: str = "log_likelihood", label_smoothing: float = 0.0) -> Classifier:
    generator = torch.Generator().manual_seed(0)
    model = Classifier(
        parse_layers(texts),
        input_shape=SHAPE,
        loss=loss,
        init="torch",
        label_smoothing=label_smoothing,
        pixel_mean=100.0,
        pixel_std=60.0,
        generator=generator,
    )
    return model.train()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (BATCH, *SHAPE), dtype=torch.uint8, generator=generator)
    return images, torch.tensor([0, 1, 2, 2, 1, 0])


def gradients_by_autograd(model: Classifier, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    loss = model(LabelledBatch(images, labels, labels), torch.Generator().manual_seed(5))[
        "loss_classification"
    ]
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))


def assert_gradients(model: Classifier, expected: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)
