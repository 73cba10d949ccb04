"""The verdict: what the numbers say, in one plain sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae.diagnostics.collapse import ActiveUnits, active_units
from ppl_vae.evidence import Decomposition, decomposition
from ppl_vae.evidence.chunks import MAX_ELEMENTS
from ppl_vae.evidence.evidence import KHAT_LIMIT, percent
from ppl_vae.pair import pair_of

if TYPE_CHECKING:
    from ppl_vae.pair import Fitted, Pair

__all__ = ["Verdict", "verdict"]


@dataclass(frozen=True, eq=False)
class Verdict:
    """How good a fitted pair is, in words: ``str(verdict)``.

    Attributes:
        active, total: how many latent dimensions move with the datum, of how many (continuous, inside the
            data plate).
        khat: per datum, (N,), or () with latents shared by all data.
        gap: evidence - ELBO, the mean over the data, nats per datum.
        gap_error: its Monte Carlo standard error, nats.
        noun: what the data are called.
        exact: the evidence is exact, so that no k-hat is needed.

    >>> Verdict(6, 8, torch.tensor([0.1, 0.9, 0.2, 0.3]), 0.93, 0.01, "test digits")
    6 of 8 latent dimensions are active; 75 % of test digits have k-hat < 0.7; the ELBO is 0.9 nats below the
    evidence
    """

    active: int
    total: int
    khat: Tensor
    gap: float
    gap_error: float
    noun: str = "rows"
    exact: bool = False

    @classmethod
    def of(cls, pieces: Decomposition, units: ActiveUnits | None = None, *, noun: str = "rows") -> Verdict:
        """Judge by numbers that have been made already."""
        errors = pieces.standard_error["gap"]
        error = float(errors.square().sum().sqrt()) / max(1, errors.numel())
        active, total = (units.count, units.total) if units is not None else (0, 0)
        found, exact = pieces.evidence, pieces.evidence.bound == "exact"
        return cls(active, total, found.khat, float(pieces.gap.mean()), error, noun, exact)

    def __str__(self) -> str:
        trust = "the log-likelihood is exact" if self.exact else _on_khat(self.khat, self.noun)
        clauses = [_on_dimensions(self.active, self.total), trust, _on_gap(self.gap)]
        return "; ".join(clause for clause in clauses if clause)

    __repr__ = __str__


def verdict(
    pair: Pair | Fitted,
    data: Any = None,
    *,
    noun: str = "rows",
    num_samples: int = 1000,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> Verdict:
    """Judge a pair on data: active latent dimensions, k-hat, and the gap between ELBO and evidence.

    Args:
        pair: a Pair, or a Fit.
        data: N rows, best those that were not trained on.
        noun: what to call them, such as "test digits".
        num_samples: draws of the guide a datum.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory.

    Returns:
        a Verdict; its text is the sentence.
    """
    pair = pair_of(pair)
    rows = pair.rows(data)
    pieces = decomposition(pair, rows, num_samples=num_samples, seed=seed, max_elements=max_elements)
    units = active_units(pair, rows, seed=seed, max_elements=max_elements) if len(rows) > 1 else None
    return Verdict.of(pieces, units, noun=noun)


def _on_dimensions(active: int, total: int) -> str:
    if not total:
        return ""
    return f"{active} of {total} latent dimension{'s are' if total > 1 else ' is'} active"


def _on_khat(khat: Tensor, noun: str) -> str:
    if bool(torch.isnan(khat).all()):
        return "k-hat is not known"
    if not khat.dim():
        sign = "<" if khat < KHAT_LIMIT else ">="
        return f"k-hat is {float(khat):.2f} ({sign} {KHAT_LIMIT})"
    return f"{percent(khat < KHAT_LIMIT)} of {noun} have k-hat < {KHAT_LIMIT}"


def _on_gap(gap: float) -> str:
    if math.isnan(gap):
        return "the gap between ELBO and evidence is not known"
    digits = f"{gap:.1f}" if gap >= 0.1 else f"{gap:.2g}" if gap >= 0.001 else ""
    if not digits:
        return "the ELBO equals the evidence within 0.001 nats"
    return f"the ELBO is {digits} nats below the evidence"
