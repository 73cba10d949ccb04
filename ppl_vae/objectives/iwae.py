"""The importance weighted bound, and three gradients of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pyro.distributions.util import is_identically_zero
from torch import Tensor

from ppl_vae.data.rows import Batch
from ppl_vae.objectives.objective import Objective, Terms, num_data_of
from ppl_vae.pair import Execution, GlobalLatentError, GuideScore, Pair, SiteScore
from ppl_vae.pair.detach import detached, frozen, is_plain

Gradient = Literal["iwae", "stl", "dreg"]


class IWAE(Objective):
    r"""The importance weighted bound: K draws of z for each datum, weighted among themselves.

    .. math:: L_K(x) = E\Big[\log \frac1K \sum_{k=1}^K \frac{p_\theta(x, z_k)}{q_\phi(z_k \mid x)}\Big], \quad z_k \sim
    q_\phi

    Per datum: the logsumexp is over draws of one datum, and no mini-batch factor enters it (Pyro's
    ``RenyiELBO(alpha=0)`` takes it over whole, scaled mini-batches, which is no bound).

    Args:
        num_particles: K.
        gradient: ``"iwae"`` differentiates the bound as it stands; ``"stl"`` drops the score of q from it (no variance
            when q is exact; biased in φ for K > 1); ``"dreg"`` replaces that score by its reparametrization (unbiased,
            and its signal to noise in φ grows with K).

    Raises:
        GlobalLatentError: on mini-batches of a pair with latents outside the data plate.
        ValueError: for a guide that is not reparametrized, and where the model weighs a site with ``poutine.scale``.

    Sources: Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", 2016; Roeder, Wu, Duvenaud, "Sticking the
    Landing", 2017; Tucker, Lawson, Gu, Maddison, "Doubly Reparameterized Gradient Estimators for Monte Carlo
    Objectives", 2019.
    """

    def __init__(self, num_particles: int, gradient: Gradient = "iwae") -> None:
        super().__init__(num_particles)
        if gradient not in ("iwae", "stl", "dreg"):
            raise ValueError(f"IWAE: gradient must be 'iwae', 'stl' or 'dreg', got {gradient!r}")
        self.gradient = gradient

    def __repr__(self) -> str:
        return f"IWAE({self.num_particles}{'' if self.gradient == 'iwae' else f', gradient={self.gradient!r}'})"

    @property
    def draws_in_bound(self) -> int:
        """K."""
        return self.num_particles

    def terms(self, pair: Pair, batch: Batch) -> Terms:
        """Evaluate the bound on a batch."""
        runs = pair.runs(batch, self.num_particles)
        num_data = num_data_of(runs[0], batch)
        self._refuse_mini_batches(pair, runs[0], num_data)
        scores = [(run.score_model(), run.score_guide()) for run in runs]
        for model, guide in scores:
            _check(model, guide)
        log_p = torch.cat([_sum(model, pair) for model, _ in scores])
        log_q = torch.cat([_sum(guide, pair) for _, guide in scores])
        log_w = log_p - log_q  # (K, B), or (K,) when global latents tie the data together
        bound = torch.logsumexp(log_w, 0) - math.log(len(log_w))
        stopped = None
        if self.gradient != "iwae" and torch.is_grad_enabled():
            stopped = log_p - torch.cat([self._stopped_log_q(pair, batch, run) for run in runs])
        return self._assemble(pair, scores, log_w, bound, stopped, num_data)

    def _assemble(
        self,
        pair: Pair,
        scores: Sequence[tuple[Mapping[str, SiteScore], Mapping[str, GuideScore]]],
        log_w: Tensor,
        bound: Tensor,
        stopped: Tensor | None,
        num_data: int,
    ) -> Terms:
        def per_datum(term: Tensor) -> Tensor:  # (B,) or () to the mean over data
            return term.mean() if term.dim() else term / num_data

        surrogates = dict.fromkeys(("theta", "phi"), per_datum(bound))
        if stopped is not None:
            weights = torch.softmax(log_w.detach(), 0)
            if self.gradient == "stl":
                surrogates = dict.fromkeys(("theta", "phi"), per_datum((weights * stopped).sum(0)))
            else:
                surrogates["phi"] = per_datum((weights**2 * stopped).sum(0))
        reconstruction = torch.cat([_sum(model, pair, observed=True) for model, _ in scores]).mean(0)
        elbo, local = log_w.mean(0), bound.dim() == 1
        return Terms(
            value=bound if local else bound.new_zeros(1),
            global_value=bound.new_zeros(()) if local else bound,
            num_data=num_data,
            surrogates=surrogates,
            elbo=per_datum(elbo),
            reconstruction=per_datum(reconstruction),
            kl=per_datum(reconstruction - elbo),
        )

    def _refuse_mini_batches(self, pair: Pair, run: Execution, num_data: int) -> None:
        frame = run.data_plate
        if frame is not None and frame.size < num_data and pair.has_global_latents:
            shared = [name for name, site in pair.latents.items() if not site.is_local]
            raise GlobalLatentError(
                f"IWAE: with latents outside the data plate ({', '.join(map(repr, shared))}) the weights are "
                f"those of all "
                f"{num_data} rows at once, and a mini-batch of {frame.size} gives no bound; fit without batch_size, or "
                "use ELBO()"
            )

    def _stopped_log_q(self, pair: Pair, batch: Batch, run: Execution) -> Tensor:
        """Log q at z with the gradient through z alone.

        Plain distributions are copied without their gradients; a guide with transforms is run anew at z.
        """
        plain = all(is_plain(score.site["fn"]) for score in run.score_guide().values())
        with frozen(pair.parameters.of("phi", "shared").values()):
            return _sum(run.score_guide_with(detached) if plain else pair.rescore_guide(batch, run), pair)


def _sum(scores: Mapping[str, SiteScore], pair: Pair, *, observed: bool = False) -> Tensor:
    """The sum over sites: (S, B), or (S,) if a latent stands outside the data plate."""
    local = [s.log_prob for s in scores.values() if s.local and (s.observed or not observed)]
    shared = [s.log_prob for s in scores.values() if not s.local and (s.observed or not observed)]
    total = sum(local[1:], local[0]) if local else None
    if not pair.has_global_latents and not shared and total is not None:
        return total
    joint = total.sum(1) if total is not None else 0.0
    return sum(shared, joint)  # type: ignore[return-value]


def _check(model: Mapping[str, SiteScore], guide: Mapping[str, GuideScore]) -> None:
    for score in (*model.values(), *guide.values()):
        if score.weighted:
            raise ValueError(
                f"IWAE: the site {score.name!r} is weighted with poutine.scale, and a weight inside a logsumexp "
                f"makes no "
                "bound; take the weight away, or use ELBO()"
            )
    for score in guide.values():
        if not is_identically_zero(score.score):
            raise ValueError(
                f"IWAE: the guide's site {score.name!r} is not reparametrized, and the bound's gradient needs that"
            )
    missing = [n for n, p in model.items() if not p.observed and not p.summed and n not in guide]
    if missing:
        raise ValueError(f"IWAE: the guide must sample every latent site of the model, but it has none of {missing}")
