"""Which numbers a coupling layer keeps, and which it moves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Mask:
    """The contract: for vectors of a size, the list of positions that are kept.

    Implementing a new one: a frozen dataclass with :meth:`positions`; add it to the table in
    ``tests/flows/test_coupling_masks.py``.

    Args:
        swap: change the roles: what would be kept is moved.
    """

    swap: bool = False

    def positions(self, dim: int) -> list[int]:
        """The positions kept where ``swap`` is False, in order."""
        raise NotImplementedError(f"{type(self).__name__}: a mask must define positions(dim)")

    def kept(self, dim: int) -> list[int]:
        """The positions that are kept, in order."""
        chosen = set(self.positions(dim))
        return [i for i in range(dim) if (i in chosen) != self.swap]


@dataclass(frozen=True)
class Half(Mask):
    """The first half is kept.

    >>> Half().kept(5), Half(swap=True).kept(5)
    ([0, 1], [2, 3, 4])
    """

    def positions(self, dim: int) -> list[int]:
        """0, ..., dim // 2 - 1."""
        return list(range(dim // 2))


@dataclass(frozen=True)
class Alternate(Mask):
    """Every other number is kept, from the first.

    >>> Alternate().kept(5)
    [0, 2, 4]
    """

    def positions(self, dim: int) -> list[int]:
        """0, 2, 4, ..."""
        return list(range(0, dim, 2))


@dataclass(frozen=True)
class Checkerboard(Mask):
    """The black fields of images (C, H, W), flattened, are kept: those with an even sum of row and column.

    Args:
        height, width: H and W; the size of the vector must be a multiple of H W.

    >>> Checkerboard(height=2, width=2).kept(4)
    [0, 3]
    """

    height: int = 8
    width: int = 8

    def positions(self, dim: int) -> list[int]:
        """Those with (row + column) even."""
        if dim % (self.height * self.width):
            raise ValueError(
                f"Checkerboard: a size that is a multiple of {self.height} x {self.width} is required, got {dim}"
            )
        return [i for i in range(dim) if (i // self.width % self.height + i % self.width) % 2 == 0]


class Partition(nn.Module):
    """Takes vectors apart into the kept and the moved numbers, and puts them together again.

    Blocks at one end are cut off, which costs nothing; other masks go through an index.

    Args:
        mask: which are kept.
        dim: D, the size of a vector.

    Raises:
        ValueError: nothing would be kept, or nothing moved.
    """

    to_parts: Tensor | None
    to_whole: Tensor | None

    def __init__(self, mask: Mask, dim: int) -> None:
        super().__init__()
        kept = mask.kept(dim)
        moved = sorted(set(range(dim)) - set(kept))
        if not kept or not moved:
            raise ValueError(f"{mask}: it must keep some numbers and move some, got all {dim} on one side")
        self.kept, self.moved = len(kept), len(moved)
        self.kept_last = kept[0] == self.moved  # a block at the end
        order = moved + kept if self.kept_last else kept + moved
        straight = order == list(range(dim))
        self.register_buffer("to_parts", None if straight else torch.tensor(order), persistent=False)
        self.register_buffer("to_whole", None if straight else torch.tensor(order).argsort(), persistent=False)

    def split(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The kept and the moved numbers of (..., D)."""
        if self.to_parts is not None:
            value = value.index_select(-1, self.to_parts)
        if self.kept_last:
            moved, kept = value.split([self.moved, self.kept], -1)
        else:
            kept, moved = value.split([self.kept, self.moved], -1)
        return kept, moved

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        """The whole vectors (..., D)."""
        value = torch.cat([moved, kept] if self.kept_last else [kept, moved], -1)
        return value if self.to_whole is None else value.index_select(-1, self.to_whole)
