"""The update rules: equal to torch's, pure, and the same for a population as for its members alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detectune.lab.update_rules import RULES, State, update_all

STEPS = 100
SHAPES = [(7, 5), (3, 2, 3, 3), (6,), (4, 9)]  # a wide and a tall matrix, filters, a bias


def network(*, matrices_only: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [shape for shape in SHAPES if len(shape) == 2 or not matrices_only]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def gradient_of(w: Tensor, step: int) -> Tensor:
    """Of a curved loss, and noisy, so that an error of one update changes all later ones."""
    noise = torch.randn(w.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return w + 0.3 * torch.sin(3 * w) + 0.5 * noise


def follow(rule: str, parameters: list[Tensor], **hyper: Any) -> list[Tensor]:
    states = [State() for _ in parameters]
    for step in range(STEPS):
        gradients = [gradient_of(w, step) for w in parameters]
        parameters, states = update_all(rule, parameters, gradients, states, hyper=hyper)
    return parameters


def follow_torch(make: Callable[[list[nn.Parameter]], Optimizer], parameters: list[Tensor]) -> list[Tensor]:
    weights = [nn.Parameter(w.clone()) for w in parameters]
    optimizer = make(weights)
    for step in range(STEPS):
        for weight in weights:
            weight.grad = gradient_of(weight.detach(), step)
        optimizer.step()
    return [weight.detach() for weight in weights]


optim = torch.optim
BETAS = {"beta1": 0.8, "beta2": 0.97}
EQUALS = [
    ("gradient descent", {"lr": 0.05, "weight_decay": 0.02}, lambda p: optim.SGD(p, lr=0.05, weight_decay=0.02)),
    ("momentum", {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.02},
     lambda p: optim.SGD(p, lr=0.02, momentum=0.8, weight_decay=0.02)),
    ("nesterov", {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.02},
     lambda p: optim.SGD(p, lr=0.02, momentum=0.8, weight_decay=0.02, nesterov=True)),
    ("adagrad", {"lr": 0.1, "eps": 1e-4, "weight_decay": 0.02},
     lambda p: optim.Adagrad(p, lr=0.1, eps=1e-4, weight_decay=0.02)),
    ("adadelta", {"lr": 0.9, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.02},
     lambda p: optim.Adadelta(p, lr=0.9, rho=0.8, eps=1e-3, weight_decay=0.02)),
    ("rmsprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-4, "weight_decay": 0.02},
     lambda p: optim.RMSprop(p, lr=0.01, alpha=0.9, eps=1e-4, weight_decay=0.02)),
    ("adam", {"lr": 0.01, **BETAS, "eps": 1e-4, "weight_decay": 0.02},
     lambda p: optim.Adam(p, lr=0.01, betas=(0.8, 0.97), eps=1e-4, weight_decay=0.02)),
    ("adamw", {"lr": 0.01, **BETAS, "eps": 1e-4, "weight_decay": 0.3},
     lambda p: optim.AdamW(p, lr=0.01, betas=(0.8, 0.97), eps=1e-4, weight_decay=0.3)),
    ("nadam", {"lr": 0.01, **BETAS, "eps": 1e-4, "momentum_decay": 0.01, "weight_decay": 0.02},
     lambda p: optim.NAdam(p, lr=0.01, betas=(0.8, 0.97), eps=1e-4, momentum_decay=0.01, weight_decay=0.02)),
]  # fmt: skip
DEFAULTS = [
    ("adagrad", lambda p: optim.Adagrad(p, lr=0.01)),
    ("adadelta", lambda p: optim.Adadelta(p, lr=0.01)),
    ("rmsprop", lambda p: optim.RMSprop(p, lr=0.01)),
    ("adam", lambda p: optim.Adam(p, lr=0.01)),
    ("adamw", lambda p: optim.AdamW(p, lr=0.01)),
    ("nadam", lambda p: optim.NAdam(p, lr=0.01)),
]


@pytest.fixture
def double_by_default() -> Iterator[None]:
    """torch's NAdam keeps one of its numbers in the default precision, which would be the larger difference."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize(("rule", "hyper", "make"), EQUALS, ids=lambda x: x if isinstance(x, str) else "")
