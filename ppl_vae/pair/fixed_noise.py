r"""A pair at fixed base noise: an ordinary smooth function of its parameters, and of its latents.

A guide whose draws are :math:`u = m_\phi + C_\phi \varepsilon` with :math:`\varepsilon \sim N(0, I)`, carried onto the
latents by maps t without parameters, is run at noise that is handed to it, or at u. Over u the model has the density

.. math:: \log p(x, u) = \log p(x, t(u)) + \log |\det dt/du|,

and :math:`\frac{1}{S} \sum_s [\log p(x, u_s) - \log q(u_s)]` is the pair's own ELBO at S fixed draws.

Ryan Giordano, Martin Ingram, Tamara Broderick: "Black Box Variational Inference with a Deterministic Objective:
Faster, More Accurate, and Even More Black Box", 2024.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution

from ppl_vae._random import isolated_rng
from ppl_vae.distributions import unwrap
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.handlers import has_density
from ppl_vae.pair.points import is_point
from ppl_vae.pair.runs import with_particles
from ppl_vae.pair.scope import validation
from ppl_vae.pair.support import log_det

if TYPE_CHECKING:
    from ppl_vae.data.rows import Batch
    from ppl_vae.pair.execution import Execution
    from ppl_vae.pair.pair import Pair

__all__ = ["FixedNoise", "Law", "Placed", "require_fixed_noise"]

_NORMALS = (Normal, torch.distributions.Normal)
_FULL = (MultivariateNormal, torch.distributions.MultivariateNormal)
_LOW_RANK = (LowRankMultivariateNormal, torch.distributions.LowRankMultivariateNormal)
MAX_ELEMENTS = 1_000_000
"""So many numbers of data and draws at once in one run, which a cache holds; more draws are run in blocks."""


@dataclass(frozen=True)
class Law:
    """The normal law of one site's u in a run of S draws, and the maps from u to its value.

    Attributes:
        base: a Normal, MultivariateNormal or LowRankMultivariateNormal, with S as the first axis of its batch.
        transforms: from u to the value, in order.
        shape: of u, (S, ...).
        event_dim: of the value.
    """

    base: Any
    transforms: tuple[Any, ...]
    shape: torch.Size
    event_dim: int

    @classmethod
    def of(cls, fn: Any) -> Law | None:
        """Read it off a distribution; None where it is no normal one, or carried by maps with parameters."""
        batch, event_dim = fn.batch_shape, len(fn.event_shape)
        transforms: list[Any] = []
        while isinstance(fn, Independent | TransformedDistribution):
            if isinstance(fn, TransformedDistribution):
                transforms = [*fn.transforms, *transforms]
            fn = fn.base_dist
        if type(fn) not in (*_NORMALS, *_FULL, *_LOW_RANK):
            return None
        if any(isinstance(part, torch.nn.Module) or not part.bijective for part in transforms):
            return None
        shape = fn.batch_shape + fn.event_shape
        return cls(fn, tuple(transforms), shape, event_dim) if shape[: len(batch[:1])] == batch[:1] else None

    @property
    def size(self) -> int:
        """How many numbers one u has."""
        return self.shape[1:].numel()

    @property
    def has_covariance(self) -> bool:
        """Are the entries of u free to be correlated?"""
        return not isinstance(self.base, _NORMALS)

    @property
    def noise_size(self) -> int:
        """How many numbers one draw takes: those of u, and as many more as a low rank has for each vector."""
        if isinstance(self.base, _LOW_RANK):
            rows = self.shape[1:-1].numel()
            return self.size + rows * int(self.base.cov_factor.shape[-1])
        return self.size

    def place(self, noise: Tensor) -> Tensor:
        """U of standard normal noise (S, noise_size)."""
        base = self.base
        if isinstance(base, _NORMALS):
            placed: Tensor = base.loc + base.scale * noise.reshape(self.shape)
            return placed
        if isinstance(base, _FULL):
            spread: Tensor = (base.scale_tril @ noise.reshape(self.shape).unsqueeze(-1)).squeeze(-1)
            return base.loc + spread
        own, shared = noise.split([self.size, self.noise_size - self.size], -1)
        common = (base.cov_factor @ shared.reshape((*self.shape[:-1], -1)).unsqueeze(-1)).squeeze(-1)
        return base.loc + base.cov_diag.sqrt() * own.reshape(self.shape) + common

    def log_q(self, u: Tensor) -> Tensor:
        """The normal log density of u, (S,), nats."""
        log_prob: Tensor = self.base.log_prob(u)
        return log_prob.flatten(1).sum(-1) if log_prob.dim() > 1 else log_prob

    def value(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The site's value, and log |dt/du| of each draw, (S,)."""
        value, total = u, u.new_zeros(len(u))
        for transform in self.transforms:
            before, value = value, transform(value)
            found = log_det(transform, before, value, self.event_dim)
            total = total + (found.flatten(1).sum(-1) if found.dim() > 1 else found)
        return value, total


