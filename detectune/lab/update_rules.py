"""Update rules as pure functions: (parameter, gradient, state, hyper-parameters) -> (parameter, state).

Nothing is changed in place and nothing is remembered outside `State`, so each function is its formula and can be read,
differentiated, batched and compared. w is the parameter, g its gradient, t the number of this update, counted from 1;
products, roots and signs of tensors are elementwise.

A hyper-parameter is a number, or a tensor that broadcasts against the parameter: a population of K networks keeps
weights [K, out, in] and rates [K, 1, 1], and one call updates all of them. `update_all` spreads rates [K] so.

Where torch.optim has the rule, this one equals it (tests/lab/test_update_rules.py). Rules whose weight decay is part of
the gradient (L2) are so in torch, too; adamw, lion and muon decay the weights apart from it (Loshchilov & Hutter 2019).

Knows nothing about networks, data or configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detectune.ops.orthogonal import orthogonal

Value = float | Tensor
"""A hyper-parameter: one number, or one for each member of a population."""


class State(NamedTuple):
    """What a rule remembers of one parameter between updates."""

    step: int = 0
    memory: Mapping[str, Tensor] = {}

    def recall(self, name: str, like: Tensor) -> Tensor:
        """The remembered tensor, zeros before the first update."""
        return self.memory[name] if name in self.memory else torch.zeros_like(like)

    def after(self, **memory: Tensor) -> State:
        """The state one update later, with what is remembered then."""
        return State(self.step + 1, memory)


Update = Callable[..., tuple[Tensor, State]]


def gradient_descent(
    w: Tensor, g: Tensor, state: State, *, lr: Value, weight_decay: Value = 0.0
) -> tuple[Tensor, State]:
    """w <- w - lr g.  Cauchy 1847; with a random sample's gradient: Robbins & Monro 1951."""
    return w - lr * _with_l2(g, w, weight_decay), state.after()


def momentum(
    w: Tensor, g: Tensor, state: State, *, lr: Value, momentum: Value = 0.9, weight_decay: Value = 0.0
) -> tuple[Tensor, State]:
    """v <- mu v + g;  w <- w - lr v.  Polyak 1964 (the heavy ball), in the form of Sutskever et al. 2013."""
    v = momentum * state.recall("velocity", w) + _with_l2(g, w, weight_decay)
    return w - lr * v, state.after(velocity=v)


def nesterov(
    w: Tensor, g: Tensor, state: State, *, lr: Value, momentum: Value = 0.9, weight_decay: Value = 0.0
) -> tuple[Tensor, State]:
    """v <- mu v + g;  w <- w - lr (g + mu v).  Nesterov 1983, as rewritten by Sutskever et al. 2013, section 2."""
    g = _with_l2(g, w, weight_decay)
    v = momentum * state.recall("velocity", w) + g
    return w - lr * (g + momentum * v), state.after(velocity=v)


def adagrad(
    w: Tensor, g: Tensor, state: State, *, lr: Value, eps: Value = 1e-10, weight_decay: Value = 0.0
) -> tuple[Tensor, State]:
    """s <- s + g^2;  w <- w - lr g / (sqrt(s) + eps).  Duchi, Hazan & Singer 2011 (JMLR 12), diagonal form."""
    g = _with_l2(g, w, weight_decay)
    s = state.recall("squares", w) + g * g
    return w - lr * g / (s.sqrt() + eps), state.after(squares=s)


def adadelta(
    w: Tensor,
    g: Tensor,
    state: State,
    *,
    lr: Value = 1.0,
    rho: Value = 0.9,
    eps: Value = 1e-6,
    weight_decay: Value = 0.0,
) -> tuple[Tensor, State]:
    """Steps in units of the weights.  Zeiler 2012 (arXiv:1212.5701), algorithm 1, which has no rate: lr = 1.

    s <- rho s + (1 - rho) g^2;  d = g sqrt(u + eps) / sqrt(s + eps);  u <- rho u + (1 - rho) d^2;  w <- w - lr d.
    """
    g = _with_l2(g, w, weight_decay)
    s = _mean(state.recall("squares", w), g * g, rho)
    u = state.recall("steps", w)
    d = g * (u + eps).sqrt() / (s + eps).sqrt()
    return w - lr * d, state.after(squares=s, steps=_mean(u, d * d, rho))


