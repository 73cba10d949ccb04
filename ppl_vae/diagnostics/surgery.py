"""ELBO surgery: what the KL of the codes buys, and what it wastes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.diagnostics.aggregate import log_aggregate, require_aggregate
from ppl_vae.diagnostics.by_dimension import by_dimension
from ppl_vae.diagnostics.collapse import labels_of
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, numbers_per_datum, slices
from ppl_vae.evidence.evidence import error_in_words
from ppl_vae.evidence.weighted import say_of_weights
from ppl_vae.pair import Draws, pair_of
from ppl_vae.pair.blocks import takes_single_rows
from ppl_vae.pair.density import tied_sites
from ppl_vae.pair.table import few_codes, tabulate
from ppl_vae.plots.surgery_bars import surgery_bars

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ppl_vae.data.rows import Rows
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Fitted, Pair

__all__ = ["Surgery", "surgery"]

COLLAPSED, IDLE = 0.1, 0.01
"""Nats: a code that tells less than the first of its datum has collapsed, a dimension less than the second is idle. A
decoder can use no more of a code than it tells. Codes in use tell nats, collapsed ones thousandths. A dimension of 0.01
has a posterior mean with 0.02 of the aggregate's variance; Burda et al. (2016) call one active from 0.01 on."""
BIT = math.log(2)
"""Nats: less than this does not even tell two halves of the data apart."""
FEW = 64
"""Rows on which it is looked whether all share one prior."""
SATURATED = 0.5
"""Nats below log N from which on the mutual information says more of N than of the code."""


@dataclass(frozen=True, eq=False)
class Surgery:
    r"""The ELBO of N data in three terms, means over the data in nats per datum.

    .. math::
        \frac{1}{N} \sum_n L(x_n) = \underbrace{\frac{1}{N} \sum_n E_{q(z|x_n)} \log p(x_n | z)}_{reconstruction}
            - \underbrace{I_q(n; z)}_{mutual\_information} - \underbrace{KL(q(z) \| p(z))}_{marginal\_kl}, \qquad
        q(z) = \frac{1}{N} \sum_n q(z | x_n)

    The mutual information is what a code tells of which datum it is of, and at most log N; a decoder can use no more
    than that. The marginal KL is what codes drawn from the prior miss: it buys nothing.

    Attributes:
        reconstruction, mutual_information, marginal_kl: the terms.
        elbo: reconstruction - mutual_information - marginal_kl, by itself the mean of log p(x, z) - log q(z | x) over
            the same draws.
        standard_error: Monte Carlo errors of the four, by name: with other draws for the same N data. 0 where they are
            exact; nan for one draw a datum. The choice of data is no part of them.
        num_data: N.
        num_samples: draws a datum; None where the terms are exact.
        num_dimensions: how many numbers the code of a datum has.
        information, marginal: by site, the same two terms of each latent dimension by itself, in the shape of one value
            of the site, nats; without the sites whose dimensions have no law of their own (one that hangs on other
            latents, a flow). Dimensions that hang together tell less than the sum.

    Matthew Hoffman, Matthew Johnson: "ELBO surgery: yet another way to carve up the variational evidence lower bound",
    2016.

    >>> terms = dict(reconstruction=-12.5, mutual_information=5.0, marginal_kl=0.5, elbo=-18.0)
    >>> Surgery(**terms, standard_error=dict.fromkeys(terms, 0.01), num_data=1500, num_samples=8, num_dimensions=8)
    the code tells 5.00 ± 0.01 nats about its datum (ceiling log 1500 = 7.31): healthy; the aggregate posterior is
    0.50 ± 0.01 nats from the prior; ELBO -18.000 = reconstruction -12.500 - 5.000 - 0.500 nats per
    datum
    """

    reconstruction: float
    mutual_information: float
    marginal_kl: float
    elbo: float
    standard_error: Mapping[str, float]
    num_data: int
    num_samples: int | None
    num_dimensions: int
    information: Mapping[str, Tensor] = field(default_factory=dict)
    marginal: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def kl(self) -> float:
        """The mean KL(q(z | x) || p(z)), which the last two terms make up."""
        return self.mutual_information + self.marginal_kl

    @property
    def ceiling(self) -> float:
        """Log N, nats: no code can tell more of which of N data it is of."""
        return math.log(self.num_data)

    @property
    def saturated(self) -> bool:
        """Is the mutual information within 0.5 nats of its ceiling? Then it would be higher with more data."""
        return not self.collapsed and self.mutual_information > self.ceiling - SATURATED

    @property
    def collapsed(self) -> bool:
        """Does the code tell less than 0.1 nats of its datum: does the model ignore it?"""
        return self.mutual_information < COLLAPSED

    @property
    def idle(self) -> int:
        """How many of the dimensions that have a law of their own tell less than 0.01 nats by themselves."""
        return sum(int((each < IDLE).sum()) for each in self.information.values())

    @property
    def verdict(self) -> str:
        """One of "collapsed", "weak" (less than a bit), "saturated", "healthy"; and how many dimensions are idle."""
        if self.collapsed:
            return f"collapsed (less than {COLLAPSED})"
        word = "healthy" if self.mutual_information >= BIT else "weak (less than one bit)"
        word = "saturated" if self.saturated else word
        return f"{word}, {self.idle} of {self.num_dimensions} dimensions idle" if self.idle else word

    def to_dataframe(self) -> pd.DataFrame:
        """One row a term: value and standard_error, nats per datum."""
        import pandas as pd

        values = {name: getattr(self, name) for name in TERMS}
        return pd.DataFrame({"value": values, "standard_error": {name: self.standard_error[name] for name in TERMS}})

    def dimensions(self) -> pd.DataFrame:
        """One row a latent dimension that has a law of its own: kl, mutual_information, marginal_kl, idle."""
        import pandas as pd

        labels = [label for name, each in self.information.items() for label in labels_of(name, each)]
        parts = {"mutual_information": self.information, "marginal_kl": self.marginal}
        columns = {
            term: [v for each in part.values() for v in each.reshape(-1).tolist()] for term, part in parts.items()
        }
        frame = pd.DataFrame(columns, index=pd.Index(labels, name="dimension"), dtype=float)
        frame.insert(0, "kl", frame["mutual_information"] + frame["marginal_kl"])
        return frame.assign(idle=frame["mutual_information"] < IDLE)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """What each dimension tells of its datum, and what it costs besides; see :func:`ppl_vae.plots.surgery_bars`."""
        return surgery_bars(self, ax=ax)

    def __repr__(self) -> str:
        told, off = (
            f"{getattr(self, name):.2f} ± {error_in_words(self.standard_error[name], '.2g')}"
            for name in ("mutual_information", "marginal_kl")
        )
        return (
            f"the code tells {told} nats about its datum (ceiling log {self.num_data} = {self.ceiling:.2f}): "
            f"{self.verdict}; the aggregate posterior is {off} nats from the prior; ELBO {self.elbo:.3f} = "
            f"reconstruction {self.reconstruction:.3f} - {self.mutual_information:.3f} - {self.marginal_kl:.3f} "
            "nats per datum"
        )


