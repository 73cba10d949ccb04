"""Codes whose draws can be differentiated: the Gumbel-softmax."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ppl_vae.distributions.codes import Codes, hard_one_hot, with_relaxation


class RelaxedCodes(Codes):
    r"""Codes drawn with a relaxed twin, through which gradients reach the logits.

    .. math:: c_m = \arg\max_k (\log p_{mk} + g_{mk}), \qquad
        \tilde c_m = \mathrm{softmax}_k((\log p_{mk} + g_{mk}) / \tau), \qquad g \sim \mathrm{Gumbel}

    A draw is c, hard and long, a true draw of ``Codes``; it carries the relaxed one-hot code, which
    ``ppl_vae.distributions.one_hot`` gives to a decoder. So every density is that of the discrete model, and only the
    decoder sees the relaxed code: gradients are biased, the less the smaller τ is, and noisier then.

    Args:
        logits: (*batch, M, K) unnormalized log probabilities.
        temperature: τ > 0, a tensor of one number.
        straight_through: the decoder sees the hard one-hot code, its gradient goes to the relaxed one.

    Sources: E. Jang, S. Gu, B. Poole, "Categorical reparameterization with Gumbel-softmax", 2017; C. J. Maddison, A.
    Mnih, Y. W. Teh, "The concrete distribution: a continuous relaxation of discrete random variables", 2017.

    >>> import torch
    >>> from ppl_vae.distributions import one_hot
    >>> c = RelaxedCodes(torch.zeros(100, 3, 10), temperature=torch.tensor(0.5)).rsample()
    >>> c.dtype, one_hot(c, 10).shape
    (torch.int64, torch.Size([100, 3, 10]))
    """

    has_rsample = True

    def __init__(
        self,
        logits: Tensor,
        *,
        temperature: Tensor,
        straight_through: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(logits, validate_args=validate_args)
        self.temperature, self.straight_through = temperature, straight_through

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw codes (*sample_shape, *batch, M) long that carry their relaxed one-hot codes."""
        perturbed = self._perturbed(sample_shape)
        relaxed = (perturbed / self.temperature).softmax(-1)
        codes = perturbed.detach().argmax(-1)
        if self.straight_through:
            relaxed = hard_one_hot(codes, self.num_classes, dtype=relaxed.dtype) + (relaxed - relaxed.detach())
        return with_relaxation(codes, relaxed)

    def expand(self, batch_shape: Any, _instance: Codes | None = None) -> RelaxedCodes:
        """Expand the batch."""
        new = self._get_checked_instance(RelaxedCodes, _instance)
        new.temperature, new.straight_through = self.temperature, self.straight_through
        super().expand(batch_shape, _instance=new)
        return new