def rmsprop(
    w: Tensor,
    g: Tensor,
    state: State,
    *,
    lr: Value,
    alpha: Value = 0.99,
    eps: Value = 1e-8,
    weight_decay: Value = 0.0,
) -> tuple[Tensor, State]:
    """s <- alpha s + (1 - alpha) g^2;  w <- w - lr g / (sqrt(s) + eps).  Hinton 2012, Coursera lecture 6e."""
    g = _with_l2(g, w, weight_decay)
    s = _mean(state.recall("squares", w), g * g, alpha)
    return w - lr * g / (s.sqrt() + eps), state.after(squares=s)


def adam(
    w: Tensor,
    g: Tensor,
    state: State,
    *,
    lr: Value,
    beta1: Value = 0.9,
    beta2: Value = 0.999,
    eps: Value = 1e-8,
    weight_decay: Value = 0.0,
) -> tuple[Tensor, State]:
    """Momentum over root mean square, both without the bias of starting at zero.  Kingma & Ba 2015, algorithm 1.

    m <- b1 m + (1 - b1) g;  s <- b2 s + (1 - b2) g^2;
    w <- w - lr (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps).
    """
    g = _with_l2(g, w, weight_decay)
    t = state.step + 1
    m = _mean(state.recall("mean", w), g, beta1)
    s = _mean(state.recall("squares", w), g * g, beta2)
    step = (m / (1 - beta1**t)) / ((s / (1 - beta2**t)).sqrt() + eps)
    return w - lr * step, state.after(mean=m, squares=s)


def adamw(
    w: Tensor,
    g: Tensor,
    state: State,
    *,
    lr: Value,
    beta1: Value = 0.9,
    beta2: Value = 0.999,
    eps: Value = 1e-8,
    weight_decay: Value = 0.01,
) -> tuple[Tensor, State]:
    """w <- (1 - lr decay) w, then `adam` without L2.  Loshchilov & Hutter 2019 (arXiv:1711.05101), algorithm 2."""
    return adam(w * (1 - lr * weight_decay), g, state, lr=lr, beta1=beta1, beta2=beta2, eps=eps)


def nadam(
    w: Tensor,
    g: Tensor,
    state: State,
    *,
    lr: Value,
    beta1: Value = 0.9,
    beta2: Value = 0.999,
    eps: Value = 1e-8,
    momentum_decay: Value = 4e-3,
    weight_decay: Value = 0.0,
) -> tuple[Tensor, State]:
    """Adam that looks ahead along its momentum.  Dozat 2016 (ICLR workshop), algorithm 2 with the schedule of b1.

    mu_t = b1 (1 - 0.96^(t decay) / 2);  P_t = mu_1 ... mu_t;  m and s as in adam;
    w <- w - lr ((1 - mu_t) g / (1 - P_t) + mu_(t+1) m / (1 - P_(t+1))) / (sqrt(s / (1 - b2^t)) + eps).
    """
    g = _with_l2(g, w, weight_decay)
    t = state.step + 1
    mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (n * momentum_decay)) for n in (t, t + 1))
    before = state.memory["product"] if "product" in state.memory else w.new_ones(())
    product = before * mu
    m = _mean(state.recall("mean", w), g, beta1)
    s = _mean(state.recall("squares", w), g * g, beta2)
    ahead = g * (1 - mu) / (1 - product) + m * mu_next / (1 - product * mu_next)
    step = ahead / ((s / (1 - beta2**t)).sqrt() + eps)
    return w - lr * step, state.after(mean=m, squares=s, product=product)


