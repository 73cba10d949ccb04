"""A guide whose draws are differentiated through a relaxed code."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ppl_vae.distributions import Codes, RelaxedCodes
from ppl_vae.guides.amortized_codes import AmortizedCodes


class RelaxedCategorical(AmortizedCodes):
    """q_φ(c | x), categorical, from one network; trained by Gumbel-softmax.

    In training mode a draw is a hard code that carries its relaxed twin (``ppl_vae.distributions.RelaxedCodes``): log p
    and log q are those of the discrete model, and the decoder sees the relaxed code, through which gradients flow. They
    are biased, the less the lower the temperature. In evaluation mode it is ``SampledCategorical``: what is reported is
    of the discrete model.

    Args:
        encoder: maps x (N, *event) to logits (N, M K), the classes of the first latent first.
        num_latents: M.
        num_classes: K.
        temperature: τ > 0, a number, or a schedule: a function of the step that returns one.
        straight_through: the decoder sees the hard code, its gradient goes to the relaxed one.

    Raises:
        ValueError: M < 1, K < 2, a temperature that is not positive; in a call as in :class:`AmortizedCodes`.

    Sources: E. Jang, S. Gu, B. Poole, "Categorical reparameterization with Gumbel-softmax", 2017; C. J. Maddison, A.
    Mnih, Y. W. Teh, "The concrete distribution: a continuous relaxation of discrete random variables", 2017.

    >>> from ppl_vae.nn import MLP
    >>> guide = RelaxedCategorical(
    ...     MLP(64, 20 * 10), num_latents=20, num_classes=10, temperature=lambda step: max(0.5, 0.999**step)
    ... )
    >>> guide.begin_step(100)
    >>> guide.temperature, guide.encode(torch.zeros(100, 64)).probs.shape
    (tensor(0.9048), torch.Size([100, 20, 10]))
    """

    is_relaxed = True
    """In training mode the decoder sees what the discrete model does not have: reports are made in evaluation mode."""

    temperature: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        num_latents: int,
        num_classes: int,
        temperature: float | Callable[[int], float] = 1.0,
        straight_through: bool = False,
    ) -> None:
        super().__init__(encoder, num_latents=num_latents, num_classes=num_classes)
        self.schedule, self.straight_through = temperature, straight_through
        # In a tensor, so that a captured step reads it instead of having it baked in.
        self.register_buffer("temperature", torch.tensor(self._at(0)))

    def begin_step(self, step: int) -> None:
        """Take the temperature's value at this step."""
        self.temperature.fill_(self._at(step))

    def posterior(self, logits: Tensor) -> Codes:
        """The distribution from which the site is drawn, for logits (N, M, K)."""
        if not self.training:
            return Codes(logits)
        return RelaxedCodes(logits, temperature=self.temperature, straight_through=self.straight_through)

    def _at(self, step: int) -> float:
        value = float(self.schedule(step) if callable(self.schedule) else self.schedule)
        if not 0 < value < float("inf"):
            raise ValueError(f"RelaxedCategorical: the temperature must be positive, got {value} at step {step}")
        return value