TERMS = ("reconstruction", "mutual_information", "marginal_kl", "elbo")


def surgery(
    pair: Pair | Fitted, data: Any = None, *, num_samples: int = 8, seed: int = 0, max_elements: int = MAX_ELEMENTS
) -> Surgery:
    """Take the KL term of the ELBO apart: what codes tell of their data, and how far all codes lie from the prior.

    Exact where all latents are discrete with at most 4096 joint values; else by draws of the guide, of which each is
    scored under the posteriors of all N data: the time goes with N^2 times the draws (1500 digits, 8 draws, 8 latents:
    some seconds on a core); memory is that of the draws, and of a block of scores. The terms are those of these N data,
    so give them all, or as many as the mutual information needs to stay below log N.

    Args:
        pair: a Pair, or a Fit.
        data: N rows, at least two.
        num_samples: draws a datum.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory.

    Returns:
        the Surgery, of the model without weights (``poutine.scale``).

    Raises:
        GlobalLatentError: a latent is shared by all data.
        ValueError: fewer than two rows; a guide whose log q(z | x) cannot be asked at the draws of other data (most
            autoguides, points, masked latents); a prior that is improper, that differs from row to row, or that a sum
            over discrete latents ties to the data.
    """
    pair = pair_of(pair)
    rows = pair.rows(data)
    pair.initialize(rows)
    if len(rows) < 2:
        raise ValueError(f"surgery: at least two rows are required, got {len(rows)}")
    if num_samples < 1:
        raise ValueError(f"surgery: num_samples must be at least 1, got {num_samples}")
    pair.require_whole_rows(rows)
    require_aggregate(pair, "surgery")
    pair.sites.require_proper("surgery")
    few = rows.take(slice(0, FEW) if takes_single_rows(pair, rows) else slice(None))
    _require_one_prior(pair, few)
    say_of_weights(pair, "surgery")
    if (found := _exact(pair, rows, max_elements)) is not None:
        return found
    values, terms = _drawn(pair, rows, num_samples, seed, max_elements)
    flat = {name: value.flatten(0, 1) for name, value in values.items()}
    log_q = terms["log_q"]
    aggregate = log_aggregate(pair, rows, flat, max_elements).unflatten(0, log_q.shape)
    aggregate = torch.maximum(aggregate, log_q - math.log(len(rows)))  # as it is but for rounding: q >= q(.|x_n) / N
    found_terms = {
        "reconstruction": terms["likelihood"],
        "mutual_information": log_q - aggregate,
        "marginal_kl": aggregate - terms["prior"],
        "elbo": terms["log_weight"],
    }
    pieces = by_dimension(pair, rows, values, few=few, max_elements=max_elements)
    return Surgery(
        **{name: float(term.mean()) for name, term in found_terms.items()},
        standard_error={name: _error(term) for name, term in found_terms.items()},
        num_data=len(rows),
        num_samples=num_samples,
        num_dimensions=sum(value[0, 0].numel() for value in values.values()),
        information={name: told for name, (told, _) in pieces.items()},
        marginal={name: off for name, (_, off) in pieces.items()},
    )


