"""Many draws at once: in one vectorized run where the pair allows it (checked, not believed), else one by one.

Inside a run a value has Pyro's shape (particles, plates..., event); outside it is (S, N, other plates..., event) for a
local site and (S, other plates..., event) for a global one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae.pair.enumeration import is_masked, num_values
from ppl_vae.pair.layout import Layout


@dataclass(frozen=True)
class Site:
    """What is known of a sample site before it is drawn again.

    ``event_shape`` of one value; ``is_local``: inside the data plate; ``plate_dims``: the tensor dimensions (negative)
    of its other plates, and ``plates``: their names; ``is_discrete``: its support is discrete; ``num_values``: how many
    values it has, None if they are not finitely many; ``is_masked``: a mask takes its density away in some rows.
    """

    name: str
    event_shape: torch.Size
    is_local: bool
    plate_dims: tuple[int, ...]
    is_discrete: bool
    num_values: int | None
    is_masked: bool
    plates: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, site: Mapping[str, Any], layout: Layout) -> Site:
        """Read it off a site of an unvectorized trace."""
        fn = site["fn"]
        frames = [f for f in site["cond_indep_stack"] if f.vectorized]
        others = sorted((f.dim, f.name) for f in frames if layout.axis is None or f.name != layout.axis.name)
        support = getattr(fn, "support", None)
        discrete = bool(getattr(support, "is_discrete", False))
        return cls(
            name,
            torch.Size(fn.event_shape),
            layout.is_local(site),
            tuple(dim for dim, _ in others),
            discrete,
            num_values(fn) if discrete else None,
            is_masked(site),
            tuple(name for _, name in others),
        )


def of_unconstrained(site: Site, u: Tensor) -> Site:
    """The site as it is for u, (S, N, other plates..., event): its event may have another shape, as a simplex has."""
    return replace(site, event_shape=u.shape[1 + site.is_local + len(site.plate_dims) :])


def outward(value: Tensor, site: Site, layout: Layout, particles: bool) -> Tensor:
    """From Pyro's shape to (S, N, other plates..., event)."""
    event_dim = len(site.event_shape)
    wanted = [layout.particle_dim] if particles else []
    if site.is_local and layout.axis is not None:
        wanted.append(layout.axis.dim)
    wanted += site.plate_dims
    batch_rank = value.dim() - event_dim
    while batch_rank < -min(wanted, default=0):
        value, batch_rank = value.unsqueeze(0), batch_rank + 1
    axes = [batch_rank + d for d in wanted]
    idle = [i for i in range(batch_rank) if i not in axes]
    value = value.permute((*axes, *idle, *range(batch_rank, value.dim())))
    value = value.reshape((*value.shape[: len(axes)], *value.shape[len(axes) + len(idle) :]))
    return value if particles else value.unsqueeze(0)


def inward(value: Tensor, site: Site, layout: Layout) -> Tensor:
    """From (S, N, other plates..., event) to Pyro's shape with the particle dimension."""
    event_dim = len(site.event_shape)
    dims = [layout.particle_dim]
    if site.is_local and layout.axis is not None:
        dims.append(layout.axis.dim)
    dims += site.plate_dims
    sizes = dict(zip(dims, value.shape, strict=False))
    order = sorted(dims)  # leftmost dimension first
    value = value.permute((*(dims.index(d) for d in order), *range(len(dims), len(dims) + event_dim)))
    batch = [sizes.get(d, 1) for d in range(layout.particle_dim, 0)]
    return value.reshape((*batch, *value.shape[len(dims) :]))


def without_particles(value: Tensor, site: Site, layout: Layout) -> Tensor:
    """One draw (N, other plates..., event) in Pyro's shape without particles, and no idle dimension on the left."""
    value = inward(value.unsqueeze(0), site, layout).squeeze(0)
    used = [d for d in (layout.axis.dim if site.is_local and layout.axis else 0, *site.plate_dims) if d]
    while value.dim() - len(site.event_shape) > -min(used, default=0):
        value = value.squeeze(0)
    return value
