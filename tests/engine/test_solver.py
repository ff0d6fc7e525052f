"""Parameter groups, the update rules against slow references, momentum correction, notices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_engine import TinyDetector, tiny_config
from torch import Tensor, nn

from detectune.engine.optimizers import DetectronSGD, make_optimizer
from detectune.engine.schedule import Schedule
from detectune.engine.solver import (
    Solver,
    build_schedule,
    build_solver,
    lr_change_ratio,
    parameter_groups,
    solver_notices,
)
from detectune.errors import UserError
from detectune.lab.update_rules import State, update_all

RULES = {
    "momentum": 0.9, "nesterov": False, "betas": (0.9, 0.99), "eps": 1e-8, "rho": 0.9, "alpha": 0.95,
}  # fmt: skip


def test_biases_learn_twice_as_fast_without_decay_and_norm_scales_have_their_own() -> None:
    groups = parameter_groups(TinyDetector(), weight_decay=0.1, weight_decay_norm=0.02)
    facts = {g["name"]: (g["names"], g["lr_factor"], g["weight_decay"]) for g in groups}
    assert facts == {
        "weight": (["conv.weight", "head.weight"], 1.0, 0.1),
        "norm": (["norm.weight"], 1.0, 0.02),
        "bias": (["conv.bias", "norm.bias", "head.bias"], 2.0, 0.0),
    }


def test_frozen_parameters_are_in_no_group() -> None:
    model = TinyDetector()
    model.conv.requires_grad_(False)
    names = [
        name
        for group in parameter_groups(model, weight_decay=0, weight_decay_norm=0)
        for name in group["names"]
    ]
    assert names == ["head.weight", "norm.weight", "norm.bias", "head.bias"]


def test_a_model_with_everything_frozen_is_refused() -> None:
    model = TinyDetector().requires_grad_(False)
    with pytest.raises(UserError, match=r"TRAIN\.FREEZE_AT"):
        build_solver(tiny_config(), model, schedule=Schedule("step", 0.1, 10))


def run_rule(
    name: str, gradients: list[Tensor], rates: list[float], *, decay: float, **rules: Any
) -> list[Tensor]:
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    group = {"params": [weight], "lr": 0.0, "weight_decay": decay}
    optimizer = make_optimizer(name, [group], **(RULES | rules))
    path = []
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = gradient.clone()
        optimizer.step()
        path.append(weight.detach().clone())
    return path


def gradients(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_keeps_its_velocity_in_units_of_weights(nesterov: bool) -> None:
    grads, rates, mu, decay = gradients(6), [0.1, 0.1, 0.05, 0.2, 0.2, 0.01], 0.9, 0.03
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    velocity = torch.zeros(3, dtype=torch.float64)
    got = run_rule("sgd", grads, rates, decay=decay, momentum=mu, nesterov=nesterov)
    for gradient, rate, actual in zip(grads, rates, got, strict=True):
        step = rate * (gradient + decay * weight)
        before, velocity = velocity, mu * velocity + step
        # Caffe2 writes Nesterov's update as (1 + mu) * V_new - mu * V_old.
        weight = weight - ((1 + mu) * velocity - mu * before if nesterov else velocity)
        torch.testing.assert_close(actual, weight, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_torchs_while_the_rate_is_constant(nesterov: bool) -> None:
    grads = gradients(8)
    got = run_rule("sgd", grads, [0.1] * 8, decay=0.02, nesterov=nesterov)
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    reference = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.02, nesterov=nesterov)
    for gradient in grads:
        weight.grad = gradient.clone()
        reference.step()
    torch.testing.assert_close(got[-1], weight.detach(), rtol=1e-12, atol=1e-12)


def test_the_other_rules_follow_their_formulas_and_keys() -> None:
    grads, rate = gradients(4), 0.01
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def follow(update: Any) -> Tensor:
        weight, state = start.clone(), [torch.zeros_like(start), torch.zeros_like(start)]
        for t, gradient in enumerate(grads, 1):
            weight = weight - update(gradient, state, t, weight)
        return weight

    def adam(g: Tensor, s: list[Tensor], t: int, w: Tensor) -> Tensor:
        s[0], s[1] = 0.8 * s[0] + 0.2 * g, 0.95 * s[1] + 0.05 * g * g
        return rate * (s[0] / (1 - 0.8**t)) / ((s[1] / (1 - 0.95**t)).sqrt() + 1e-3)

    def adagrad(g: Tensor, s: list[Tensor], t: int, w: Tensor) -> Tensor:
        s[0] = s[0] + g * g
        return rate * g / (s[0].sqrt() + 1e-3)

    def rmsprop(g: Tensor, s: list[Tensor], t: int, w: Tensor) -> Tensor:
        s[0] = 0.7 * s[0] + 0.3 * g * g
        return rate * g / (s[0].sqrt() + 1e-3)

    def adadelta(g: Tensor, s: list[Tensor], t: int, w: Tensor) -> Tensor:
        s[0] = 0.6 * s[0] + 0.4 * g * g
        step = (s[1] + 1e-3).sqrt() / (s[0] + 1e-3).sqrt() * g
        s[1] = 0.6 * s[1] + 0.4 * step * step
        return rate * step

    def adamw(g: Tensor, s: list[Tensor], t: int, w: Tensor) -> Tensor:
        return adam(g, s, t, w) + rate * 0.1 * w

    keys = {"betas": (0.8, 0.95), "eps": 1e-3, "rho": 0.6, "alpha": 0.7}
    for name, update in {
        "adam": adam, "adagrad": adagrad, "rmsprop": rmsprop, "adadelta": adadelta, "adamw": adamw,
    }.items():  # fmt: skip
        got = run_rule(name, grads, [rate] * 4, decay=0.1 if name == "adamw" else 0.0, **keys)[-1]
        torch.testing.assert_close(got, follow(update), rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    ("name", "shapes"), [("lion", [(3, 4), (5,)]), ("muon", [(3, 4), (4, 2, 3, 3), (5,)])]
)
def test_lion_and_muon_are_the_rules_of_the_lab(name: str, shapes: list[tuple[int, ...]]) -> None:
    generator = torch.Generator().manual_seed(2)
    pure = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    weights = [nn.Parameter(w.clone()) for w in pure]
    groups = [
        {"params": weights[:1], "lr": 0.0, "weight_decay": 0.1},
        {"params": weights[1:], "weight_decay": 0.1},
    ]
    optimizer = make_optimizer(name, groups, **RULES | {"momentum": 0.8, "betas": (0.7, 0.95), "eps": 1e-4})
    states = [State() for _ in pure]
    hyper: dict[str, Any] = {"weight_decay": 0.1, "beta1": 0.7, "beta2": 0.95}
    hyper |= {"momentum": 0.8, "eps": 1e-4} if name == "muon" else {}
    for step in range(100):
        gradients = [w + torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in pure]
        lr = 0.01 if step < 50 else 0.003
        pure, states = update_all(name, pure, gradients, states, hyper=hyper | {"lr": lr})
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    for weight, expected in zip(weights, pure, strict=True):
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-9, atol=1e-12)


def make_solver(rates: list[float], **options: Any) -> tuple[Solver, nn.Parameter]:
    weight = nn.Parameter(torch.tensor([1.0]))
    group = {"params": [weight], "lr": 0.0, "lr_factor": 2.0, "weight_decay": 0.0}
    schedule = Schedule("steps_with_lrs", 0.0, 9, steps=tuple(range(len(rates))), lrs=tuple(rates))
    return Solver(DetectronSGD([group], momentum=0.9), schedule, **options), weight


def test_momentum_is_corrected_as_detectron_does(shared: Path) -> None:
    cases = json.loads((shared / "golden/detectron/units/lr_policy.json").read_text())
    rows = [row for case in cases for row in case["out_json"].get("rows", [])]
    assert len(rows) >= 20
    for row in rows:
        solver, weight = make_solver([row["new_lr"]])
        weight.grad = torch.tensor([1.0])
        solver.step(torch.tensor(1.0))
        velocity = solver.optimizer.state[weight]["velocity"]
        velocity.fill_(3.0)
        solver.lr = row["cur_lr"]
        assert lr_change_ratio(row["cur_lr"], row["new_lr"]) == pytest.approx(row["ratio"])
        solver.set_lr(0)
        scaled_by = row["momentum_scaled_by"] or 1.0
        assert velocity.item() == pytest.approx(3.0 * scaled_by, rel=1e-6), row


def test_momentum_correction_can_be_off_and_has_a_threshold() -> None:
    for options, expected in (
        ({"scale_momentum": False}, 3.0),
        ({"scale_momentum_threshold": 20.0}, 3.0),
        ({"scale_momentum_threshold": 5.0}, 0.3),
    ):
        solver, weight = make_solver([1.0, 0.1], **options)
        solver.set_lr(0)
        weight.grad = torch.tensor([1.5])
        solver.step(torch.tensor(1.5))
        solver.set_lr(1)
        assert solver.optimizer.state[weight]["velocity"].item() == pytest.approx(expected)
        assert solver.optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


def test_the_gradient_is_clipped_by_its_global_norm() -> None:
    model = TinyDetector()
    solver = build_solver(
        tiny_config(SOLVER__CLIP_GRADIENT_NORM=0.5, SOLVER__MOMENTUM=0.0, SOLVER__WEIGHT_DECAY=0.0),
        model,
        schedule=Schedule("step", 1.0, 10),
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.full_like(p, 2.0)
    norm = solver.gradient_norm()
    count = sum(p.numel() for p in model.parameters())
    assert norm.item() == pytest.approx(2.0 * count**0.5)
    solver.set_lr(0)
    solver.step(norm)
    for name, p in model.named_parameters():
        factor = 2.0 if name.endswith("bias") else 1.0
        expected = before[name] - factor * 0.5 / count**0.5
        torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-5)
        assert p.grad is None


def test_the_state_of_a_solver_round_trips() -> None:
    def steps(solver: Solver, model: nn.Module, numbers: range) -> None:
        for i in numbers:
            solver.set_lr(i)
            for p in model.parameters():
                p.grad = torch.full_like(p, 0.1 * (i + 1))
            solver.step(solver.gradient_norm())

    config = tiny_config(SOLVER__LR_POLICY="steps_with_lrs", SOLVER__STEPS=[0, 2], SOLVER__LRS=[0.1, 0.01])
    results = []
    for split in (False, True):
        torch.manual_seed(0)
        model = TinyDetector()
        schedule = build_schedule(config, num_images=10, log=print)
        solver = build_solver(config, model, schedule=schedule)
        steps(solver, model, range(0, 2))
        if split:
            state = solver.state_dict()
            solver = build_solver(config, model, schedule=schedule)
            solver.load_state_dict(state)
        steps(solver, model, range(2, 5))
        results.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_linear_scaling_counts_accumulated_images_and_says_what_changed() -> None:
    said: list[str] = []
    config = tiny_config(SOLVER__REFERENCE_BATCH=16, TRAIN__IMS_PER_BATCH=4, SOLVER__ACCUMULATE=2)
    schedule = build_schedule(config, num_images=10, log=said.append)
    assert (schedule.base_lr, schedule.max_iter, schedule.warm_up_iters) == (0.025, 24, 8)
    assert "SOLVER.BASE_LR 0.05 -> 0.025" in said[0] and "SOLVER.MAX_ITER 12 -> 24" in said[0]
    assert "batch is 8 images" in said[0]


def test_epochs_decide_the_number_of_iterations() -> None:
    said: list[str] = []
    config = tiny_config(SOLVER__MAX_EPOCHS=3, SOLVER__ACCUMULATE=2)
    assert build_schedule(config, num_images=10, log=said.append).max_iter == 8
    assert "SOLVER.MAX_EPOCHS=3: 8 iterations" in said[0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"SOLVER__NESTEROV": True, "SOLVER__OPTIMIZER": "adam"}, "SOLVER.NESTEROV=True has no effect"),
        ({"SOLVER__MOMENTUM": 0.8, "SOLVER__OPTIMIZER": "adamw"}, "SOLVER.MOMENTUM=0.8 has no effect"),
        ({"SOLVER__EPS": 1e-6, "SOLVER__OPTIMIZER": "lion"}, "SOLVER.EPS=1e-06 has no effect"),
        ({"SOLVER__RHO": 0.8}, "SOLVER.RHO=0.8 has no effect with SOLVER.OPTIMIZER=sgd"),
        ({"SOLVER__POLY_POWER": 2.0}, "SOLVER.POLY_POWER=2.0 has no effect with SOLVER.LR_POLICY=step"),
        ({"SOLVER__MAX_EPOCHS": 2}, "SOLVER.MAX_ITER has no effect"),
    ],
)
def test_a_key_without_effect_is_pointed_out(changes: dict[str, Any], named: str) -> None:
    assert any(named in notice for notice in solver_notices(tiny_config(**changes)))


def test_keys_that_have_an_effect_are_not_pointed_out() -> None:
    assert solver_notices(tiny_config(SOLVER__NESTEROV=True, SOLVER__MOMENTUM=0.8, SOLVER__GAMMA=0.5)) == []
