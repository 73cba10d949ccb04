"""A guide whose expectation is summed out exactly."""

from __future__ import annotations

from torch import nn

from ppl_vae.distributions.codes import require_enumerable
from ppl_vae.guides.amortized_codes import AmortizedCodes


class EnumeratedCategorical(AmortizedCodes):
    r"""q_φ(c | x), categorical, from one network; the expectation over it is the sum over all codes.

    .. math:: L = \sum_c q(c \mid x) \log p_\theta(x \mid c) + H(q(c \mid x)) + E_q[\log p(c)]

    The site is marked for parallel enumeration: an ELBO of ``ppl_vae`` or Pyro's ``TraceEnum_ELBO`` scores all K^M
    codes, with one call of the decoder, and the gradient has no noise. With ``factorized``, on a model that factorizes,
    the sum goes latent by latent and costs K. Objectives that do not enumerate draw codes as from
    ``SampledCategorical``.

    Args:
        encoder: maps x (N, *event) to logits (N, M K), the classes of the first latent first.
        num_latents: M.
        num_classes: K.
        max_rows: how many pairs of a code and a datum an ELBO of ``ppl_vae`` scores at once (a bound on memory).
        factorized: "c" stands in a second plate "latents" (dim -2), as in a model with ``factorized``.

    Raises:
        ValueError: M < 1, K < 2, max_rows < 1, more than 2^20 joint codes; in a call as in :class:`AmortizedCodes`.

    Sources: D. P. Kingma, D. J. Rezende, S. Mohamed, M. Welling, "Semi-supervised learning with deep generative
    models", 2014 (a label summed out); E. Bingham et al., "Pyro: deep universal probabilistic programming", 2019.

    >>> from ppl_vae.nn import MLP
    >>> EnumeratedCategorical(MLP(64, 20 * 10), num_latents=20, num_classes=10)
    Traceback (most recent call last):
    ValueError: EnumeratedCategorical: at most 2^20 joint codes can be enumerated, got 10^20 = 1e20 joint codes; ...
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        num_latents: int,
        num_classes: int,
        max_rows: int = 2**18,
        factorized: bool = False,
    ) -> None:
        super().__init__(encoder, num_latents=num_latents, num_classes=num_classes, factorized=factorized)
        if max_rows < 1:
            raise ValueError(f"EnumeratedCategorical: max_rows must be at least 1, got {max_rows}")
        if not factorized:
            require_enumerable("EnumeratedCategorical", num_latents, num_classes)
        self.infer = {"enumerate": "parallel", "max_rows": max_rows}
