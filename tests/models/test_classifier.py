"""The network of a layer list: what it computes, its losses against slow references, its initialisations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from detectune.errors import UserError
from detectune.models.classifier import INITIALISATIONS, Classifier
from detectune.models.layer_list import parse_layers
from detectune.structures import LabelledBatch


def made(
    texts: list[str], *, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0, **more: object
) -> Classifier:
    generator = torch.Generator().manual_seed(seed)
    return Classifier(parse_layers(texts), input_shape=shape, generator=generator, **more)  # type: ignore[arg-type]


def batch(count: int = 6, *, shape: tuple[int, ...] = (1, 8, 8), classes: int = 10) -> LabelledBatch:
    rng = np.random.default_rng(3)
    images = torch.from_numpy(rng.integers(0, 256, (count, *shape), dtype=np.uint8))
    return LabelledBatch(images, torch.from_numpy(rng.integers(0, classes, count)), torch.arange(count))


def slow_network(pixels: np.ndarray, weights: list[np.ndarray], *, last: str) -> np.ndarray:
    """Two dense layers, a sigmoid between them, written out for one image."""
    first, bias, second, bias2 = weights
    hidden = 1 / (1 + np.exp(-(first @ (pixels.reshape(-1) / 255) + bias)))
    scores = second @ hidden + bias2
    if last == "sigmoid":
        return 1 / (1 + np.exp(-scores))
    return np.exp(scores) / np.exp(scores).sum()


def slow_cost(output: np.ndarray, label: int, loss: str) -> float:
    """Nielsen's costs of one image: equations 80 (log-likelihood), 63 (cross-entropy) and 6 (quadratic)."""
    target = np.eye(len(output))[label]
    if loss == "log_likelihood":
        return -math.log(output[label])
    if loss == "cross_entropy":
        return float(-(target * np.log(output) + (1 - target) * np.log(1 - output)).sum())
    return float(0.5 * ((output - target) ** 2).sum())


ENDS = [
    ("log_likelihood", "softmax"),
    ("quadratic", "softmax"),
    ("quadratic", "sigmoid"),
    ("cross_entropy", "sigmoid"),
]


@pytest.mark.parametrize(("loss", "last"), ENDS)
def test_losses_and_their_gradients_are_those_of_the_slow_way(loss: str, last: str) -> None:
    end = ["softmax 4"] if last == "softmax" else ["dense 4", "sigmoid"]
    model = made(["dense 3", "sigmoid", *end], shape=(1, 2, 3), loss=loss, init="unit_normal").double()
    given = batch(5, shape=(1, 2, 3), classes=4)
    given.images = given.images.double()
    model(given)["loss_classification"].backward()
    weights = [p.detach().numpy().copy() for p in model.parameters()]

    def cost() -> float:
        outputs = [slow_network(image.numpy(), weights, last=last) for image in given.images]
        assert given.labels is not None
        return float(
            np.mean([slow_cost(o, int(k), loss) for o, k in zip(outputs, given.labels, strict=True)])
        )

    assert model(given)["loss_classification"].item() == pytest.approx(cost(), rel=1e-9)
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        assert parameter.grad is not None
        for place in [tuple(0 for _ in weight.shape), tuple(n - 1 for n in weight.shape)]:
            before, step = weight[place], 1e-6
            weight[place] = before + step
            up = cost()
            weight[place] = before - step
            slope = (up - cost()) / (2 * step)
            weight[place] = before
            assert float(parameter.grad[place]) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_probabilities_are_those_of_the_scores() -> None:
    model = made(["conv 4 3x3", "maxpool 2", "relu", "batchnorm", "dense 7", "tanh", "softmax 10"]).eval()
    found = model.predict(batch().images)
    assert found.shape == (6, 10) and torch.allclose(found.sum(1), torch.ones(6))
    sigmoids = made(["dense 10", "sigmoid"], loss="quadratic").eval()
    images = batch().images
    assert torch.equal(sigmoids.predict(images), sigmoids.scores(images).sigmoid())


def test_pixels_are_centred_and_scaled() -> None:
    plain, scaled = made(["softmax 10"]), made(["softmax 10"], pixel_mean=30.0, pixel_std=80.0)
    images = batch().images.float()
    assert torch.allclose(scaled.scores(images), plain.scores((images - 30) / 80 * 255), atol=1e-5)


def test_dropout_draws_from_its_generator_and_keeps_the_mean() -> None:
    model = made(["dropout 0.25", "softmax 10"]).train()
    images = torch.full((4000, 1, 8, 8), 255.0)

    def seen(seed: int) -> torch.Tensor:
        return model.layers[0](images, torch.Generator().manual_seed(seed))

    assert model.draws and torch.equal(seen(1), seen(1)) and not torch.equal(seen(1), seen(2))
    assert set(seen(1).unique().tolist()) == {0.0, 340.0}
    assert float(seen(1).mean()) == pytest.approx(255.0, rel=0.01)
    assert torch.equal(model.layers[0](images, None), images)
    assert torch.equal(model.eval().layers[0](images, torch.Generator()), images)
    assert not made(["dense 5", "relu", "softmax 10"]).draws


def test_initialisations_have_the_deviations_that_they_promise() -> None:
    found = {}
    for init in INITIALISATIONS:
        model = made(
            ["conv 60 5x5", "sigmoid", "dense 300", "sigmoid", "softmax 10"], shape=(3, 9, 9), init=init
        )
        conv, dense = model.layers[0], model.layers[2]
        found[init] = [float(t.detach().std()) for t in (conv.weight, dense.weight, dense.bias)]
        assert float(model.layers[-1].weight.detach().abs().max()) == 0 if init == "nielsen" else True
    n, m = 3 * 25, 60 * 25
    inputs = 60 * 25
    expected = {
        "nielsen": [n**-0.5, inputs**-0.5, 1.0],
        "unit_normal": [1.0, 1.0, 1.0],
        "xavier": [(2 / (n + m)) ** 0.5, (2 / (inputs + 300)) ** 0.5, 0.0],
        "he": [(2 / n) ** 0.5, (2 / inputs) ** 0.5, 0.0],
        "torch": [(3 * n) ** -0.5, (3 * inputs) ** -0.5, (3 * inputs) ** -0.5],
    }
    for init, deviations in expected.items():
        assert found[init] == pytest.approx(deviations, rel=0.12), init


def test_equal_generators_give_equal_networks() -> None:
    texts = ["conv 4 3x3", "relu", "softmax 10"]
    first, again, other = (list(made(texts, seed=seed).parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(
    ("loss", "texts", "said"),
    [
        ("log_likelihood", ["dense 10", "sigmoid"], r"LOSS log_likelihood needs .* end with softmax 10"),
        ("cross_entropy", ["softmax 10"], r"LOSS cross_entropy needs .* end with dense 10 and sigmoid"),
    ],
)
def test_a_loss_that_does_not_fit_the_last_layer_is_refused(loss: str, texts: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        made(texts, loss=loss)
