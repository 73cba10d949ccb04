"""The guide of the semi-supervised VAE: a classifier for the label, an encoder for the style."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from ppl_vae.distributions import one_hot
from ppl_vae.distributions.given_labels import split_labels
from ppl_vae.guides.amortized import AmortizedGuide
from ppl_vae.guides.covariance import Diagonal
from ppl_vae.nn import apply_batched, fill_unobserved
from ppl_vae.pair.auxiliary import auxiliary as auxiliary_term

_DIAGONAL = Diagonal()


class SemiSupervisedGuide(AmortizedGuide):
    r"""q_φ(y, z | x) = q(y | x) q(z | x, y), with q(y | x) a point mass at the label where there is one.

    Sites, in the plate "data" (dim -1): "y" (N,) long, marked for parallel enumeration; "z" with event shape
    (latent_dim,), N(μ(x, y), diag(σ²(x, y))), reparametrized. A labeled row has y = its label with log q = 0, so it has
    the bound E_q[log p(x, z | y) - log q(z | x, y)] + log p(y), and no noise of other classes reaches the classifier.

    That bound teaches the classifier nothing from the labels. The auxiliary term of labeled rows, ``auxiliary * log q(y
    = label | x)``, does; it is training's alone and never part of log p or log q (``ppl_vae.pair.auxiliary``).

    Args:
        classifier: maps x (N, *event) to logits (N, K).
        encoder: maps (B, D + K), x flattened and then the one-hot label, to (B, 2 latent_dim): the means, then the
            unconstrained standard deviations.
        num_classes: K.
        latent_dim: L, the size of z.
        enumerate: sum y out, with K encodings for each row; False: draw it.
        auxiliary: the weight of the auxiliary term, 0 for none.

    Raises:
        ValueError: K < 2, L < 1, auxiliary < 0; in a call, no x, y that is not (N,) long, network outputs of another
            shape.

    Source: D. P. Kingma, D. J. Rezende, S. Mohamed, M. Welling, "Semi-supervised learning with deep generative models",
    2014.

    >>> from ppl_vae.nn import MLP
    >>> guide = SemiSupervisedGuide(MLP(64, 10), MLP(64 + 10, 16), num_classes=10, latent_dim=8)
    >>> guide.classify(torch.zeros(100, 64)).shape
    torch.Size([100, 10])
    """

    def __init__(
        self,
        classifier: nn.Module,
        encoder: nn.Module,
        *,
        num_classes: int,
        latent_dim: int,
        enumerate: bool = True,
        auxiliary: float = 0.0,
    ) -> None:
        super().__init__()
        if num_classes < 2 or latent_dim < 1 or auxiliary < 0:
            raise ValueError(
                "SemiSupervisedGuide: num_classes >= 2, latent_dim >= 1 and auxiliary >= 0 are required, got "
                f"num_classes={num_classes}, latent_dim={latent_dim}, auxiliary={auxiliary}"
            )
        self.classifier, self.encoder = classifier, encoder
        self.num_classes, self.latent_dim = num_classes, latent_dim
        self.auxiliary = float(auxiliary)
        self.infer: Any = {"enumerate": "parallel"} if enumerate else {}

    def sample_sites(self, x: Tensor, y: Tensor | None, mask: Tensor | None) -> Tensor:
        """Draw y where it is latent, then z."""
        x = fill_unobserved(x, mask, who="SemiSupervisedGuide")
        logits = self._logits(x)
        with pyro.plate("data", len(x), dim=-1):
            if y is not None:
                logits = self._at_labels(logits, y)
            drawn = pyro.sample("y", dist.Categorical(logits=logits), infer=self.infer)
            return pyro.sample("z", self._style(x, drawn))

    def classify(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The probabilities q(y | x) of the classes, (N, K)."""
        return self._logits(fill_unobserved(x, mask, who="SemiSupervisedGuide")).softmax(-1)

    def encode(self, x: Tensor, y: Tensor, *, mask: Tensor | None = None) -> TorchDistribution:
        """The distribution q(z | x, y).

        Args:
            x: (N, *event) data.
            y: (..., N) long labels; or (..., 1), each for all data.
            mask: as in a call.

        Returns:
            A distribution with batch shape (..., N) and event shape (latent_dim,).
        """
        return self._style(fill_unobserved(x, mask, who="SemiSupervisedGuide"), y)

    def extra_repr(self) -> str:
        """Say the sizes, and how y and its label are treated."""
        enumerate = "" if self.infer else ", enumerate=False"
        auxiliary = f", auxiliary={self.auxiliary:g}" if self.auxiliary else ""
        return f"num_classes={self.num_classes}, latent_dim={self.latent_dim}{enumerate}{auxiliary}"

    def _logits(self, x: Tensor) -> Tensor:
        logits = self.classifier(x)
        if logits.shape != (len(x), self.num_classes):
            raise ValueError(
                f"SemiSupervisedGuide: the classifier must return (..., {self.num_classes}) for "
                f"num_classes={self.num_classes}, got {tuple(logits.shape)}"
            )
        return logits

    def _at_labels(self, logits: Tensor, y: Tensor) -> Tensor:
        """The logits of q(y | x), in labeled rows those of a point mass; and the auxiliary term, if there is one."""
        q_y = dist.Categorical(logits=logits)
        labeled, label = split_labels(y, q_y, size=len(logits), who="SemiSupervisedGuide")
        if self.auxiliary > 0:
            auxiliary_term("classification", self.auxiliary * torch.where(labeled, q_y.log_prob(label), 0.0))
        # Not -inf: 0 times it would be NaN in a sum over all classes.
        never = torch.finfo(logits.dtype).min / 2
        point = (1 - one_hot(label, self.num_classes, dtype=logits.dtype)) * never
        return torch.where(labeled.unsqueeze(-1), point, logits)

    def _style(self, x: Tensor, y: Tensor) -> TorchDistribution:
        """N(μ(x, y), diag(σ²(x, y))), one encoder call for all leading dimensions of y."""
        flat = x.flatten(1)
        batch = torch.broadcast_shapes(y.shape, flat.shape[:1])
        labels = one_hot(y, self.num_classes, dtype=flat.dtype)
        numbers = apply_batched(self.encoder, torch.cat([flat.expand(*batch, -1), labels.expand(*batch, -1)], -1))
        required = _DIAGONAL.num_outputs(self.latent_dim)
        if numbers.shape != (*batch, required):
            raise ValueError(
                f"SemiSupervisedGuide: the encoder must return (..., {required}) for latent_dim={self.latent_dim}, "
                f"got {tuple(numbers.shape)}"
            )
        return _DIAGONAL.distribution(numbers, self.latent_dim)
