"""The importance weighted bound for guides with discrete draws."""

from __future__ import annotations

import math

import torch

from ppl_vae.data.rows import Batch
from ppl_vae.objectives.leave_one_out import bound_of_others, require_two
from ppl_vae.objectives.objective import Objective, Terms
from ppl_vae.objectives.weighted_draws import require_weights_per_datum, weighted_draws
from ppl_vae.pair import Pair


class VIMCO(Objective):
    r"""The importance weighted bound L_K, by the score function with a leave-one-out signal.

    .. math:: \nabla L_K = E\Big[\sum_k \big(\hat L - \hat L_{-k}\big) \nabla \log q_\phi(z_k \mid x)
        + \nabla \hat L\Big], \quad \hat L = \log \frac1K \sum_k w_k

    In the baseline :math:`\hat L_{-k}` the weight of draw k is replaced by the geometric mean of the others. All is per
    datum, and no mini-batch factor enters a logsumexp. Reparametrized sites keep their pathwise gradient.

    Args:
        num_particles: K >= 2.

    Raises:
        GlobalLatentError: where latents stand outside the data plate.
        ValueError: for K < 2; where a site is weighted with ``poutine.scale``, or the guide leaves out a latent.

    Source: Mnih, Rezende, "Variational Inference for Monte Carlo Objectives", 2016.
    """

    def __init__(self, num_particles: int) -> None:
        super().__init__(num_particles)
        require_two(self)

    def __repr__(self) -> str:
        return f"VIMCO({self.num_particles})"

    @property
    def draws_in_bound(self) -> int:
        """K."""
        return self.num_particles

    def terms(self, pair: Pair, batch: Batch) -> Terms:
        """Evaluate the bound on a batch."""
        require_weights_per_datum(self, pair)
        draws = weighted_draws(self, pair, batch)
        bound = torch.logsumexp(draws.log_w, 0) - math.log(self.num_particles)
        surrogate = bound
        if draws.score is not None:
            signal = bound.detach() - bound_of_others(draws.log_w.detach())
            surrogate = bound + (signal * draws.score).sum(0)
        return draws.terms(bound, dict.fromkeys(("theta", "phi"), draws.per_datum(surrogate)))
