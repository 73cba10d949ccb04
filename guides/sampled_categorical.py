"""A guide that draws hard codes."""

from __future__ import annotations

from ppl_vae.guides.amortized_codes import AmortizedCodes


class SampledCategorical(AmortizedCodes):
    """q_φ(c | x), categorical, from one network; drawn hard, for objectives with a score function.

    A draw has no gradient, so the encoder learns from log q(c | x) times what the draw was worth: take an objective
    that keeps the noise of that down, ``RLOO`` or ``VIMCO``. Arguments, sites and errors: :class:`AmortizedCodes`.

    Source: A. Mnih, K. Gregor, "Neural variational inference and learning in belief networks", 2014.

    >>> import torch
    >>> from ppl_vae.nn import MLP
    >>> guide = SampledCategorical(MLP(64, 20 * 10), num_latents=20, num_classes=10)
    >>> guide(torch.zeros(100, 64)).shape
    torch.Size([100, 20])
    """
