"""The ladder of guides: in order of cost, up to the first that is good enough, and shown to be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal

from ppl_vae._random import fold
from ppl_vae.guides import AutoFlow, NonCentred
from ppl_vae.inference.deterministic import DeterministicVI
from ppl_vae.inference.deterministic.applies import reason_against
from ppl_vae.inference.ladder.flow_rung import FLOW, fit_flow, reason_against_flow
from ppl_vae.inference.ladder.reached import Reached
from ppl_vae.inference.ladder.rung import Rung
from ppl_vae.result import Fit

__all__ = ["RUNGS", "Ladder", "guide_of"]

MEAN_FIELD, FULL_RANK, LOW_RANK = "mean field", "full rank", "low rank"
NORMALS: dict[str, Callable[..., Any]] = {
    MEAN_FIELD: AutoNormal,
    FULL_RANK: AutoMultivariateNormal,
    LOW_RANK: AutoLowRankMultivariateNormal,
}
RUNGS = (*NORMALS, FLOW)
MOST_FULL = 100
"""With more latent numbers than these a covariance has more parameters than it is worth: low rank is taken."""


class Ladder:
    """Fit guides of all latents of a model in order of cost, and take the first whose certificate is given.

    Mean field (``AutoNormal``), full rank up to 100 latent numbers (``AutoMultivariateNormal``) or low rank above
    (``AutoLowRankMultivariateNormal``), each by :class:`DeterministicVI`; then a flow that begins at the best of these
    (:class:`~ppl_vae.guides.AutoFlow`). Where no certificate is given, the one with the best ELBO is taken, and said.

    Args:
        model: a Pyro model with continuous latents; it is trained in place.
        rungs: names of the families that are tried, of "mean field", "full rank", "low rank", "flow"; by default the
            three above. A flow alone begins at a normal that is fitted for it.
        sites: latents that every guide draws in a non-centred form, as for :class:`~ppl_vae.guides.NonCentred`.
        options: of :class:`DeterministicVI`.

    Raises:
        ValueError: no rung, or an unknown one.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        rungs: Sequence[str] | None = None,
        sites: Sequence[str] | Mapping[str, Any] = (),
        **options: Any,
    ) -> None:
        if rungs is not None and (not rungs or isinstance(rungs, str) or not set(rungs) <= set(RUNGS)):
            raise ValueError(f"Ladder: rungs of {list(RUNGS)} are required, got {rungs!r}")
        self.model, self.rungs, self.sites, self.options = model, rungs, sites, options

    def fit(self, data: Any, *, start: Mapping[str, Any] | None = None, seed: int = 0) -> Fit:
        """Climb until a certificate is given.

        Args:
            data, start, seed: as for :meth:`DeterministicVI.fit`.

        Returns:
            The fit of that rung, with ``fit.rungs``, a table of all that were tried; its certificate says the same in
            words.

        Raises:
            ValueError: the model's latents have no normal guide (discrete ones, say), or the data are too many.
        """
        if reason := self._reason_against(MEAN_FIELD, data, seed):
            raise ValueError(
                f"fit: guide='auto' tries normal guides of all latents on all data, which does not go here, for "
                f"{reason}; give a guide"
            )
        reached: list[Reached] = []
        rungs: list[Rung] = []
        for name in self.rungs or (MEAN_FIELD, FULL_RANK, FLOW):
            if name == FULL_RANK and self.rungs is None and reached[0].dim > MOST_FULL:
                name = LOW_RANK
            found = self._climb(name, data, reached, start, seed)
            rungs.append(found if isinstance(found, Rung) else found.rung)
            if isinstance(found, Reached):
                reached.append(found)
                if found.rung.given:
                    break
        if not reached:
            raise ValueError(f"fit: guide='auto' could try none of its rungs: {'; '.join(map(str, rungs))}")
        best = max(reached, key=lambda each: (bool(each.rung.given), each.height))
        return _told(best, rungs)

    def _climb(
        self, name: str, data: Any, reached: Sequence[Reached], start: Mapping[str, Any] | None, seed: int
    ) -> Reached | Rung:
        """What a rung gives, or why it is not tried."""
        began = time.perf_counter()
        if name == FLOW:
            before = reached or [self._normal(MEAN_FIELD, data, None, start, seed)]
            if not reached and 1 < before[0].dim <= MOST_FULL:
                before = [self._normal(FULL_RANK, data, before[0], start, seed)]
            best = max(before, key=lambda each: each.height)
            if reason := reason_against_flow(best):
                return Rung(FLOW, AutoFlow.__name__, why=reason)
            make = partial(guide_of, self.model, self.sites)
            return fit_flow(make, data, best.put_back(), began=began, seed=fold(seed, FLOW), options=self.options)
        if name in (FULL_RANK, LOW_RANK) and reached and reached[0].dim == 1:
            return Rung(name, NORMALS[name].__name__, why="one latent number has no covariance")
        if reason := self._reason_against(name, data, seed):
            return Rung(name, NORMALS[name].__name__, why=reason)
        return self._normal(name, data, reached[-1] if reached else None, start, seed)

    def _reason_against(self, name: str, data: Any, seed: int) -> str:
        plate = self.options.get("data_plate")
        guide = guide_of(self.model, self.sites, NORMALS[name])
        return reason_against(self.model, guide, data, seed=seed, data_plate=plate)

    def _normal(
        self, name: str, data: Any, before: Reached | None, start: Mapping[str, Any] | None, seed: int
    ) -> Reached:
        began = time.perf_counter()
        way = DeterministicVI(self.model, guide_of(self.model, self.sites, NORMALS[name]), **self.options)
        # Modes and curvature are of the model alone, unless it has parameters, which have moved since.
        beginning = before.solution.beginning if before is not None and not before.has_theta else None
        fit, solution = way.solved(data, start=start, seed=seed, beginning=beginning)
        return Reached.of(name, fit, solution, time.perf_counter() - began)


def guide_of(
    model: Callable[..., Any], sites: Sequence[str] | Mapping[str, Any], guide: Callable[..., Any]
) -> Callable[..., Any]:
    """The guide that ``guide`` makes of a model, or of its non-centred form."""
    made: Callable[..., Any] = NonCentred(model, sites, guide) if sites else guide(model)
    return made


def _told(best: Reached, rungs: Sequence[Rung]) -> Fit:
    """The fit of the best, with its parameters as they were, and the account of the ladder."""
    fit = best.put_back().fit
    name = best.rung.name
    if best.rung.given:
        fit.config["way"] = f"guide='auto': {name}, the first whose certificate is given"
    else:
        fit.config["way"] = f"guide='auto': no certificate is given; {name} has the best ELBO"
    fit.config["rungs"] = [rung.plain() for rung in rungs]
    fit.took(sum(rung.seconds or 0.0 for rung in rungs))
    fit.config["certificate"]["remarks"] += [fit.config["way"] + ".", *(f"  {rung}" for rung in rungs)]
    return fit
