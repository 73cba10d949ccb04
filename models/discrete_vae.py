"""The discrete VAE: a network between a code and x."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from ppl_vae.distributions import Codes, one_hot
from ppl_vae.models.decoding import given, observation, require_prior
from ppl_vae.models.factorized import require_factorized
from ppl_vae.models.likelihoods import Likelihood, make_likelihood
from ppl_vae.models.model import Model
from ppl_vae.models.priors import CodePrior, Uniform
from ppl_vae.nn import apply_batched

_UNIFORM = Uniform()


class DiscreteVAE(Model):
    """A model with a code of M categorical latents, K classes each: c ~ p(c), x ~ p(x | decoder(c)).

    ``log p_θ(x, c) = log p(c) + log p(x | decoder(c))``, for each datum on its own.

    Sites, in the plate "data" (dim -1): "c", (N, M) long, and "x". Where c is enumerated, the decoder is called once on
    the K^M codes, and not on a copy for every datum (a batch normalization sees the codes as its batch then).

    With ``factorized``, output m of the decoder depends on c_m alone, so log p(x | c) is a sum over the latents: "c"
    and "x" stand in a second plate "latents" (dim -2) with batch shape (M, N), and enumeration costs K and not K^M.

    Args:
        decoder: maps one-hot codes (B, M K), or embeddings (B, M E), to (B, *event), or to (B, *event, p) for a
            likelihood of p numbers per entry. With ``factorized``: from (B, M, K), or (B, M, E), to (B, M, *part), for
            data x (N, M, *part).
        num_latents: M.
        num_classes: K.
        likelihood: p(x | c), a name from ``ppl_vae.models.likelihoods.REGISTRY`` or an object.
        prior: p(c), ``Uniform()``, ``Learned()``, or any module that returns a distribution over long codes with event
            shape (M,).
        embedding: E, the size of a learned vector for every class of every latent, in place of one-hot codes.
        factorized: see above; checked at the first call, by changing one latent at a time.

    Raises:
        ValueError: M < 1, K < 2, E < 1, an unknown likelihood, a prior of another shape; in a call, a decoder that
            takes no number of rows but one, an output that does not fit x, a decoder that does not factorize.

    Sources: E. Jang, S. Gu, B. Poole, "Categorical reparameterization with Gumbel-softmax", 2017 (the model); A. Mnih,
    K. Gregor, "Neural variational inference and learning in belief networks", 2014.

    >>> from ppl_vae.nn import MLP
    >>> model = DiscreteVAE(MLP(2 * 10, 64), num_latents=2, num_classes=10, likelihood="bernoulli")
    >>> model(num_samples=16).shape
    torch.Size([16, 64])
    """

    table: nn.Parameter | None

    def __init__(
        self,
        decoder: nn.Module,
        *,
        num_latents: int,
        num_classes: int,
        likelihood: str | Likelihood,
        prior: nn.Module = _UNIFORM,
        embedding: int | None = None,
        factorized: bool = False,
    ) -> None:
        super().__init__()
        if num_latents < 1 or num_classes < 2 or (embedding is not None and embedding < 1):
            raise ValueError(
                "DiscreteVAE: num_latents >= 1, num_classes >= 2 and embedding >= 1 or None are required, got "
                f"num_latents={num_latents}, num_classes={num_classes}, embedding={embedding}"
            )
        self.num_latents, self.num_classes, self.factorized = num_latents, num_classes, factorized
        self.decoder = decoder
        self.likelihood = make_likelihood(likelihood)
        self.prior = prior.sized(num_latents, num_classes) if isinstance(prior, CodePrior) else prior
        self.table = None if embedding is None else nn.Parameter(torch.randn(num_latents, num_classes, embedding))
        # Codes are long: this one says in which floating type the decoder wants them.
        self.register_buffer("_float", torch.zeros(()), persistent=False)
        self._check_prior()
        self._seen_to_factorize = False

    def sample_sites(self, x: Tensor | None, y: Tensor | None, mask: Tensor | None, size: int) -> Tensor:
        """Draw c, then x."""
        x = given(x, mask, self.likelihood, who=type(self).__name__)
        mask = None if x is None else mask
        if self.factorized:
            self._check_parts(x)
            x, mask = (None if t is None else t.movedim(1, 0) for t in (x, mask))
        with pyro.plate("data", size, dim=-1), self._latents_plate():
            c = pyro.sample("c", self._site_prior())
            p_x = self.decode(c, mask=mask, x_shape=None if x is None else x.shape)
            x = pyro.sample("x", p_x, obs=x)
        first = -1 - len(p_x.event_shape)
        return x.movedim(first - 1, first) if self.factorized else x

    def decode(self, c: Tensor, *, mask: Tensor | None = None, x_shape: tuple[int, ...] | None = None) -> Any:
        """The distribution p(x | c).

        Args:
            c: (..., M) long codes; (..., M, N) with ``factorized``, as the site "c" has them.
            mask: boolean, broadcastable to the shape of x at its site: True where an entry counts.
            x_shape: the shape of the data at its site, (N, *event), or (M, N, *part) with ``factorized``.

        Returns:
            A distribution with batch shape (...) and event shape (*event), or (..., M, N) and (*part); its ``mean`` is
            E[x | c].

        Raises:
            ValueError: codes of another shape, as of a guide of other sizes; the decoder takes no such number of rows,
                or its output does not fit the likelihood, or x.
        """
        self._check_codes(c)
        if self.factorized:
            output = self._decode_parts(c)
            batch_dim, x_shape = c.dim(), None if x_shape is None else x_shape[1:]
        else:
            output = self._call(self._embed(one_hot(c, self.num_classes, dtype=self._float.dtype)).flatten(-2), 1)
            batch_dim = c.dim() - 1
        return observation(output, batch_dim, self.likelihood, mask=mask, x_shape=x_shape, who="DiscreteVAE")

    def extra_repr(self) -> str:
        """Say the sizes of the code."""
        embedding = "" if self.table is None else f", embedding={self.table.shape[-1]}"
        factorized = ", factorized=True" if self.factorized else ""
        return f"num_latents={self.num_latents}, num_classes={self.num_classes}{embedding}{factorized}"

    def _embed(self, codes: Tensor) -> Tensor:
        """From one-hot codes (..., M, K), hard or relaxed, to what the decoder takes, (..., M, K) or (..., M, E)."""
        return codes if self.table is None else torch.einsum("...mk,mke->...me", codes, self.table)

    def _decode_parts(self, c: Tensor) -> Tensor:
        """The decoder's output for c (..., M, N), (..., M, N, *part); c may be 1 in the place of M or N."""
        codes = one_hot(c, self.num_classes, dtype=self._float.dtype)
        codes = codes.expand((*c.shape[:-2], self.num_latents, *codes.shape[-2:])).transpose(-3, -2)
        self._check_factorized()
        output = self._call(self._embed(codes), 2)
        return output.movedim(c.dim() - 1, c.dim() - 2)

    def _call(self, inputs: Tensor, event_dim: int) -> Tensor:
        try:
            return apply_batched(self.decoder, inputs, event_dim)
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # out of memory, or not the decoder's fault
                raise
            per_row = inputs.shape[inputs.dim() - event_dim :]
            rows = inputs.shape[: inputs.dim() - event_dim].numel()
            shape = ", ".join(map(str, per_row))
            raise ValueError(
                f"DiscreteVAE: the decoder must map (B, {shape}) to (B, ...), and that for any number of rows B (it is "
                f"called once for all enumerated codes); it failed for B={rows}: {error}"
            ) from error

    def _latents_plate(self) -> Any:
        return pyro.plate("latents", self.num_latents, dim=-2) if self.factorized else nullcontext()

    def _site_prior(self) -> TorchDistribution:
        """p(c) as the site "c" has it: event (M,), or batch (M, 1) with ``factorized``."""
        p_c = self.prior()
        return dist.Categorical(logits=p_c.logits.unsqueeze(-2)) if self.factorized else p_c

    def _check_prior(self) -> None:
        p_c = self.prior()
        require_prior(p_c, self.num_latents, who="DiscreteVAE")
        if self.factorized and not isinstance(p_c, Codes):
            raise ValueError(
                "DiscreteVAE: with factorized=True the prior must have independent latents (a Codes distribution), "
                f"got {type(p_c).__name__}"
            )

    def _check_codes(self, c: Tensor) -> None:
        sizes = c.shape[-2:-1] if self.factorized else c.shape[-1:]
        # Enumerated latents of a plate have size 1 in its place.
        if sizes != (self.num_latents,) and not (self.factorized and sizes == (1,)):
            required = f"(..., {self.num_latents}, N)" if self.factorized else f"(..., {self.num_latents})"
            raise ValueError(
                f"DiscreteVAE: codes must be {required} for num_latents={self.num_latents}, factorized="
                f"{self.factorized}, got {tuple(c.shape)}; the guide must have the same num_latents and factorized"
            )

    def _check_parts(self, x: Tensor | None) -> None:
        if x is not None and (x.dim() < 2 or x.shape[1] != self.num_latents):
            raise ValueError(
                f"DiscreteVAE: with factorized=True the data must be (N, {self.num_latents}, *part), "
                f"got {tuple(x.shape)}"
            )

    def _check_factorized(self) -> None:
        if self._seen_to_factorize:
            return

        def embed(codes: Tensor) -> Tensor:
            return self._embed(one_hot(codes, self.num_classes, dtype=self._float.dtype))

        device = self._float.device
        require_factorized(self.decoder, embed, self.num_latents, device=device, who="DiscreteVAE")
        self._seen_to_factorize = True
