"""The gradient that the lecture warns of: the E-step as if q did not depend on φ."""

from __future__ import annotations

from ppl_vae.data.rows import Batch
from ppl_vae.distributions import closed_form_kl, sum_event
from ppl_vae.objectives import ELBO, Objective, Terms
from ppl_vae.pair import Pair

__all__ = ["NaiveEStep"]


class NaiveEStep(Objective):
    r"""A wrong gradient of the ELBO, to be seen beside right ones: draws of z are taken for constants.

    .. math::
        \nabla_\phi L \neq E_q[\nabla_\phi \log p_\theta(x \mid z)] - \nabla_\phi KL(q_\phi(z \mid x) \| p(z))

    The first term is 0, for log p(x | z) at a constant z has no φ in it: what is left moves q to the prior. The
    gradient in θ is right.

    Raises:
        ValueError: in use, where the KL of a site has no closed form.
    """

    def __repr__(self) -> str:
        return "NaiveEStep()"

    def terms(self, pair: Pair, batch: Batch) -> Terms:
        """Evaluate on a batch."""
        right = ELBO(analytic_kl=False).terms(pair, batch)
        run = pair.run(batch)
        guide, surrogate = run.score_guide(), right.elbo.new_zeros(())
        for name, p in run.score_model().items():
            if p.observed:
                continue
            fn_q, fn_p = guide[name].site["fn"], p.site["fn"]
            kl = closed_form_kl(fn_q, fn_p)
            if kl is None:
                raise ValueError(f"NaiveEStep: the KL of {name!r} must have a closed form")
            surrogate = surrogate - p.reduce(sum_event(kl, fn_q, fn_p)).mean()
        return Terms(
            right.value,
            right.global_value,
            right.num_data,
            {"theta": right.surrogates["theta"], "phi": surrogate},
            right.elbo,
            right.reconstruction,
            right.kl,
        )
