"""Masks on latents: what the model masks is not there, so it adds neither log p nor log q.

Which entries of a latent there are, the model says alone: its mask stands on log q too, and a mask of the guide's own
counts for nothing. (Pyro masks each side by itself: an entry masked in the model alone adds its entropy to the bound,
which training then raises without end.) By the same rule a site of the guide that is no latent of the model is not
there at all, nor is what a guide observes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Independent

from ppl_vae._private import flags_of
from ppl_vae.distributions import unwrap, without_mask
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.enumeration import is_masked, plates_of
from ppl_vae.pair.extra import Feeds, is_latent, is_observation
from ppl_vae.pair.handlers import has_density

__all__ = ["Mask", "as_in_model", "mask_of", "remasked"]


@dataclass(frozen=True)
class Mask:
    """The mask of a site: over its batch shape, and inside its event, where ``to_event`` stands outside a mask.

    Attributes:
        batch: None (nothing is masked), False (all is), or a tensor that broadcasts to the batch shape.
        event: masks over the batch shape and that many dimensions of the event.
    """

    batch: Any = None
    event: tuple[tuple[int, Tensor], ...] = ()

    def __bool__(self) -> bool:
        return self.batch is not None or bool(self.event)

    def there(self, value: Tensor, event_dim: int) -> Tensor:
        """Which entries of a value are not masked, in its shape."""
        flags = [] if self.batch is None else [(0, torch.as_tensor(self.batch, device=value.device))]
        whole = torch.ones_like(value, dtype=torch.bool)
        for inside, mask in (*flags, *self.event):
            whole = whole & mask.reshape((*mask.shape, *(1,) * (event_dim - inside)))
        return whole


def mask_of(site: Mapping[str, Any]) -> Mask:
    """The mask of a site of the model: that of its handlers (``poutine.mask``, ``obs_mask``), and its distribution's.

    Raises:
        ValueError: a mask stands inside a distribution where its entries are not those of the site.
    """
    batch, event, inside, fn = _plain(site["mask"]), [], 0, site["fn"]
    while isinstance(fn, MaskedDistribution | Independent):
        if isinstance(fn, Independent):
            inside += fn.reinterpreted_batch_ndims
        elif inside and _plain(flags_of(fn)) is not None:
            event.append((inside, torch.as_tensor(flags_of(fn))))
        else:
            batch = _both(batch, _plain(flags_of(fn)))
        fn = fn.base_dist
    if isinstance(unwrap(fn, MaskedDistribution), MaskedDistribution):
        raise ValueError(
            f"Pair: {site['name']!r} bears a mask inside a {type(fn).__name__}, whose entries need not be those of the "
            "site; put the mask around the site (poutine.mask), or outermost: dist(...).mask(...)"
        )
    return Mask(batch, tuple(event))


def _plain(mask: Any) -> Any:
    """None for a mask that masks nothing; a tensor without the dimensions along which it was merely expanded."""
    if mask is None or mask is True:
        return None
    if not isinstance(mask, Tensor):
        return mask
    for dim in range(mask.dim()):
        if mask.stride(dim) == 0 and mask.shape[dim] > 1:
            mask = mask.narrow(dim, 0, 1)
    return mask


def _both(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return False if a is False or b is False else a & b


def as_in_model(guide_trace: Trace, model_trace: Trace, feeds: Feeds) -> Trace:
    """The guide's trace with the masks that the model's run says: what is masked there adds no log q.

    Args:
        guide_trace, model_trace: of one run.
        feeds: of auxiliaries, the latents that follow from them (``extra.feeds_of``): they share their masks.

    Raises:
        ValueError: the mask of a latent cannot be put where the guide counts its log q.
    """
    masks = {name: mask_of(site) for name, site in sample_sites(model_trace) if is_latent(model_trace, name)}
    changed: dict[str, Any] = {}
    for name, site in sample_sites(guide_trace):
        if is_observation(site):
            changed[name] = None
        if site["is_observed"] or not has_density(site):
            continue
        if name in masks:
            mask = masks[name]
        else:
            mask = _of_extra(name, site, feeds.get(name, ()), masks, model_trace)
        if mask or is_masked(site):
            changed[name] = _given(site, mask)
    if not changed:
        return guide_trace
    twin: Any = guide_trace.copy()
    for name, site in changed.items():
        if site is None:
            twin.remove_node(name)
        else:
            twin.nodes[name] = site
    return twin


def remasked(guide_trace: Trace, model_trace: Trace, feeds: Feeds) -> tuple[str, ...]:
    """The sites of the guide whose own masks are others than those that the model says; see :func:`as_in_model`."""
    after: Any = as_in_model(guide_trace, model_trace, feeds).nodes
    counted = [(n, s) for n, s in sample_sites(guide_trace) if has_density(s)]
    return tuple(n for n, s in counted if n not in after or not _equal(mask_of(s), mask_of(after[n])))


def _equal(a: Mask, b: Mask) -> bool:
    flags = [[(0, mask.batch), *mask.event] for mask in (a, b)]
    return len(flags[0]) == len(flags[1]) and all(
        i == j and (p is q or (isinstance(p, Tensor) and isinstance(q, Tensor) and bool((p == q).all())))
        for (i, p), (j, q) in zip(*flags, strict=True)
    )


def _of_extra(
    name: str, site: Mapping[str, Any], points: tuple[str, ...], masks: Mapping[str, Mask], model_trace: Trace
) -> Mask:
    """The mask of a site that is no latent of the model: that of the points that follow from it, if there are any."""
    nothing = Mask(batch=False)
    found = {point: masks.get(point, nothing) for point in points}
    if all(mask.batch is False for mask in found.values()):
        return nothing
    borne = [point for point, mask in found.items() if mask]
    if not borne:
        return Mask()
    point = borne[0]
    apart = len(found) == 1 and not found[point].event
    if apart and plates_of(site) == plates_of(model_trace.nodes[point]):
        return found[point]
    raise ValueError(
        f"Pair: {point!r} bears a mask in the model (poutine.mask, obs_mask= or .mask()), and what is masked has "
        f"neither log p nor log q; but the guide counts log q of {', '.join(map(repr, points))} at one site {name!r}, "
        "where single entries cannot be masked. Use a guide that counts it at a site of its own in the same plates "
        f"(AutoNormal, or AutoGuideList with one for {point!r}), or take the mask away"
    )


def _given(site: Mapping[str, Any], mask: Mask) -> dict[str, Any]:
    """The guide's site with this mask, and no other."""
    fn = without_mask(site["fn"])
    if isinstance(unwrap(fn, MaskedDistribution), MaskedDistribution):
        raise ValueError(
            f"Pair: the guide's {site['name']!r} bears a mask inside a {type(fn).__name__}, and the model says what is "
            "masked; take it away"
        )
    for inside, flags in mask.event:
        fn = _masked_inside(site["name"], fn, inside, flags)
    return {**site, "fn": fn, "mask": mask.batch}


def _masked_inside(name: str, fn: Any, inside: int, flags: Tensor) -> Any:
    """Mask entries of the event, which the guide must draw independently."""
    count, base = 0, fn
    while isinstance(base, Independent):
        count, base = count + base.reinterpreted_batch_ndims, base.base_dist
    if count < inside:
        raise ValueError(
            f"Pair: {name!r} bears a mask on entries of its event in the model, and what is masked has neither log p "
            f"nor log q; but the guide's {type(fn).__name__} has one log q for all of them. Give the guide independent "
            f"entries (`.to_event({inside})`), or mask whole events"
        )
    inner = base.to_event(count - inside) if count > inside else base
    return inner.mask(flags).to_event(inside)
