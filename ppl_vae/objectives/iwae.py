"""The importance weighted bound, and three gradients of it."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pyro.distributions.util import is_identically_zero
from torch import Tensor

from ppl_vae.data.rows import Batch
from ppl_vae.objectives.objective import Objective, Terms
from ppl_vae.objectives.weighted_draws import WeightedDraws, log_density, weighted_draws
from ppl_vae.pair import Execution, GlobalLatentError, Pair
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
        draws = weighted_draws(self, pair, batch)
        self._refuse_mini_batches(pair, draws.runs[0], draws.num_data)
        self._refuse_score_functions(draws)
        bound = torch.logsumexp(draws.log_w, 0) - math.log(len(draws.log_w))
        return draws.terms(bound, self._surrogates(pair, batch, draws, bound))

    def _surrogates(self, pair: Pair, batch: Batch, draws: WeightedDraws, bound: Tensor) -> dict[str, Tensor]:
        surrogates = dict.fromkeys(("theta", "phi"), draws.per_datum(bound))
        if self.gradient == "iwae" or not torch.is_grad_enabled():
            return surrogates
        stopped = draws.log_p - torch.cat([self._stopped_log_q(pair, batch, run) for run in draws.runs])
        weights = torch.softmax(draws.log_w.detach(), 0)
        if self.gradient == "stl":
            return dict.fromkeys(("theta", "phi"), draws.per_datum((weights * stopped).sum(0)))
        return {**surrogates, "phi": draws.per_datum((weights**2 * stopped).sum(0))}

    def _refuse_score_functions(self, draws: WeightedDraws) -> None:
        for score in draws.guides[0].values():
            if not is_identically_zero(score.score):
                raise ValueError(
                    f"IWAE: the guide's site {score.name!r} is not reparametrized, and the bound's gradient needs "
                    f"that; VIMCO({max(self.num_particles, 2)}) maximizes the same bound without it"
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
            return log_density(run.score_guide_with(detached) if plain else pair.rescore_guide(batch, run), pair)
