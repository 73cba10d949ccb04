"""What a latent carries along: the pass through the flow that it comes from."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae._private import version
from ppl_vae.flows.layer import Layer


class Carried:
    """What a tensor carries in this process: it stays behind when the tensor is saved or copied, as a draw may be."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, ()  # empty, and of a type that torch.load takes without being told to


@dataclass(frozen=True)
class Encoding(Carried):
    """One pass x -> z.

    Attributes:
        layer: through which layer.
        x, context: of which data, by identity.
        version: how often x had been written into by then.
        contribution: the layer's, (*leading) in nats.
        is_cut: has z lost its gradient?
    """

    layer: Layer
    x: Tensor
    context: Tensor | None
    contribution: Tensor
    version: int | None
    is_cut: bool = False

    def is_of(self, layer: Layer, x: Tensor, context: Tensor | None) -> bool:
        """Is it the pass of this very layer over these very data?"""
        same = self.layer is layer and self.x is x and self.context is context
        return same and self.version == version_of(x)


def version_of(value: Tensor) -> int | None:
    """How often a tensor has been written into; None where torch does not count it (inference mode)."""
    return None if value.is_inference() else version(value)


def with_encoding(z: Tensor, encoding: Encoding) -> Tensor:
    """Let z carry the pass that it comes from; it is carried by this very tensor, not by what is computed from it."""
    z._encoding = encoding  # type: ignore[attr-defined]
    return z


def encoding_of(z: Tensor) -> Encoding | None:
    """The pass that z carries, or None."""
    found = getattr(z, "_encoding", None)
    return found if isinstance(found, Encoding) else None


def cut(z: Tensor) -> Tensor:
    """Z without its gradient, still carrying its pass."""
    encoding = encoding_of(z)
    if encoding is None:
        return z.detach()
    return with_encoding(z.detach(), replace(encoding, contribution=encoding.contribution.detach(), is_cut=True))


def tolerance(dtype: torch.dtype) -> float:
    """How far two passes over the same value may differ, relative to 1 + |value|: the root of the precision.

    >>> tolerance(torch.float64) < 1.5e-8 < 3.4e-4 < tolerance(torch.float32)
    True
    """
    return math.sqrt(torch.finfo(dtype).eps)


def distance(a: Tensor, b: Tensor, event_dims: int) -> Tensor:
    """The largest |a - b| / (1 + |b|) of an event: (*leading)."""
    return ((a - b).abs() / (1 + b.abs())).flatten(-event_dims).amax(-1)
