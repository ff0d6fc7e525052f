"""Backpropagation by hand: a classifier's forward and backward pass, layer by layer, into memory made once.

A step of a small network is bookkeeping more than arithmetic. The network of the ladder's first rung ([784, 100, 10],
10 images) needs 3.2 million operations and moves 1.6 MB through the nearest cache, some 50 microseconds of a core;
autograd, the allocator and a tensor for each bias take several times that (bench/results/population.json). Here each
layer is two short methods: `forward` keeps what the gradient needs, `backward` turns the gradient of its output into
those of its parameters, written where `parameter.grad` lies, and of its input. What has no such pair is left to
autograd, layer by layer (`ByAutograd`).

Shape legend
    B  images of a batch, always the same number    K  classes

The numbers are autograd's own up to rounding; tests/lab/test_backprop.py compares every layer. Knows no configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from detectune.models.classifier import Classifier, DrawnDropout, FlatLinear
from detectune.ops.draws import draw_kept
from detectune.structures import LabelledBatch

aten = torch.ops.aten


class LayerPass(Protocol):
    """Both ways through one layer."""

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor: ...

    def backward(self, dy: Tensor, *, wants_input: bool) -> Tensor | None:
        """Write the gradients of the parameters; return that of the input if it is wanted."""
        ...


class Backprop:
    """Scores and gradients of one classifier, for batches of `batch_size` images.

    The model's parameters and their `.grad` are used where they lie when this is made: change them in place only.
    """

    def __init__(self, model: Classifier, *, batch_size: int) -> None:
        self.model = model
        self.layers = [layer_pass(module, batch_size) for module in model.layers]
        trained = [any(p.requires_grad for p in module.parameters()) for module in model.layers]
        self.first = trained.index(True)  # below it no gradient is needed
        self.score_gradient = score_gradient(model)
        self.gradients = [(parameter, gradient_of(parameter)) for parameter in model.parameters()]
        self.target_of_class = targets_of(model, torch.arange(model.num_classes))

    @torch.no_grad()
    def __call__(self, batch: LabelledBatch, generator: torch.Generator | None) -> dict[str, Tensor]:
        """What `Classifier.forward` gives for a batch, with the gradients of it in every `parameter.grad`."""
        assert batch.labels is not None
        for parameter, gradient in self.gradients:  # an optimiser's step may have taken them away
            parameter.grad = gradient
        target = self.target_of_class.index_select(0, batch.labels)
        scores = self.step(self.model.inputs(batch.images), target, generator)
        loss = self.model.loss_of(scores, batch.labels, label_smoothing=self.model.label_smoothing)
        return {"loss_classification": loss}

    @torch.no_grad()
    def step(self, x: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Leaves the gradient of the mean loss in every `parameter.grad`.

        Args:
            x: float32 [B, C, H, W], what the first layer sees.
            target: float32 [B, K] from `targets_of`.
            generator: where dropout draws, as in `Classifier.forward`.

        Returns:
            The scores [B, K], in memory that the next call overwrites.
        """
        for layer in self.layers:
            x = layer.forward(x, generator)
        gradient: Tensor | None = self.score_gradient(x, target)
        for number in range(len(self.layers) - 1, self.first - 1, -1):
            assert gradient is not None
            gradient = self.layers[number].backward(gradient, wants_input=number > self.first)
        return x


def targets_of(model: Classifier, labels: Tensor) -> Tensor:
    """What the outputs should be, float32 [N, K], for labels int64 [N]; smoothed as the model's loss does it."""
    smoothing = model.label_smoothing if model.loss == "log_likelihood" else 0.0
    one_hot = nn.functional.one_hot(labels, model.num_classes).float()
    return one_hot * (1 - smoothing) + smoothing / model.num_classes


def score_gradient(model: Classifier) -> Callable[[Tensor, Tensor], Tensor]:
    """The gradient [B, K] of the mean loss with respect to the scores, a function of scores and targets.

    With a = softmax or sigmoid of the scores and target t it is (a - t) / B where the loss goes with the last layer
    (Nielsen, chapter 3), and for the quadratic loss (a - t) / B through the slope of that layer.
    """
    output: Callable[[Tensor], Tensor] = (
        (lambda scores: scores.softmax(1)) if model.softmax else torch.sigmoid
    )

    def matched(scores: Tensor, target: Tensor) -> Tensor:
        return output(scores).sub_(target).div_(len(scores))

    def quadratic(scores: Tensor, target: Tensor) -> Tensor:
        a = output(scores)
        error = (a - target).div_(len(scores))
        return (
            (error - (error * a).sum(1, keepdim=True)).mul_(a) if model.softmax else error.mul_(a * (1 - a))
        )

    return quadratic if model.loss == "quadratic" else matched


