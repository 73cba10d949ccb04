"""The beginner's door: one call from a model and data to a fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ppl_vae.inference.deterministic import DeterministicVI
from ppl_vae.inference.deterministic.applies import reason_against
from ppl_vae.inference.variational_em import VariationalEM
from ppl_vae.result import Fit

_OF_NEITHER = frozenset({"progress"})
"""Options that do not say which way is meant."""


def fit(model: Callable[..., Any], guide: Any = "auto", data: Any = None, **options: Any) -> Fit:
    """Fit a model and a guide to data; without a number of steps, until it is done.

    Without ``steps=``, ``epochs=`` or another option of :class:`VariationalEM`, a pair whose noise can be fixed is
    fitted by :class:`DeterministicVI`: no rate, and ``fit.certificate`` says whether it is done. Another pair, and
    every call with such options, goes to ``VariationalEM(model, guide, ...).fit(data, ...)``, which stops by itself
    where no number of steps is given; ``fit.config["way"]`` says why the deterministic way was not taken.

    Args:
        model: a Pyro model.
        guide: its guide; "auto", or left out (``fit(model, data)``), for the first of a ladder of guides that serves.
        data: rows along axis 0.
        options: keyword arguments of these classes and of their ``fit``; each goes where it belongs.

    Raises:
        TypeError: for an option that none of them has.
    """
    if data is None and not callable(guide) and not isinstance(guide, str):
        guide, data = "auto", guide
    of_deterministic, of_stochastic = _options(DeterministicVI), _options(VariationalEM)
    unknown = sorted(set(options) - of_deterministic - of_stochastic)
    if unknown:
        raise TypeError(f"fit: unknown options {unknown}; there are {sorted(of_deterministic | of_stochastic)}")
    stochastic, reason = sorted(set(options) - of_deterministic - _OF_NEITHER), ""
    if not stochastic:
        reason = reason_against(model, guide, data, data_plate=options.get("data_plate"))
        if not reason:
            return _call(
                DeterministicVI, model, guide, data, {k: v for k, v in options.items() if k not in _OF_NEITHER}
            )
    elif wrong := sorted(set(options) - of_stochastic):
        raise TypeError(
            f"fit: {', '.join(wrong)} is of DeterministicVI, {', '.join(stochastic)} of VariationalEM; give one of them"
        )
    fitted = _call(VariationalEM, model, guide, data, {k: v for k, v in options.items() if k in of_stochastic})
    if reason:
        fitted.config["way"] = f"mini-batches and a rate, for {reason}"
    return fitted


def _options(way: Any) -> set[str]:
    """The keyword options of a way to fit: of the class, and of its method."""
    found = {*inspect.signature(way.__init__).parameters, *inspect.signature(way.fit).parameters}
    return found - {"self", "model", "guide", "data"}


def _call(way: Any, model: Any, guide: Any, data: Any, options: dict[str, Any]) -> Fit:
    made = set(inspect.signature(way.__init__).parameters)
    maker = way(model, guide, **{k: v for k, v in options.items() if k in made})
    fitted: Fit = maker.fit(data, **{k: v for k, v in options.items() if k not in made})
    return fitted
