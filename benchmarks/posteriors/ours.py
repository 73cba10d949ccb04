"""One fit of ours: what it took, and how good it is by fresh independent draws of its guide."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor

import ppl_vae
from posteriors.posterior import Data, Posterior, Reference
from posteriors.race import processor_seconds
from ppl_vae._psis import psis_khat
from ppl_vae.evidence.importance import WIDTHS, parts_of, proposed
from ppl_vae.evidence.mixture import weigh

BLOCK = 4096
MEAN_LIMIT, RATIOS = 0.1, (0.9, 1.1)
"""Of the error of a mean in sds, beside four Monte Carlo errors; and of the quotient of the sds."""


@dataclass(frozen=True)
class Moments:
    """Means and sds of draws beside the reference's, D coordinates.

    Attributes:
        error: (D,) |mean - reference| in sds of the reference.
        mcse: (D,) the Monte Carlo error of that, of the draws and of the reference together.
        ratio: (D,) sd over the reference's sd.
        effective: how many draws the weights leave.
    """

    error: Tensor
    mcse: Tensor
    ratio: Tensor
    effective: float

    @classmethod
    def of(cls, u: Tensor, log_weight: Tensor | None, reference: Reference) -> Moments:
        """Of draws (S, D), with self-normalized weights where there are any."""
        w = torch.full((len(u),), 1 / len(u), dtype=u.dtype) if log_weight is None else log_weight.softmax(0)
        mean = w @ u
        sd = (w @ (u - mean).square()).sqrt()
        own = (w.square() @ (u - mean).square()).sqrt()  # of a weighted mean
        mcse = ((own / reference.sd).square() + reference.mcse.square()).sqrt()
        return cls((mean - reference.mean).abs() / reference.sd, mcse, sd / reference.sd, float(1 / w.square().sum()))

    @property
    def good(self) -> bool:
        """Do all coordinates keep the two limits?"""
        means = (self.error <= MEAN_LIMIT + 4 * self.mcse).all()
        return bool(means and (self.ratio >= RATIOS[0]).all() and (self.ratio <= RATIOS[1]).all())

    def row(self) -> dict[str, Any]:
        """The worst of each, for a file."""
        return {
            "mean_error": float(self.error.max()),
            "mcse": float(self.mcse.max()),
            "sd_ratio": [float(self.ratio.min()), float(self.ratio.max())],
            "effective": self.effective,
            "good": self.good,
        }


@dataclass(frozen=True)
class Result:
    """A fit and its measurement; nats, seconds.

    Attributes:
        seconds: of the fit, wall clock, with all that is compiled or imported on the way.
        processor: seconds of the processor; fewer than the clock's on a machine that does other things too.
        elbo, error: by fresh independent draws of the guide, with the standard error.
        khat: of those draws.
        guide, weighted: moments of the draws, and of as many of ``log_evidence``'s proposal (half of them of the guide
            with 1.5 times its spread) by their importance weights; None without a reference.
        certificate: what the fit says of itself.
    """

    fit: Any
    seconds: float
    processor: float
    elbo: float
    error: float
    log_evidence: float
    evidence_error: float
    khat: float
    guide: Moments | None
    weighted: Moments | None
    certificate: str

    def row(self) -> dict[str, Any]:
        """For a file."""
        return {
            "seconds": self.seconds,
            "processor_seconds": self.processor,
            "elbo": self.elbo,
            "elbo_error": self.error,
            "log_evidence": self.log_evidence,
            "log_evidence_error": self.evidence_error,
            "khat": self.khat,
            "guide": self.guide.row() if self.guide else None,
            "weighted": self.weighted.row() if self.weighted else None,
            "certificate": self.certificate,
        }


def measure(
    posterior: Posterior, data: Data, reference: Reference, *, draws: int, steps: int = 0, guide: Any = None
) -> Result:
    """Fit by ``ppl_vae.fit`` and measure.

    Args:
        posterior, data, reference: what is fitted, and what is known of it.
        draws: fresh draws of the guide.
        steps: of stochastic training; 0: until it is done.
        guide: default ``AutoMultivariateNormal``.
    """
    model, rows = posterior.bind(data)
    options: dict[str, Any] = {"steps": steps, "progress": False, "dtype": torch.float64} if steps else {}
    started, busy = time.perf_counter(), processor_seconds()
    fit = ppl_vae.fit(model, guide or AutoMultivariateNormal(model), rows, **options)
    seconds, processor = time.perf_counter() - started, processor_seconds() - busy
    u, log_weight = fresh(posterior, fit.pair, rows, draws)
    wide, wide_weight = wider(posterior, fit.pair, rows, draws)
    evidence = fit.log_evidence(rows, ppl_vae.ImportanceWeighted(draws), seed=1)
    known = bool(reference.mean.isfinite().all())
    return Result(
        fit,
        seconds,
        processor,
        float(log_weight.mean()),
        float(log_weight.std() / math.sqrt(len(log_weight))),
        float(evidence.value),
        float(evidence.standard_error),
        float(psis_khat(log_weight[:, None].numpy())[0]),
        Moments.of(u, None, reference) if known else None,
        Moments.of(wide, wide_weight, reference) if known else None,
        "" if fit.certificate is None else str(fit.certificate),
    )


def fresh(posterior: Posterior, pair: Any, rows: Any, count: int) -> tuple[Tensor, Tensor]:
    """Coordinates (S, D) and log p - log q (S,) of independent draws of the guide, on noise that no fit has seen."""
    pieces, weights = [], []
    for block, start in enumerate(range(0, count, BLOCK)):
        drawn = pair.draw(rows, min(BLOCK, count - start), seed=1_000_003 + block)
        pieces.append(posterior.coordinates({name: value.double() for name, value in drawn.values.items()}))
        weights.append(drawn.log_weight)
    return torch.cat(pieces), torch.cat(weights)


def wider(posterior: Posterior, pair: Any, rows: Any, count: int) -> tuple[Tensor, Tensor]:
    """Coordinates (S, D) and log weights (S,) of draws of the guide and of its wider twin, by the density of both."""
    counts = parts_of(pair, count, WIDTHS)
    pieces, weights = [], []
    for drawn in proposed(pair, rows, counts, WIDTHS, BLOCK, (2_000_003,)):
        values = drawn.draws.values
        pieces.append(posterior.coordinates({name: value.double() for name, value in values.items()}))
        weights.append(weigh(drawn.draws.log_p.total, drawn.log_q, counts)[0])
    return torch.cat(pieces), torch.cat(weights).nan_to_num(nan=-math.inf)
