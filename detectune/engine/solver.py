"""How weights change: parameter groups by Detectron's rules, the optimiser, the rate of each iteration,
clipping.

Groups (golden/detectron/*/param_groups.json): every bias, those of norms included, learns at BIAS_LR_FACTOR
(Detectron: 2) times the rate and without weight decay, but for WEIGHT_DECAY_BIAS; scales of trained norms decay by
WEIGHT_DECAY_GN; all other weights by WEIGHT_DECAY. What does not require a gradient (frozen stages, frozen affine) is
in no group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detectune.config.tree import Config
from detectune.engine.optimizers import USED_BY, DetectronSGD, make_optimizer
from detectune.engine.schedule import Schedule, check_schedule, iterations_of, lr_at, scale_to_batch
from detectune.errors import UserError

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
POLICY_USES: dict[str, tuple[str, ...]] = {
    "SOLVER.GAMMA": ("step", "steps_with_decay", "exp_decay"),
    "SOLVER.STEP_SIZE": ("step",),
    "SOLVER.STEPS": ("steps_with_decay", "steps_with_lrs"),
    "SOLVER.LRS": ("steps_with_lrs",),
    "SOLVER.LR_FINAL_FRACTION": ("cosine_decay", "polynomial_decay", "one_cycle"),
    "SOLVER.POLY_POWER": ("polynomial_decay",),
    "SOLVER.ONE_CYCLE_PEAK": ("one_cycle",),
}
"""Which LR policies read a key."""


class Solver:
    """The optimiser with its schedule. One update: `set_lr(i)`, `backward(loss)` once or more, `step()`."""

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule,
        *,
        clip_gradient_norm: float = 0.0,
        scale_momentum: bool = True,
        scale_momentum_threshold: float = 1.1,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip_gradient_norm = clip_gradient_norm
        self.scale_momentum = scale_momentum
        self.scale_momentum_threshold = scale_momentum_threshold
        self.scaler = scaler
        self.lr = 0.0
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def set_lr(self, iteration: int) -> float:
        """Set the learning rate of update `iteration`, correct the momentum if it jumped, and return the
        rate.
        """
        old, new = self.lr, lr_at(self.schedule, iteration)
        corrects = isinstance(self.optimizer, DetectronSGD) and self.scale_momentum
        # From a rate of (nearly) zero there is nothing worth carrying over; Detectron draws the line at 1e-7.
        if corrects and old > 1e-7 and lr_change_ratio(old, new) > self.scale_momentum_threshold:
            assert isinstance(self.optimizer, DetectronSGD)
            self.optimizer.scale_momentum(new / old)
        for group in self.optimizer.param_groups:
            group["lr"] = new * group["lr_factor"]
        self.lr = new
        return new

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to the parameters' gradients."""
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def gradient_norm(self) -> Tensor:
        """The L2 norm of the whole gradient, a device scalar; unscaled first when the loss was scaled
        (fp16).
        """
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        grads = [p.grad for p in self.parameters if p.grad is not None]
        if not any(grad.is_cuda for grad in grads):  # the same operations, without sorting tensors by device
            norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
            return norm
        return nn.utils.get_total_norm(grads, foreach=None)

    def step(self, norm: Tensor) -> None:
        """Clip the gradient, whose norm is `norm`, update the weights and clear the gradient."""
        if self.clip_gradient_norm > 0:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip_gradient_norm, norm)
        if self.scaler is None:
            self.update()
        else:
            self.scaler.step(self.optimizer)  # leaves the weights alone if the scaled gradient overflowed
            self.scaler.update()
        for parameter in self.parameters:  # `zero_grad` would open a profiler's range for it
            parameter.grad = None

    def update(self) -> None:
        """Update the weights from their gradients as they are."""
        if isinstance(self.optimizer, DetectronSGD):
            self.optimizer.update()  # past the hooks and the profiler's range around torch's `step`
        else:
            self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "lr": self.lr,
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr = state["lr"]
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])


def build_solver(
    config: Config, model: nn.Module, *, schedule: Schedule, loss_scaling: bool = False
) -> Solver:
    """The solver that SOLVER describes, for the parameters of `model` that require a gradient."""
    return solver_for(config, trained_groups(config, model), schedule=schedule, loss_scaling=loss_scaling)


def trained_groups(config: Config, model: nn.Module) -> list[dict[str, Any]]:
    """`parameter_groups` by SOLVER; a `UserError` if every weight is frozen."""
    solver = config.SOLVER
    groups = parameter_groups(
        model,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_GN,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
    )
    if not groups:
        raise UserError(
            "Every weight of the model is frozen, there is nothing to train: "
            "lower TRAIN.FREEZE_AT or set TRAIN.FREEZE_CONV_BODY=False."
        )
    return groups


def solver_for(
    config: Config, groups: list[dict[str, Any]], *, schedule: Schedule, loss_scaling: bool = False
) -> Solver:
    """The solver that SOLVER describes, for parameter groups."""
    solver = config.SOLVER
    optimizer = make_optimizer(
        solver.OPTIMIZER,
        groups,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        betas=(solver.BETAS[0], solver.BETAS[1]),
        eps=solver.EPS,
        rho=solver.RHO,
        alpha=solver.ALPHA,
    )
    return Solver(
        optimizer,
        schedule,
        clip_gradient_norm=solver.CLIP_GRADIENT_NORM,
        scale_momentum=solver.SCALE_MOMENTUM,
        scale_momentum_threshold=solver.SCALE_MOMENTUM_THRESHOLD,
        scaler=torch.amp.GradScaler("cuda") if loss_scaling else None,
    )


