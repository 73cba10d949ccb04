r"""Coordinates in which the parameters of a normal law are alike: relative to a normal that is already near.

From a location m and a factor C (of Laplace's method, say) a law is written as :math:`m + C (a + T \varepsilon)`. At
a = 0 and T = I stands that normal, and around it the ELBO is nearly as curved in one direction as in another, whatever
the units and correlations of the latents are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from ppl_vae.inference.deterministic.beginning import Beginning
from ppl_vae.inference.deterministic.curvature import safeguarded
from ppl_vae.inference.deterministic.links import Leaf, Link
from ppl_vae.pair.fixed_noise import FixedNoise

__all__ = ["Block", "block_of", "blocks_of"]


class Block(ABC):
    """The parameters of one site's law as coordinates, all 0 at the normal that they are relative to.

    Args:
        link: the site's parameters.
        loc: (d,) the location at 0.
        precision: (d, d), or (d,) where it is diagonal: of the normal at 0.
    """

    size: int
    per_row: int
    """How many coordinates one row of the scale factor has."""

    def __init__(self, link: Link, loc: Tensor, precision: Tensor) -> None:
        self.link, self.loc, self.dim = link, loc, len(loc)

    @abstractmethod
    def leaves(self, v: Tensor) -> dict[str, Tensor]:
        """The leaves at coordinates (size,), by name, with derivatives."""

    def _set(self, **values: Tensor) -> dict[str, Tensor]:
        leaves: dict[str, Leaf] = dict(self.link.leaves)
        return {leaves[what].name: leaves[what].of(value) for what, value in values.items()}


class Diagonal(Block):
    """Independent entries: m + s (a + exp(b) ε)."""

    per_row = 1

    def __init__(self, link: Link, loc: Tensor, precision: Tensor) -> None:
        super().__init__(link, loc, precision)
        own = precision if precision.dim() == 1 else precision.diagonal()
        self.scale = own.abs().clamp_min(torch.finfo(own.dtype).tiny).rsqrt()  # of the normal nearest in KL(q || p)
        self.size = 2 * self.dim

    def leaves(self, v: Tensor) -> dict[str, Tensor]:
        """Location and scale."""
        a, b = v.split(self.dim)
        return self._set(loc=self.loc + self.scale * a, scale=self.scale * b.exp())


class Full(Block):
    """Any covariance: m + C (a + T ε), T lower triangular with a positive diagonal."""

    def __init__(self, link: Link, loc: Tensor, precision: Tensor) -> None:
        super().__init__(link, loc, precision)
        self.factor = _factor(precision)
        self.rows, self.columns = torch.tril_indices(self.dim, self.dim, -1, device=loc.device)
        self.size, self.per_row = 2 * self.dim + len(self.rows), self.dim

    def leaves(self, v: Tensor) -> dict[str, Tensor]:
        """Location and triangle."""
        a, b, below = v.split([self.dim, self.dim, len(self.rows)])
        inner = torch.diag(b.exp()).index_put((self.rows, self.columns), below)
        tril, loc = self.factor @ inner, self.loc + self.factor @ a
        if "tril" in self.link.names:
            return self._set(loc=loc, tril=tril)
        scale = tril.diagonal()
        return self._set(loc=loc, scale=scale, unit_tril=tril / scale.unsqueeze(-1))


class LowRank(Block):
    """A diagonal and r common factors: m + C a + s exp(b) (ε + F η), F of size (d, r)."""

    def __init__(self, link: Link, loc: Tensor, precision: Tensor) -> None:
        super().__init__(link, loc, precision)
        name = "relative_factor" if "relative_factor" in link.names else "factor"
        self.rank = link.leaves[name].value.shape[-1]
        self.factor = _factor(precision)
        self.scale, self.common = _common_factors(self.factor @ self.factor.T, self.rank)
        self.size, self.per_row = self.dim * (2 + self.rank), 1 + self.rank

    def leaves(self, v: Tensor) -> dict[str, Tensor]:
        """Location, diagonal and factor."""
        a, b, c = v.split([self.dim, self.dim, self.dim * self.rank])
        loc, scale = self.loc + self.factor @ a, self.scale * b.exp()
        relative = self.common + c.reshape(self.dim, self.rank)
        if "relative_factor" in self.link.names:
            return self._set(loc=loc, scale=scale, relative_factor=relative)
        return self._set(loc=loc, factor=scale.unsqueeze(-1) * relative, diagonal=scale.square())


def block_of(link: Link, loc: Tensor, precision: Tensor) -> Block:
    """The block that a link's parameters make."""
    if {"factor", "relative_factor"} & link.names:
        return LowRank(link, loc, precision)
    return (Full if {"tril", "unit_tril"} & link.names else Diagonal)(link, loc, precision)


def blocks_of(noise: FixedNoise, known: Mapping[str, Link], beginning: Beginning) -> list[Block]:
    """The blocks of the sites whose parameters are known, at the normal where a fit begins."""
    blocks, place = [], 0
    for name, size in noise.sizes.items():
        part = slice(place, place + size)
        place += size
        if name in known:
            precision = beginning.precision
            own = precision[part] if precision.dim() == 1 else precision[part, part]
            blocks.append(block_of(known[name], beginning.loc[part], own))
    return blocks


def _factor(precision: Tensor) -> Tensor:
    if precision.dim() == 1:
        return torch.diag(precision.abs().rsqrt())
    return safeguarded(precision.unsqueeze(0))[0][0]


def _common_factors(covariance: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A scale (d,) and relative factors (d, r) whose covariance is near: principal factors, iterated.

    Harry Harman, "Modern Factor Analysis", 1976.
    """
    size = covariance.diagonal().sqrt()
    correlation = covariance / (size.unsqueeze(-1) * size)
    unique = torch.full_like(size, 0.5)
    for _ in range(20):
        values, vectors = torch.linalg.eigh(correlation - torch.diag(unique))
        loadings = vectors[:, -rank:] * values[-rank:].clamp_min(0).sqrt()
        unique = (1 - loadings.square().sum(-1)).clamp(0.01, 1.0)
    scale = size * unique.sqrt()
    return scale, loadings / unique.sqrt().unsqueeze(-1)
