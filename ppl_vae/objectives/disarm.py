"""The score function's antithetic successor for binary latents."""

from __future__ import annotations

from collections.abc import Mapping

from pyro.distributions.util import is_identically_zero

from ppl_vae.data.rows import Batch
from ppl_vae.objectives.antithetic import Antithetic, antithetic_score, binary_logits
from ppl_vae.objectives.objective import Objective, Terms
from ppl_vae.objectives.weighted_draws import read, require_weights_per_datum
from ppl_vae.pair import GuideScore, Pair


class DisARM(Objective):
    r"""The ELBO of a guide with one site of binary draws, from two antithetic ones a datum.

    .. math:: \nabla_{\alpha_i} L = E\big[\tfrac12 (\log w(b) - \log w(\tilde b))\, (b_i - \tilde b_i)\,
        \sigma(|\alpha_i|)\big], \quad b = 1[u > 1 - \sigma(\alpha)], \; \tilde b = 1[u < \sigma(\alpha)]

    with α the logits of q(b | x). Every entry of the site is Bernoulli, or one of two classes. Reparametrized sites
    that the guide draws after it keep their pathwise gradient.

    Raises:
        GlobalLatentError: where latents stand outside the data plate.
        ValueError: where the guide has no such site, another one that is not reparametrized, or draws before it; where
            a site is weighted with ``poutine.scale``, or the guide leaves out a latent.

    Sources: Dong, Mnih, Tucker, "DisARM: An Antithetic Gradient Estimator for Binary Latent Variables", 2020; Yin, Ho,
    Yan, Qian, Zhou, "Probabilistic Best Subset Selection by Gradient-Based Optimization" (U2G), 2020.
    """

    def __init__(self) -> None:
        super().__init__(num_particles=2)

    def __repr__(self) -> str:
        return "DisARM()"

    def terms(self, pair: Pair, batch: Batch) -> Terms:
        """Evaluate the bound on a batch."""
        require_weights_per_datum(self, pair)
        pair.vectorizes(batch)  # its own runs are none of an antithetic pair
        with Antithetic(pair.layout):
            runs = pair.runs(batch, 2)
        draws = read(self, pair, batch, runs)
        first, second = draws.log_w.detach().unbind(0)
        score = 0.5 * (first - second) * antithetic_score(runs, _binary_site(draws.guides[0]))
        surrogate = draws.per_datum(draws.path) + draws.per_datum(score)
        return draws.terms(draws.log_w.mean(0), dict.fromkeys(("theta", "phi"), surrogate))


def _binary_site(guide: Mapping[str, GuideScore]) -> str:
    """The name of the one binary site, which the guide must draw first."""
    others = "RLOO(2), VIMCO(2) and ScoreFunction() take any draws"
    unpathed = [name for name, q in guide.items() if not is_identically_zero(q.score)]
    if len(unpathed) != 1:
        found = ", ".join(map(repr, unpathed)) or "none"
        raise ValueError(
            f"DisARM: one site that is not reparametrized is required, of binary draws, got {found}; "
            + (others if unpathed else "ELBO() serves a guide whose draws are all reparametrized")
        )
    name = unpathed[0]
    if binary_logits(guide[name].site["fn"]) is None:
        fn = guide[name].site["fn"]
        raise ValueError(
            f"DisARM: binary draws are required (Bernoulli, or two classes), but {name!r} is {type(fn).__name__} of "
            f"event shape {tuple(fn.event_shape)}; {others}"
        )
    before = list(guide)[: list(guide).index(name)]
    if before:
        raise ValueError(
            f"DisARM: the guide draws {', '.join(map(repr, before))} before {name!r}, and a pair of draws needs the "
            f"same logits; draw {name!r} first, or: {others}"
        )
    return name
