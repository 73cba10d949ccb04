"""The sites of a pair, found once: which are latent, observed, summed out, where they stand, and what they forbid."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pyro.distributions import Unit
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.trace_struct import Trace

from ppl_vae.distributions import is_improper, widened
from ppl_vae.pair.axis import DataAxis, DataAxisError, GlobalLatentError, frames_of, sample_sites
from ppl_vae.pair.enumeration import is_marked, is_masked
from ppl_vae.pair.extra import Feeds
from ppl_vae.pair.handlers import has_density
from ppl_vae.pair.layout import Layout, is_weight, subsampled_frames, weight_of
from ppl_vae.pair.particles import Site
from ppl_vae.pair.points import counting, is_exact, unpaid

__all__ = ["Sites"]


@dataclass(frozen=True)
class Sites:
    """What one run of a pair has shown of it. Plain data: names and shapes.

    Attributes:
        layout: the data plate, and the number of plate dimensions.
        model, guide: every site of the model, and those that the guide draws, by name, in their order.
        latent, observed: names of the model's sites.
        summed: latents of the model alone that are marked for enumeration: they are summed out of p.
        enumerated: sites of the guide that are marked for enumeration: an ELBO takes their exact expectation.
        tied: what stands outside the data plate and ties the data together.
        improper: latents whose prior nothing can be drawn from (``Flat``).
        feeds: of the guide's sites that are no latents of the model, the points that follow from each. Where there are
            some it is an auxiliary, counted with them; else it is left out of log q.
        remasked: sites of the guide whose log q is counted under another mask than their own, that of the model.
        weighted: sites, of model or guide, that bear a weight (``poutine.scale``).
        subsampled: plates, not the data's, that draw a subsample.
        widenable: sites of the guide that count in log q and can be drawn with a wider spread.
        point_masses: latents that the guide gives as points, whose volume nobody counts.
        is_exact: is log p(x, z) - log q(z | x) log p(x) itself, as for an exact flow and its encoder, or where nothing
            is drawn: without latents, or with latents that are all summed out?
        counts_volume: is p(x | z) a point, whose site counts the volume of a z that the guide gives (a flow)?
    """

    layout: Layout
    model: Mapping[str, Site]
    guide: Mapping[str, Site]
    latent: tuple[str, ...]
    observed: tuple[str, ...]
    summed: frozenset[str]
    enumerated: frozenset[str]
    tied: tuple[str, ...]
    improper: tuple[str, ...]
    feeds: Feeds
    remasked: tuple[str, ...]
    weighted: tuple[str, ...]
    subsampled: tuple[str, ...]
    widenable: frozenset[str]
    point_masses: tuple[str, ...]
    is_exact: bool
    counts_volume: bool

    @classmethod
    def of(
        cls, model_trace: Trace, guide_trace: Trace, axis: DataAxis | None, feeds: Feeds, remasked: tuple[str, ...]
    ) -> Sites:
        """Read off the traces of one run, unvectorized."""
        dims = [frame.dim for frame, _ in frames_of((model_trace, guide_trace))]
        layout = Layout(axis, max((-d for d in dims), default=0))
        modelled = sample_sites(model_trace)
        drawn = [(n, s) for n, s in sample_sites(guide_trace) if not s["is_observed"]]
        seen = [(n, s) for n, s in modelled if s["is_observed"] and has_density(s)]
        derived = any(s["infer"].get("is_auxiliary") for _, s in drawn)
        both = [*modelled, *((n, s) for n, s in drawn if n not in model_trace.nodes)]
        fed = {point for points in feeds.values() for point in points}
        latent = {n for n, s in modelled if not s["is_observed"]}
        counted = latent | {name for name, points in feeds.items() if points}
        summed = {n for n, s in modelled if is_marked(s) and n not in guide_trace.nodes}
        masked = {n for n, s in (*modelled, *drawn) if is_masked(s)}
        # A masked entry has no log q to tell its widths apart, and what is drawn given it would have other laws.
        whole = {n for n, s in drawn if not masked & {n, *feeds.get(n, ())}}
        return cls(
            layout,
            {n: Site.of(n, s, layout) for n, s in modelled},
            {n: Site.of(n, s, layout) for n, s in drawn},
            latent=tuple(n for n, s in modelled if not s["is_observed"]),
            observed=tuple(n for n, s in seen if not isinstance(s["fn"], Unit)),
            summed=frozenset(summed),
            enumerated=frozenset(n for n, s in drawn if is_marked(s)),
            tied=tuple(n for n, s in [*seen, *drawn] if not layout.is_local(s)),
            improper=tuple(n for n, s in modelled if not s["is_observed"] and is_improper(s["fn"])),
            feeds=feeds,
            remasked=remasked,
            weighted=tuple(n for n, s in both if has_density(s) and is_weight(weight_of(s, layout))),
            subsampled=tuple(dict.fromkeys(f.name for _, s in both for f in subsampled_frames(s, layout))),
            point_masses=tuple(n for n in unpaid(dict(drawn), model_trace) if n not in fed),
            widenable=frozenset(n for n in counted & whole if widened(guide_trace.nodes[n]["fn"], 2.0) is not None),
            is_exact=not derived and (is_exact(dict(drawn), model_trace) or not (drawn or latent - summed)),
            counts_volume=any(counting(model_trace)),
        )

    @property
    def latents(self) -> dict[str, Site]:
        """The latent sites of the model that the guide has a posterior of, in the model's order."""
        return {name: self.model[name] for name in self.latent if name not in self.summed}

    @property
    def summed_out(self) -> dict[str, Site]:
        """The latent sites of the model alone that are summed out of p (marked for enumeration, not in the guide)."""
        return {name: self.model[name] for name in self.latent if name in self.summed}

    @property
    def seen(self) -> dict[str, Site]:
        """The observed sites of the model."""
        return {name: self.model[name] for name in self.observed}

    @property
    def has_global_latents(self) -> bool:
        """Does a density outside the data plate tie the data together (a latent, an autoguide's draw, a factor)?"""
        return any(not self.model[name].is_local for name in self.latent) or bool(self.tied)

    def require_local(self, what: str) -> None:
        """Raise :class:`GlobalLatentError` if a latent stands outside the data plate."""
        shared = [name for name, site in self.latents.items() if not site.is_local] or list(self.tied)
        if shared and self.layout.axis is not None:
            at = ", ".join(map(repr, shared))
            raise GlobalLatentError(
                f"{what}: a value per datum needs latents of each datum's own, but {at} stand outside the data plate "
                f"{self.layout.axis.name!r} and tie all data together"
            )

    def require_density(self, what: str) -> None:
        """Raise ValueError if the guide is a point mass (``AutoDelta``): it has no density to weigh draws by."""
        if self.point_masses:
            at = ", ".join(map(repr, self.point_masses))
            raise ValueError(
                f"{what}: a guide with a density is required, but it gives {at} a point mass (as AutoDelta does): "
                "log p(x, z) at one point says nothing of the evidence; fit a guide with a spread, such as AutoNormal"
            )

    def require_proper(self, what: str, given: Collection[str] = ()) -> None:
        """Raise ValueError if a latent that is not ``given`` has a flat prior: nothing can be drawn from it."""
        flat = [name for name in self.improper if name not in given]
        if flat:
            raise ValueError(
                f"{what}: draws from the prior are required, and the prior of {', '.join(map(repr, flat))} is improper "
                "(Flat): it has no draws; give values of these sites, draw from the guide, or give them a proper prior"
            )

    def require_whole_plates(self, what: str) -> None:
        """Raise ValueError if a plate besides the data's draws a subsample: then log p is estimated, and p is not."""
        if self.subsampled:
            raise ValueError(
                f"{what}: whole plates are required, but {', '.join(map(repr, self.subsampled))} draws a subsample, so "
                "log p(x, z) is an estimate, and its exponential none of p(x, z); give the plate all its entries "
                "(subsample_size=None) for an evaluation; evidence.elbo does without"
            )

    def require_spread(self, what: str) -> None:
        """Raise ValueError if p(x | z) is a point (a flow): a z from elsewhere than the guide never gives this x."""
        if self.counts_volume:
            raise ValueError(
                f"{what}: a p(x | z) with a spread is required, but this one is a point mass (a flow's decoder): no z "
                "of the prior decodes to the very x; let the guide propose, as in ImportanceWeighted(1)"
            )

    def require_batchable(self, guide: Any) -> None:
        """Raise if this guide cannot be trained on mini-batches (an autoguide with a posterior per row)."""
        local = [name for name, site in self.latents.items() if site.is_local]
        if isinstance(guide, AutoGuide) and local and not self.layout.axis.subsampled:  # type: ignore[union-attr]
            raise DataAxisError(
                f"{type(guide).__name__}: it keeps one posterior of {', '.join(map(repr, local))} per row that it "
                "was set up with, so mini-batches would share them; fit without batch_size, or use guides.MeanField"
            )
