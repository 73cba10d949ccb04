"""What guides of codes share: a network from x to the logits of q(c | x)."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ppl_vae.distributions import Codes
from ppl_vae.guides.amortized import AmortizedGuide
from ppl_vae.nn import fill_unobserved


class AmortizedCodes(AmortizedGuide):
    r"""The base of guides of codes, with logits from one network for all data.

    .. math:: q_\phi(c \mid x) = \prod_m \mathrm{softmax}(\mathrm{encoder}(x)_m)_{c_m}

    Site "c" in the plate "data" (dim -1), (N, M) long. With ``factorized``, for a model with ``factorized``, it stands
    in a second plate "latents" (dim -2) too, (M, N) long, one categorical variable for each latent.

    Implementing a new one: override :meth:`posterior`, which says how the site is drawn, or ``infer``, what an
    inference algorithm is told of it.

    Args:
        encoder: maps x (N, *event) to logits (N, M K), the classes of the first latent first.
        num_latents: M.
        num_classes: K.
        factorized: see above.

    Raises:
        ValueError: M < 1, K < 2; in a call, an encoder output of another shape, a mask that does not fit x, or no x.
    """

    def __init__(self, encoder: nn.Module, *, num_latents: int, num_classes: int, factorized: bool = False) -> None:
        super().__init__()
        if num_latents < 1 or num_classes < 2:
            raise ValueError(
                f"{type(self).__name__}: num_latents >= 1 and num_classes >= 2 are required, got "
                f"num_latents={num_latents}, num_classes={num_classes}"
            )
        self.encoder = encoder
        self.num_latents, self.num_classes, self.factorized = num_latents, num_classes, factorized
        self.infer: Any = {}

    def sample_sites(self, x: Tensor, y: Tensor | None, mask: Tensor | None) -> Tensor:
        """Draw c: (..., N, M) long, or (..., M, N) with ``factorized``."""
        logits = self._logits(x, mask)
        with pyro.plate("data", len(x), dim=-1):
            if not self.factorized:
                return pyro.sample("c", self.posterior(logits), infer=self.infer)
            with pyro.plate("latents", self.num_latents, dim=-2):
                q_c = dist.Categorical(logits=logits.transpose(0, 1))
                return pyro.sample("c", q_c, infer=self.infer)

    def posterior(self, logits: Tensor) -> Codes:
        """The distribution from which the site is drawn, for logits (N, M, K)."""
        return Codes(logits)

    def encode(self, x: Tensor, *, mask: Tensor | None = None) -> Codes:
        """The distribution q(c | x) of the discrete model.

        Args:
            x: (N, *event) data.
            mask: as in a call.

        Returns:
            A distribution with batch shape (N,) and event shape (M,); its ``probs`` are (N, M, K).
        """
        return Codes(self._logits(x, mask))

    def extra_repr(self) -> str:
        """Say the sizes of the code."""
        factorized = ", factorized=True" if self.factorized else ""
        return f"num_latents={self.num_latents}, num_classes={self.num_classes}{factorized}"

    def _logits(self, x: Tensor, mask: Tensor | None) -> Tensor:
        logits = self.encoder(fill_unobserved(x, mask, who=type(self).__name__))
        required = self.num_latents * self.num_classes
        if logits.shape != (len(x), required):
            raise ValueError(
                f"{type(self).__name__}: the encoder must return (..., {required}) for num_latents={self.num_latents}, "
                f"num_classes={self.num_classes}, got {tuple(logits.shape)}"
            )
        return logits.unflatten(-1, (self.num_latents, self.num_classes))