def test_a_rule_equals_torchs_after_a_hundred_updates(rule: str, hyper: dict[str, Any], make: Any) -> None:
    got, expected = follow(rule, network(), **hyper), follow_torch(make, network())
    for ours, theirs, first in zip(got, expected, network(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
        assert (ours - first).abs().max() > 0.1


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize(("rule", "make"), DEFAULTS, ids=lambda x: x if isinstance(x, str) else "")
def test_defaults_are_torchs(rule: str, make: Any) -> None:
    for ours, theirs in zip(follow(rule, network(), lr=0.01), follow_torch(make, network()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)


def test_muon_equals_torchs_which_orthogonalises_in_bfloat16() -> None:
    hyper = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.05, "iterate_in": torch.bfloat16}
    start = network(matrices_only=True)
    expected = follow_torch(
        lambda p: optim.Muon(p, lr=0.02, momentum=0.9, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        start,
    )
    for ours, theirs in zip(follow("muon", start, **hyper), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)


def test_muon_updates_what_is_no_matrix_as_adamw_does() -> None:
    bias = [torch.linspace(-1, 1, 6, dtype=torch.float64)]
    hyper = {"lr": 0.01, "beta1": 0.8, "weight_decay": 0.1}
    assert torch.equal(follow("muon", bias, **hyper)[0], follow("adamw", bias, **hyper)[0])


def test_lion_follows_its_formula() -> None:
    w, m, lr, decay, b1, b2 = -0.7, 0.0, 0.01, 0.1, 0.6, 0.8
    state, weight = State(), torch.tensor([w], dtype=torch.float64)
    for g in (0.5, -2.0, 0.3, -0.1):
        direction = b1 * m + (1 - b1) * g
        w = w - lr * decay * w - lr * math.copysign(1.0, direction)
        m = b2 * m + (1 - b2) * g
        weight, state = RULES["lion"](
            weight,
            torch.tensor([g], dtype=torch.float64),
            state,
            lr=lr,
            beta1=b1,
            beta2=b2,
            weight_decay=decay,
        )
        assert weight.item() == pytest.approx(w, rel=1e-14)
        assert state.memory["mean"].item() == pytest.approx(m, rel=1e-14)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_changes_nothing_in_place_and_repeats_itself(rule: str) -> None:
    w, g = network()[0], network()[0].flip(0)
    _, state = RULES[rule](w, g, State(), lr=0.1)
    kept = [w.clone(), g.clone(), {name: x.clone() for name, x in state.memory.items()}]
    first, after = RULES[rule](w, g, state, lr=0.1)
    again, _ = RULES[rule](w, g, state, lr=0.1)
    assert torch.equal(first, again) and not torch.equal(first, w)
    assert torch.equal(w, kept[0]) and torch.equal(g, kept[1])
    assert all(torch.equal(state.memory[name], x) for name, x in kept[2].items())
    assert (state.step, after.step) == (1, 2)


@pytest.mark.parametrize("rule", RULES)
def test_members_of_a_population_are_updated_as_if_alone(rule: str) -> None:
    rates, decays = [0.001, 0.01, 0.1], [0.0, 0.1, 0.01]
    alone = [follow(rule, network(), lr=lr, weight_decay=d) for lr, d in zip(rates, decays, strict=True)]
    together = [torch.stack([w, w, w]) for w in network()]
    hyper = {"lr": torch.tensor(rates, dtype=torch.float64), "weight_decay": torch.tensor(decays).double()}
    states = [State() for _ in together]
    for step in range(STEPS):
        gradients = [torch.stack([gradient_of(one, step) for one in w]) for w in together]
        together, states = update_all(rule, together, gradients, states, hyper=hyper, member_axes=1)
    for k, member in enumerate(alone):
        for one, w in zip(member, together, strict=True):
            torch.testing.assert_close(w[k], one, rtol=1e-7, atol=1e-9)
