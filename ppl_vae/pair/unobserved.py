"""Data that the model is given, and observes nothing of: a fit of such a pair learns the prior."""

from __future__ import annotations

import warnings

from pyro.poutine.trace_struct import Trace

from ppl_vae.data.rows import Batch
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.calls import Call, parameters_of
from ppl_vae.pair.handlers import has_density

__all__ = ["warn_of_nothing_observed"]


def warn_of_nothing_observed(model: Call, model_trace: Trace, batch: Batch) -> None:
    """Warn where there are data, and the model has neither an observed site nor a factor.

    A pair without data observes nothing in good right: a density known up to a constant, a prior by itself.
    """
    sites = dict(sample_sites(model_trace))
    if batch.size is None or any(site["is_observed"] and has_density(site) for site in sites.values()):
        return
    latents = ", ".join(map(repr, sites)) or "none"
    absent = [repr(name) for name in _left_out(model, batch) if name in sites]
    why = f"; {', '.join(absent)} was not given, and is a latent here" if absent else ""
    warnings.warn(
        f"Pair: the model observes nothing of the data (its sites are {latents}, all of them latent){why}. Give every "
        "observed site its obs=, and the model every part of the data that it takes",
        stacklevel=2,
    )


def _left_out(model: Call, batch: Batch) -> list[str]:
    """The arguments that the model names and a batch does not hold."""
    args, kwargs = model.arguments(batch)
    return [name for name in list(parameters_of(model.fn))[len(args) :] if name not in kwargs]
