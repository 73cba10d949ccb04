"""The beginner's door: one call from a pair and data to a fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ppl_vae.inference.variational_em import VariationalEM
from ppl_vae.result import Fit


def fit(model: Callable[..., Any], guide: Callable[..., Any], data: Any, **options: Any) -> Fit:
    """Short for ``VariationalEM(model, guide, ...).fit(data, ...)``: each option goes where it belongs.

    Args:
        model, guide: a Pyro pair.
        data: rows along axis 0.
        options: keyword arguments of :class:`VariationalEM` and of its ``fit``.

    Raises:
        TypeError: for an option that neither has.
    """
    of_fit = set(inspect.signature(VariationalEM.fit).parameters) - {"self", "data"}
    of_em = set(inspect.signature(VariationalEM.__init__).parameters) - {"self", "model", "guide"}
    unknown = sorted(set(options) - of_fit - of_em)
    if unknown:
        raise TypeError(f"fit: unknown options {unknown}; there are {sorted(of_fit | of_em)}")
    em = VariationalEM(model, guide, **{k: v for k, v in options.items() if k in of_em})
    return em.fit(data, **{k: v for k, v in options.items() if k in of_fit})
