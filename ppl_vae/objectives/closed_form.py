"""Where the sampled KL of a site may be replaced by its closed form: where that is the same expectation."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.torch_distribution import MaskedDistribution

from ppl_vae.distributions import unwrap
from ppl_vae.pair import Execution, SiteScore
from ppl_vae.pair.points import is_point


def eligible(run: Execution, q: SiteScore, p: SiteScore) -> bool:
    """May the sampled log q - log p of this site be replaced by its closed form?

    Yes where p is a distribution of this site alone, the guide's draw is reparametrized, neither a point mass nor
    auxiliary, bears no mask and the same weight on both sides, and every latent that the model drew before it (all that
    p's parameters can depend on) was drawn by the guide before it too: then p's parameters are fixed when z is drawn,
    and the inner expectation is exact.
    """
    site_q, site_p = q.site, p.site
    if p.absorbed or not run.is_whole(site_p):
        return False
    if not getattr(site_q["fn"], "has_rsample", False) or is_point(site_q["fn"]) or is_point(site_p["fn"]):
        return False
    if site_q["infer"].get("is_auxiliary") or site_q["infer"].get("_deterministic"):
        return False
    if _bears_mask(site_q["fn"]) or _bears_mask(site_p["fn"]):
        return False
    if site_q["mask"] is not None or site_p["mask"] is not None or not _same(q.weight, p.weight):
        return False
    return _latents_before(run.model_trace, q.name) <= _latents_before(run.guide_trace, q.name)


def _bears_mask(fn: Any) -> bool:
    fn = unwrap(fn, MaskedDistribution)
    return isinstance(fn, MaskedDistribution)


def _same(a: Any, b: Any) -> bool:
    return a is b or (not isinstance(a, torch.Tensor) and not isinstance(b, torch.Tensor) and a == b)


def _latents_before(trace: Any, name: str) -> set[str]:
    before = set()
    for other, site in trace.nodes.items():
        if other == name:
            break
        if site["type"] == "sample" and not site["is_observed"] and not _is_subsample(site):
            before.add(other)
    return before


def _is_subsample(site: Any) -> bool:
    return type(site["fn"]).__name__ == "_Subsample"
