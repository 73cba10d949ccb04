"""The beginner's door: one call from a model and data to a fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ppl_vae.inference.deterministic import DeterministicVI
from ppl_vae.inference.deterministic.applies import reason_against
from ppl_vae.inference.ladder import Ladder, choose, guide_of
from ppl_vae.inference.variational_em import VariationalEM
from ppl_vae.result import Fit

_OF_NEITHER = frozenset({"progress"})
"""Options that do not say which way is meant."""
_OF_LADDER = frozenset({"rungs"})
AUTO, NONE = "auto", "none"


def fit(
    model: Callable[..., Any],
    guide: Any = AUTO,
    data: Any = None,
    *,
    reparametrize: str | Sequence[str] | Mapping[str, Any] = NONE,
    **options: Any,
) -> Fit:
    """Fit a model and a guide to data; without a number of steps, until it is done.

    Without ``steps=``, ``epochs=`` or another option of :class:`VariationalEM`, a pair whose noise can be fixed is
    fitted by :class:`DeterministicVI`: no rate, and ``fit.certificate`` says whether it is done. Another pair, and
    every call with such options, goes to ``VariationalEM(model, guide, ...).fit(data, ...)``, which stops by itself
    where no number of steps is given; ``fit.config["way"]`` says why the deterministic way was not taken.

    Without a guide, those of a :class:`Ladder` are tried: mean field, full or low rank, a flow; the first whose
    certificate is given is taken, and ``fit.rungs`` is the table of what was tried.

    Args:
        model: a Pyro model.
        guide: its guide; a class of autoguides, of which one is made; "auto", or left out (``fit(model, data)``), for
            the ladder.
        data: rows along axis 0.
        reparametrize: latents that the guide draws in a non-centred form (:class:`~ppl_vae.guides.NonCentred`), by name
            or as a dictionary of ``LocScaleReparam``; "auto" tries those whose location or scale hangs on other
            latents, and keeps what the ELBO gains by; "none" leaves the model as it is written. It goes with "auto" or
            a class as guide, since a guide that is made is of one form. The fit's latents have the model's names.
        options: keyword arguments of these classes and of their ``fit``; each goes where it belongs.

    Raises:
        TypeError: for an option that none of them has, or options of both; for a guide that is none.
        ValueError: an option of the deterministic way, and a pair that it does not fit; no guide, and a model that has
            none of the ladder's.
    """
    guide, data = _guide_and_data(guide, data)
    of_deterministic, of_stochastic = _options(DeterministicVI), _options(VariationalEM)
    every = of_deterministic | of_stochastic | _OF_LADDER
    if unknown := sorted(set(options) - every):
        raise TypeError(f"fit: unknown options {unknown}; there are {sorted(every)}")
    stochastic = sorted(set(options) - of_deterministic - _OF_LADDER - _OF_NEITHER)
    deterministic = sorted(set(options) - of_stochastic)
    if stochastic and deterministic:
        raise TypeError(
            f"fit: {', '.join(deterministic)} is of DeterministicVI, {', '.join(stochastic)} of VariationalEM; give "
            "one of them"
        )
    _require_together(guide, reparametrize, options, stochastic)
    if reparametrize == AUTO:
        return _reparametrized(model, guide, data, options)
    sites = () if reparametrize == NONE else reparametrize
    if isinstance(guide, str):
        return _ladder(model, sites, data, options)
    if isinstance(guide, type):
        guide = guide_of(model, sites, guide)
    if stochastic:
        return _call(VariationalEM, model, guide, data, options)
    known = {name: options[name] for name in ("data_plate", "seed") if name in options}
    reason = reason_against(model, guide, data, **known)
    if not reason:
        return _call(DeterministicVI, model, guide, data, _without(options, _OF_NEITHER))
    if deterministic:
        raise ValueError(
            f"fit: {', '.join(deterministic)} is of DeterministicVI, which does not fit this pair, for {reason}; leave "
            "it out, and the pair is fitted by VariationalEM"
        )
    fitted = _call(VariationalEM, model, guide, data, options)
    fitted.config["way"] = f"mini-batches and a rate, for {reason}"
    return fitted


def _guide_and_data(guide: Any, data: Any) -> tuple[Any, Any]:
    """The two as they are meant: ``fit(model, data)`` leaves the guide out."""
    if isinstance(guide, str) and guide != AUTO:
        raise TypeError(f"fit: guide must be a Pyro guide or {AUTO!r}, got {guide!r}")
    if callable(guide) or isinstance(guide, str):
        return guide, data
    if data is None:
        return AUTO, guide
    if guide is None:
        return AUTO, data
    raise TypeError(
        f"fit: guide must be a Pyro guide or {AUTO!r}, got {type(guide).__name__}; the call is fit(model, guide, "
        "data), or fit(model, data)"
    )


def _require_together(guide: Any, reparametrize: Any, options: Mapping[str, Any], stochastic: Sequence[str]) -> None:
    """Raise TypeError where options do not go with the guide, or with another."""
    if isinstance(reparametrize, str) and reparametrize not in (AUTO, NONE):
        raise TypeError(
            f"fit: reparametrize must be {AUTO!r}, {NONE!r}, a list of names of latents or a dictionary, got "
            f"{reparametrize!r}"
        )
    if reparametrize != NONE and not isinstance(guide, str | type):
        raise TypeError(
            f"fit: reparametrize= needs a guide that is not made yet, got {type(guide).__name__}; give its class, as "
            f"in fit(model, AutoNormal, data, reparametrize=...), or leave the guide out"
        )
    if reparametrize != NONE and options.get("start") is not None:
        raise TypeError("fit: start= is of latents as the model has them; with reparametrize= leave it out")
    if not isinstance(guide, str) and "rungs" in options:
        raise TypeError(f"fit: rungs are of guide={AUTO!r}; leave the guide out")
    if stochastic and (isinstance(guide, str) or reparametrize == AUTO):
        which = f"guide={AUTO!r}" if isinstance(guide, str) else f"reparametrize={AUTO!r}"
        raise TypeError(
            f"fit: {which} fits guides until they are done, and {', '.join(stochastic)} is of VariationalEM; give a "
            "guide, or leave it out"
        )


def _ladder(model: Any, sites: Any, data: Any, options: Mapping[str, Any]) -> Fit:
    """Without a guide."""
    of_fit = {name: options[name] for name in ("start", "seed") if name in options}
    return Ladder(model, sites=sites, **_without(options, {*of_fit, *_OF_NEITHER})).fit(data, **of_fit)


def _reparametrized(model: Any, guide: Any, data: Any, options: Mapping[str, Any]) -> Fit:
    """With the latents non-centred that gain by it."""
    make = None if isinstance(guide, str) else guide
    rest = _without(options, {*_OF_NEITHER, *_OF_LADDER, "seed", "start"})
    choice = choose(model, make, data, seed=options.get("seed", 0), options=rest)
    fitted = choice.reached.fit if make is not None else _ladder(model, choice.sites, data, options)
    fitted.config["certificate"]["remarks"] += choice.said
    return fitted


def _options(way: Any) -> set[str]:
    """The keyword options of a way to fit: of the class, and of its method."""
    found = {*inspect.signature(way.__init__).parameters, *inspect.signature(way.fit).parameters}
    return found - {"self", "model", "guide", "data"}


def _without(options: Mapping[str, Any], names: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def _call(way: Any, model: Any, guide: Any, data: Any, options: dict[str, Any]) -> Fit:
    made = set(inspect.signature(way.__init__).parameters)
    maker = way(model, guide, **{k: v for k, v in options.items() if k in made})
    fitted: Fit = maker.fit(data, **{k: v for k, v in options.items() if k not in made})
    return fitted
