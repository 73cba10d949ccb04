"""What a problem is: a plain Pyro model, a guide with a start that may be bad, and what is known of the posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.infer.autoguide.initialization import init_to_median, init_to_value
from torch import Tensor

Data = tuple[Tensor, ...]
DRAWS = 20_000


@dataclass(frozen=True)
class Exact:
    """Exact draws of a posterior, ``u`` (S, D), and the density of each, normalized, ``log_p`` (S,) in nats."""

    u: Tensor
    log_p: Tensor


@dataclass(frozen=True)
class Problem:
    """A model with what is known of its posterior, in unconstrained coordinates u of D numbers, sites in order.

    Attributes:
        model: a Pyro model, called with the data.
        data: rows, or None where the model holds its data itself.
        guide: makes an autoguide of the model.
        exact: draws of the posterior; None: it has one mode, with light tails.
        near: (K, D) points from which the best of the family is looked for, beside the moments of the draws.
        best: the highest ELBO of the family, nats, where it is known in closed form; infinite for an improper one.
        kind, easy, number: where it stands in the list.
    """

    model: Callable[..., Any]
    data: Data | None
    guide: Callable[[], Any]
    exact: Exact | None = None
    near: Tensor | None = None
    best: float | None = None
    kind: str = ""
    easy: bool = False
    number: int = 0
    remark: str = field(default="", compare=False)

    def named(self, kind: str, easy: bool, number: int) -> Problem:
        """With its place in the list."""
        return replace(self, kind=kind, easy=easy, number=number)


def guide_of(
    rng: np.random.Generator,
    model: Callable[..., Any],
    typical: Mapping[str, Any],
    sd: Mapping[str, Any],
    *,
    full: bool | None = None,
) -> Callable[[], Any]:
    """An autoguide: full rank or mean field, with a start that is bad in two of three.

    Args:
        typical: a value of each site that the posterior holds likely; a bad start lies a thousand ``sd`` away (a
            positive one a factor of 1000).
        sd: of each real site; None: the site is positive.
        full: full rank or not; None: by chance.
    """
    full = bool(rng.random() < 0.6) if full is None else full
    bad = rng.random() < 2 / 3
    scale = float(rng.choice([1e-4, 0.1, 1e2])) if bad else 0.1
    values = {}
    for name, value in typical.items():
        value = tensor(value)
        sign = tensor(rng.choice([-1.0, 1.0], size=tuple(value.shape)))
        spread = sd[name]
        values[name] = value * 1000**sign if spread is None else value + 1000 * sign * tensor(spread)
    init = init_to_value(values=values, fallback=init_to_median) if bad else init_to_median
    kind = AutoMultivariateNormal if full else AutoNormal
    return lambda: kind(model, init_loc_fn=init, init_scale=scale)


def tensor(numbers: Any) -> Tensor:
    """Numbers as float64."""
    return torch.as_tensor(numbers, dtype=torch.float64)


def product(x: Tensor, weights: Tensor) -> Tensor:
    """``x @ weights``: (N,) for weights (D,), and for many draws of them, (S, 1, D), all at once (S, N)."""
    return (weights @ x.mT).reshape(*weights.shape[:-2], len(x))


def on_grid(
    log_density: Callable[[Tensor], Tensor], low: list[float], high: list[float], rng: np.random.Generator
) -> Exact:
    """Draws of a density over one or two numbers, which need not be normalized: cells of a grid, and a place in each.

    The grid is laid three times: over the box, then over what of it holds more than e^-25 of the greatest density.
    """
    dim = len(low)
    count = 40_000 if dim == 1 else 400
    lower, upper = tensor(low), tensor(high)
    for last in (False, False, True):
        axes = [torch.linspace(a, b, count + 1, dtype=torch.float64) for a, b in zip(lower, upper, strict=True)]
        middle = torch.cartesian_prod(*((axis[1:] + axis[:-1]) / 2 for axis in axes)).reshape(-1, dim)
        log_p = log_density(middle)
        if not last:
            kept = middle[log_p > log_p.max() - 25]
            cell = (upper - lower) / count
            lower, upper = kept.amin(0) - cell, kept.amax(0) + cell
    cell = (upper - lower) / count
    log_share = log_p.log_softmax(0)
    which = rng.choice(len(middle), size=DRAWS, p=log_share.exp().numpy())
    return Exact(middle[which] + tensor(rng.random((DRAWS, dim)) - 0.5) * cell, log_share[which] - cell.log().sum())


def side_by_side(parts: list[Exact]) -> Exact:
    """Independent numbers as one posterior."""
    return Exact(torch.cat([part.u for part in parts], -1), torch.stack([part.log_p for part in parts]).sum(0))
