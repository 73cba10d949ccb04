"""ppl_vae: latent variable models declared in Pyro, fitted by variational EM, judged with error bars.

This page is the catalogue. Everything on it is imported on first use, so ``import ppl_vae`` costs nothing.
"""

from __future__ import annotations

import os.path
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ppl_vae._version import __version__

if TYPE_CHECKING:  # what type checkers and editors read; the table below is what Python reads
    from ppl_vae.diagnostics import compare, diagnose, loo, to_inference_data
    from ppl_vae.evidence import Enumeration, ImportanceWeighted, NaiveMonteCarlo, log_predictive
    from ppl_vae.evidence.log_evidence import log_evidence
    from ppl_vae.inference import (
        Alternating,
        CompiledSVI,
        DeterministicVI,
        Frozen,
        Joint,
        Only,
        Stages,
        VariationalEM,
        fit,
    )
    from ppl_vae.loading import load
    from ppl_vae.objectives import (
        ELBO,
        IWAE,
        RLOO,
        VIMCO,
        DisARM,
        Neural,
        ReweightedWakeSleep,
        RunningAverage,
        ScoreFunction,
    )
    from ppl_vae.pair import Pair
    from ppl_vae.result import Fit
    from ppl_vae.training import Callback, EarlyStopping, KeepBest

_HOME = {
    # declare: a model and a guide, bound
    "Pair": "ppl_vae.pair",
    # fit: variational EM on an objective
    "fit": "ppl_vae.inference",
    "VariationalEM": "ppl_vae.inference",
    "DeterministicVI": "ppl_vae.inference",
    "Joint": "ppl_vae.inference",
    "Alternating": "ppl_vae.inference",
    "Only": "ppl_vae.inference",
    "Frozen": "ppl_vae.inference",
    "Stages": "ppl_vae.inference",
    "CompiledSVI": "ppl_vae.inference",
    "ELBO": "ppl_vae.objectives",
    "IWAE": "ppl_vae.objectives",
    # for discrete draws: score functions and their baselines
    "ScoreFunction": "ppl_vae.objectives",
    "RunningAverage": "ppl_vae.objectives",
    "Neural": "ppl_vae.objectives",
    "RLOO": "ppl_vae.objectives",
    "VIMCO": "ppl_vae.objectives",
    "DisARM": "ppl_vae.objectives",
    "ReweightedWakeSleep": "ppl_vae.objectives",
    # how a fit is watched and ended
    "Callback": "ppl_vae.training",
    "EarlyStopping": "ppl_vae.training",
    "KeepBest": "ppl_vae.training",
    # the result, and its way to disk and back
    "Fit": "ppl_vae.result",
    "load": "ppl_vae.loading",
    # judge: how good is it
    "log_evidence": "ppl_vae.evidence.log_evidence",
    "log_predictive": "ppl_vae.evidence",
    "ImportanceWeighted": "ppl_vae.evidence",
    "NaiveMonteCarlo": "ppl_vae.evidence",
    "Enumeration": "ppl_vae.evidence",
    "to_inference_data": "ppl_vae.diagnostics",
    "loo": "ppl_vae.diagnostics",
    "compare": "ppl_vae.diagnostics",
    "diagnose": "ppl_vae.diagnostics",
}

# The rooms, reached as attributes without an import of their own: ``ppl_vae.models.VAE``.
_ROOMS = (
    "capture",
    "data",
    "diagnostics",
    "distributions",
    "evidence",
    "flows",
    "guides",
    "inference",
    "models",
    "nn",
    "objectives",
    "pair",
    "plots",
    "recipes",
    "storage",
    "training",
)

__all__ = [
    "ELBO",
    "IWAE",
    "RLOO",
    "VIMCO",
    "Alternating",
    "Callback",
    "CompiledSVI",
    "DeterministicVI",
    "DisARM",
    "EarlyStopping",
    "Enumeration",
    "Fit",
    "Frozen",
    "ImportanceWeighted",
    "Joint",
    "KeepBest",
    "NaiveMonteCarlo",
    "Neural",
    "Only",
    "Pair",
    "ReweightedWakeSleep",
    "RunningAverage",
    "ScoreFunction",
    "Stages",
    "VariationalEM",
    "__version__",
    "compare",
    "diagnose",
    "fit",
    "load",
    "log_evidence",
    "log_predictive",
    "loo",
    "to_inference_data",
]


def _beside(package: str) -> list[str]:
    """Where ``models`` and ``guides`` are found in a clone without symbolic links: in the folder of the clone.

    git writes a small text file in the place of a link where the system has none (Windows, as it is delivered).

    Raises:
        ImportError: they are nowhere; says what to do.
    """
    linked, clone = ("models", "guides"), os.path.dirname(package)
    if not os.path.isdir(package) or all(os.path.isdir(os.path.join(package, name)) for name in linked):
        return []
    is_clone = all(os.path.isfile(os.path.join(package, name)) for name in linked)
    if is_clone and all(os.path.isfile(os.path.join(clone, name, "__init__.py")) for name in linked):
        return [clone]
    raise ImportError(
        "ppl_vae: the folders ppl_vae/models and ppl_vae/guides are required, and are missing; they are symbolic links "
        "in the repository, and this copy comes from a clone without them. In the clone (on Windows with its developer "
        "mode on) run 'git config core.symlinks true' and 'git checkout -- ppl_vae/models ppl_vae/guides', and install "
        "again"
    )


__path__ += _beside(os.path.dirname(__file__))


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _ROOMS:
        value = import_module(f"ppl_vae.{name}")
    else:
        raise AttributeError(f"module 'ppl_vae' has no attribute {name!r}")
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_ROOMS})
