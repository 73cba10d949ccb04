"""How far a flow is from a target, in both directions, measured where x lives and where z lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae._random import fold, isolated_rng
from ppl_vae.flows.base import base_of
from ppl_vae.flows.flow_distribution import require_density
from ppl_vae.flows.layer import Layer


@dataclass(frozen=True)
class Divergence:
    """A KL divergence in nats, by Monte Carlo, with its standard error.

    >>> Divergence(0.6931, 0.0042)
    0.693 ± 0.0042
    """

    value: float
    standard_error: float

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"{self.value:.3f} ± {self.standard_error:.2g}"


@dataclass(frozen=True, repr=False)
class KLReport:
    r"""What :func:`kl_report` returns; the forward ones are None where no draws of the target are known.

    Attributes:
        forward_x: KL(π(x) || p(x|θ)): what maximum likelihood lowers; it covers modes.
        forward_z: KL(p(z|θ) || p(z)), with p(z|θ) the law of z = f(x), x ~ π: equal to ``forward_x``.
        reverse_x: KL(p(x|θ) || π(x)): what a guide lowers; it seeks modes.
        reverse_z: KL(p(z) || p(z|θ)): equal to ``reverse_x``.
        duality_error: the largest difference, over all draws, between the two sides of an equality: rounding.
    """

    forward_x: Divergence | None
    forward_z: Divergence | None
    reverse_x: Divergence
    reverse_z: Divergence
    duality_error: float

    def __repr__(self) -> str:
        rows = [f"  {name:<24}{getattr(self, field)}" for name, field in _ROWS if getattr(self, field) is not None]
        return "\n".join(["KLReport (nats)", *rows, f"  {'largest difference':<24}{self.duality_error:.2g}"])


_ROWS = (
    ("KL(pi(x) || p(x))", "forward_x"),
    ("KL(pi(z) || p(z))", "forward_z"),
    ("KL(p(x) || pi(x))", "reverse_x"),
    ("KL(p(z) || pi(z))", "reverse_z"),
)


def kl_report(
    flow: Layer,
    target: Any,
    *,
    base: dist.TorchDistribution | nn.Module | None = None,
    samples: Tensor | None = None,
    num_samples: int = 10_000,
    seed: int = 0,
) -> KLReport:
    r"""Forward and reverse KL between a flow model and a target, in x-space and in z-space.

    .. math:: KL(π(x) \| p(x|θ)) = KL(p(z|θ) \| p(z)), \qquad p(z|θ) = π(g(z)) |\det J_g(z)|

    The sides of each equality are of the same draws and of different passes: x-space scores x by ``encode``, z-space
    scores z by ``decode``.

    Args:
        flow: an exact, unconditional flow without chance both ways: a bijection.
        target: π: a distribution with ``log_prob`` and ``sample``, or a function from x (..., *event) to log densities
            (...). Of a density up to a factor Z the forward KL comes out too large by log Z, the reverse too small.
        base: p(z): a Pyro distribution, or a module that returns one; N(0, I) by default.
        samples: (S, *event) draws of the target, where it cannot draw itself.
        num_samples: how many draws of each side.
        seed: of the draws.

    Raises:
        ValueError: a flow that draws, or is conditional; fewer than two draws; a target whose log densities have
            another shape.

    Source: G. Papamakarios et al., "Normalizing flows for probabilistic modeling and inference", 2021.

    >>> from ppl_vae.flows import ElementwiseAffine
    >>> report = kl_report(ElementwiseAffine(2), dist.Normal(torch.ones(2), 1.0).to_event(1))
    >>> abs(float(report.forward_x) - 1) < 0.1, report.duality_error < 1e-5
    (True, True)
    """
    _require_bijection(flow)
    log_target = _scored(target if not hasattr(target, "log_prob") else target.log_prob)
    p_z = base_of(flow, base, who="kl_report")()
    device = next((t.device for t in (*flow.parameters(), *flow.buffers())), None)
    with torch.no_grad(), isolated_rng(fold(seed, "kl_report"), device):
        if samples is None and hasattr(target, "sample"):
            samples = target.sample((num_samples,))
        _require_draws(num_samples if samples is None else min(num_samples, len(samples)))
        backward = _reverse(flow, log_target, p_z, p_z.sample((num_samples,)))
        forward = None if samples is None else _forward(flow, log_target, p_z, samples)
    return _report(forward, backward)


_Sides = tuple[Tensor, Tensor]
_LogDensity = Callable[[Tensor], Tensor]


def _scored(log_density: _LogDensity) -> _LogDensity:
    """The same, held to one number for each draw: (S, 1) would be broadcast to all pairs without a word."""

    def scored(x: Tensor) -> Tensor:
        density = log_density(x)
        if density.shape != x.shape[:1]:
            raise ValueError(
                f"kl_report: the target must map {tuple(x.shape)} to log densities {tuple(x.shape[:1])}, got "
                f"{tuple(density.shape)}; declare the event, as in .to_event(1)"
            )
        return density

    return scored


def _require_draws(count: int) -> None:
    if count < 2:
        raise ValueError(f"kl_report: at least 2 draws are required for a standard error, got {count}")


def _forward(flow: Layer, log_target: _LogDensity, p_z: Any, x: Tensor) -> _Sides:
    """Log π - log p of draws of π, by x and by z."""
    z, encoded = flow.encode(x)
    back, decoded = flow.decode(z)
    return log_target(x) - (p_z.log_prob(z) + encoded), (log_target(back) - decoded) - p_z.log_prob(z)


def _reverse(flow: Layer, log_target: _LogDensity, p_z: Any, z: Tensor) -> _Sides:
    """Log p - log π of draws of the flow, by x and by z."""
    x, decoded = flow.decode(z)
    back, encoded = flow.encode(x)
    return (p_z.log_prob(back) + encoded) - log_target(x), p_z.log_prob(z) - (log_target(x) - decoded)


def _report(forward: _Sides | None, reverse: _Sides) -> KLReport:
    pairs = [reverse] if forward is None else [forward, reverse]
    error = max(float((by_x - by_z).abs().max()) for by_x, by_z in pairs)
    sides = [None, None] if forward is None else [_mean(side) for side in forward]
    return KLReport(sides[0], sides[1], _mean(reverse[0]), _mean(reverse[1]), error)


def _mean(terms: Tensor) -> Divergence:
    terms = terms.double()
    return Divergence(float(terms.mean()), float(terms.std()) / len(terms) ** 0.5)


def _require_bijection(flow: Layer) -> None:
    require_density(flow, "kl_report")
    if not flow.deterministic_decode or flow.context_dim is not None:
        raise ValueError(
            f"kl_report: an unconditional bijection is required, got {flow.label} "
            f"(deterministic_decode={flow.deterministic_decode}, context_dim={flow.context_dim})"
        )
