"""A categorical distribution whose outcomes are numbers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, constraints
from torch.distributions.constraints import Constraint

# How far, in steps, a value may lie from its level: float32 knows k/255 to 1e-7.
_TOLERANCE = 1e-3


class _Levels(Constraint):
    """The numbers low, low + step, ..., low + (num_levels - 1) step."""

    is_discrete = True
    event_dim = 0

    def __init__(self, num_levels: int, low: float, step: float) -> None:
        self.num_levels, self.low, self.step = num_levels, low, step

    def check(self, value: Tensor) -> Tensor:
        position = (value - self.low) / self.step
        level = position.round()
        return (level >= 0) & (level < self.num_levels) & ((position - level).abs() <= _TOLERANCE)

    def __repr__(self) -> str:
        return f"levels {self.low:g} + {self.step:g} * (0..{self.num_levels - 1})"


class CategoricalLevels(TorchDistribution):
    """A categorical distribution over evenly spaced numbers: P(x = low + k step) = softmax(logits)_k.

    Pyro's ``Categorical`` has no order, so its mean is NaN. Grey levels do have one, and the mean and
    variance here are those of the numbers: mean = sum_k p_k (low + k step).

    Args:
        logits: (*batch, K) unnormalized log probabilities.
        low: the smallest level, in the unit of the data.
        step: the distance between levels, in the unit of the data.

    Raises:
        ValueError: K < 2, step <= 0; in ``log_prob``, under validation, a value that is no level.

    >>> grey = CategoricalLevels(torch.zeros(17), step=1 / 16)
    >>> grey.mean, grey.log_prob(torch.tensor(0.5)).exp()
    (tensor(0.5000), tensor(0.0588))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {"logits": constraints.real_vector}
    has_enumerate_support = True

    def __init__(
        self, logits: Tensor, *, low: float = 0.0, step: float = 1.0, validate_args: bool | None = None
    ) -> None:
        if logits.dim() < 1 or logits.shape[-1] < 2:
            raise ValueError(f"CategoricalLevels: logits must be (..., K) with K >= 2, got {tuple(logits.shape)}")
        if not step > 0:
            raise ValueError(f"CategoricalLevels: step must be positive, got {step}")
        self.low, self.step = low, step
        self.logits = logits.log_softmax(-1)
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @property
    def num_levels(self) -> int:
        """K."""
        return self.logits.shape[-1]

    @property
    def levels(self) -> Tensor:
        """The K numbers, (K,)."""
        return self._value(torch.arange(self.num_levels, device=self.logits.device))

    @property
    def probs(self) -> Tensor:
        """The K probabilities, (*batch, K)."""
        return self.logits.exp()

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Constraint:
        """The K numbers, as a constraint."""
        return _Levels(self.num_levels, self.low, self.step)

    @property
    def mean(self) -> Tensor:
        """The expected number, (*batch,)."""
        return (self.probs * self.levels).sum(-1)

    @property
    def mode(self) -> Tensor:
        """The most probable number, (*batch,)."""
        return self._value(self.logits.argmax(-1))

    @property
    def variance(self) -> Tensor:
        """The variance of the number, (*batch,)."""
        return (self.probs * (self.levels - self.mean.unsqueeze(-1)).square()).sum(-1)

    def entropy(self) -> Tensor:
        """-sum_k p_k log p_k in nats, (*batch,)."""
        # A level of probability 0 has logit -inf, and 0 * -inf must be 0.
        return -(self.probs * self.logits.clamp(min=torch.finfo(self.logits.dtype).min)).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log P(x = value) in nats; the value is rounded to its level."""
        if self._validate_args:
            self._validate_sample(value)
        level = ((value - self.low) / self.step).round().long().unsqueeze(-1)
        logits, level = torch.broadcast_tensors(self.logits, level)
        return logits.gather(-1, level[..., :1]).squeeze(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw numbers, (*sample_shape, *batch), in the floating type of the logits."""
        with torch.no_grad():
            return self._value(Categorical(logits=self.logits, validate_args=False).sample(torch.Size(sample_shape)))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """List the K numbers along a new leading dimension."""
        values = self.levels.reshape((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1, *self.batch_shape)) if expand else values

    def expand(self, batch_shape: Any, _instance: CategoricalLevels | None = None) -> CategoricalLevels:
        """Expand the batch."""
        new = self._get_checked_instance(CategoricalLevels, _instance)
        batch_shape = torch.Size(batch_shape)
        new.low, new.step = self.low, self.step
        new.logits = self.logits.expand(batch_shape + self.logits.shape[-1:])
        super(CategoricalLevels, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _value(self, level: Tensor) -> Tensor:
        return self.low + self.step * level.to(self.logits.dtype)