def layer_pass(module: nn.Module, batch_size: int) -> LayerPass:
    """The hand-written pair for a module, or autograd's."""
    match module:
        case FlatLinear():
            return DensePass(module, batch_size)
        case nn.Conv2d():
            return ConvPass(module)
        case nn.MaxPool2d():
            return MaxPoolPass(module)
        case DrawnDropout():
            return DropoutPass(module)
        case nn.Sigmoid():
            return ActivationPass(torch.sigmoid, aten.sigmoid_backward)
        case nn.Tanh():
            return ActivationPass(torch.tanh, aten.tanh_backward)
        case nn.ReLU():
            return ActivationPass(torch.relu, lambda dy, y: aten.threshold_backward(dy, y, 0))
    return ByAutograd(module)


class DensePass:
    """y = x W^T + b;  dW = dy^T x,  db = sum dy,  dx = dy W."""

    def __init__(self, module: nn.Linear, batch_size: int) -> None:
        self.weight, self.bias = module.weight.detach(), module.bias.detach()
        self.transposed = self.weight.t()
        self.weight_grad, self.bias_grad = gradient_of(module.weight), gradient_of(module.bias)
        self.y = self.weight.new_empty(batch_size, module.out_features)
        self.dx = self.weight.new_empty(batch_size, module.in_features)
        self.x = self.dx
        self.shape: tuple[int, ...] = ()  # of the input before it was flattened

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        self.shape = tuple(x.shape)
        self.x = x if x.dim() == 2 else x.flatten(1)
        return torch.addmm(self.bias, self.x, self.transposed, out=self.y)

    def backward(self, dy: Tensor, *, wants_input: bool) -> Tensor | None:
        torch.mm(dy.t(), self.x, out=self.weight_grad)
        torch.sum(dy, 0, out=self.bias_grad)
        return torch.mm(dy, self.weight, out=self.dx).view(self.shape) if wants_input else None


class ConvPass:
    """A convolution; its three gradients are one call of torch's."""

    def __init__(self, module: nn.Conv2d) -> None:
        assert module.bias is not None
        self.weight, self.bias = module.weight.detach(), module.bias.detach()
        self.weight_grad, self.bias_grad = gradient_of(module.weight), gradient_of(module.bias)
        self.stride, self.padding = list(module.stride), list(map(int, module.padding))
        self.x = self.weight

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        self.x = x
        return torch.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)

    def backward(self, dy: Tensor, *, wants_input: bool) -> Tensor | None:
        dx, dw, db = aten.convolution_backward(
            dy,
            self.x,
            self.weight,
            [len(self.bias)],
            self.stride,
            self.padding,
            [1, 1],  # dilation
            False,  # not transposed
            [0, 0],
            1,  # one group
            [wants_input, True, True],
        )
        self.weight_grad.copy_(dw)
        self.bias_grad.copy_(db)
        return dx


class MaxPoolPass:
    """The gradient goes to the largest value of each window."""

    def __init__(self, module: nn.MaxPool2d) -> None:
        self.size, self.stride = [module.kernel_size] * 2, [module.stride] * 2
        self.x = self.where = torch.empty(0)

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        self.x = x
        y, self.where = aten.max_pool2d_with_indices(x, self.size, self.stride)
        return y

    def backward(self, dy: Tensor, *, wants_input: bool) -> Tensor | None:
        return aten.max_pool2d_with_indices_backward(
            dy, self.x, self.size, self.stride, [0, 0], [1, 1], False, self.where
        )


class DropoutPass:
    """Draws what `DrawnDropout` draws, and lets the gradient through where a value was kept."""

    def __init__(self, module: DrawnDropout) -> None:
        self.keep = 1 - module.rate
        self.kept = torch.empty(0)
        self.drops = False

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        self.drops = generator is not None and self.keep < 1
        if not self.drops:
            return x
        self.kept = draw_kept(x.shape, self.keep, generator=generator, dtype=x.dtype)
        return (x * self.kept).div_(self.keep)

    def backward(self, dy: Tensor, *, wants_input: bool) -> Tensor | None:
        return (dy * self.kept).div_(self.keep) if self.drops else dy


class ActivationPass:
    """An activation whose slope follows from its value y."""

    def __init__(
        self, function: Callable[[Tensor], Tensor], slope: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        self.function, self.slope = function, slope
        self.y = torch.empty(0)

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        self.y = self.function(x)
        return self.y

    def backward(self, dy: Tensor, *, wants_input: bool) -> Tensor | None:
        return self.slope(dy, self.y)


class ByAutograd:
    """Any other module: its own small graph."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parameters = list(module.parameters())
        self.gradients = [gradient_of(p) for p in self.parameters]
        self.x = self.y = torch.empty(0)

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        self.x = x.detach().requires_grad_()
        with torch.enable_grad():
            self.y = self.module(self.x)
        return self.y.detach()

    def backward(self, dy: Tensor, *, wants_input: bool) -> Tensor | None:
        dx, *found = torch.autograd.grad(self.y, [self.x, *self.parameters], dy)
        for gradient, value in zip(self.gradients, found, strict=True):
            gradient.copy_(value)
        return dx


def gradient_of(parameter: Any) -> Tensor:
    """Where the gradient of a parameter is written; made here if there is none yet."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    gradient: Tensor = parameter.grad
    return gradient
