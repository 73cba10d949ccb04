r"""The density of the model as a differentiable function of unconstrained latents: for annealing, HMC, Laplace.

.. math:: \log p(x, u) = \log p(z(u)) + \log |\det dz/du| + \log p(x \mid z(u)), \qquad u \in R^n
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import isolated_rng
from ppl_vae.pair.checks import is_out_of_memory
from ppl_vae.pair.execution import Execution
from ppl_vae.pair.fixed_noise import NOT_UNDER_VMAP
from ppl_vae.pair.handlers import Constrain
from ppl_vae.pair.particles import inward, of_unconstrained, without_particles
from ppl_vae.pair.scope import validation

if TYPE_CHECKING:
    from ppl_vae.data.rows import Batch
    from ppl_vae.pair.pair import Pair

__all__ = ["Density", "LogDensity", "tied_sites"]


@dataclass(frozen=True)
class LogDensity:
    """Log p(x, u) at S points, in parts, in nats, on the device, with gradients.

    Each latent's log |det dz/du| stands in its prior, so that a power of the likelihood tempers p(x | z) alone.

    Each part but :meth:`total` raises ValueError where sites are tied by a sum over discrete latents.

    Attributes:
        tied: sites whose sum over discrete latents holds a prior and a likelihood at once, and cannot be told apart.
        joint: do latents outside the plate tie the data together?
    """

    _global_prior: Tensor
    _local_prior: Tensor
    _global_likelihood: Tensor
    _local_likelihood: Tensor
    tied: tuple[str, ...]
    joint: bool

    @property
    def global_prior(self) -> Tensor:
        """(S,) latents outside the data plate."""
        return self._apart("the prior", self._global_prior)

    @property
    def local_prior(self) -> Tensor:
        """(S, B) latents of each datum."""
        return self._apart("the prior", self._local_prior)

    @property
    def global_likelihood(self) -> Tensor:
        """(S,) what is observed outside the data plate."""
        return self._apart("the likelihood", self._global_likelihood)

    @property
    def likelihood(self) -> Tensor:
        """(S, B) what is observed of each datum."""
        return self._apart("the likelihood", self._local_likelihood)

    def total(self, power: float | Tensor = 1.0) -> Tensor:
        """Log p(u) + power log p(x | u): (S, B), or (S,) with global latents or densities.

        Args:
            power: of the likelihood, a number or (S,): 0 is the prior, 1 the joint density.

        Raises:
            ValueError: for another power than 1 where prior and likelihood are tied.
        """
        if not (isinstance(power, int | float) and power == 1.0):
            self._apart("a tempered density", self._local_likelihood)
        power = torch.as_tensor(power, dtype=self._local_prior.dtype, device=self._local_prior.device)
        local = self._local_prior + _tempered(self._local_likelihood, power.unsqueeze(-1))
        if not self.joint:
            return local
        return self._global_prior + _tempered(self._global_likelihood, power) + local.sum(-1)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._global_prior, self._local_prior, self._global_likelihood, self._local_likelihood

    def parts(self) -> tuple[Tensor, Tensor]:
        """Log p(u) and log p(x | u), each of the shape of :meth:`total`."""
        prior, likelihood = self.local_prior, self.likelihood
        if not self.joint:
            return prior, likelihood
        return self._global_prior + prior.sum(-1), self._global_likelihood + likelihood.sum(-1)

    def _apart(self, what: str, part: Tensor) -> Tensor:
        if self.tied:
            raise ValueError(
                f"density: {what} was asked for, but the sum over discrete latents holds "
                f"{', '.join(map(repr, self.tied))} at once, of which some are priors and some data; only total() can "
                "be had"
            )
        return part


def _tempered(term: Tensor, power: Tensor) -> Tensor:
    """The term times a power, of which 0 takes away what is minus infinity too."""
    return torch.where(power == 0, 0.0, power * term)


class Density:
    """``log p(x, u)`` of a pair on a batch: call it with u by site, (S, B, ...) local, (S, ...) global.

    What depends on the pair alone is found once, so that a call costs a run of the model and little else. Latents that
    the model sums out are eliminated. The support of a site, and so the map from u to z, is that of the run: it may
    depend on the latents before it, and on the data.

    Where a latent is masked it has no density, and here log |det dz/du| alone, as in Pyro's potential
    (``pyro.infer.mcmc.util.initialize_model``): over masked entries the density is flat in z, and no sampler comes to
    an end there; hold them, or leave what is masked out of the data.

    Args:
        pair: the pair; its parameters keep their gradients.
        batch: the data.
        scale: multiply what stands inside the data plate by N/B, for mini-batches; else every datum counts once.

    Raises:
        ValueError: a latent is discrete, and not summed out; or p(x | z) is a point mass (a flow).
    """

    def __init__(self, pair: Pair, batch: Batch, *, scale: bool = False) -> None:
        discrete = [name for name, site in pair.latents.items() if site.is_discrete]
        if discrete:
            at = ", ".join(map(repr, discrete))
            raise ValueError(
                f"density: continuous latents are required, but {at} are discrete; leave them out of the guide, mark "
                "them with infer={'enumerate': 'parallel'} in the model, and they are summed out"
            )
        pair.sites.require_spread("density")
        self.pair, self.batch = pair, batch
        self._vectorizes: bool | None = None
        self._factor = (batch.num_data or batch.size or 1) / (batch.size or 1) if scale else 1.0
        self._joint = pair.has_global_latents

    def __call__(self, u: Mapping[str, Tensor]) -> LogDensity:
        """The density at S points."""
        latents = self.pair.latents
        if missing := sorted(set(latents) - set(u)):
            raise ValueError(f"density: u of every latent site is required, got none of {missing}")
        if unknown := sorted(set(u) - set(latents)):
            raise ValueError(f"density: the latent sites are {sorted(latents)}, got {unknown}")
        scope = self.pair.scope
        with scope(), isolated_rng(0, scope.device), scope.mode(training=False):
            if self._vectorizes is None:
                self._vectorizes = self.pair.vectorizes(self.batch)
            if self._vectorizes:
                return self._at_once(u)
            size = len(next(iter(u.values()))) if u else 1
            return self._mapped(u) if size > 1 and self._serves(u) else self._one_by_one(u)

    def _at_once(self, u: Mapping[str, Tensor]) -> LogDensity:
        size = len(next(iter(u.values()))) if u else 1
        return self._run({name: inward(v, self._site(name, v), self.pair.layout) for name, v in u.items()}, size)

    def _mapped(self, u: Mapping[str, Tensor]) -> LogDensity:
        """Runs of one point each, made one by ``torch.vmap``: for a model that has no room for a plate of points."""
        seen: list[LogDensity] = []

        def one(u: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            seen.append(self._alone(u))
            return seen[-1]._parts()

        with validation(False):  # torch's checks of arguments branch on values, which vmap cannot
            found = torch.vmap(one, randomness="same")(dict(u))
        return _of_parts([part.squeeze(1) for part in found], seen[0])

    def _serves(self, u: Mapping[str, Tensor]) -> bool:
        """Are mapped points what points one by one are? Asked once for each shape of data."""

        def agrees() -> bool:
            few = {name: value[:2].detach() for name, value in u.items()}
            try:
                pairs = zip(self._mapped(few)._parts(), self._one_by_one(few)._parts(), strict=True)
                return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in pairs)
            except NOT_UNDER_VMAP as error:
                if is_out_of_memory(error):
                    raise
                return False

        return bool(self.pair.runner.checked("mapped density", self.batch, lambda runs, batch: agrees()))

    def _alone(self, u: Mapping[str, Tensor]) -> LogDensity:
        layout = self.pair.layout
        return self._run({n: without_particles(v, self._site(n, v.unsqueeze(0)), layout) for n, v in u.items()}, None)

    def _one_by_one(self, u: Mapping[str, Tensor]) -> LogDensity:
        size = len(next(iter(u.values()))) if u else 1
        parts = [self._alone({name: value[s] for name, value in u.items()}) for s in range(size)]
        columns = zip(*(part._parts() for part in parts), strict=True)
        return _of_parts([torch.cat(column) for column in columns], parts[0])

    def _site(self, name: str, u: Tensor) -> Any:
        return of_unconstrained(self.pair.latents[name], u)

    def _run(self, inner: Mapping[str, Tensor], count: int | None) -> LogDensity:
        constrain = Constrain(inner)
        run = self.pair.runner.run_model(self.batch, inner, count, given=constrain)
        parts = {key: self._zeros(count, key) for key in ((False, False), (False, True), (True, False), (True, True))}
        for name, score in run.score_model().items():
            term = score.log_prob
            if name in constrain.log_dets:
                term = term + score.reduce(constrain.log_dets[name])
            parts[score.observed, score.local] = parts[score.observed, score.local] + term
        factor = self._factor
        return LogDensity(
            parts[False, False],
            factor * parts[False, True],
            parts[True, False],
            factor * parts[True, True],
            tied_sites(run),
            self._joint,
        )

    def _zeros(self, count: int | None, key: tuple[bool, bool]) -> Tensor:
        shape = (count or 1, self.batch.size or 1) if key[1] else (count or 1,)
        return torch.zeros(shape, dtype=self.pair.dtype, device=self.pair.device)


def tied_sites(run: Execution) -> tuple[str, ...]:
    """Sites whose sum over discrete latents holds a prior and a likelihood at once: p(z) cannot be had alone."""
    if not run.summed:
        return ()
    for part in run.components():
        priors = [n for n in part.names if n not in part.latents and not part.scores[n].observed]
        if priors and any(part.scores[n].observed for n in part.names):
            return tuple(n for n in part.names if n not in part.latents)
    return ()


def _of_parts(parts: Sequence[Tensor], like: LogDensity) -> LogDensity:
    prior, local_prior, likelihood, local_likelihood = parts
    return LogDensity(prior, local_prior, likelihood, local_likelihood, like.tied, like.joint)
