"""The exact posterior over discrete latents by Bayes' rule, beside the guide's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.evidence.chunks import MAX_ELEMENTS, numbers_per_datum, slices
from ppl_vae.pair import pair_of
from ppl_vae.pair.table import num_codes, tabulate

if TYPE_CHECKING:
    import pandas as pd

    from ppl_vae.pair import Fitted, Pair

__all__ = ["PosteriorTable", "posterior_table"]


@dataclass(frozen=True, eq=False)
class PosteriorTable:
    """p(c | x) and q(c | x) of every value of the latents, for N data.

    Attributes:
        values: by site, (C, *event): what the columns stand for.
        exact: p(c | x) = p(x, c) / p(x), (N, C), float64; (N, C, *plates) where the latents stand in plates of their
            own, and are independent given x.
        guide: q(c | x), likewise.
        kl: (N,) KL(q(c | x) || p(c | x)), the gap of the ELBO, nats.
    """

    values: dict[str, Tensor]
    exact: Tensor
    guide: Tensor
    kl: Tensor

    def to_dataframe(self, datum: int = 0) -> pd.DataFrame:
        """One row a value of the latents, the most probable first: exact and guide, for one datum."""
        import pandas as pd

        if self.exact.dim() > 2:
            raise ValueError("PosteriorTable: latents in plates have a table each; read exact[n, :, m]")
        columns: dict[str, Any] = {name: [tuple(v.flatten().tolist()) for v in c] for name, c in self.values.items()}
        columns |= {"exact": self.exact[datum].numpy(), "guide": self.guide[datum].numpy()}
        return pd.DataFrame(columns).sort_values("exact", ascending=False, ignore_index=True)

    def __repr__(self) -> str:
        n, c = self.exact.shape[:2]
        return f"PosteriorTable({n} rows, {c} values, mean KL(q || p(c|x)) {float(self.kl.mean()):.3f} nats)"


def posterior_table(pair: Pair | Fitted, data: Any, *, max_elements: int = MAX_ELEMENTS) -> PosteriorTable:
    r"""Bayes' rule on all values of the discrete latents, beside the guide.

    .. math:: p(c \mid x) = \frac{p(x, c)}{\sum_{c'} p(x, c')}

    Args:
        pair: a Pair, or a Fit.
        data: N rows.
        max_elements: how many numbers one run of the pair may handle; bounds memory beside the result.

    Raises:
        ValueError: for a pair with a latent that is continuous or shared by all data, or with too many values.
    """
    pair = pair_of(pair)
    rows = pair.rows(data)
    pair.initialize(rows)
    some = max(1, max_elements // ((num_codes(pair) or 1) * numbers_per_datum(pair, rows)))
    parts = []
    for place in slices(len(rows), some):
        with pair.evaluating(fold(0, "posterior_table")):
            table = tabulate(pair, rows.take(place).batch())
        log_q = table.log_q.double()
        log_p = table.log_p.double().log_softmax(0)
        q = log_q.exp()
        parts.append((log_p.exp().transpose(0, 1), q.transpose(0, 1), table.mean(q, log_q - log_p)))
    exact, guide, kl = (torch.cat(pieces).cpu() for pieces in zip(*parts, strict=True))
    return PosteriorTable({name: value.cpu() for name, value in table.values.items()}, exact, guide, kl)
