"""Where the axes of a pair lie in the tensors of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ppl_vae.pair.axis import DataAxis


@dataclass(frozen=True)
class Layout:
    """Where the axes of a pair lie: the data plate, and how many plate dimensions there are in all."""

    axis: DataAxis | None
    plate_nesting: int

    @property
    def particle_dim(self) -> int:
        """The dimension to the left of every plate of the pair."""
        return -(self.plate_nesting + 1)

    def is_local(self, site: Mapping[str, Any]) -> bool:
        """Does the site stand inside the data plate?"""
        return self.axis is not None and any(f.name == self.axis.name for f in site["cond_indep_stack"])

    def reduce(self, tensor: Tensor, site: Mapping[str, Any], particles: bool) -> Tensor:
        """Sum a batch-shaped tensor to (S, B) for a local site and to (S,) for a global one."""
        rank = tensor.dim()
        keep = []
        if particles and rank >= -self.particle_dim:
            keep.append(rank + self.particle_dim)
        has_particles = bool(keep)
        if self.axis is not None and self.is_local(site):
            keep.append(rank + self.axis.dim)
        others = [i for i in range(rank) if i not in keep]
        if others:
            tensor = tensor.sum(others)
        return tensor if has_particles else tensor.unsqueeze(0)


def inflation_of(site: Mapping[str, Any], layout: Layout) -> float:
    """How many entries each stands for in the subsampled plates around a site, but the data's: a term is so many times
    itself, as an unbiased estimate of the whole plate's.
    """
    factor = 1.0
    for frame in subsampled_frames(site, layout):
        factor = factor * frame.full_size / frame.size
    return factor


def subsampled_frames(site: Mapping[str, Any], layout: Layout) -> list[Any]:
    """The plates around a site, but the data's, that draw a subsample."""
    own = layout.axis.name if layout.axis is not None else None
    return [f for f in site["cond_indep_stack"] if f.name != own and f.full_size is not None and f.full_size != f.size]


def weight_of(site: Mapping[str, Any], layout: Layout) -> Any:
    """The site's scale without the factors of subsampled plates, the data's among them: what ``poutine.scale`` says."""
    scale = site["scale"]
    for frame in site["cond_indep_stack"]:
        if layout.axis is not None and frame.name == layout.axis.name and frame.full_size != frame.size:
            scale = scale * frame.size / frame.full_size
    if (inflation := inflation_of(site, layout)) != 1.0:
        scale = scale / inflation
    if not isinstance(scale, Tensor) and abs(scale - 1.0) < 1e-12:
        return 1.0
    return scale


def is_weight(weight: Any) -> bool:
    """Is this other than 1, or a tensor that may be?"""
    return isinstance(weight, Tensor) or weight != 1.0
