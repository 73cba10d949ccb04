"""k-hat per datum: how far the guide may be taken for the posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ppl_vae.evidence import ImportanceWeighted, log_evidence
from ppl_vae.evidence.chunks import MAX_ELEMENTS

if TYPE_CHECKING:
    from ppl_vae.pair import Fitted, Pair

__all__ = ["khat"]


def khat(
    pair: Pair | Fitted, data: Any = None, *, num_samples: int = 1000, seed: int = 0, max_elements: int = MAX_ELEMENTS
) -> Tensor:
    """The shape of the upper tail of the importance ratios p(x, z) / q(z | x), per datum.

    Below 0.5 the guide serves as a proposal, and up to 0.7 with more draws; above that it misses a part of
    the posterior that the draws themselves hardly show. 0 is a guide that equals the posterior.

    It judges the guide, by its own draws alone. ``log_evidence(...).khat`` judges an estimate: its proposal is by
    default wider, and may serve where the guide alone does not.

    Args:
        pair: a Pair, or a Fit.
        data: N rows, as the pair takes them.
        num_samples: draws a datum, at least 30.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory.

    Returns:
        shape (N,) float64, or () when latents are shared by all data; nan for fewer than 25 draws.

    Yuling Yao, Aki Vehtari, Daniel Simpson, Andrew Gelman: "Yes, but Did It Work?: Evaluating Variational
    Inference", 2018.
    """
    plain = ImportanceWeighted(num_samples, widths=(1.0,))
    return log_evidence(pair, data, plain, seed=seed, max_elements=max_elements).khat
