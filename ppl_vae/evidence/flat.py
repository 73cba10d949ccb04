"""The density of the model as a function of all latents in one piece."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ppl_vae.pair import Pair
    from ppl_vae.pair.density import Density

__all__ = ["Flat"]


@dataclass(frozen=True)
class Flat:
    """Log p(x, u) as a function of u in one piece: (S, N, D), or (S, D) where data share latents.

    Attributes:
        density: of u by site.
        shapes: of one draw of u, by site, without its row.
        rank: 1 where each row has latents of its own alone, else 0.
        dtype: of the pair.
    """

    density: Density
    shapes: dict[str, tuple[int, ...]]
    rank: int
    dtype: torch.dtype

    @classmethod
    def of(cls, pair: Pair, density: Density, u: Mapping[str, Tensor]) -> Flat:
        """The density of some rows, with the shapes of ``u`` by site, (S, N, ...) or (S, ...).

        Raises:
            ValueError: a mask takes a latent away in some rows.
        """
        masked = [name for name, site in pair.latents.items() if site.is_masked]
        if masked:
            raise ValueError(
                f"density: latents that every row has are required, and a mask takes {', '.join(map(repr, masked))} "
                "away in some, where the density is flat and has no integral; ImportanceWeighted serves, or rows that "
                "have all of them"
            )
        rank = 0 if pair.has_global_latents else 1
        shapes = {name: tuple(value.shape[1 + rank :]) for name, value in u.items()}
        return cls(density, shapes, rank, pair.dtype)

    @property
    def size(self) -> int:
        """D, the number of latents: of a datum, or of all data where these share some."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def __call__(self, u: Tensor) -> Tensor:
        """Log p(x, u), (S, N) or (S,), float64, with gradients."""
        return self.density(self.by_site(u)).total().double()

    def parts(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Log p(u) and log p(x | u), as :meth:`__call__`.

        Raises:
            ValueError: a sum over discrete latents ties the two.
        """
        return tuple(part.double() for part in self.density(self.by_site(u)).parts())  # type: ignore[return-value]

    def joined(self, by_site: Mapping[str, Tensor]) -> Tensor:
        """U in one piece."""
        return torch.cat([value.reshape(*value.shape[: 1 + self.rank], -1) for value in by_site.values()], -1)

    def by_site(self, u: Tensor) -> dict[str, Tensor]:
        """U in its pieces."""
        return dict(self._pieces(u.to(self.dtype)))

    def _pieces(self, u: Tensor) -> Iterator[tuple[str, Tensor]]:
        begin = 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            yield name, u[..., begin : begin + size].reshape(*u.shape[:-1], *shape)
            begin += size
