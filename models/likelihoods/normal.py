"""Real entries with Gaussian noise: the variants differ in who knows the scale."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.models.likelihoods.base import Likelihood


class UnitNormal(Likelihood):
    """Noise of variance 1: p(x_d | z) = N(x_d; decoder(z)_d, 1)."""

    def entries(self, output: Tensor) -> TorchDistribution:
        """Each entry around its mean, with scale 1."""
        return dist.Normal(output, output.new_ones(()))


class Normal(Likelihood):
    """One learned noise scale for all entries: p(x_d | z) = N(x_d; decoder(z)_d, σ²), σ part of θ.

    With a linear decoder this is probabilistic PCA (Tipping, Bishop: "Probabilistic principal component
    analysis", 1999).

    Args:
        scale: σ at the start, in the unit of the data.

    Raises:
        ValueError: scale <= 0.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(_log_scale("Normal", scale, ()))

    @property
    def scale(self) -> Tensor:
        """σ, a number."""
        return self.log_scale.exp()

    def entries(self, output: Tensor) -> TorchDistribution:
        """Each entry around its mean, with the common scale."""
        return dist.Normal(output, self.scale)


class PixelNormal(Likelihood):
    """One learned noise scale per entry: p(x_d | z) = N(x_d; decoder(z)_d, σ_d²), σ part of θ.

    With a linear decoder this is factor analysis. A scale may run to 0 where the decoder can copy an entry
    exactly (a Heywood case): the likelihood is then unbounded.

    Args:
        event_shape: the shape of one x.
        scale: every σ_d at the start, in the unit of the data.

    Raises:
        ValueError: scale <= 0; in use, a decoder whose output is not (..., *event_shape).
    """

    def __init__(self, event_shape: int | Sequence[int], *, scale: float = 1.0) -> None:
        super().__init__()
        shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
        self.log_scale = nn.Parameter(_log_scale("PixelNormal", scale, shape))

    @property
    def scale(self) -> Tensor:
        """σ, (*event)."""
        return self.log_scale.exp()

    def event_shape(self, output_shape: torch.Size) -> torch.Size:
        """The shape of the scales, which the decoder must return."""
        required = self.log_scale.shape
        if output_shape != required:
            shape = ", ".join(map(str, required))
            raise ValueError(
                f"PixelNormal: the decoder must return (..., {shape}), got {tuple(output_shape)} for one datum"
            )
        return required

    def entries(self, output: Tensor) -> TorchDistribution:
        """Each entry around its mean, with its own scale."""
        return dist.Normal(output, self.scale)


class DecodedNormal(Likelihood):
    """Mean and scale of every entry from the decoder: (..., *event, 2) holds μ and an unconstrained scale
    s.

    p(x_d | z) = N(x_d; μ_d, σ_d²),  σ_d = min_scale + softplus(s_d).

    Args:
        min_scale: the floor of σ, in the unit of the data. Without one the likelihood has no upper bound
            (Mattei,
            Frellsen: "Leveraging the exact likelihood of deep latent variable models", 2018).

    Raises:
        ValueError: min_scale <= 0.
    """

    num_params = 2

    def __init__(self, *, min_scale: float = 1e-3) -> None:
        super().__init__()
        if not min_scale > 0:
            raise ValueError(f"DecodedNormal: min_scale must be positive, got {min_scale}")
        self.min_scale = min_scale

    def entries(self, output: Tensor) -> TorchDistribution:
        """Each entry around its mean, with its decoded scale."""
        loc, raw = output.unbind(-1)
        return dist.Normal(loc, self.min_scale + softplus(raw))


def _log_scale(who: str, scale: float, shape: Sequence[int]) -> Tensor:
    if not scale > 0:
        raise ValueError(f"{who}: scale must be positive, got {scale}")
    return torch.full(tuple(shape), float(scale)).log()
