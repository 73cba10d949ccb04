"""Terms that only training adds: no likelihood counts them, and no report calls them log p."""

from __future__ import annotations

from torch import Tensor

from ppl_vae.pair import Execution, SiteScore
from ppl_vae.pair.axis import sample_sites


def auxiliary_term(run: Execution) -> Tensor | None:
    """The sum of a run's training-only terms, (S, B) or (1, B) nats, to be maximized; None if it has none.

    Such a term is a site with ``infer={"_deterministic": True, "_auxiliary": True}`` inside the data plate, whose value
    is the term in Pyro's batch shape (a classification term on labelled rows, a commitment). It is differentiated as
    it stands, so it must not depend on draws that have only a score function. ``poutine.scale`` weighs it.

    Raises:
        ValueError: for a term outside the data plate.
    """
    total: Tensor | None = None
    for trace in (run.guide_trace, run.model_trace):
        for name, site in sample_sites(trace):
            if site["infer"].get("_auxiliary"):
                term = _term(SiteScore(name, site, run.layout, run.num_particles is not None))
                total = term if total is None else total + term
    return total


def _term(site: SiteScore) -> Tensor:
    if not site.local:
        raise ValueError(f"auxiliary term {site.name!r}: a value for each datum, inside the data plate, is required")
    term: Tensor = site.reduce(site.masked(site.site["value"]))
    return term * site.weight if site.weighted else term