def _drawn(
    pair: Pair, rows: Source, num_samples: int, seed: int, max_elements: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """S draws of the guide for each datum, (S, N, ...) by site, and their log densities (S, N)."""
    plan = Plan.of(pair, rows, num_samples, max_elements)
    by_rows: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    for place, chunk in plan.row_chunks(rows):
        pieces = []
        for part in slices(num_samples, plan.draws):
            noise = fold(seed, "surgery", place.start, part.start)
            pieces.append(pair.draw(chunk, part.stop - part.start, seed=noise))
        drawn = Draws.stack(pieces)
        shape, log_p = drawn.log_weight.shape, drawn.log_p
        scores = {"likelihood": log_p.likelihood, "prior": log_p.prior, "log_q": drawn.log_q.total}
        terms = {**scores, "log_weight": drawn.log_weight}
        by_rows.append((drawn.values, {name: term.expand(shape) for name, term in terms.items()}))
    values, terms = (_beside([part[which] for part in by_rows]) for which in (0, 1))
    return values, terms


def _beside(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}


def _exact(pair: Pair, rows: Source, max_elements: int) -> Surgery | None:
    """The terms by sums over all codes; None where these are too many, or stand in plates of their own."""
    if (count := few_codes(pair)) is None:
        return None
    some = max(1, max_elements // (count * numbers_per_datum(pair, rows)))
    usage, negative_entropy, reconstruction, elbo = torch.zeros(count, dtype=torch.float64), 0.0, 0.0, 0.0
    for place in slices(len(rows), some):
        with pair.evaluating(0):
            table = tabulate(pair, rows.take(place).batch())
        if table.log_q.dim() > 2:
            return None
        q = table.log_q.double().exp()
        usage += q.sum(1).cpu()
        negative_entropy += float(torch.xlogy(q, q).sum())
        reconstruction += float(table.mean(q, (table.log_p - table.log_prior).double()).sum())
        elbo += float(table.elbo.double().sum())
    num_data = len(rows)
    usage = usage / num_data
    log_prior = table.log_prior[:, 0].double().cpu()
    told = negative_entropy / num_data - float(torch.xlogy(usage, usage).sum())
    off = float(torch.where(usage > 0, torch.xlogy(usage, usage) - usage * log_prior, 0.0).sum())
    return Surgery(
        reconstruction / num_data,
        told,
        off,
        elbo / num_data,
        dict.fromkeys(TERMS, 0.0),
        num_data,
        None,
        sum(math.prod(site.event_shape) for site in pair.latents.values()),
    )


def _require_one_prior(pair: Pair, rows: Rows) -> None:
    """Raise ValueError where there is no p(z) that all rows share: q(z) could not be compared with it."""
    with pair.evaluating(fold(0, "surgery")):
        tied = tied_sites(pair.run(rows.batch()))
    if tied:
        raise ValueError(
            f"surgery: a prior of the latents alone is required, but a sum over discrete latents holds "
            f"{', '.join(map(repr, tied))} at once, of which some are priors and some data"
        )
    values = pair.draw(rows, 2, seed=0).values
    here = pair.log_joint(rows, values).prior
    there = pair.log_joint(rows, {name: value.roll(1, 1) for name, value in values.items()}).prior
    if not torch.allclose(here.roll(1, 1), there, rtol=1e-4, atol=1e-4):
        raise ValueError(
            "surgery: one prior p(z) of all rows is required, but this one differs from row to row (it is given y, or "
            "another argument); do the surgery of rows that share it"
        )


def _error(term: Tensor) -> float:
    """The Monte Carlo error of the mean of (S, N) terms, S draws for each datum."""
    if len(term) < 2:
        return math.nan
    return float((term.var(0).sum() / len(term)).sqrt() / term.shape[1])
