"""Feature extractors of the timm library under a feature pyramid: `MODEL.CONV_BODY: timm/convnext_tiny`.

timm is an optional dependency and is imported only when a body is built. Any of its models counts that gives features
at strides 4, 8, 16 and 32. Fresh weights: published ones come through TRAIN.WEIGHTS.
"""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from detectune.errors import UserError
from detectune.models.fpn import Fpn
from detectune.models.layers import Foreign

LEVELS = {2: 4, 3: 8, 4: 16, 5: 32}  # level -> stride


class TimmBody(nn.Module):
    """A body of timm and the pyramid on it.

    Args:
        body: what `load_features` gives.
        freeze_at: as in `ResNet`: 1 freezes what comes before stride 4, 2 that stage too, and so on; 0 nothing.
        freeze_all: body and pyramid are frozen.
        fpn: takes the levels that it asks for.
    """

    def __init__(self, body: Any, *, freeze_at: int = 0, freeze_all: bool = False, fpn: Fpn) -> None:
        super().__init__()
        self.body, self.fpn = Foreign(body), fpn
        self.freeze_all = freeze_all
        self.channels, self.strides = level_channels(body), dict(LEVELS)
        self._rows = {
            level: list(body.feature_info.reduction()).index(stride) for level, stride in LEVELS.items()
        }
        self._frozen: list[nn.Module] = [self] if freeze_all else _first_parts(body, freeze_at)
        for module in self._frozen:
            module.requires_grad_(False)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Images [B, 3, H, W], normalised, to the features of every level."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_all):
            found = self.body(x)
            features = {
                level: _channels_first(found[row], self.channels[level]) for level, row in self._rows.items()
            }
            return self.fpn({level: f for level, f in features.items() if level >= self.fpn.levels[0]})

    def train(self, mode: bool = True) -> TimmBody:
        """Frozen parts stay in evaluation mode, so that their norms keep their statistics."""
        super().train(mode)
        for module in self._frozen:
            for part in module.modules():
                part.training = False
        return self


def load_features(name: str) -> Any:
    """timm's model `name` with fresh weights, giving features instead of classes.

    Raises:
        UserError: without timm, for a name that it does not know, and for a model without features at strides 4 to 32.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"MODEL.CONV_BODY timm/{name} needs the timm library, which is not installed; install it with "
            "`pip install 'detectune[timm]'`, or take a ResNet body."
        ) from error
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f"did you mean timm/{near[0]}?" if near else "timm.list_models() lists what it has."
        raise UserError(f"MODEL.CONV_BODY timm/{name} is no model of timm; {hint}")
    try:
        body: Any = timm.create_model(name, features_only=True, pretrained=False)
        strides = list(body.feature_info.reduction())
    except (RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
        raise UserError(
            f"MODEL.CONV_BODY timm/{name} gives no feature maps ({error}); take a model of stages, such as "
            "timm/convnext_tiny."
        ) from error
    if missing := [stride for stride in LEVELS.values() if stride not in strides]:
        raise UserError(
            f"MODEL.CONV_BODY timm/{name} has features at strides {strides}, but a pyramid needs {missing} too; take "
            "a model of stages, such as timm/convnext_tiny."
        )
    return body


def level_channels(body: Any) -> dict[int, int]:
    """Channels of the features of levels 2..5."""
    info = dict(zip(body.feature_info.reduction(), body.feature_info.channels(), strict=True))
    return {level: info[stride] for level, stride in LEVELS.items()}


def _first_parts(body: Any, freeze_at: int) -> list[nn.Module]:
    """The children of a body up to and including the stage of level `freeze_at`."""
    if freeze_at <= 0:
        return []
    children = [name for name, _ in body.named_children()]
    ends = {
        level: name.replace(".", "_")
        for level, stride in LEVELS.items()
        for name, reduction in zip(
            body.feature_info.module_name(), body.feature_info.reduction(), strict=True
        )
        if reduction == stride
    }
    if not set(ends.values()) <= set(children):
        raise UserError(
            f"TRAIN.FREEZE_AT is {freeze_at}, but this timm model's stages cannot be told apart; set it to 0, or "
            "freeze the whole body by TRAIN.FREEZE_CONV_BODY."
        )
    last = children.index(ends[max(freeze_at, 2)]) + (freeze_at > 1)
    return [module for _, module in list(body.named_children())[:last]]


def _channels_first(x: Tensor, channels: int) -> Tensor:
    """Some transformers give [B, H, W, C]."""
    return x if x.shape[1] == channels else x.permute(0, 3, 1, 2).contiguous()