class _Place(Messenger):
    """Give the guide's normal sites their values: those of the noise, or of u."""

    def __init__(self, given: Mapping[str, Tensor], *, as_noise: bool) -> None:
        super().__init__()
        self.given, self.as_noise = given, as_noise
        self.laws: dict[str, Law] = {}
        self.u: dict[str, Tensor] = {}
        self.log_dets: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.given or msg["done"] or msg["is_observed"] or name in self.laws:
            return
        law = Law.of(msg["fn"])
        if law is None:
            raise RuntimeError(f"FixedNoise: {name!r} is no normal law in this run, though it was in the first")
        u = law.place(self.given[name]) if self.as_noise else self.given[name].reshape(law.shape)
        self.laws[name], self.u[name] = law, u
        msg["value"], self.log_dets[name] = law.value(u)
        msg["done"] = True


@dataclass(frozen=True)
class Placed:
    """S draws at given noise or at given u.

    Attributes:
        log_p: (S,) log p(x, u), with the weights of ``poutine.scale``, nats.
        u: (S, D), the guide's sites side by side.
        laws: of each site in this run.
    """

    log_p: Tensor
    u: Tensor
    laws: dict[str, Law]
    _sites: dict[str, Tensor]

    @property
    def log_q(self) -> Tensor:
        """(S,) log q(u), nats."""
        return torch.stack([law.log_q(self._sites[name]) for name, law in self.laws.items()]).sum(0)


