"""Several categorical latents as one: the distribution of a code."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.distributions.constraints import Constraint

MAX_CODES = 2**20
"""The most joint codes that are ever listed."""


class Codes(TorchDistribution):
    r"""M independent categorical variables of K classes each, as one event: a code c = (c_1, ..., c_M).

    .. math:: \log p(c) = \sum_m \log \mathrm{softmax}(\mathrm{logits}_m)_{c_m}

    Enumerated in Pyro it gives all K^M joint codes. Where every row of a value meets every row of the logits, as under
    enumeration, ``log_prob`` is one matrix product and holds no tensor larger than its result and its factors.

    Args:
        logits: (*batch, M, K) unnormalized log probabilities. A class of -inf has probability 0 and the log probability
            of a very large negative number, so that 0 log 0 is 0 everywhere.

    Raises:
        ValueError: M < 1 or K < 2; in ``log_prob``, under validation, classes outside 0 .. K - 1; in
            ``enumerate_support``, more than ``MAX_CODES`` codes.

    >>> c = Codes(torch.zeros(100, 3, 10))
    >>> c.batch_shape, c.event_shape, c.enumerate_support(expand=False).shape
    (torch.Size([100]), torch.Size([3]), torch.Size([1000, 1, 3]))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {"logits": constraints.independent(constraints.real_vector, 1)}
    has_enumerate_support = True

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        if logits.dim() < 2 or logits.shape[-2] < 1 or logits.shape[-1] < 2:
            raise ValueError(f"Codes: logits must be (..., M, K) with M >= 1, K >= 2, got {tuple(logits.shape)}")
        # A floor low enough to mean 0, and high enough for sums over the latents to stay finite.
        floor = torch.finfo(logits.dtype).min / (2 * logits.shape[-2])
        self.logits = logits.log_softmax(-1).clamp(min=floor)
        super().__init__(logits.shape[:-2], logits.shape[-2:-1], validate_args=validate_args)

    @property
    def num_latents(self) -> int:
        """M."""
        return self.logits.shape[-2]

    @property
    def num_classes(self) -> int:
        """K."""
        return self.logits.shape[-1]

    @property
    def num_values(self) -> int:
        """K^M, the number of joint codes."""
        return self.num_classes**self.num_latents

    @property
    def probs(self) -> Tensor:
        """The probabilities of the classes, (*batch, M, K)."""
        return self.logits.exp()

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Constraint:
        """Classes 0 .. K - 1 for each latent."""
        return constraints.independent(constraints.integer_interval(0, self.num_classes - 1), 1)

    @property
    def mode(self) -> Tensor:
        """The most probable code, (*batch, M) long."""
        return self.logits.argmax(-1)

    def entropy(self) -> Tensor:
        """-sum_m sum_k p_mk log p_mk in nats, (*batch,)."""
        return -(self.probs * self.logits).sum((-2, -1))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(c) in nats.

        Args:
            value: (..., M) long. If it carries a relaxed one-hot code (:func:`with_relaxation`), the number is that of
                the hard code, and its gradient goes through the relaxed one too.
        """
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        logits, relaxed = _unexpanded(self.logits), relaxation(value)
        if relaxed is not None:
            weights = hard_one_hot(value, self.num_classes, dtype=logits.dtype) + (relaxed - relaxed.detach())
            return (weights * logits).sum((-2, -1)).expand(shape)
        if _is_outer(value.shape[:-1], logits.shape[:-2]):
            return self._score_all_pairs(value, logits).expand(shape)
        index = value.unsqueeze(-1).expand(shape + value.shape[-1:] + (1,))
        return logits.expand(shape + logits.shape[-2:]).gather(-1, index).sum((-2, -1))

    def _score_all_pairs(self, value: Tensor, logits: Tensor) -> Tensor:
        """Every row of the value against every row of the logits: (C, M K) x (M K, N)."""
        shape = torch.broadcast_shapes(value.shape[:-1], logits.shape[:-2])
        rows, columns = value.shape[:-1].numel(), logits.shape[:-2].numel()
        codes = hard_one_hot(value, self.num_classes, dtype=logits.dtype).reshape(rows, -1)
        return (codes @ logits.reshape(columns, codes.shape[-1]).mT).reshape(shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw codes, (*sample_shape, *batch, M) long, by the largest of log p + Gumbel noise."""
        with torch.no_grad():
            return self._perturbed(sample_shape).argmax(-1)

    def _perturbed(self, sample_shape: Any) -> Tensor:
        """Log p + Gumbel noise, (*sample_shape, *batch, M, K): the largest class is a draw (the Gumbel-max trick)."""
        shape = (*self._extended_shape(torch.Size(sample_shape)), self.num_classes)
        exponential = torch.empty(shape, dtype=self.logits.dtype, device=self.logits.device).exponential_()
        # An exponential can be rounded to 0, whose logarithm would be infinite.
        return self.logits - exponential.clamp(min=torch.finfo(self.logits.dtype).tiny).log()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """List all K^M codes along a new leading dimension, the last latent moving fastest."""
        require_enumerable("Codes", self.num_latents, self.num_classes)
        codes = all_codes(self.num_latents, self.num_classes, device=self.logits.device)
        codes = codes.reshape(codes.shape[:1] + (1,) * len(self.batch_shape) + codes.shape[1:])
        return codes.expand(codes.shape[:1] + self.batch_shape + self.event_shape) if expand else codes

    def expand(self, batch_shape: Any, _instance: Codes | None = None) -> Codes:
        """Expand the batch."""
        new = self._get_checked_instance(Codes, _instance)
        batch_shape = torch.Size(batch_shape)
        new.logits = self.logits.expand(batch_shape + self.logits.shape[-2:])
        super(Codes, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


def all_codes(num_latents: int, num_classes: int, *, device: torch.device | None = None) -> Tensor:
    """Every joint code, (K^M, M) long, the last latent moving fastest.

    >>> all_codes(2, 2).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    number = torch.arange(num_classes**num_latents, device=device)
    # Latent by latent with Python's powers: TorchInductor gets powers of whole numbers wrong in its libraries.
    weights = [num_classes**m for m in reversed(range(num_latents))]
    return torch.stack([number // weight % num_classes for weight in weights], -1)


@register_kl(Codes, Codes)
def _kl_codes_codes(q: Codes, p: Codes) -> Tensor:
    """The exact KL(q || p) in nats, (*batch,)."""
    return (q.probs * (q.logits - p.logits)).sum((-2, -1))


def one_hot(codes: Tensor, num_classes: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Codes as a network takes them: (..., M) long to (..., M, K), one 1 in each row.

    A draw of a relaxed guide carries a relaxed code; then that is returned.

    Args:
        codes: (..., M) long, classes 0 .. K - 1.
        num_classes: K.
        dtype: of the result; torch's default floating type by default.

    Raises:
        ValueError: the relaxed code is of another number of classes.

    >>> one_hot(torch.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    relaxed = relaxation(codes)
    if relaxed is None:
        return hard_one_hot(codes, num_classes, dtype=dtype or torch.get_default_dtype())
    if relaxed.shape[-1] != num_classes:
        raise ValueError(f"one_hot: the relaxed code must be of {num_classes} classes, got {tuple(relaxed.shape)}")
    return relaxed if dtype is None else relaxed.to(dtype)


def hard_one_hot(codes: Tensor, num_classes: int, *, dtype: torch.dtype) -> Tensor:
    """One-hot codes, whatever the codes carry: (..., M) long to (..., M, K)."""
    # By comparison: torch's own one_hot looks at the values, which a traced step cannot.
    return (codes.unsqueeze(-1) == torch.arange(num_classes, device=codes.device)).to(dtype)


def with_relaxation(codes: Tensor, relaxed: Tensor) -> Tensor:
    """Let codes (..., M) carry a relaxed one-hot code (..., M, K), which :func:`one_hot` then returns.

    It is carried by this very tensor: an indexed or detached one is hard again.
    """
    codes._relaxed_code = relaxed  # type: ignore[attr-defined]
    return codes


def relaxation(codes: Tensor) -> Tensor | None:
    """The relaxed one-hot code that codes carry, or None."""
    return getattr(codes, "_relaxed_code", None)


def require_enumerable(who: str, num_latents: int, num_classes: int) -> None:
    """Raise ValueError, with the cost and the alternatives, if K^M joint codes are too many to be listed."""
    exponent = num_latents * math.log10(num_classes)
    if exponent <= math.log10(MAX_CODES):
        return
    count = f"{10 ** (exponent % 1):.3g}e{int(exponent)}"
    raise ValueError(
        f"{who}: at most 2^20 joint codes can be enumerated, got {num_classes}^{num_latents} = {count} joint codes; "
        "alternatives: the guide RelaxedCategorical, SampledCategorical with the objective RLOO or VIMCO, or a decoder "
        f"that factorizes over the latents (factorized=True), at {num_classes} codes a latent"
    )


def _is_outer(value: torch.Size, logits: torch.Size) -> bool:
    """Does every row of the value meet every row of the logits, the value's dimensions on the left?"""
    return min(_occupied(value), default=math.inf) > max(_occupied(logits), default=0)


def _occupied(shape: torch.Size) -> list[int]:
    """The dimensions of a size that is not 1, counted from the right, from 1."""
    return [len(shape) - i for i, size in enumerate(shape) if size != 1]


def _unexpanded(logits: Tensor) -> Tensor:
    """Logits (*batch, M, K) with batch dimensions of size 1 where all rows are one (a plate has expanded them)."""
    for dim in range(logits.dim() - 2):
        if logits.stride(dim) == 0 and logits.shape[dim] > 1:
            logits = logits.narrow(dim, 0, 1)
    return logits