def build_schedule(
    config: Config, *, num_images: int, log: Callable[[str], None], num_processes: int = 1
) -> Schedule:
    """The schedule of SOLVER for the actual batch: linear scaling and epochs applied, each said in the log."""
    solver = config.SOLVER
    batch = config.TRAIN.IMS_PER_BATCH * num_processes * solver.ACCUMULATE
    schedule = schedule_of(config)
    check_schedule(schedule)
    schedule, changed = scale_to_batch(schedule, reference_batch=solver.REFERENCE_BATCH, batch=batch)
    if changed:
        pairs = ", ".join(f"{key} {_short(old)} -> {_short(new)}" for key, (old, new) in changed.items())
        log(f"SOLVER.REFERENCE_BATCH={solver.REFERENCE_BATCH}, the batch is {batch} images: {pairs}")
        check_schedule(schedule)  # steps that were distinct may round to the same iteration
    if solver.MAX_EPOCHS > 0:
        max_iter = iterations_of(solver.MAX_EPOCHS, num_images=num_images, batch=batch)
        log(
            f"SOLVER.MAX_EPOCHS={solver.MAX_EPOCHS}: {max_iter} iterations "
            f"({num_images} images, {batch} an update)"
        )
        schedule = Schedule(**{**schedule.__dict__, "max_iter": max_iter})
    return schedule


def schedule_of(config: Config) -> Schedule:
    """The schedule as SOLVER writes it, before it is scaled to the batch."""
    solver = config.SOLVER
    return Schedule(
        lr_policy=solver.LR_POLICY,
        base_lr=solver.BASE_LR,
        max_iter=solver.MAX_ITER,
        gamma=solver.GAMMA,
        steps=tuple(solver.STEPS),
        step_size=solver.STEP_SIZE,
        lrs=tuple(solver.LRS),
        lr_final_fraction=solver.LR_FINAL_FRACTION,
        poly_power=solver.POLY_POWER,
        one_cycle_peak=solver.ONE_CYCLE_PEAK,
        warm_up_method=solver.WARM_UP_METHOD,
        warm_up_iters=solver.WARM_UP_ITERS,
        warm_up_factor=solver.WARM_UP_FACTOR,
    )


def solver_notices(config: Config) -> list[str]:
    """One sentence for each changed SOLVER key that the chosen optimiser or LR policy does not read."""
    solver, changed = config.SOLVER, config.diff()
    choices: list[tuple[dict[str, tuple[str, ...]], str, str]]
    choices = [(USED_BY, "SOLVER.OPTIMIZER", solver.OPTIMIZER)]
    choices.append((POLICY_USES, "SOLVER.LR_POLICY", solver.LR_POLICY))
    notices = [
        f"{key}={changed[key][1]} has no effect with {choice}={name}; it is read by: {', '.join(readers)}."
        for table, choice, name in choices
        for key, readers in table.items()
        if key in changed and name not in readers
    ]
    if solver.LR_POLICY == "steps_with_lrs" and "SOLVER.BASE_LR" in changed:
        notices.append(
            "SOLVER.BASE_LR has no effect with SOLVER.LR_POLICY=steps_with_lrs; SOLVER.LRS has the rates."
        )
    if not solver.SCALE_MOMENTUM and "SOLVER.SCALE_MOMENTUM_THRESHOLD" in changed:
        notices.append("SOLVER.SCALE_MOMENTUM_THRESHOLD has no effect with SOLVER.SCALE_MOMENTUM=False.")
    if solver.MAX_EPOCHS > 0 and "SOLVER.MAX_ITER" in changed:
        notices.append("SOLVER.MAX_ITER has no effect while SOLVER.MAX_EPOCHS is above 0.")
    return notices


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    weight_decay_norm: float,
    weight_decay_bias: float = 0.0,
    bias_lr_factor: float = 2.0,
) -> list[dict[str, Any]]:
    """Optimiser groups of the trainable parameters, in the order of the model; empty groups are left out.

    Each has `name` (weight, norm, bias, norm_bias), `names` of its parameters, `lr_factor` and `weight_decay`. Norms'
    biases never decay; they are a group of their own only where other biases do.
    """
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    scales, shifts = {id(module.weight) for module in norms}, {id(module.bias) for module in norms}
    groups: dict[str, dict[str, Any]] = {
        "weight": {"lr_factor": 1.0, "weight_decay": weight_decay},
        "norm": {"lr_factor": 1.0, "weight_decay": weight_decay_norm},
        "bias": {"lr_factor": bias_lr_factor, "weight_decay": weight_decay_bias},
        "norm_bias": {"lr_factor": bias_lr_factor, "weight_decay": 0.0},
    }
    for name, group in groups.items():
        group.update(name=name, names=[], params=[], lr=0.0)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_bias = name.rpartition(".")[2] == "bias"
        free = weight_decay_bias > 0 and id(parameter) in shifts
        name_of_group = (
            "norm_bias" if free else "bias" if is_bias else "norm" if id(parameter) in scales else "weight"
        )
        group = groups[name_of_group]
        group["names"].append(name)
        group["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def lr_change_ratio(old: float, new: float) -> float:
    """How many times larger the larger of two rates is than the other."""
    tiny = 1e-10
    return max(new / max(old, tiny), old / max(new, tiny))


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_short(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
