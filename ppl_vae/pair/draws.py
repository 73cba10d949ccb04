"""What a scored draw is: values by site, and log densities that keep their sites and their data to the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.pair.scores import SiteScore

__all__ = ["Draws", "LogProb"]


class LogProb(Mapping[str, Tensor]):
    """Log densities by site, in nats, float64: (S, N) for a site inside the data plate, (S,) for one outside.

    ``total``, ``prior`` (latent sites) and ``likelihood`` (observed sites) are (S, N), or (S,) as soon as the pair has
    a latent outside the data plate: then the data hang together, and only their sum is a density.
    """

    def __init__(self, sites: Mapping[str, Tensor], observed: Iterable[str], *, joint: bool) -> None:
        self._sites, self.observed, self.joint = dict(sites), frozenset(observed), joint

    @classmethod
    def of(cls, scores: Mapping[str, SiteScore], *, joint: bool, weighted: bool = False) -> LogProb:
        """Detach and move the scores of one run; ``weighted``: times the weights of ``poutine.scale``."""
        observed = [name for name, score in scores.items() if score.observed]
        terms = {name: s.weighted_log_prob if weighted and s.weighted else s.log_prob for name, s in scores.items()}
        sites = {name: term.detach().to("cpu", torch.float64) for name, term in terms.items()}
        return cls(sites, observed, joint=joint)

    def __getitem__(self, name: str) -> Tensor:
        return self._sites[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def _sum(self, names: Iterable[str]) -> Tensor:
        total: Tensor = torch.zeros((), dtype=torch.float64)
        for name in names:
            term = self._sites[name]
            term = term.sum(1) if self.joint and term.dim() > 1 else term
            if total.dim() and term.dim() != total.dim():  # broadcasting would charge every datum the whole
                raise ValueError(f"LogProb: {name!r} is of shape {tuple(term.shape)} beside {tuple(total.shape)}")
            total = total + term
        return total

    @property
    def total(self) -> Tensor:
        """The sum over all sites."""
        return self._sum(self._sites)

    @property
    def prior(self) -> Tensor:
        """The sum over the latent sites."""
        return self._sum(name for name in self._sites if name not in self.observed)

    @property
    def likelihood(self) -> Tensor:
        """The sum over the observed sites."""
        return self._sum(name for name in self._sites if name in self.observed)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(value.shape)}" for name, value in self.items())
        return f"LogProb({shapes}; nats)"

    @classmethod
    def stack(cls, parts: list[LogProb]) -> LogProb:
        """Join runs along the axis of draws."""
        first = parts[0]
        sites = {name: torch.cat([part[name] for part in parts]) for name in first}
        return cls(sites, first.observed, joint=first.joint)


@dataclass(frozen=True)
class Draws:
    """Draws of the latent sites, scored: values (S, N, ...) or (S, ...), log p(x, z) and log q(z | x)."""

    values: dict[str, Tensor]
    log_p: LogProb
    log_q: LogProb

    @property
    def log_weight(self) -> Tensor:
        """Log p(x, z) - log q(z | x), in nats: (S, N), or (S,) with global latents."""
        return self.log_p.total - self.log_q.total

    @classmethod
    def stack(cls, parts: list[Draws]) -> Draws:
        """Join along the axis of draws."""
        values = {name: torch.cat([part.values[name] for part in parts]) for name in parts[0].values}
        return cls(values, LogProb.stack([p.log_p for p in parts]), LogProb.stack([p.log_q for p in parts]))
