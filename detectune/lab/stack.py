"""A population on a GPU: all members take each step together, stacked along a first axis.

A GPU spends the step of a small network on starting operations, not on doing them, and one operation on 32 networks
takes it hardly longer than one on a single network. The step of one member is written as a function of its parameters
and its batch; `torch.func.vmap` makes from it the step of all, and `make_fx` writes down once which operations that
is, so that a step starts those and does nothing else. The update is `lab/update_rules.py` with a value for each member.

Shape legend
    K  members    B  images of a batch    C  classes    n  updates of a block

Numbers are those of `lab/member.py` to rounding; tests/lab/test_stack.py compares them on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from detectune.config.tree import Config
from detectune.data.labelled import LabelledImages
from detectune.data.labelled_loader import make_loader
from detectune.engine.classification import measure
from detectune.engine.precision import Compute
from detectune.engine.running import seed_globals, step_generator
from detectune.engine.schedule import lr_at
from detectune.engine.solver import build_schedule, lr_change_ratio
from detectune.lab.member import norm_stride
from detectune.lab.stacked_rules import rule_of, values_of
from detectune.lab.update_rules import State
from detectune.models.build_classifier import build_classifier
from detectune.models.classifier import Classifier, DrawnDropout
from detectune.models.layer_list import Dropout, parse_layers, shapes_of
from detectune.ops.draws import draw_kept

Tensors = dict[str, Tensor]


class Stack:
    """K members in training. Members that diverged stay in the stack, with the weights they had before that block."""

    def __init__(
        self,
        configs: Sequence[Config],
        *,
        data: LabelledImages,
        tests: Mapping[str, LabelledImages],
        device: torch.device,
    ) -> None:
        self.configs, self.device = list(configs), device
        self.loaders = [make_loader(config, data, training=True) for config in configs]
        self.schedules = [
            build_schedule(config, num_images=len(data), log=lambda _: None) for config in configs
        ]
        self.tests = {name: make_loader(configs[0], images, training=False) for name, images in tests.items()}
        models = [_fresh(config, data) for config in configs]
        self.template = models[0].to(device)
        self.class_info, self.max_iter = data.class_info, self.schedules[0].max_iter
        states = [model.state_dict() for model in models]
        self.parameters: Tensors = {
            name: torch.stack([state[name].to(device) for state in states]) for name in states[0]
        }
        groups = [values_of(config, model) for config, model in zip(configs, models, strict=True)]
        layers = [parse_layers(config.CLASSIFIER.LAYERS) for config in configs]
        shapes = shapes_of(layers[0], self.template.input_shape)
        self.dropouts = [  # shape of what reaches the layer, and the rate of each member
            (shapes[i], [each[i].rate for each in layers])  # type: ignore[union-attr]  # the layers are alike
            for i, layer in enumerate(layers[0])
            if isinstance(layer, Dropout)
        ]
        self.values: dict[str, Tensors] = {  # of the update rule: parameter -> value name -> [K]
            name: {
                key: torch.tensor([g[name][key] for g in groups], device=device) for key in groups[0][name]
            }
            for name in self.parameters
        }
        clips = [config.SOLVER.CLIP_GRADIENT_NORM or torch.inf for config in configs]
        self.clip = torch.tensor(clips, device=device) if min(clips) < torch.inf else None
        self.rule = rule_of(configs[0])
        self.memory: dict[str, Tensors] = {name: {} for name in self.parameters}  # of the update rule
        self.warm = False
        self.traced: Callable[..., Any] | None = None
        self.iteration, self.seconds = 0, 0.0
        self.norm_stride = norm_stride(configs[0], max_iter=self.max_iter)
        # [K]: of gradients before clipping, of updates since `advance` was called.
        self.norms: list[Tensor] = []
        self.diverged_at: list[int | None] = [None] * len(configs)

    def advance(self, until: int) -> Tensor:
        """Update until `until` updates are done; the mean loss of each member over them, float32 [K], on the host."""
        started, sums, first = time.perf_counter(), torch.zeros(len(self.configs)), self.iteration
        self.template.train()
        self.norms = []
        while self.iteration < until:
            sums += self._block(until - self.iteration)
        self.seconds += (time.perf_counter() - started) / len(self.configs)
        return sums / max(1, self.iteration - first)

    @torch.no_grad()
    def _block(self, limit: int) -> Tensor:
        """The updates of the next block of batches; the sum of losses of each member, [K]."""
        size = self.configs[0].TRAIN.IMS_PER_BATCH
        blocks = [loader.block(self.iteration) for loader in self.loaders]
        number = min(limit, len(blocks[0]) // size)
        images = torch.stack([block.images[: number * size] for block in blocks]).to(self.device)
        labels = torch.stack(
            [block.labels[: number * size] for block in blocks if block.labels is not None]
        ).to(self.device)
        rates, carried = self._rates(number)
        scores, before = [], {name: parameter.clone() for name, parameter in self.parameters.items()}
        for row in range(number):
            own = slice(row * size, (row + 1) * size)
            iteration = self.iteration + row
            count = torch.tensor(float(iteration + 1), device=self.device)
            batch = (images[:, own], labels[:, own], self._kept(iteration, size))
            score, norms = self._update(batch, rates[row], carried[row], count)
            scores.append(score)
            if (iteration + 1) % self.norm_stride == 0:
                self.norms.append(norms)
        losses = self._losses(torch.stack(scores), labels)
        self._undo_what_diverged(losses, before)
        self.iteration += number
        return losses.sum(1).nan_to_num()

    def _update(
        self, batch: tuple[Tensor, Tensor, list[Tensor]], lr: Tensor, carry: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One update of all members; the scores [K, B, C] before it and the norms [K] of its gradients."""
        arguments = (self.parameters, self.memory, *batch, lr, carry, count)
        if self.traced is None and self.warm:  # the first update has shown what the rule remembers
            self.traced = make_fx(lambda *given: self._step(*given))(*arguments)
        scores: Tensor
        norms: Tensor
        self.parameters, self.memory, scores, norms = (self.traced or self._step)(*arguments)
        self.warm = True
        return scores, norms

    def _step(
        self,
        parameters: Tensors,
        memory: dict[str, Tensors],
        images: Tensor,
        labels: Tensor,
        kept: list[Tensor],
        lr: Tensor,
        carry: Tensor,
        count: Tensor,
    ) -> tuple[Tensors, dict[str, Tensors], Tensor, Tensor]:
        """A pure function: parameters, the rule's memory and a batch of each member to their successors, scores and
        norms [K] of gradients before clipping.
        """
        gradients, (_, scores) = vmap(grad_and_value(self._loss, has_aux=True))(
            parameters, images, labels, kept
        )
        norms = torch.cat([g.flatten(1) for g in gradients.values()], dim=1).norm(dim=1)
        if self.clip is not None:
            factor = (self.clip / (norms + 1e-6)).clamp(max=1.0)
            gradients = {name: g * factor.view([-1] + [1] * (g.dim() - 1)) for name, g in gradients.items()}
        updated, remembered = {}, {}
        for name, parameter in parameters.items():
            axes = [-1] + [1] * (parameter.dim() - 1)
            values = {key: value.view(axes) for key, value in self.values[name].items()}
            values["lr"] = lr.view(axes) * values.pop("lr_factor")
            values["carry"] = carry.view(axes)
            state = State(count - 1, memory[name])  # type: ignore[arg-type]  # a tensor, as it is traced
            updated[name], state = self.rule(parameter, gradients[name], state, values)
            remembered[name] = dict(state.memory)
        return updated, remembered, scores, norms

    def _loss(
        self, parameters: Tensors, images: Tensor, labels: Tensor, kept: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Loss and scores [B, C] of one member, as `Classifier.forward` has them."""
        model, masks = self.template, iter(kept)
        x = model.inputs(images)
        for name, layer in model.layers.named_children():
            if isinstance(layer, DrawnDropout):
                x = x * next(masks)
                continue
            own = {key: parameters[f"layers.{name}.{key}"] for key, _ in layer.named_parameters()}
            x = functional_call(layer, own, (x,))
        return model.loss_of(x, labels, label_smoothing=model.label_smoothing), x

    def _kept(self, iteration: int, size: int) -> list[Tensor]:
        """What each dropout layer multiplies by, [K, B, ...]: drawn by every member as if it were alone."""
        if not self.dropouts:
            return []
        drawn: list[list[Tensor]] = [[] for _ in self.dropouts]
        for k, config in enumerate(self.configs):
            generator = step_generator(config.RNG_SEED, iteration, 0, self.device)
            for (shape, rates), masks in zip(self.dropouts, drawn, strict=True):
                mask = torch.ones((size, *shape), device=self.device)
                if rates[k] > 0:
                    keep = 1 - rates[k]
                    mask = draw_kept(mask.shape, keep, generator=generator, device=mask.device) / keep
                masks.append(mask)
        return [torch.stack(masks) for masks in drawn]

    def _rates(self, number: int) -> tuple[Tensor, Tensor]:
        """Learning rates of the next updates, [n, K], and what momentum is multiplied by before each (see Solver)."""
        rates, carried = [], []
        for config, schedule in zip(self.configs, self.schedules, strict=True):
            solver = config.SOLVER
            own = [lr_at(schedule, i) for i in range(max(0, self.iteration - 1), self.iteration + number)]
            before = own[:-1] if self.iteration > 0 else [0.0, *own[:-1]]
            now = own[1:] if self.iteration > 0 else own
            rates.append(now)
            carried.append(
                [
                    new / old
                    if solver.SCALE_MOMENTUM
                    and old > 1e-7
                    and lr_change_ratio(old, new) > solver.SCALE_MOMENTUM_THRESHOLD
                    else 1.0
                    for old, new in zip(before, now, strict=True)
                ]
            )
        return torch.tensor(rates, device=self.device).t(), torch.tensor(carried, device=self.device).t()

    def _losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Loss of each member and update, [K, n], of scores [n, K, B, C] and labels [K, n * B]; on the host."""
        model, (number, _, size, _) = self.template, scores.shape
        each = [
            model.loss_of(
                scores[:, k].flatten(0, 1), labels[k], label_smoothing=model.label_smoothing, reduction="none"
            )
            for k in range(len(self.configs))
        ]
        return torch.stack(each).view(-1, number, size).mean(2).cpu()

    def _undo_what_diverged(self, losses: Tensor, before: Tensors) -> None:
        """Note the first update whose loss was not finite, and give those members their weights of before."""
        finite = torch.stack([p.flatten(1).isfinite().all(1) for p in self.parameters.values()]).all(0).cpu()
        for k in range(len(self.configs)):
            if self.diverged_at[k] is None and not (finite[k] and losses[k].isfinite().all()):
                self.diverged_at[k] = self.iteration + int(losses[k].isfinite().long().cumprod(0).sum()) + 1
            if self.diverged_at[k] is not None:
                for name, parameter in self.parameters.items():
                    parameter[k] = before[name][k]

    def restore(self, k: int, state: Mapping[str, Any]) -> None:
        """Put back what `StackedMember.state_dict` gave for member k; all members are restored in turn."""
        self.iteration, self.seconds = state["iteration"], state["seconds"]
        self.diverged_at[k] = state["diverged_at"]
        for name, own in state["memory"].items():
            self.parameters[name][k] = state["model"][name].to(self.device)
            for key, value in own.items():
                fresh = torch.zeros((len(self.configs), *value.shape), device=self.device)
                self.memory[name].setdefault(key, fresh)[k] = value.to(self.device)

    def weights_of(self, k: int) -> Tensors:
        """The state of member k as its model's `state_dict`, on the host."""
        return {name: parameter[k].cpu() for name, parameter in self.parameters.items()}

    def evaluate(self, k: int, dataset: str) -> dict[str, float]:
        """Accuracy and loss of member k on one of the test sets."""
        self.template.load_state_dict(self.weights_of(k))
        return measure(self.template, self.tests[dataset], Compute(self.device))


def _fresh(config: Config, data: LabelledImages) -> Classifier:
    """The network as the plain trainer starts it."""
    seed_globals(config.RNG_SEED)
    return build_classifier(
        config, input_shape=tuple(data.images.shape[1:]), num_classes=len(data.class_info)
    )
