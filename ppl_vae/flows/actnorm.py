"""An affine layer that starts from the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.shapes import event_shape

# A column with a standard deviation below this share of its size is taken as constant, and is not scaled.
_CONSTANT = 1e-6


class ActNorm(Layer):
    """z_d = (x_d - μ_d) exp(s_d), which starts so that z has mean 0 and variance 1; contribution = sum of s.

    μ and s are learned; only where they start comes from data: from :meth:`initialize`, or else from the first batch
    that is encoded in training mode. The buffer ``initialized`` remembers it in a checkpoint. Without data it starts as
    the identity.

    Args:
        shape: the size of x and of z, or their event shape.

    Raises:
        ValueError: a size below 1.

    Source: D. P. Kingma, P. Dhariwal, "Glow: generative flow with invertible 1x1 convolutions", 2018.

    >>> layer = ActNorm(2)
    >>> z, _ = layer.encode(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))
    >>> torch.allclose(z, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    True
    """

    initialized: Tensor

    def __init__(self, shape: int | Sequence[int]) -> None:
        event = event_shape("ActNorm", shape)
        super().__init__(event, event)
        self.loc = nn.Parameter(torch.zeros(event))
        self.log_scale = nn.Parameter(torch.zeros(event))
        self.register_buffer("initialized", torch.tensor(False))
        # The same as a python value, for the steps after the first: they read no tensor, and can be traced.
        self._started = False

    def initialize(self, x: Tensor) -> None:
        """Start from these data, whatever was before.

        Args:
            x: (*leading, *shape), at least two of them.

        Raises:
            ValueError: fewer than two; a wrong shape; a NaN or an infinity.
        """
        self._check("x", x, self.shape_in, None, None)
        rows = x.detach().reshape(-1, *self.loc.shape)
        if len(rows) < 2:
            raise ValueError(f"ActNorm: at least 2 data are required to start from, got {len(rows)}")
        # Values are read here, so a trace that would start anew at each replay cannot be made.
        if not bool(rows.isfinite().all()):
            raise ValueError("ActNorm: finite data are required to start from, got a NaN or an infinity")
        with torch.no_grad():
            loc, scale = rows.mean(0), rows.std(0, correction=0)
            varies = scale > _CONSTANT * rows.abs().amax(0)
            self.loc.copy_(loc)
            self.log_scale.copy_(-torch.where(varies, scale, 1.0).log())
            self.initialized.fill_(True)
        self._started = True

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        if self.training and not self._started:
            self._start(x)
        z = (x - self.loc) * self.log_scale.exp()
        return z, self._contribution(x)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        return torch.addcmul(self.loc, z, (-self.log_scale).exp()), self._contribution(z)

    def _contribution(self, value: Tensor) -> Tensor:
        return self.log_scale.sum().expand(self._leading(value, self.shape_in))

    def _start(self, x: Tensor) -> None:
        """A checkpoint may have been written into the buffer behind our back, so it is asked first."""
        if bool(self.initialized):
            self._started = True
        else:
            self.initialize(x)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._started = bool(self.initialized)