class FixedNoise:
    """The runs of a pair at noise that is handed to it; ask :func:`require_fixed_noise` first.

    Args:
        pair: the pair; its parameters keep their gradients.
        batch: all data.

    Attributes:
        laws: of each normal site of the guide, in its order, in a run of two draws.
        sizes, noise_sizes: how many numbers of u, and of noise, each has for one draw; in all D and ``noise_dim``.
    """

    def __init__(self, pair: Pair, batch: Batch) -> None:
        self.pair, self.batch = pair, batch
        with self.scope(), torch.no_grad():
            self.laws = _laws(pair, batch, 2)
        self.sizes = {name: law.size for name, law in self.laws.items()}
        self.noise_sizes = {name: law.noise_size for name, law in self.laws.items()}

    @property
    def dim(self) -> int:
        """D, the numbers of u."""
        return sum(self.sizes.values())

    @property
    def noise_dim(self) -> int:
        """How many numbers of noise one draw takes."""
        return sum(self.noise_sizes.values())

    @property
    def block(self) -> int:
        """How many draws one run may hold."""
        elements = sum(t.numel() for t in (*self.batch.args, *self.batch.kwargs.values()) if isinstance(t, Tensor))
        return max(2, MAX_ELEMENTS // max(1, elements, self.dim))

    def laws_now(self) -> dict[str, Law]:
        """The laws of one draw at the parameters as they are; call it inside :meth:`scope`."""
        with isolated_rng(0, self.pair.device):
            return _laws(self.pair, self.batch, None)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """The pair's, its modules in evaluation mode, and no checks of values: a search may look anywhere."""
        noise, still = isolated_rng(0, self.pair.device), self.pair.mode(training=False)
        with self.pair.scope(), noise, still, validation(False):
            yield

    def at_noise(self, noise: Tensor) -> Placed:
        """The guide's draws of standard normal noise, (S, noise_dim); call it inside :meth:`scope`."""
        parts = noise.split(list(self.noise_sizes.values()), -1)
        return self._run(dict(zip(self.noise_sizes, parts, strict=True)), len(noise), as_noise=True)

    def at(self, u: Tensor) -> Tensor:
        """Log p(x, u) at u (S, D), (S,) nats; call it inside :meth:`scope`."""
        if len(u) == 1:  # a plate of one draw is no axis for Pyro's checks of shapes
            return self.at(u.expand(2, -1))[:1]
        parts = u.split(list(self.sizes.values()), -1)
        return self._run(dict(zip(self.sizes, parts, strict=True)), len(u), as_noise=False).log_p

    def heights(self, u: Tensor) -> Tensor:
        """Log p(x, u) without derivatives, (S,): minus infinity where it is no number, or where a factorization fails.

        One matrix of many that has no Cholesky factor is an error of the whole run, so halves are tried, down to it.
        """
        if len(u) > self.block:
            return torch.cat([self.heights(part) for part in u.split(self.block)])
        try:
            with torch.no_grad():
                found = self.at(u)
        except torch.linalg.LinAlgError:
            if len(u) == 1:
                return u.new_full((1,), -math.inf)
            return torch.cat([self.heights(part) for part in u.tensor_split(2)])
        return torch.where(found.isnan() | found.isposinf(), -math.inf, found)

    def _run(self, given: Mapping[str, Tensor], count: int, *, as_noise: bool) -> Placed:
        with _Place(given, as_noise=as_noise) as place:
            run = self.pair.run(self.batch, num_particles=count)
        u = torch.cat([u.reshape(count, -1) for u in place.u.values()], -1)
        return Placed(_log_p(run, place, count), u, place.laws, place.u)


def _log_p(run: Execution, place: _Place, count: int) -> Tensor:
    """Log p(x, u), (S,): the model's sites, less what the guide's others count, plus the volume of the maps."""
    terms = [score.weighted_log_prob for score in run.score_model().values()]
    for name, score in run.score_guide().items():
        if name not in place.laws:
            terms.append(-score.weighted_log_prob)
    terms += list(place.log_dets.values())
    return torch.stack([term.sum(-1) if term.dim() > 1 else term.expand(count) for term in terms]).sum(0)


def _laws(pair: Pair, batch: Batch, count: int | None) -> dict[str, Law]:
    """The normal laws of a run of the guide alone, by site."""
    trace = poutine.trace(with_particles(pair.runner.guide, pair.layout, count)).get_trace(batch)
    laws = {name: Law.of(site["fn"]) for name, site in sample_sites(trace) if not site["is_observed"]}
    return {name: law for name, law in laws.items() if law is not None}


def require_fixed_noise(pair: Pair, batch: Batch) -> None:
    """Raise ValueError, with the reason, where fixed noise does not make the ELBO of a pair a smooth function.

    Raises:
        ValueError: a latent is discrete; a draw of the guide is not normal, or carried on by maps with parameters (a
            flow); a location or a scale follows from the data (an amortized guide); draws cannot be made in one run;
            rows are subsampled; nothing is drawn.
    """
    sites = pair.sites
    discrete = [name for name, site in pair.latents.items() if site.is_discrete]
    if discrete or sites.enumerated:
        raise ValueError(f"the latent {', '.join(map(repr, discrete or sorted(sites.enumerated)))} is discrete")
    if sites.counts_volume or sites.is_exact:
        raise ValueError("the guide draws nothing whose noise could be fixed")
    if sites.subsampled or (pair.layout.axis is not None and pair.layout.axis.subsampled):
        raise ValueError("a plate draws a subsample of its own")
    with pair.scope(), isolated_rng(0, pair.device), pair.mode(training=False), torch.no_grad():
        reason = _of_sites(pair, batch) or _of_data(pair, batch)
        if not reason and not pair.vectorizes(batch):
            reason = "many draws of this pair cannot be made in one run"
    if reason:
        raise ValueError(reason)


def _of_sites(pair: Pair, batch: Batch) -> str:
    """What stands against it in the guide's sites."""
    trace = poutine.trace(pair.runner.guide).get_trace(batch)
    drawn = [(n, s) for n, s in sample_sites(trace) if not s["is_observed"] and has_density(s)]
    spread = [(n, s) for n, s in drawn if not is_point(s["fn"])]
    for name, site in spread:
        if site["mask"] is not None and site["mask"] is not True:
            return f"the guide's {name!r} is masked"
        if Law.of(site["fn"]) is None:
            shown = type(unwrap(site["fn"])).__name__
            return f"the guide's {name!r} is not normal, or carried on by maps with parameters (it stands on {shown})"
    return "" if spread else "the guide draws nothing whose noise could be fixed"


def _of_data(pair: Pair, batch: Batch) -> str:
    """Do the guide's laws hang on the data? They are compared with those of the same rows in another order."""
    if batch.size is None or batch.size < 2:
        return ""
    found = []
    for each in (batch, _turned(batch)):
        with isolated_rng(0, pair.device):  # the same draws, so that laws given other draws are the same
            found.append(_laws(pair, each, None))
    first, turned = ({name: _numbers(law.base) for name, law in laws.items()} for laws in found)
    for name, numbers in first.items():
        others = turned.get(name, ())
        if len(others) != len(numbers) or not all(map(torch.equal, numbers, others)):
            return f"the guide's {name!r} follows from the data (an amortized guide)"
    return ""


def _numbers(base: Any) -> tuple[Tensor, ...]:
    if isinstance(base, _NORMALS):
        return base.loc, base.scale
    if isinstance(base, _FULL):
        return base.loc, base.scale_tril
    return base.loc, base.cov_factor, base.cov_diag


def _turned(batch: Batch) -> Batch:
    """The same rows, each in the next one's place; what is no row stays."""
    order = torch.roll(torch.arange(batch.size or 0), 1)

    def turn(value: Any) -> Any:
        return value[order.to(value.device)] if isinstance(value, Tensor) and value.dim() else value

    return replace(batch, args=tuple(map(turn, batch.args)), kwargs={n: turn(v) for n, v in batch.kwargs.items()})
