"""Which latent dimensions carry something of the data, and which have collapsed to the prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from ppl_vae._random import fold
from ppl_vae.diagnostics.marginals import divergence, marginal
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, slices
from ppl_vae.pair import Fitted, pair_of
from ppl_vae.pair.particles import outward

if TYPE_CHECKING:
    import pandas as pd

    from ppl_vae.data.rows import Rows
    from ppl_vae.pair import Execution, Pair

__all__ = ["ActiveUnits", "active_units", "kl_per_dimension"]


@dataclass(frozen=True, eq=False)
class ActiveUnits:
    """How much the code of a datum moves with the datum, by latent dimension.

    Attributes:
        variance: by site, the variance over the data of the posterior mean, in the shape of one value of the
            site.
        threshold: a dimension with more than this is active.
    """

    variance: Mapping[str, Tensor]
    threshold: float

    @property
    def active(self) -> dict[str, Tensor]:
        """By site, the dimensions that are active, bool."""
        return {name: value > self.threshold for name, value in self.variance.items()}

    @property
    def count(self) -> int:
        """The number of active dimensions, over all sites."""
        return sum(int(flags.sum()) for flags in self.active.values())

    @property
    def total(self) -> int:
        """The number of latent dimensions, over all sites."""
        return sum(value.numel() for value in self.variance.values())

    def to_dataframe(self) -> pd.DataFrame:
        """One row a dimension: its variance, and whether it is active."""
        import pandas as pd

        labels = [label for name, value in self.variance.items() for label in labels_of(name, value)]
        values = [v for value in self.variance.values() for v in value.reshape(-1).tolist()]
        frame = pd.DataFrame({"variance": values}, index=pd.Index(labels, name="dimension"), dtype=float)
        return frame.assign(active=frame["variance"] > self.threshold)

    def __repr__(self) -> str:
        return f"ActiveUnits({self.count} of {self.total}, threshold {self.threshold:g})"


def labels_of(name: str, value: Tensor) -> list[str]:
    """What the entries of one value of a site are called: ``z[0]``, ``z[1]``, ...; a number alone as its site."""
    return [f"{name}[{', '.join(map(str, place))}]" if place else name for place in np.ndindex(*value.shape)]


def active_units(
    pair: Pair | Fitted,
    data: Any,
    *,
    threshold: float = 0.01,
    num_samples: int = 64,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> ActiveUnits:
    r"""Count the latent dimensions whose posterior mean moves with the datum.

    .. math:: A_d = Var_x\big( E_{q(z|x)}[z_d] \big) > 0.01

    The means come from draws, whose own scatter would make a collapsed dimension look alive (1/64 > 0.01 with
    64 draws); it is subtracted, as in the analysis of variance, so A_d is unbiased and may lie below 0.

    Args:
        pair: a Pair, or a Fit.
        data: N rows, at least two.
        threshold: above this a dimension is active.
        num_samples: draws a datum, at least two.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory.

    Returns:
        the ActiveUnits of the continuous latent sites inside the data plate.

    Yuri Burda, Roger Grosse, Ruslan Salakhutdinov: "Importance Weighted Autoencoders", 2016.
    """
    pair = pair_of(pair)
    rows = pair.rows(data)
    if len(rows) < 2 or num_samples < 2:
        raise ValueError(
            f"active_units: at least two rows and two draws are required, got {len(rows)} rows and "
            f"num_samples={num_samples}"
        )
    plan = Plan.of(pair, rows, num_samples, max_elements)
    names = [name for name, site in pair.latents.items() if site.is_local and not site.is_discrete]
    moments = [
        _moments(pair, chunk, names, num_samples, plan.draws, fold(seed, "active_units", place.start))
        for place, chunk in (plan.row_chunks(rows) if names else ())
    ]
    variance = {}
    for name in names:
        mean = torch.cat([found[name][0] for found in moments])
        scatter = torch.cat([found[name][1] for found in moments])
        variance[name] = mean.var(0) - scatter.mean(0) / num_samples
    return ActiveUnits(variance, threshold)


def _moments(
    pair: Pair, rows: Rows, names: list[str], num_samples: int, block: int, seed: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance over the draws of each datum, by site, from sums relative to the first draw."""
    origin: dict[str, Tensor] = {}
    sums: dict[str, list[Tensor]] = {}
    for place in slices(num_samples, block):
        draws = pair.draw(rows, place.stop - place.start, seed=fold(seed, place.start))
        for name in names:
            value = draws.values[name].double()
            value = value - origin.setdefault(name, value[0])
            new = [value.sum(0), value.square().sum(0)]
            sums[name] = [old + more for old, more in zip(sums[name], new, strict=True)] if name in sums else new
    found = {}
    for name, (first, second) in sums.items():
        mean = first / num_samples
        found[name] = (origin[name] + mean, (second - num_samples * mean.square()) / (num_samples - 1))
    return found


def kl_per_dimension(
    pair: Pair | Fitted, data: Any, *, num_samples: int = 64, seed: int = 0, max_elements: int = MAX_ELEMENTS
) -> dict[str, Tensor]:
    r"""What each latent dimension costs, averaged over the data: 0 is a dimension that has collapsed.

    .. math:: \frac{1}{N} \sum_n KL\big( q(z_d | x_n) \| p(z_d) \big)

    Exact where PyTorch knows the divergence of the two marginals (given the latents before them, over which
    draws are averaged), else the mean of log q - log p over the draws. For a guide or a prior that ties its
    dimensions (a full covariance) these are the divergences of the marginals, and their sum is not that of
    the site.

    Args:
        pair: a Pair, or a Fit.
        data: N rows.
        num_samples: draws a datum.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory.

    Returns:
        by local latent site, nats per datum in the shape of one value of the site, float64.

    Raises:
        ValueError: for a site whose marginals are not known (such as a flow's).
    """
    pair = pair_of(pair)
    rows = pair.rows(data)
    plan = Plan.of(pair, rows, num_samples, max_elements)
    names = [name for name, site in pair.latents.items() if site.is_local]
    total: dict[str, Tensor] = {}
    for place, chunk in plan.row_chunks(rows):
        for block in slices(num_samples, plan.draws):
            count = block.stop - block.start
            with pair.evaluating(fold(seed, "kl_per_dimension", place.start, block.start)):
                for run in pair.runs(chunk.batch(), count):
                    share = (run.num_particles or 1) / num_samples
                    for name in names:
                        total[name] = total.get(name, 0) + share * _site_divergence(pair, run, name).sum(0)
    return {name: value / len(rows) for name, value in total.items()}


def _site_divergence(pair: Pair, run: Execution, name: str) -> Tensor:
    """KL by datum and dimension in one run, (n, ...), float64, averaged over its draws."""
    site = pair.latents[name]
    if run.score_model()[name].absorbed:
        raise ValueError(f"kl_per_dimension: the marginals of site {name!r} are not known: its prior is a mixture")
    try:
        q, p = (marginal(_distribution(trace, name)) for trace in (run.guide_trace, run.model_trace))
    except (KeyError, TypeError) as error:
        reason = f"the marginals of site {name!r} are not known: {error}"
        raise ValueError(f"kl_per_dimension: {reason}") from None
    value: Any = run.guide_trace.nodes[name]["value"]
    nats = divergence(q, p, value).expand(value.shape)
    return outward(nats, site, pair.layout, run.num_particles is not None).double().cpu().mean(0)


def _distribution(trace: Any, name: str) -> Distribution:
    return trace.nodes[name]["fn"]
