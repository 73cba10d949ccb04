"""The pair: a generative model p_θ(x, z) and a guide q_φ(z | x), with their parameters, as one object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Categorical

from ppl_vae._random import fold
from ppl_vae.data.rows import Batch
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.binding import Binding
from ppl_vae.pair.calls import names
from ppl_vae.pair.draws import Draws, LogProb
from ppl_vae.pair.execution import Execution
from ppl_vae.pair.handlers import Constrain, Forget, Substitute, has_density
from ppl_vae.pair.layout import Layout
from ppl_vae.pair.particles import inward, outward, without_particles
from ppl_vae.pair.responsibilities import draw_of
from ppl_vae.pair.runs import run_model, with_particles
from ppl_vae.pair.scores import GuideScore
from ppl_vae.pair.support import unconstrained


class Pair(Binding):
    r"""A model and a guide, bound together with their parameters.

    .. math:: \log p_\theta(x) = E_q[\log p_\theta(x, z) - \log q_\phi(z \mid x)] + KL(q_\phi(z \mid x) \| p_\theta(z
    \mid x))

    ``model`` and ``guide`` are any Pyro pair: functions with ``pyro.param``, modules, methods of modules, autoguides.
    Parameters that ``pyro.param`` makes live in a store of the pair's own; Pyro's global store is never touched.

    Args:
        model: p(x, z); called with the data's tensors, as in Pyro.
        guide: q(z | x); called with the same.
        data_plate: name of the plate of the datum. Default: the only outermost plate over the rows of the data.
        device, dtype: where and in what precision runs are made. Default: as the modules are.
    """

    # -- densities, draws ----------------------------------------------------------------------------------------------

    def _log_prob(self, scores: Mapping[str, Any]) -> LogProb:
        return LogProb.of(scores, joint=self.has_global_latents)

    def _values(self, run: Execution) -> dict[str, Tensor]:
        particles = run.num_particles is not None
        return {
            name: outward(_value(run.model_trace, name), site, self.layout, particles).detach().cpu()
            for name, site in self.latents.items()
        }

    def _draws(self, run: Execution) -> Draws:
        model, guide = run.score_model(), run.score_guide()
        named = {*guide, *self._summed}
        forgotten = [name for name, score in model.items() if not score.observed and name not in named]
        if forgotten:
            raise ValueError(
                f"Pair: {', '.join(map(repr, forgotten))} of the model was neither observed nor drawn by the guide, so "
                "draws cannot be weighed; give all data that the model observes, and a guide for every latent site"
            )
        log_p, log_q = self._log_prob(model), self._log_prob(guide)
        return Draws(self._values(run), log_p, log_q)

    def draw(self, data: Any, num_samples: int, *, seed: int = 0) -> Draws:
        """Draw latents from the guide and score them: values (S, N, ...), log p and log q in nats.

        Args:
            data: N rows.
            num_samples: S; all of them are held in memory.
            seed: the draws are a function of it.
        """
        batch = self._as_batch(data)
        with self.evaluating(fold(seed, "draw")):
            return Draws.stack([self._draws(run) for run in self.runs(batch, num_samples)])

    def draw_prior(self, data: Any, num_samples: int, *, seed: int = 0) -> Draws:
        """Draw latents from the model's prior; ``log_weight`` is then the log-likelihood of the data, in nats.

        Raises:
            ValueError: p(x | z) is a point mass (a flow).
        """
        batch = self._as_batch(data)
        self.require_spread("draw_prior")
        with self.evaluating(fold(seed, "draw_prior")):
            return Draws.stack([self._draws_of_prior(run) for run in self._prior_runs(batch, num_samples)])

    def draw_prior_values(self, data: Any, num_samples: int, *, seed: int = 0) -> dict[str, Tensor]:
        """The values that :meth:`draw_prior` draws, (S, N, ...) by site, not scored; a point mass of x is no matter."""
        batch = self._as_batch(data)
        with self.evaluating(fold(seed, "draw_prior")):
            parts = [self._values(run) for run in self._prior_runs(batch, num_samples)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.latents}

    def _prior_runs(self, batch: Batch, num_samples: int) -> list[Execution]:
        vectorized = num_samples > 1 and self.vectorizes(batch)
        counts = [num_samples] if vectorized else [None] * num_samples
        return [run_model(self._model_call, batch, self.layout, values={}, num_particles=count) for count in counts]

    def _draws_of_prior(self, run: Execution) -> Draws:
        scores = run.score_model()
        draws = self._draws(run)
        prior = {name: score for name, score in scores.items() if not score.observed}
        return Draws(draws.values, draws.log_p, self._log_prob(prior))

    def log_joint(self, data: Any, values: Tensor | Mapping[str, Tensor]) -> LogProb:
        """Log p(x, z) by site at the given latents: (S, N) in the data plate, (S,) outside, nats.

        Args:
            data: N rows.
            values: latents by site, (S, N, ...) or (S, ...) outside the plate; a tensor if there is one latent.
        """
        batch, given = self._as_batch(data), self._as_values(values)
        missing = sorted(set(self.latents) - set(given))
        if missing:
            raise ValueError(f"log_joint: a value of every latent site is required, got none of {missing}")

        def score(given: dict[str, Tensor], count: int | None) -> LogProb:
            run = run_model(
                self._model_call, batch, self.layout, values=given, num_particles=count, summed=self._summed
            )
            return self._log_prob(run.score_model())

        return self._at(batch, given, score, seed=0)

    def log_guide(self, data: Any, values: Tensor | Mapping[str, Tensor]) -> LogProb:
        """Log q(z | x) by site at the given latents: (S, N) or (S,), nats.

        Raises:
            ValueError: for a guide whose latents follow from auxiliary draws (most autoguides) that are not given.
        """
        batch, given = self._as_batch(data), self._as_values(values)
        missing = sorted(set(self._guide_sites) - set(given))
        if missing:
            raise ValueError(f"log_guide: a value of every site of the guide is required, got none of {missing}")

        def score(given: dict[str, Tensor], count: int | None) -> LogProb:
            fn = Substitute(given)(with_particles(self._guide_call, self.layout, count))
            trace = poutine.trace(fn).get_trace(batch)
            return self._log_prob(_score_all(GuideScore, trace, self.layout, count))

        return self._at(batch, given, score, seed=0)

    def _at(self, batch: Batch, given: dict[str, Tensor], score: Callable[..., LogProb], *, seed: int) -> LogProb:
        sites = self._model_sites | self._guide_sites
        with self.evaluating(fold(seed, "score")):
            if self.vectorizes(batch):
                inner = {n: inward(v, sites[n], self.layout) for n, v in given.items()}
                return score(inner, len(next(iter(given.values()))))
            parts = [
                score({n: without_particles(v[s], sites[n], self.layout) for n, v in given.items()}, None)
                for s in range(len(next(iter(given.values()))))
            ]
            return LogProb.stack(parts)

    # -- all real numbers ----------------------------------------------------------------------------------------------

    def unconstrain(self, data: Any, values: Tensor | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Latents as unconstrained u, with log |dz/du| in nats: log p(x, u) = log p(x, z) + log_det.

        Args:
            data: N rows.
            values: latents by site, (S, N, ...) or (S, ...) outside the data plate.

        Returns:
            u by site, the same leading shape; and log_det, (S, N), or (S,) with global latents. float64, CPU.

        Raises:
            ValueError: for a latent with a discrete support.
        """
        batch, given = self._as_batch(data), self._as_values(values)
        found: dict[str, list[Tensor]] = {name: [] for name in self.latents}

        def volume(inner: dict[str, Tensor], count: int | None) -> LogProb:
            trace = run_model(self._model_call, batch, self.layout, values=inner, num_particles=count).model_trace
            terms = {}
            for name, site in self.latents.items():
                node = trace.nodes[name]
                u, log_det = unconstrained(node["fn"], _value(trace, name))
                found[name].append(self._outward_like(u, node, site, count is not None))
                terms[name] = self.layout.reduce(log_det, node, count is not None).double().cpu()
            return LogProb(terms, (), joint=self.has_global_latents)

        total = self._at(batch, given, volume, seed=0).total
        return {name: torch.cat(parts) for name, parts in found.items()}, total

    def _outward_like(self, u: Tensor, node: Mapping[str, Any], site: Any, particles: bool) -> Tensor:
        """U with the axes of a value; its event may have another shape (a simplex loses a dimension)."""
        rank = node["value"].dim() - len(site.event_shape)
        twin = replace(site, event_shape=u.shape[rank:])
        return outward(u, twin, self.layout, particles).double().cpu()

    def constrain(self, data: Any, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of :meth:`unconstrain`: latents z, (S, N, ...) by site, from unconstrained u."""
        batch, given = self._as_batch(data), self._as_values(values)
        parts: dict[str, list[Tensor]] = {name: [] for name in self.latents}
        with self.evaluating(fold(0, "constrain")):
            for s in range(len(next(iter(given.values())))):
                inner = {}
                for name, u in given.items():
                    site, lead = (
                        self.latents[name],
                        1 + self.latents[name].is_local + len(self.latents[name].plate_dims),
                    )
                    inner[name] = without_particles(u[s], replace(site, event_shape=u.shape[lead:]), self.layout)
                trace = poutine.trace(Constrain(inner)(self._model_call)).get_trace(batch)
                for name, site in self.latents.items():
                    parts[name].append(outward(_value(trace, name), site, self.layout, False).cpu())
        return {name: torch.cat(found) for name, found in parts.items()}

    # -- sampling ------------------------------------------------------------------------------------------------------

    def template_state(self) -> dict[str, Any]:
        """Two rows of the data that the pair was first run on, as a plain tree, for a later process to run it on."""
        if self._template is None:
            return {}
        few = self._template.take(slice(0, 2)).to(device="cpu")
        return {"args": list(few.args), "kwargs": dict(few.kwargs)}

    def _template_batch(self, n: int) -> Batch:
        if self._template is None or not len(self._template):
            return Batch()
        return self._template.take(torch.arange(n, device=self.device) % len(self._template)).batch()

    def _forward(self, batch: Batch | None, n: int, values: Mapping[str, Tensor], count: int | None) -> Any:
        """A trace of the model with its observed sites sampled anew."""
        fn: Callable[..., Any] = self._model_call
        if batch is None:
            if names(self.model, "num_samples"):
                fn, batch = (lambda _: self.model(num_samples=n)), Batch()
            else:
                batch = self._template_batch(n)
        fn = Substitute(values)(Forget()(with_particles(fn, self.layout, count)))
        return poutine.trace(fn).get_trace(batch)

    def _read(self, trace: Any, names_: list[str], count: int | None, mean: bool) -> dict[str, Tensor]:
        def value(name: str) -> Tensor:
            site = trace.nodes[name]
            kept = _center(site["fn"]) if mean and name in self._observed else site["value"]
            return outward(kept, self._model_sites[name], self.layout, count is not None).detach().cpu()

        return {name: value(name) for name in names_ if name in trace.nodes}  # some are there only with their data

    def _draw_summed(self, batch: Batch, values: Mapping[str, Tensor], count: int | None) -> dict[str, Tensor]:
        """A draw of every latent that the model sums out, given x and the others: one after the other."""
        drawn: dict[str, Tensor] = {}
        for name in self.summed:
            left = self._summed - set(drawn)
            given = {**values, **drawn}
            run = run_model(self._model_call, batch, self.layout, values=given, num_particles=count, summed=left)
            drawn[name] = draw_of(run, name)
        return drawn

    def simulate(
        self, n: int, *, seed: int = 0, mean: bool = False, latents: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Sample n data and their latents from the model; the guide is not touched.

        Args:
            n: how many data.
            mean: give the mean of each observed site (of classes, which have none, the mode) instead of a draw.
            latents: values of latent sites to hold, (n, ...) in the data plate.

        Returns:
            (n, ...) by site, latent and observed; for a site outside the data plate one value.
        """
        if n < 1:
            raise ValueError(f"simulate: n must be at least 1, got {n}")
        given = {k: v.unsqueeze(0) for k, v in self._as_values(latents).items()} if latents else {}
        unknown = sorted(set(given) - set(self._model_sites))
        if unknown:
            raise ValueError(f"simulate: the latent sites are {sorted(self.latents)}, got {unknown}")
        inner = {k: without_particles(v[0], self._model_sites[k], self.layout) for k, v in given.items()}
        with self.evaluating(fold(seed, "simulate")):
            trace = self._forward(None, n, inner, None)
            found = self._read(trace, [*self._latent, *self._observed], None, mean)
        return {name: value[0] for name, value in found.items()}

    def predict(
        self,
        data: Any,
        values: Tensor | Mapping[str, Tensor],
        *,
        seed: int = 0,
        mean: bool = False,
        num_samples: int = 1,
    ) -> dict[str, Tensor]:
        """Sample the observed sites anew at given latents: (S, N, ...) by site, or their means.

        Latents that the model sums out are drawn from p(c | x, z). Without latents S is ``num_samples``.
        """
        batch, given = self._as_batch(data), self._as_values(values)
        size = len(next(iter(given.values()))) if given else num_samples
        with self.evaluating(fold(seed, "predict")):
            if self.vectorizes(batch):
                inner = {n: inward(v, self._model_sites[n], self.layout) for n, v in given.items()}
                inner |= self._draw_summed(batch, inner, size)
                return self._read(self._forward(batch, 0, inner, size), self._observed, size, mean)
            parts = []
            for s in range(size):
                inner = {n: without_particles(v[s], self._model_sites[n], self.layout) for n, v in given.items()}
                inner |= self._draw_summed(batch, inner, None)
                parts.append(self._read(self._forward(batch, 0, inner, None), self._observed, None, mean))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _score_all(score: Callable[..., Any], trace: Any, layout: Layout, count: int | None) -> dict[str, Any]:
    return {n: score(n, site, layout, count is not None) for n, site in sample_sites(trace) if has_density(site)}


def _center(fn: Any) -> Tensor:
    """The mean of a distribution; of classes, which have none, the mode."""
    base = fn
    while hasattr(base, "base_dist"):
        base = base.base_dist
    center: Tensor = fn.mode if isinstance(base, Categorical) else fn.mean
    return center


def _value(trace: Any, name: str) -> Tensor:
    value: Tensor = trace.nodes[name]["value"]
    return value
