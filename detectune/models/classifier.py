"""A classifier from a list of layers: pixels to one probability per class.

Shape legend
    B  images    C, H, W  channels, height, width of the input    K  classes

What the last layer's softmax or sigmoids get is called the score here (logit), float32 [B, K]; losses are computed
from scores, which stays exact where outputs saturate. Every random number (dropout) comes from the generator that is
passed in; without one, nothing is dropped. Knows nothing about configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from detectune.errors import UserError
from detectune.models.layer_list import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Layer,
    Pool,
    Shape,
    Softmax,
    shapes_of,
)
from detectune.ops.draws import draw_for_images, draw_kept
from detectune.structures import LabelledBatch

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}
INITIALISATIONS = ("nielsen", "unit_normal", "xavier", "he", "torch")
LOSSES = ("log_likelihood", "cross_entropy", "quadratic")


class Classifier(nn.Module):
    """Layers in a row.

    Args:
        layers: from `parse_layers`; the last is a softmax layer, or sigmoids on a dense one.
        input_shape: channels, height, width of the images.
        loss: log_likelihood (softmax), cross_entropy (sigmoids) or quadratic.
        init: how weights start, see `initialise`; drawn from `generator`, or from torch's global one.
        label_smoothing: part of the target that is spread over all classes (log_likelihood).
        pixel_mean, pixel_std: inputs are (pixel - mean) / std, for pixels 0..255.

    Raises:
        UserError: names the layer that cannot be applied, or the loss that does not fit the last layer.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        input_shape: Shape,
        loss: str = "log_likelihood",
        init: str = "he",
        label_smoothing: float = 0.0,
        pixel_mean: float = 0.0,
        pixel_std: float = 255.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.softmax = isinstance(layers[-1], Softmax)
        self.loss = loss
        self.label_smoothing = label_smoothing
        self.pixel_mean, self.pixel_scale = pixel_mean, 1.0 / pixel_std
        check_loss(loss, softmax=self.softmax)
        shapes = shapes_of(layers, input_shape)
        self.num_classes = shapes[-1][0]
        # The last nonlinearity belongs to the loss.
        used = layers if self.softmax else layers[:-1]
        self.layers = nn.ModuleList(
            _module(layer, shape) for layer, shape in zip(used, shapes[: len(used)], strict=True)
        )
        self.draws = any(isinstance(layer, Dropout) and layer.rate > 0 for layer in layers)
        initialise(self, init, generator=generator)

    def forward(self, batch: LabelledBatch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """`loss_classification`, the mean over the batch; `batch.labels` must be there."""
        assert batch.labels is not None
        scores = self.scores(batch.images, generator)
        loss = self.loss_of(scores, batch.labels, label_smoothing=self.label_smoothing)
        return {"loss_classification": loss}

    def scores(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Scores float32 [B, K] of images [B, C, H, W], uint8 or float32, 0..255."""
        x = self.inputs(images)
        for layer in self.layers:
            x = layer(x, generator) if isinstance(layer, DrawnDropout) else layer(x)
        return x

    def inputs(self, images: Tensor) -> Tensor:
        """What the first layer sees, float32: (pixel - mean) / std."""
        x = images * self.pixel_scale
        return x if self.pixel_mean == 0 else x - self.pixel_mean * self.pixel_scale

    def predict(self, images: Tensor) -> Tensor:
        """Probabilities float32 [B, K]; they sum to 1 for a softmax layer, and are by themselves for sigmoids."""
        scores = self.scores(images).float()
        return scores.softmax(1) if self.softmax else scores.sigmoid()

    def loss_of(
        self, scores: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, reduction: str = "mean"
    ) -> Tensor:
        """The loss of scores [B, K] for labels int64 [B], 0..K-1: its mean over the batch, or [B] for `none`."""
        if self.loss == "log_likelihood":
            return F.cross_entropy(scores, labels, label_smoothing=label_smoothing, reduction=reduction)
        target = F.one_hot(labels, self.num_classes).to(scores.dtype)
        if self.loss == "cross_entropy":
            each = F.binary_cross_entropy_with_logits(scores, target, reduction="none").sum(1)
        else:
            output = scores.softmax(1) if self.softmax else scores.sigmoid()
            each = 0.5 * (output - target).square().sum(1)
        return each.mean() if reduction == "mean" else each


class FlatLinear(nn.Linear):
    """A dense layer on whatever comes, flattened."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight, self.bias)


class DrawnDropout(nn.Module):
    """Drops each value with probability `rate` and scales the rest up; draws from the generator it is given."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if not self.training or generator is None or self.rate == 0:
            return x

        def draw(num_images: int) -> Tensor:
            shape = (num_images, *x.shape[1:])
            return draw_kept(shape, 1 - self.rate, generator=generator, dtype=x.dtype, device=x.device)

        return x * draw_for_images(generator, len(x), draw) / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


def check_loss(loss: str, *, softmax: bool) -> None:
    """A `UserError` if the loss does not go with the last layer."""
    wanted = {"log_likelihood": True, "cross_entropy": False}.get(loss)
    if wanted is not None and wanted != softmax:
        end = "softmax 10" if wanted else "dense 10 and sigmoid"
        has = "a softmax layer" if softmax else "sigmoids"
        raise UserError(
            f"CLASSIFIER.LOSS {loss} needs CLASSIFIER.LAYERS to end with {end} (10 being the number of classes), but "
            f"they end with {has}."
        )


@torch.no_grad()
def initialise(model: nn.Module, init: str, *, generator: torch.Generator | None = None) -> None:
    """Fresh weights and biases of all convolutions and dense layers, drawn in their order.

    n is the number of inputs of a unit (channels times kernel), m of the outputs it feeds.

        nielsen      w N(0, 1/n), b N(0, 1), a softmax layer 0: chapter 3 and network3.py, whose own deviation is
                     sqrt(1 / outputs) where the text has 1 / sqrt(inputs); the text is followed
        unit_normal  w, b N(0, 1)
        xavier       w N(0, 2/(n + m)), b 0
        he           w N(0, 2/n), b 0
        torch        uniform within 1/sqrt(n), both
    """
    if init not in INITIALISATIONS:
        raise ValueError(f"{init!r} is no initialisation; choose one of: {', '.join(INITIALISATIONS)}.")
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers:
        assert layer.bias is not None
        field = math.prod(layer.weight.shape[2:])
        n, m = layer.weight.shape[1] * field, layer.weight.shape[0] * field
        if init == "torch":
            bound = 1 / math.sqrt(n)
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)
            continue
        variance = {"nielsen": 1 / n, "unit_normal": 1.0, "xavier": 2 / (n + m), "he": 2 / n}[init]
        layer.weight.normal_(0, math.sqrt(variance), generator=generator)
        if init in ("nielsen", "unit_normal"):
            layer.bias.normal_(0, 1, generator=generator)
        else:
            layer.bias.zero_()
    if init == "nielsen" and getattr(model, "softmax", False):
        layers[-1].weight.zero_()
        assert layers[-1].bias is not None
        layers[-1].bias.zero_()


def _module(layer: Layer, shape: Shape) -> nn.Module:
    """The module of a layer for inputs of a shape that `shapes_of` has found to fit."""
    match layer:
        case Conv(channels, kernel, stride, padding):
            return nn.Conv2d(shape[0], channels, kernel, stride=stride, padding=padding)
        case Pool(kind, size, stride):
            return nn.MaxPool2d(size, stride) if kind == "max" else nn.AvgPool2d(size, stride)
        case Dense(units) | Softmax(units):
            return FlatLinear(math.prod(shape), units)
        case Dropout(rate):
            return DrawnDropout(rate)
        case BatchNorm():
            return nn.BatchNorm2d(shape[0]) if len(shape) == 3 else nn.BatchNorm1d(shape[0])
        case Activation(name):
            return ACTIVATIONS[name]()
