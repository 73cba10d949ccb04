"""Four densities on the plane that are known exactly: what a flow is up against, and how far it still is.

The toy sets of the SurVAE experiments. Each is symmetric, or antisymmetric, under a change of signs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ppl_vae._random import generator as seeded
from ppl_vae.data.dataset import Dataset


class Toy(ABC):
    """A density π(x) on the plane: draws of it, its logarithm, and its entropy, below which no NLL can stay.

    -E_π log q(x) = H(π) + KL(π || q) >= H(π)

    Implementing a new one: subclass, set ``name`` and ``entropy`` (nats), and write :meth:`draw` and :meth:`log_prob`;
    add it to ``TOYS``, and the tests hold draws, density and entropy against each other.

    Source: D. Nielsen, P. Jaini, E. Hoogeboom, O. Winther, M. Welling, "SurVAE Flows", 2020.
    """

    name: ClassVar[str]
    entropy: ClassVar[float]

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 2) float64 draws."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log π(x) of (..., 2), (...) in nats; -inf outside its support."""

    def load(self, *, num_train: int, num_test: int, seed: int = 0) -> Dataset:
        """Draws to train on and others to test by.

        Args:
            num_train, num_test: how many.
            seed: train and test rows are functions of it, each of a stream of its own.

        Returns:
            train (num_train, 2) and test (num_test, 2), float32.
        """
        train, test = (
            self.draw(size, seeded(seed, self.name, part)).float()
            for part, size in (("train", num_train), ("test", num_test))
        )
        return Dataset(name=self.name, train=train, test=test, feature_names=("x1", "x2"))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class CheckerboardSquares(Toy):
    """Uniform on 8 of the 16 squares of [-4, 4]², those with an even sum of row and column; antisymmetric in x1.

    π(x) = 1 / 32 there, so H = log 32.

    >>> round(CheckerboardSquares.entropy, 6)
    3.465736
    """

    name = "checkerboard"
    entropy = math.log(32)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """A point of a square, the column, and one of the two rows that go with it."""
        inside = 2 * _uniform(n, generator)
        column = torch.randint(4, (n,), generator=generator)
        row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
        return inside + 2.0 * torch.stack([column, row], -1) - 4

    def log_prob(self, x: Tensor) -> Tensor:
        """-log 32 on the squares."""
        square = (x / 2).floor()
        black = (square.sum(-1) % 2 == 0) & (square >= -2).all(-1) & (square < 2).all(-1)
        return torch.where(black, x.new_tensor(-math.log(32)), -math.inf)


class Corners(Toy):
    """Four right angles, each of two bars, [1, 2] x [1, 4] and [1, 4] x [1, 2] and their mirror images.

    The bars have equal weight, so π(x) = 1 / 24 on one of them, and twice that on both: H = log 24 - (log 2) / 3.

    >>> round(Corners.entropy, 6)
    2.947005
    """

    name = "corners"
    entropy = math.log(24) - math.log(2) / 3

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """A bar, a point of it, and two fair signs."""
        lies = torch.randint(2, (n,), generator=generator)
        size = 1.0 + 2 * torch.stack([lies, 1 - lies], -1)
        return _signs(n, generator) * (1 + size * _uniform(n, generator))

    def log_prob(self, x: Tensor) -> Tensor:
        """The number of bars on which x lies, over 24."""
        a, b = x.abs().unbind(-1)
        upright, lying = _between(a, 1, 2) & _between(b, 1, 4), _between(a, 1, 4) & _between(b, 1, 2)
        return ((upright.to(x.dtype) + lying) / 24).log()


class EightGaussians(Toy):
    """A mixture of eight normals on a circle, at 22.5°, 67.5°, ...; radius 4 / 1.414, standard deviation 0.5 / 1.414.

    H was found by quadrature; it is 1 + log(2 π σ²) + log 8 less 0.006 for what overlaps.
    """

    name = "eight Gaussians"
    entropy = 2.831880
    radius, scale = 4 / 1.414, 0.5 / 1.414

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """A centre and a normal step from it."""
        centres = self._centres()[torch.randint(8, (n,), generator=generator)]
        return centres + self.scale * _normal(n, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """The mixture."""
        squares = (x.unsqueeze(-2) - self._centres().to(x)).square().sum(-1) / self.scale**2
        return (-squares / 2).logsumexp(-1) - math.log(8 * 2 * math.pi * self.scale**2)

    def _centres(self) -> Tensor:
        angles = math.pi * (torch.arange(8, dtype=torch.float64) / 4 + 1 / 8)
        return self.radius * torch.stack([angles.cos(), angles.sin()], -1)


class FourCircles(Toy):
    """Four circles of radius 2 around (±1, ±1), smeared by normal noise of standard deviation 0.1.

    π(x) = 1/4 sum over centres c of exp(-(r² + R²) / 2 σ²) I_0(r R / σ²) / (2 π σ²), r = |x - c|. H was found by
    quadrature.
    """

    name = "four circles"
    entropy = 2.870819
    radius, scale = 2.0, 0.1

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """A centre, a point of its circle, and noise."""
        angle = 2 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
        circle = self.radius * torch.stack([angle.cos(), angle.sin()], -1)
        return _signs(n, generator) + circle + self.scale * _normal(n, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """The mixture; exp(-r R / σ²) is taken into the Bessel function, which would overflow."""
        signs = torch.tensor([1.0, -1.0], dtype=x.dtype, device=x.device)
        r = (x.unsqueeze(-2) - torch.cartesian_prod(signs, signs)).norm(dim=-1)
        variance = self.scale**2
        density = -(r - self.radius).square() / (2 * variance) + torch.special.i0e(r * self.radius / variance).log()
        return density.logsumexp(-1) - math.log(4 * 2 * math.pi * variance)


TOYS: tuple[Toy, ...] = (CheckerboardSquares(), Corners(), EightGaussians(), FourCircles())
"""All of them."""


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    """Numbers between 0 and 1 that float32 can scale and shift without rounding: none comes to lie on an edge."""
    return (torch.randint(2**20, (n, 2), generator=generator).double() + 0.5) / 2**20


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator, dtype=torch.float64)


def _signs(n: int, generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, (n, 2), generator=generator) - 1


def _between(value: Tensor, low: float, high: float) -> Tensor:
    return (value >= low) & (value <= high)
