"""Convolutions with a norm and a ReLU, the norms Detectron knows, its initialisers, and folding for inference.

Shape legend
    B  images or regions    C  channels    H, W  cells

A convolution owns its norm (`conv2.norm`), so a checkpoint reads like the picture of the network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

NormFactory = Callable[[int], nn.Module]
Initializer = Callable[[Tensor], Any]
ModelT = TypeVar("ModelT", bound=nn.Module)

_ONEDNN = torch.ops.mkldnn


class FrozenAffine(nn.Module):
    """Batch norm with fixed statistics: (x - mean) / sqrt(var + eps) * weight + bias; nothing in it is trained.

    Detectron's AffineChannel has only a scale and a shift; it is read as mean 0 and variance 1 - eps.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_channels))
        self.register_buffer("bias", torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels) - eps)

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        """The affine map as scale [C] and shift [C]."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.scale_shift()
        return torch.addcmul(shift[:, None, None].to(x.dtype), x, scale[:, None, None].to(x.dtype))

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps:g}"


def frozen_affine(num_channels: int) -> nn.Module:
    return FrozenAffine(num_channels)


def batch_norm(num_channels: int) -> nn.Module:
    return nn.BatchNorm2d(num_channels)


def group_norm(num_groups: int = 32, channels_per_group: int = -1, eps: float = 1e-5) -> NormFactory:
    """Makes GroupNorm (Wu and He 2018). Exactly one of the two sizes counts: `channels_per_group` if positive.

    A width that the number of groups does not divide gets the largest smaller number that does (Detectron refuses).
    """

    def make(num_channels: int) -> nn.Module:
        groups = num_channels // channels_per_group if channels_per_group > 0 else num_groups
        return nn.GroupNorm(math.gcd(num_channels, max(1, groups)), num_channels, eps=eps)

    return make


class Conv(nn.Conv2d):
    """Convolution, then optionally a norm (which replaces the bias), then optionally a ReLU.

    `padding` is "same" if not given.
    A frozen affine is multiplied into the weights (fewer numbers than activations), so it costs no pass over the
    feature maps and stores nothing for the backward pass.
    """

    ordinary: ClassVar[bool] = True  # what oneDNN's kernel for one pass computes

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: int | None = None,
        norm: NormFactory | None = None,
        relu: bool = False,
        init: Initializer | None = None,
    ) -> None:
        if padding is None:
            padding = dilation * (kernel - 1) // 2
        super().__init__(
            in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=norm is None
        )
        self.norm = norm(out_channels) if norm is not None else None
        self.relu = relu
        self.in_one_pass = False  # these two are set by `fuse_for_inference`
        self.input_dtype: torch.dtype | None = None  # what inputs are cast to
        (init or xavier)(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to a tensor of its own. `residual` joins before the ReLU; its memory may be reused."""
        if self.input_dtype is not None:
            x = x.to(self.input_dtype)
        if self.in_one_pass:
            return self._conv_in_one_pass(x, residual)
        x = self._normalized(x)
        if residual is not None:
            x = x.add_(residual)
        return F.relu_(x) if self.relu else x

    def _normalized(self, x: Tensor) -> Tensor:
        if isinstance(self.norm, FrozenAffine):
            scale, shift = self.norm.scale_shift()
            return self._conv_forward(x, self.weight * scale[:, None, None, None], shift)
        x = self._conv_forward(x, self.weight, self.bias)
        return x if self.norm is None else self.norm(x)

    def _conv_in_one_pass(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """Convolution, sum and ReLU by one kernel of oneDNN, so that the result is written once and never read back."""
        shape = (self.padding, self.stride, self.dilation, self.groups)
        relu = "relu" if self.relu else "none"
        if residual is None:
            return _ONEDNN._convolution_pointwise(x, self.weight, self.bias, *shape, relu, [], "")
        relu_or_none = "relu" if self.relu else None
        return _ONEDNN._convolution_pointwise_.binary(
            residual, x, self.weight, self.bias, *shape, "add", 1.0, relu_or_none, [], ""
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + (", relu" if self.relu else "")


class Foreign(nn.Module):
    """A network that is not made of our layers: it changes precision as a whole, and casts what it is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        return self.network(x.to(next(self.network.parameters()).dtype))


def xavier(weight: Tensor) -> Tensor:
    """Caffe2's XavierFill: uniform with bound sqrt(3 / fan_in)."""
    bound = math.sqrt(3.0 / weight[0].numel())
    return nn.init.uniform_(weight, -bound, bound)


def msra(weight: Tensor) -> Tensor:
    """Caffe2's MSRAFill: normal with deviation sqrt(2 / fan_out) (He 2015)."""
    return nn.init.normal_(weight, std=math.sqrt(2.0 * weight.shape[1] / weight.numel()))


def gaussian(std: float) -> Initializer:
    """Caffe2's GaussianFill."""
    return lambda weight: nn.init.normal_(weight, std=std)


def linear(in_features: int, out_features: int, init: Initializer) -> nn.Linear:
    """A fully connected layer with zero bias."""
    layer = nn.Linear(in_features, out_features)
    init(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def freeze(module: nn.Module) -> None:
    """No parameter of `module` is trained, and its batch norms keep their statistics."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for child in module.modules():
        if isinstance(child, Conv) and isinstance(child.norm, nn.BatchNorm2d):
            child.norm = _frozen_copy(child.norm)


def _frozen_copy(norm: nn.BatchNorm2d) -> FrozenAffine:
    frozen = FrozenAffine(norm.num_features, norm.eps)
    assert norm.running_mean is not None and norm.running_var is not None
    frozen.weight.copy_(norm.weight.detach())
    frozen.bias.copy_(norm.bias.detach())
    frozen.running_mean.copy_(norm.running_mean)
    frozen.running_var.copy_(norm.running_var)
    return frozen


def can_run_in_one_pass(device: torch.device, dtype: torch.dtype = torch.float32) -> bool:
    """oneDNN's convolutions that add and clip on their way out are at hand, and this processor has them in `dtype`."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(_ONEDNN, name) for name in ("_convolution_pointwise", "_convolution_pointwise_")):
        return False
    if dtype == torch.bfloat16:
        return bool(_ONEDNN._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(_ONEDNN._is_mkldnn_fp16_supported())
    return True


@torch.no_grad()
def fuse_for_inference(
    model: ModelT, *, dtype: torch.dtype = torch.float32, one_pass: bool | None = None
) -> ModelT:
    """A copy of `model` for evaluation: frozen affines and batch norms folded into their convolutions and, on a CPU,
    sums and ReLUs done by the convolution's own kernel on channels-last maps.

    In float32 the outputs agree to rounding. The copy has fewer parameters and other names and cannot be trained; save
    the original.

    Args:
        model: stays as it is.
        dtype: what convolutions and fully connected layers compute in (no autocast is needed then).
        one_pass: False for plain convolutions (for tracing and export); by default where they are at hand.
    """
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    for module in fused.modules():
        if isinstance(module, Conv):
            _fold_norm(module)
    device = next(fused.parameters()).device
    if one_pass is None:
        one_pass = can_run_in_one_pass(device, dtype)
    if one_pass:
        fused.to(memory_format=torch.channels_last)
    for module in fused.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.GroupNorm | Foreign):
            module.to(dtype)
        if isinstance(module, Conv):
            module.in_one_pass = one_pass and module.norm is None and module.ordinary
            module.input_dtype = dtype
    return fused


def _fold_norm(conv: Conv) -> None:
    norm = _frozen_copy(conv.norm) if isinstance(conv.norm, nn.BatchNorm2d) else conv.norm
    if isinstance(norm, FrozenAffine):
        scale, shift = norm.to(conv.weight.device).scale_shift()
        conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
        conv.bias = nn.Parameter(shift, requires_grad=False)
        conv.norm = None
