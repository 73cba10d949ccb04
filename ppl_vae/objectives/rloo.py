"""The score function estimator in which several draws of a datum are each other's baseline."""

from __future__ import annotations

from ppl_vae.data.rows import Batch
from ppl_vae.objectives.leave_one_out import mean_of_others, require_two
from ppl_vae.objectives.objective import Objective, Terms
from ppl_vae.objectives.weighted_draws import require_weights_per_datum, weighted_draws
from ppl_vae.pair import Pair


class RLOO(Objective):
    r"""The ELBO of a guide with discrete draws, by REINFORCE with a leave-one-out baseline.

    .. math:: \nabla_\phi L = E\Big[\frac1K \sum_k \Big(\log w_k - \frac{1}{K-1} \sum_{j \ne k} \log w_j\Big)
        \nabla_\phi \log q_\phi(z_k \mid x)\Big]

    Nothing is to be tuned or trained, and the baseline is that of the datum. Reparametrized sites of the same guide
    keep their pathwise gradient.

    Args:
        num_particles: K >= 2.

    Raises:
        GlobalLatentError: where latents stand outside the data plate.
        ValueError: for K < 2; where a site is weighted with ``poutine.scale``, or the guide leaves out a latent.

    Sources: Salimans, Knowles, "On Using Control Variates with Stochastic Approximation for Variational Bayes", 2014;
    Kool, van Hoof, Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!", 2019.
    """

    def __init__(self, num_particles: int) -> None:
        super().__init__(num_particles)
        require_two(self)

    def __repr__(self) -> str:
        return f"RLOO({self.num_particles})"

    def terms(self, pair: Pair, batch: Batch) -> Terms:
        """Evaluate the bound on a batch."""
        require_weights_per_datum(self, pair)
        draws = weighted_draws(self, pair, batch)
        log_w = draws.log_w.detach()
        surrogate = draws.surrogate(log_w - mean_of_others(log_w))
        return draws.terms(draws.log_w.mean(0), dict.fromkeys(("theta", "phi"), surrogate))
