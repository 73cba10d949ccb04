"""Many functions climbed at once: limited-memory BFGS, row by row; no row knows of another."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["climb"]

MOST_STEPS, MOST_HALVINGS, MEMORY = 200, 12, 10
ENOUGH = 1e-4
"""Nats that the next step is predicted to gain, at most, where the climb of a row ends."""

Derivatives = Callable[[Tensor], tuple[Tensor, Tensor]]
Value = Callable[[Tensor], Tensor]


def climb(value_of: Value, derivatives: Derivatives, start: Tensor, metric: Tensor, *, resolution: float) -> Tensor:
    """Climb from ``start`` to a maximum of each row's function.

    A step that does not climb by a ten-thousandth of what its gradient promises is halved (Nocedal, Wright, "Numerical
    Optimization", 2006, algorithm 7.4 and section 3.1).

    Args:
        value_of: of points (N, P) the values (N,), nats.
        derivatives: the values (N,) and the gradients (N, P).
        start: (N, P).
        metric: (P,) the inverse curvature that is expected at the top.
        resolution: the relative error of a value: a gain that is no larger is none.

    Returns:
        (N, P), nowhere lower than the start.
    """
    at = start.clone()
    value, gradient = derivatives(at)
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(MOST_STEPS):
        step = _direction(gradient, history, metric)
        promised = (gradient * step).sum(-1)
        plain = metric * gradient
        falls = ~(promised > 0)
        step = torch.where(falls.unsqueeze(-1), plain, step)
        promised = torch.where(falls, (gradient * plain).sum(-1), promised)
        goes = promised > 2 * (resolution * value.abs()).clamp(min=ENOUGH)
        if not bool(goes.any()):
            break
        moved = _climbed(value_of, at, step * goes.unsqueeze(-1), value, promised * goes, ~goes)
        if torch.equal(moved, at):
            break
        new_value, new_gradient = derivatives(moved)
        history = [*history[-(MEMORY - 1) :], _pair(moved - at, gradient - new_gradient)]
        at, value, gradient = moved, new_value, new_gradient
    return at


def _pair(step: Tensor, fall: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A step, by how much the gradient fell on it, and 1 / their product; 0 in rows where there was no curvature."""
    product = (step * fall).sum(-1, keepdim=True)
    curved = product > 1e-10 * (step.square().sum(-1, keepdim=True) * fall.square().sum(-1, keepdim=True)).sqrt()
    return step, fall, torch.where(curved & (product > 0), 1 / product, 0.0)


def _direction(gradient: Tensor, history: list[tuple[Tensor, Tensor, Tensor]], metric: Tensor) -> Tensor:
    """The inverse curvature, as the steps so far have shown it, times the gradient."""
    if not history:
        return metric * gradient
    found, weights = gradient, []
    for step, fall, inverse in reversed(history):
        weight = inverse * (step * found).sum(-1, keepdim=True)
        weights.append(weight)
        found = found - weight * fall
    step, fall, inverse = history[-1]
    bent = inverse * (fall * metric * fall).sum(-1, keepdim=True)
    found = metric * found * torch.where(bent > 0, 1 / bent, 1.0)
    for (step, fall, inverse), weight in zip(history, reversed(weights), strict=True):
        found = found + step * (weight - inverse * (fall * found).sum(-1, keepdim=True))
    return found


def _climbed(value_of: Value, at: Tensor, step: Tensor, value: Tensor, promised: Tensor, idle: Tensor) -> Tensor:
    """The points after a step, each halved until it climbs; a point whose every step falls stays, and an idle one."""
    length = torch.ones_like(value)
    for _ in range(MOST_HALVINGS):
        there = at + length.unsqueeze(-1) * step
        climbs = idle | (value_of(there) >= value + 1e-4 * length * promised)
        if bool(climbs.all()):
            return there
        length = torch.where(climbs, length, length / 2)
    return torch.where(climbs.unsqueeze(-1), there, at)
