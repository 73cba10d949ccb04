"""Reweighted wake-sleep: the model climbs the importance weighted bound, the guide follows the weighted draws."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.data.rows import Batch
from ppl_vae.objectives.objective import Objective, Terms
from ppl_vae.objectives.weighted_draws import WeightedDraws, log_density, require_weights_per_datum, weighted_draws
from ppl_vae.pair import Execution, Pair, Table
from ppl_vae.pair.axis import sample_sites


class ReweightedWakeSleep(Objective):
    r"""Reweighted wake-sleep with wake updates of both sides; draws need no gradient, discrete or not.

    .. math:: \theta: \nabla_\theta \log \frac1K \sum_k w_k, \qquad
        \phi: \sum_k \tilde w_k \nabla_\phi \log q_\phi(z_k \mid x), \quad \tilde w_k = w_k / \sum_j w_j

    with z and the weights constant: φ goes down an estimate of KL(p(z|x) || q(z|x)), the other way round than in an
    ELBO, and gets better and not noisier with K. What is reported is the bound L_K. Parameters that both sides share
    follow the bound.

    Args:
        num_particles: K >= 2; a single draw has the weight 1, and φ would learn nothing of the model.

    Raises:
        GlobalLatentError: where latents stand outside the data plate.
        ValueError: for K < 2; where a site is weighted with ``poutine.scale``, or the guide leaves out a latent.

    Sources: Bornschein, Bengio, "Reweighted Wake-Sleep", 2015; Le, Kosiorek, Siddharth, Teh, Wood, "Revisiting
    Reweighted Wake-Sleep", 2019.
    """

    def __init__(self, num_particles: int) -> None:
        super().__init__(num_particles)
        if num_particles < 2:
            raise ValueError(
                f"ReweightedWakeSleep: num_particles must be at least 2, for one draw has the weight 1 whatever the "
                f"model says of it; got {num_particles}"
            )

    def __repr__(self) -> str:
        return f"ReweightedWakeSleep({self.num_particles})"

    @property
    def draws_in_bound(self) -> int:
        """K."""
        return self.num_particles

    def terms(self, pair: Pair, batch: Batch) -> Terms:
        """Evaluate the bound on a batch."""
        require_weights_per_datum(self, pair)
        draws = weighted_draws(self, pair, batch)
        bound = torch.logsumexp(draws.log_w, 0) - math.log(self.num_particles)
        surrogates = {"theta": draws.per_datum(bound), "phi": draws.per_datum(bound)}
        if torch.is_grad_enabled():
            weights = torch.softmax(draws.log_w.detach(), 0)
            surrogates["phi"] = draws.per_datum((weights * _log_q(pair, batch, draws)).sum(0))
        return draws.terms(bound, surrogates)

    def exact_surrogates(self, table: Table) -> dict[str, Tensor]:
        """θ climbs L_K; φ in the limit of many draws -KL(p(z|x) || q(z|x)), of which K draws give a biased estimate."""
        posterior = table.log_posterior.exp().detach()
        return {**super().exact_surrogates(table), "phi": table.mean(posterior, table.log_q)}

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """There is none: the two sides follow two objectives.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "ReweightedWakeSleep: θ and φ follow two objectives, and no one loss has both gradients; use SVI"
        )


def _log_q(pair: Pair, batch: Batch, draws: WeightedDraws) -> Tensor:
    """Log q(z | x) without the path through z: (S, B). The guide is run anew where its draws have one."""
    values = (site["value"] for run in draws.runs for site in _drawn(run).values())
    if not any(value.requires_grad for value in values):
        return draws.log_q
    constant = [replace(run, guide_trace=_without_paths(run)) for run in draws.runs]
    return torch.cat([log_density(pair.rescore_guide(batch, run), pair) for run in constant])


def _drawn(run: Execution) -> dict[str, Any]:
    return {name: site for name, site in sample_sites(run.guide_trace) if not site["is_observed"]}


def _without_paths(run: Execution) -> Trace:
    trace = run.guide_trace.copy()
    for name, site in _drawn(run).items():
        trace.nodes[name] = {**site, "value": site["value"].detach()}
    return trace
