"""What is worth to know of a fit beside the lines of its certificate."""

from __future__ import annotations

from collections.abc import Iterator

from ppl_vae.diagnostics.certificate import Certificate
from ppl_vae.pair import Pair

__all__ = ["remarks"]


def remarks(pair: Pair, certificate: Certificate, fallen_back: bool) -> Iterator[str]:
    """Sentences on a fit.

    Args:
        pair: the pair as it was fitted.
        certificate: the lines.
        fallen_back: is the precision another than was wanted?
    """
    if fallen_back:
        yield (
            f"The fit was made in {str(pair.dtype).removeprefix('torch.')}: the pair does not run in float64, for it "
            "holds tensors in this precision; hand them over as data, or make them float64."
        )
    if pair.sites.weighted:
        yield (
            "The model bears weights (poutine.scale): this is of the weighted posterior, while elbo, log_evidence and "
            "weighted_draws are of the model without them."
        )
    if pair.sites.improper and not certificate.converged:
        named = ", ".join(map(repr, pair.sites.improper))
        yield (
            f"The prior of {named} is improper: where the data do not bound it there is no posterior, and the ELBO has "
            "no maximum."
        )
