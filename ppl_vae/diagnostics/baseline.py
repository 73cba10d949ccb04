"""What a model must beat: independent columns, and for numbers a normal with full covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.distributions import CountsVolume, unwrap
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan
from ppl_vae.pair import pair_of
from ppl_vae.pair.enumeration import is_masked
from ppl_vae.pair.particles import outward
from ppl_vae.pair.points import is_point

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Fitted, Pair

__all__ = ["Baseline", "baselines", "unchanging"]

MOST_ROWS = 10_000
"""Training rows that a baseline is fitted to, spread evenly."""
MOST_COLUMNS = 1024
"""Columns of a covariance."""
COUNTS = (dist.Poisson, dist.NegativeBinomial, dist.GammaPoisson)
# Where a density per unit of the column is meant, as the normal's is; not on a simplex or a sphere.
LINES = (
    *{type(c) for c in (constraints.real, constraints.positive, constraints.nonnegative)},
    *(constraints.interval, constraints.half_open_interval, constraints.less_than),
)


@dataclass(frozen=True, eq=False)
class Baseline:
    """A simple model, fitted to the training rows.

    Attributes:
        name: "independent columns" or "a normal with full covariance".
        value: its log p(x) of each row that was asked for, (N,) float64, nats.
    """

    name: str
    value: Tensor


def baselines(pair: Pair | Fitted, train: Any, data: Any = None, *, columns: str = "columns") -> list[Baseline]:
    """Simple models of what a pair observes, fitted to its training rows, scored on rows.

    Independent columns: the frequencies of 0 and 1, of classes or of levels (each with 1/2 added, so that nothing has
    probability 0), a Poisson for counts, a normal for numbers. Beside it, where all are numbers, a normal with full
    covariance, its correlations shrunk as Ledoit and Wolf say.

    Args:
        pair: a Pair, or a Fit.
        train: the rows that the baselines are fitted to; of more than 10 000, as many, spread evenly.
        data: N rows that they score; by default those of ``train``.
        columns: what the columns are called, such as "pixels".

    Returns:
        the baselines; none where there is no simple one whose density is of the same unit: latents that tie the data
        together, masks, counts and numbers of other kinds, a column that never changes (:func:`unchanging`).

    Olivier Ledoit, Michael Wolf: "A well-conditioned estimator for large-dimensional covariance matrices", 2004.
    """
    pair = pair_of(pair)
    known = pair.rows(train)
    rows = known if data is None else pair.rows(data)
    if not len(known) or pair.initialize(known).has_global_latents:
        return []
    fitted_to, scored = _observed(pair, some_of(known, MOST_ROWS)), _observed(pair, rows)
    if not fitted_to or fitted_to.keys() != scored.keys():
        return []
    parts = [_independent(site, x, scored[name][1]) for name, (site, x) in fitted_to.items()]
    if any(part is None for part in parts):
        return []
    found = [Baseline(f"independent {columns}", sum((p for p in parts if p is not None), torch.zeros(())).double())]
    if all(_is_line(site["fn"]) for site, _ in fitted_to.values()):
        x, y = (torch.cat([v for _, v in sites.values()], 1) for sites in (fitted_to, scored))
        found += [Baseline("a normal with full covariance", value) for value in _full_normal(x, y)]
    return found


def unchanging(pair: Pair | Fitted, train: Any, *, columns: str = "columns") -> str:
    """Where columns of numbers never change, how many do; else nothing.

    Under a density they make a normal baseline infinite, so there is none to compare with.
    """
    pair = pair_of(pair)
    known = pair.rows(train)
    if not len(known) or pair.initialize(known).has_global_latents:
        return ""
    seen = [x for site, x in _observed(pair, some_of(known, MOST_ROWS)).values() if _is_line(site["fn"])]
    still = sum(int((x == x[0]).all(0).sum()) for x in seen)
    return f"{still} of {sum(x.shape[1] for x in seen)} {columns} never change" if still else ""


def some_of(rows: Source, most: int) -> Source:
    """All rows, or so many of them, spread evenly."""
    if len(rows) <= most:
        return rows
    return rows.take(torch.linspace(0, len(rows) - 1, most, dtype=torch.float64).round().long())


def _observed(pair: Pair, rows: Source) -> dict[str, tuple[Any, Tensor]]:
    """What the pair observes in rows: a site of a run and the values (N, D) by name; nothing where one is masked."""
    values: dict[str, list[Tensor]] = {}
    sites: dict[str, Any] = {}
    for _, block in Plan.of(pair, rows, 1, MAX_ELEMENTS).row_chunks(rows):
        with pair.evaluating(0):
            trace = pair.runner.run_model(block.batch(), {}, None, ()).model_trace
        for name, site in pair.observed.items():
            if name not in trace.nodes or not trace.nodes[name]["is_observed"]:
                continue
            sites[name] = trace.nodes[name]
            if is_masked(sites[name]) or not site.is_local:
                return {}
            value = outward(torch.as_tensor(sites[name]["value"]), site, pair.layout, False)[0]
            values.setdefault(name, []).append(value.detach().reshape(len(value), -1).to("cpu", torch.float64))
    return {name: (sites[name], torch.cat(parts)) for name, parts in values.items()}


def _independent(site: Any, x: Tensor, y: Tensor) -> Tensor | None:
    """Log p of rows y (N, D) by columns fitted to x, (N,); None where no simple one is of the same unit."""
    fn = site["fn"]
    inner = unwrap(fn, CountsVolume)
    if is_point(inner):
        return None
    if getattr(inner.support, "is_discrete", False):
        if isinstance(inner, COUNTS):
            return dist.Poisson((x.sum(0) + 0.5) / (len(x) + 0.5), validate_args=False).log_prob(y).sum(1)
        if inner.has_enumerate_support and not inner.event_shape:
            return _frequencies(inner.enumerate_support(expand=False).flatten().double().cpu(), x, y)
        return None
    spread = x.std(0) if len(x) > 1 else torch.zeros(1)
    if not _is_line(fn) or bool((x == x.round()).all()) or not bool((spread > 0).all()):
        return None  # whole numbers under a density: of levels it would be another unit
    return dist.Normal(x.mean(0), spread).log_prob(y).sum(1)


def _is_line(fn: Any) -> bool:
    support = unwrap(fn, CountsVolume).support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, LINES)


def _frequencies(support: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Log p by the frequency of each value in each column, with 1/2 added to each count."""
    support = support.sort().values
    place = [torch.bucketize(v.contiguous(), (support[1:] + support[:-1]) / 2) for v in (x, y)]  # the nearest one
    counts = torch.stack([(place[0] == k).sum(0) for k in range(len(support))]).double()  # (K, D)
    log_p = ((counts + 0.5) / (len(x) + 0.5 * len(support))).log()
    return log_p.gather(0, place[1]).sum(1)


def _full_normal(x: Tensor, y: Tensor) -> list[Tensor]:
    """Log p of rows y by a normal fitted to x, its columns brought to one scale first; [] for too few or too many."""
    if len(x) < 10 or not 1 < x.shape[1] <= MOST_COLUMNS:
        return []
    from sklearn.covariance import ledoit_wolf

    mean, spread = x.mean(0), x.std(0)
    correlation, _ = ledoit_wolf(((x - mean) / spread).numpy(), assume_centered=True)
    p = dist.MultivariateNormal(torch.zeros_like(mean), torch.from_numpy(correlation))
    return [p.log_prob((y - mean) / spread) - spread.log().sum()]
