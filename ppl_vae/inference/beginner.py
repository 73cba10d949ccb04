"""The beginner's door: one call from a model and data to a fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ppl_vae.inference.deterministic import DeterministicVI
from ppl_vae.inference.deterministic.applies import reason_against
from ppl_vae.inference.ladder import Ladder
from ppl_vae.inference.variational_em import VariationalEM
from ppl_vae.result import Fit

_OF_NEITHER = frozenset({"progress"})
"""Options that do not say which way is meant."""
AUTO = "auto"


def fit(model: Callable[..., Any], guide: Any = AUTO, data: Any = None, **options: Any) -> Fit:
    """Fit a model and a guide to data; without a number of steps, until it is done.

    Without ``steps=``, ``epochs=`` or another option of :class:`VariationalEM`, a pair whose noise can be fixed is
    fitted by :class:`DeterministicVI`: no rate, and ``fit.certificate`` says whether it is done. Another pair, and
    every call with such options, goes to ``VariationalEM(model, guide, ...).fit(data, ...)``, which stops by itself
    where no number of steps is given; ``fit.config["way"]`` says why the deterministic way was not taken.

    Without a guide, those of a :class:`Ladder` are tried: mean field, full or low rank, a flow; the first whose
    certificate is given is taken, and ``fit.rungs`` is the table of what was tried.

    Args:
        model: a Pyro model.
        guide: its guide; "auto", or left out (``fit(model, data)``), for the ladder.
        data: rows along axis 0.
        options: keyword arguments of these classes and of their ``fit``; each goes where it belongs.

    Raises:
        TypeError: for an option that none of them has, or options of both; for a guide that is none.
        ValueError: an option of the deterministic way, and a pair that it does not fit; no guide, and a model that has
            none of the ladder's.
    """
    guide, data = _guide_and_data(guide, data)
    of_deterministic, of_stochastic = _options(DeterministicVI), _options(VariationalEM)
    of_ladder = {"rungs"}
    every = of_deterministic | of_stochastic | of_ladder
    if unknown := sorted(set(options) - every):
        raise TypeError(f"fit: unknown options {unknown}; there are {sorted(every)}")
    stochastic = sorted(set(options) - of_deterministic - of_ladder - _OF_NEITHER)
    deterministic = sorted(set(options) - of_stochastic)
    if stochastic and deterministic:
        raise TypeError(
            f"fit: {', '.join(deterministic)} is of DeterministicVI, {', '.join(stochastic)} of VariationalEM; give "
            "one of them"
        )
    if isinstance(guide, str):
        return _climb(model, data, options, stochastic)
    if "rungs" in options:
        raise TypeError(f"fit: rungs are of guide={AUTO!r}; leave the guide out")
    if stochastic:
        return _call(VariationalEM, model, guide, data, options)
    known = {name: options[name] for name in ("data_plate", "seed") if name in options}
    reason = reason_against(model, guide, data, **known)
    if not reason:
        return _call(DeterministicVI, model, guide, data, {k: v for k, v in options.items() if k not in _OF_NEITHER})
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


def _climb(model: Any, data: Any, options: dict[str, Any], stochastic: list[str]) -> Fit:
    """Without a guide."""
    if stochastic:
        raise TypeError(
            f"fit: guide={AUTO!r} fits its guides until they are done, and {', '.join(stochastic)} is of "
            "VariationalEM; give a guide, or leave it out"
        )
    of_fit = {name: options[name] for name in ("start", "seed") if name in options}
    rest = {name: value for name, value in options.items() if name not in {*of_fit, *_OF_NEITHER}}
    return Ladder(model, **rest).fit(data, **of_fit)


def _options(way: Any) -> set[str]:
    """The keyword options of a way to fit: of the class, and of its method."""
    found = {*inspect.signature(way.__init__).parameters, *inspect.signature(way.fit).parameters}
    return found - {"self", "model", "guide", "data"}


def _call(way: Any, model: Any, guide: Any, data: Any, options: dict[str, Any]) -> Fit:
    made = set(inspect.signature(way.__init__).parameters)
    maker = way(model, guide, **{k: v for k, v in options.items() if k in made})
    fitted: Fit = maker.fit(data, **{k: v for k, v in options.items() if k not in made})
    return fitted
