"""The ten posteriors of posteriordb.py as plain Pyro models, what is measured of a fit, and the peers."""

from __future__ import annotations

from posteriors.classification import BREAST_CANCER
from posteriors.others import OTHERS
from posteriors.posterior import Posterior, Reference
from posteriors.regressions import REGRESSIONS

POSTERIORS: dict[str, Posterior] = {posterior.name: posterior for posterior in (*REGRESSIONS, *OTHERS)}

__all__ = ["BREAST_CANCER", "POSTERIORS", "Posterior", "Reference"]