def lion(
    w: Tensor,
    g: Tensor,
    state: State,
    *,
    lr: Value,
    beta1: Value = 0.9,
    beta2: Value = 0.99,
    weight_decay: Value = 0.0,
) -> tuple[Tensor, State]:
    """Every weight moves by exactly lr.  Chen et al. 2023 (arXiv:2302.06675), algorithm 2.

    w <- (1 - lr decay) w - lr sign(b1 m + (1 - b1) g);  m <- b2 m + (1 - b2) g.
    """
    m = state.recall("mean", w)
    step = _mean(m, g, beta1).sign()
    return w * (1 - lr * weight_decay) - lr * step, state.after(mean=_mean(m, g, beta2))


def muon(
    w: Tensor,
    g: Tensor,
    state: State,
    *,
    lr: Value,
    momentum: Value = 0.95,
    beta1: Value = 0.9,
    beta2: Value = 0.999,
    eps: Value = 1e-8,
    weight_decay: Value = 0.1,
    member_axes: int = 0,
    iterate_in: torch.dtype | None = None,
) -> tuple[Tensor, State]:
    """Momentum whose singular values are all made (nearly) 1.  Jordan 2024, kellerjordan.github.io/posts/muon.

    m <- mu m + (1 - mu) g;  O = orthogonal((1 - mu) g + mu m);  w <- (1 - lr decay) w - 0.2 sqrt(max(A, B)) lr O,
    for w as a matrix [A, B], a filter [A, ...] being flattened. The factor gives O the root mean square of Adam's step
    (Liu et al. 2025, arXiv:2502.16982, section 2.2), so that biases and scales, which are no matrices, can follow
    `adamw` with the same rate and decay.

    Args:
        member_axes: how many leading axes of `w` count the members of a population.
        iterate_in: the precision of the orthogonalisation, by default that of `g`; torch's is always bfloat16.
    """
    if w.dim() - member_axes < 2:
        return adamw(w, g, state, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)
    m = _mean(state.recall("mean", w), g, momentum)
    ahead = momentum * m + (1 - momentum) * g
    matrix = ahead.flatten(member_axes + 1)  # [..., A, B]
    step = orthogonal(matrix.to(iterate_in or g.dtype)).to(w.dtype).reshape(w.shape)
    scale = 0.2 * max(matrix.shape[-2:]) ** 0.5
    return w * (1 - lr * weight_decay) - scale * lr * step, state.after(mean=m)


RULES: dict[str, Update] = {
    "gradient descent": gradient_descent,
    "momentum": momentum,
    "nesterov": nesterov,
    "adagrad": adagrad,
    "adadelta": adadelta,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adamw,
    "nadam": nadam,
    "lion": lion,
    "muon": muon,
}


def update_all(
    rule: str,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    states: Sequence[State],
    *,
    hyper: Mapping[str, Value],
    member_axes: int = 0,
) -> tuple[list[Tensor], list[State]]:
    """One update of all parameters of a network, or of K networks at once.

    Args:
        rule: a key of `RULES`.
        parameters, gradients, states: one of each for every parameter; first states are `State()`.
        hyper: the rule's keyword arguments. With `member_axes=1` parameters are [K, ...], and a value may be a
            tensor [K].
    """
    update = RULES[rule]
    extra = {"member_axes": member_axes} if rule == "muon" else {}
    done = [
        update(w, g, state, **{name: _spread(value, w) for name, value in hyper.items()}, **extra)
        for w, g, state in zip(parameters, gradients, states, strict=True)
    ]
    return [w for w, _ in done], [state for _, state in done]


def _mean(old: Tensor, new: Tensor, memory: Value) -> Tensor:
    """The running mean that keeps the fraction `memory` of the old value."""
    return memory * old + (1 - memory) * new


def _with_l2(g: Tensor, w: Tensor, weight_decay: Value) -> Tensor:
    """The gradient of the loss plus weight_decay |w|^2 / 2."""
    return g if isinstance(weight_decay, float) and weight_decay == 0 else g + weight_decay * w


def _spread(value: Value, parameter: Tensor) -> Value:
    """A tensor [K] as [K, 1, ...], to go with a parameter [K, ...]."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return value.reshape(-1, *[1] * (parameter.dim() - 1))
