"""Which parameters a guide's location and spread are: found by comparing values, with every parameter shaken twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints, transform_to

from ppl_vae._random import isolated_rng
from ppl_vae.pair.checks import shaken
from ppl_vae.pair.fixed_noise import FixedNoise
from ppl_vae.pair.law import Law

__all__ = ["Leaf", "Link", "links"]


@dataclass(frozen=True)
class Leaf:
    """A parameter: the unconstrained leaf that an optimizer moves, and how a value becomes one."""

    name: str
    tensor: Tensor
    constraint: Any

    @property
    def value(self) -> Tensor:
        """The parameter in its constrained space."""
        value: Tensor = transform_to(self.constraint)(self.tensor)
        return value

    def of(self, value: Tensor) -> Tensor:
        """The leaf, in its shape, that has this value."""
        leaf: Tensor = transform_to(self.constraint).inv(value.reshape(self.value.shape))
        return leaf.reshape(self.tensor.shape)


@dataclass(frozen=True)
class Link:
    """The parameters that one site's law is made of, each under the name of what it is.

    Names: ``loc`` with ``scale`` (independent entries); with ``tril``, or ``scale`` times ``unit_tril`` (any
    covariance); with ``factor`` and ``diagonal`` or, relative to ``scale``, ``relative_factor`` (low rank).
    """

    site: str
    leaves: Mapping[str, Leaf]

    @property
    def names(self) -> frozenset[str]:
        """What is known."""
        return frozenset(self.leaves)


def links(noise: FixedNoise) -> dict[str, Link]:
    """The link of each site whose location and spread are parameters as they are, and of no other site's law.

    Values may be equal by chance (all locations 0 at the start; tanh(w) at w = 0), so every parameter is put a little
    off, and once more elsewhere.
    """
    pair = noise.pair
    leaves = [
        Leaf(name, tensor, pair.parameters.constraints.get(name, constraints.real))
        for name, tensor in pair.parameters.leaves.items()
        if pair.parameters.group[name] == "phi"
    ]
    seen = []
    with noise.scope(), torch.no_grad():
        for seed in (1, 2):
            with isolated_rng(seed, pair.device), shaken([leaf.tensor for leaf in leaves], ()):
                seen.append(_matches(noise, leaves))
    found = {site: link for site, link in seen[0].items() if seen[1].get(site) == link}
    used = [leaf for link in found.values() for leaf in link.values()]
    by_name = {leaf.name: leaf for leaf in leaves}
    return {
        site: Link(site, {what: by_name[name] for what, name in link.items()})
        for site, link in found.items()
        if all(used.count(name) == 1 for name in link.values())
    }


def _matches(noise: FixedNoise, leaves: Iterable[Leaf]) -> dict[str, dict[str, str]]:
    values = {leaf.name: leaf.value for leaf in leaves}
    found = {}
    for site, law in noise.laws_now().items():
        link = _match(law, values)
        if link is not None:
            found[site] = link
    return found


def _match(law: Law, values: Mapping[str, Tensor]) -> dict[str, str] | None:
    loc = _find(law.base.loc, values)
    if loc is None:
        return None
    others = {name: value for name, value in values.items() if name != loc}
    if hasattr(law.base, "cov_factor"):
        spread = _low_rank(law.base, others)
    elif law.has_covariance:
        spread = _full(law.base.scale_tril, others)
    else:
        scale = _find(law.base.scale, others)
        spread = None if scale is None else {"scale": scale}
    return None if spread is None else {"loc": loc, **spread}


def _full(tril: Tensor, values: Mapping[str, Tensor]) -> dict[str, str] | None:
    if tril.numel() != tril.shape[-1] ** 2:  # one for each row of a plate
        return None
    name = _find(tril, values)
    if name is not None:
        return {"tril": name}
    tril = tril.reshape(tril.shape[-2:])
    for scale, value in values.items():
        if value.numel() == len(tril):
            unit = _find(tril / value.reshape(-1, 1), values)
            if unit is not None and unit != scale:
                return {"scale": scale, "unit_tril": unit}
    return None


def _low_rank(base: Any, values: Mapping[str, Tensor]) -> dict[str, str] | None:
    factor, diagonal = base.cov_factor, base.cov_diag
    if diagonal.numel() != diagonal.shape[-1]:
        return None
    names = _find(factor, values), _find(diagonal, values)
    if names[0] is not None and names[1] is not None:
        return {"factor": names[0], "diagonal": names[1]}
    scale = _find(diagonal.sqrt(), values)
    if scale is None:
        return None
    relative = _find(factor / diagonal.sqrt().unsqueeze(-1), values)
    return None if relative is None else {"scale": scale, "relative_factor": relative}


def _find(wanted: Tensor, values: Mapping[str, Tensor]) -> str | None:
    """The one parameter of this value, its shape aside."""
    flat = wanted.flatten()
    close = [n for n, v in values.items() if v.numel() == len(flat) and _same(v.flatten(), flat)]
    return close[0] if len(close) == 1 else None


def _same(a: Tensor, b: Tensor) -> bool:
    eps = torch.finfo(a.dtype).eps
    return bool(((a - b).abs() <= 64 * eps * (1 + b.abs())).all())
