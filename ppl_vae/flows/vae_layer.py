"""A variational autoencoder as one layer of a flow."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ppl_vae.flows.drawing import call, log_prob, reparametrized_draw
from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.shapes import event_shape


class VAELayer(Layer):
    """z ~ q(z | x), and back x ~ p(x | z); contribution = log p(x | z) - log q(z | x). A lower bound.

    Args:
        encoder: maps x (*leading, *shape), and a context if there is one, to q(z | x), with event shape
            (latent_dim,) and a reparametrized sample.
        decoder: maps z (*leading, latent_dim), and a context if there is one, to p(x | z), with event shape ``shape``.
        shape: the size or event shape of x.
        latent_dim: L, the size of z.
        context_dim: the size of a context that both take.

    Raises:
        ValueError: a size below 1; in a call, a distribution of another shape, or a q without ``rsample``.

    Source: D. Nielsen, P. Jaini, E. Hoogeboom, O. Winther, M. Welling, "SurVAE Flows", 2020.

    >>> import torch
    >>> from ppl_vae.flows import ConditionalNormal
    >>> layer = VAELayer(ConditionalNormal(5, 2), ConditionalNormal(2, 5), shape=5, latent_dim=2)
    >>> z, contribution = layer.encode(torch.zeros(100, 5))
    >>> z.shape, contribution.shape
    (torch.Size([100, 2]), torch.Size([100]))
    """

    deterministic_encode = False
    deterministic_decode = False
    reparametrized_decode = False  # a likelihood may be discrete

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        shape: int | Sequence[int],
        latent_dim: int,
        context_dim: int | None = None,
    ) -> None:
        super().__init__(event_shape("VAELayer", shape), event_shape("VAELayer", latent_dim), context_dim=context_dim)
        self.encoder, self.decoder = encoder, decoder

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        q_z = call(self.encoder, x, context)
        z = reparametrized_draw(self.label, q_z)
        return z, self._contribution(x, z, call(self.decoder, z, context), q_z)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        p_x = call(self.decoder, z, context)
        x = p_x.rsample() if p_x.has_rsample else p_x.sample()
        return x, self._contribution(x, z, p_x, call(self.encoder, x, context))

    def _contribution(self, x: Tensor, z: Tensor, p_x: object, q_z: object) -> Tensor:
        leading = self._leading(x, self.shape_in)
        return log_prob(self.label, p_x, x, leading) - log_prob(self.label, q_z, z, leading)
