"""A density model: four affine coupling layers over a standard normal, maximum likelihood."""

# ruff: noqa: D102 (Problem says what these methods are)

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import AffineCoupling, Permute, affine_coupling
from torch import Tensor, nn

from step_problems.base import Problem, Unavailable


@dataclass(frozen=True)
class Coupling(Problem):
    """The order of the coordinates is reversed between any two layers."""

    num_layers: int = 4
    hidden: int = 64

    def couplings(self) -> list[AffineCoupling]:
        torch.manual_seed(0)
        return [affine_coupling(self.data.shape[1], hidden_dims=[self.hidden]) for _ in range(self.num_layers)]

    def pyro(self) -> tuple[Callable[[Tensor], Any], Callable[[Tensor], Any], Any]:
        couplings, width = nn.ModuleList(self.couplings()), self.data.shape[1]
        transforms = [part for layer in couplings for part in (layer, Permute(torch.arange(width).flip(0)))][:-1]

        def model(x: Tensor) -> None:
            pyro.module("flow", couplings)
            base = dist.Normal(x.new_zeros(width), x.new_ones(width)).to_event(1)
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.TransformedDistribution(base, transforms), obs=x)

        def guide(x: Tensor) -> None:
            pass

        return model, guide, pyro.infer.Trace_ELBO()

    def by_hand(self) -> tuple[Iterable[Tensor], Callable[[Tensor], Tensor]]:
        networks, width = nn.ModuleList(layer.nn for layer in self.couplings()), self.data.shape[1]

        def loss(x: Tensor) -> Tensor:
            log_det = 0.0
            for depth, network in enumerate(reversed(networks)):
                if depth:
                    x = x.flip(-1)
                kept, moved = x.split(width // 2, -1)
                mean, log_scale = network(kept)
                log_scale = log_scale.clamp(-5, 3)
                x = torch.cat([kept, (moved - mean) * (-log_scale).exp()], -1)
                log_det = log_det + log_scale.sum()
            return 0.5 * (x**2 + math.log(2 * math.pi)).sum() + log_det

        return networks.parameters(), loss

    def numpyro(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any], Any]:
        raise Unavailable("NumPyro has no affine coupling layer (its flows are autoregressive)")


def coupling(num_rows: int = 2000, width: int = 8) -> Coupling:
    x = torch.randn(num_rows, width, generator=torch.Generator().manual_seed(0))
    x[:, 1:] = 0.5 * x[:, 1:] + torch.sin(2 * x[:, :-1])
    return Coupling(x, batch=128)
