"""Draws of a pair as ArviZ reads them: every group with its dimensions and labels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae import _arviz
from ppl_vae._random import fold
from ppl_vae.data.headers import header_of
from ppl_vae.diagnostics.code_group import code_group
from ppl_vae.diagnostics.dimension_names import Names
from ppl_vae.diagnostics.usage import discrete_sites
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, slices
from ppl_vae.evidence.weighing import weighted_draws
from ppl_vae.pair import Fitted, pair_of
from ppl_vae.pair.particles import outward
from ppl_vae.pair.predictive import latents_of, unseen_sites
from ppl_vae.pair.sampling import predicted
from ppl_vae.pair.units import shown

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.data.source import Source
    from ppl_vae.pair import LogProb, Pair, Site

__all__ = ["GROUPS", "to_inference_data"]

GROUPS = (
    "posterior",
    "posterior_predictive",
    "prior",
    "prior_predictive",
    "log_likelihood",
    "sample_stats",
    "observed_data",
    "codes",
)

OF_POSTERIOR = ("posterior", "posterior_predictive", "log_likelihood")
"""What is made of latents given the data, and of resampled ones, if they are."""

WHO = "to_inference_data"
FEWEST = 1000
"""So many weighted draws, at least, are made to resample from."""


def to_inference_data(
    pair: Pair | Fitted,
    data: Any = None,
    *,
    num_samples: int = 1000,
    num_predictive: int = 100,
    groups: Iterable[str] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
    fitted_to: Any = None,
    resample: str | None = None,
) -> Any:
    """Hand a pair to ArviZ: an ``InferenceData`` (ArviZ 0.23) or a ``DataTree`` (1.x).

    Every draw is independent, so there is one chain, and convergence statistics say nothing: use
    ``az.summary(idata, kind="stats")``. **Draws of a guide are not draws of the posterior**: how far they may
    be taken for it says k-hat; and ``az.loo`` on them is silently optimistic, since it does not know of log
    q.

    Dimensions: that of the rows is called by the data plate ("data" below), and labelled by the index of a data frame,
    or else by the numbers of the rows. Other plates give their names too. What is left is "z_dim_0", "z_dim_1", ...;
    where x is a data frame, its columns label that of the site x.

    Groups:
        posterior: latents drawn from the guide, (chain=1, draw, data, ...); no data outside the data plate.
        posterior_predictive: data drawn anew at the first ``num_predictive`` of these.
        prior, prior_predictive: the same with latents drawn from the prior.
        log_likelihood: of the observed sites, (chain, draw, data), nats, float64.
        sample_stats: ``log_p`` = log p(x, z) and ``log_q`` = log q(z | x) of each draw, (chain, draw, data),
            nats, float64; (chain, draw) with latents shared by all data. ``log_p - log_q`` are log weights.
        observed_data: (data, ...).
        codes: of each discrete latent site c that its data have: ``c_probs`` (data, latent, class) of the guide and
            ``c_usage`` (latent, class), their mean; by latent ``c_entropy``, ``c_kl_from_uniform`` and
            ``c_mutual_information`` in nats, ``c_perplexity`` and ``c_dead``. Where all latents are discrete and few,
            also the exact table: ``posterior`` and ``guide`` (data, code), p(c | x) and q(c | x) of every value, and
            ``kl`` (data), the divergence between them. Only for pairs with such latents.

    Rows may come without what the model observes (``model(x, y=None)``: the x alone). Then ``posterior`` holds the
    latents that all data share, ``posterior_predictive`` what is predicted, and there is no ``log_likelihood``,
    ``sample_stats`` or ``observed_data`` of what was not seen.

    Args:
        pair: a Pair, or a Fit.
        data: N rows, as the pair takes them.
        num_samples: draws a datum.
        num_predictive: draws of the predictive groups, which are as large as the data: 1000 draws of 2000
            images of 28x28 are 6 GB.
        groups: those to make; by default all (of a pair with a ``Flat`` prior, which has no draws, all but the
            prior's).
        coords: labels by dimension, such as ``{"z_dim_0": [...], "data": [...]}``; ``"datum"`` stands for the rows
            whatever their plate is called.
        dims: names of the dimensions of a site, with or without a leading "data" or "datum".
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory beside the result.
        fitted_to: the rows of the fit, where ``data`` come without what is predicted, and the posterior of shared
            latents hangs on rows. A Fit's own method knows them.
        resample: "psis" for draws that are resampled by their Pareto smoothed importance weights, of the guide and of
            the guide with a wider spread: the posterior's, as far as k-hat says that the weights serve. They carry
            neither ``log_p`` nor ``log_q``, since weighing them again would correct twice. None leaves the guide's own
            draws, with both, for ``az.loo_approximate_posterior`` say.

    Raises:
        ValueError: for an unknown group, or names of dimensions that do not fit; for a group that is asked for by name
            and needs data that the rows do not hold, or draws that are not resampled.
    """
    if resample not in (None, "psis"):
        raise ValueError(f"{WHO}: resample must be 'psis' or None, got {resample!r}")
    pair = pair_of(pair)
    rows = pair.rows(data)
    plan = Plan.of(pair, rows, num_samples, max_elements)
    unseen, by_name = unseen_sites(pair, rows) if len(rows) else [], groups is not None
    wanted = _without_data(_of_proper(pair, _known(groups), by_name=by_name), unseen, by_name=by_name)
    if resample:
        wanted = _without_weights(wanted, unseen, by_name=by_name)
    writer = _Writer(pair, len(rows), [name for name in wanted if name != "codes"], num_samples, num_predictive)
    writer.unseen, writer.fitted_to = unseen, None if fitted_to is None else pair.rows(fitted_to)
    writer.resample = bool(resample)
    for place, chunk in plan.row_chunks(rows):
        for draws in slices(num_samples, plan.draws):
            block = _Block(chunk, place, draws, fold(seed, "inference_data", place.start, draws.start))
            _write_posterior(writer, block)
            _write_prior(writer, block)
        _write_observed(writer, chunk, place)
    names = Names.of(pair, header_of(data), dims or {})
    labels = names.labels(rows, coords or {})
    idata = _arviz.inference_data(writer.groups, coords=labels, dims=names.of_variables(writer.groups))
    if "codes" in wanted and discrete_sites(pair):
        group = code_group(pair, rows, datum=names.datum, seed=seed, max_elements=max_elements)
        _arviz.add_group(idata, "codes", group, coords=labels)
    for name in [name for name in OF_POSTERIOR if resample and writer.groups.get(name)]:
        _arviz.note(idata, name, {"resampled": "by Pareto smoothed importance weights: do not weigh again"})
    return idata


@dataclass(frozen=True)
class _Block:
    """What one run fills: some draws of some rows, with their places in the whole and noise of their own."""

    rows: Rows
    place: slice
    draws: slice
    noise: int

    @property
    def count(self) -> int:
        return self.draws.stop - self.draws.start


class _Writer:
    """Arrays by group and variable, allocated whole on first sight and filled block by block."""

    def __init__(self, pair: Pair, num_rows: int, wanted: Sequence[str], num_samples: int, num_predictive: int) -> None:
        self.pair, self.num_rows = pair, num_rows
        self.groups: dict[str, dict[str, np.ndarray]] = {name: {} for name in wanted}
        capped = min(num_samples, num_predictive)
        self.unseen: list[str] = []
        self.resample = False
        self.fitted_to: Source | None = None
        self.draws = {name: capped if name.endswith("predictive") else num_samples for name in GROUPS}

    def wants(self, *groups: str) -> bool:
        """Is one of these groups asked for?"""
        return any(group in self.groups for group in groups)

    def put(self, group: str, name: str, values: Tensor, draws: slice, rows: slice | None) -> None:
        """Write draws (s, n, ...) of a variable of the rows, or (s, ...) of one for all rows (None)."""
        if group not in self.groups:
            return
        tail = values.shape[1:] if rows is None else (self.num_rows, *values.shape[2:])
        if name not in self.groups[group]:
            self.groups[group][name] = np.empty((1, self.draws[group], *tail), values.numpy().dtype)
        self.groups[group][name][(0, draws) if rows is None else (0, draws, rows)] = values.numpy()

    def put_observed(self, name: str, values: Tensor, rows: slice | None) -> None:
        """Write observed values (n, ...), or (...) of a site outside the data plate."""
        tables = self.groups["observed_data"]
        if name not in tables:
            shape = values.shape if rows is None else (self.num_rows, *values.shape[1:])
            tables[name] = np.empty(shape, values.numpy().dtype)
        tables[name][... if rows is None else rows] = values.numpy()

    def rows_of(self, name: str, place: slice) -> slice | None:
        """Where the rows of a site go; None for a site outside the data plate."""
        return place if self.site(name).is_local else None

    def site(self, name: str) -> Site:
        """A site of the model, latent or observed."""
        return self.pair.latents.get(name) or self.pair.observed[name]


def _write_posterior(writer: _Writer, block: _Block) -> None:
    if not writer.wants("posterior", "posterior_predictive", "log_likelihood", "sample_stats"):
        return
    noise = fold(block.noise, "posterior")
    if writer.unseen:
        values = latents_of(writer.pair, block.rows, writer.fitted_to, writer.unseen, block.count, seed=noise, who=WHO)
        for name, value in values.items():
            writer.put("posterior", name, value, block.draws, writer.rows_of(name, block.place))
        _write_predictive(writer, "posterior_predictive", block, values)
        return
    if writer.resample:
        values, log_p = _resampled(writer.pair, block, noise)
    else:
        found = writer.pair.draw(block.rows, block.count, seed=noise)
        values, log_p, whole = found.values, found.log_p, found.log_weight.shape
        for name, log_prob in (("log_p", log_p.total), ("log_q", found.log_q.total)):
            rows = block.place if len(whole) > 1 else None
            writer.put("sample_stats", name, log_prob.expand(whole), block.draws, rows)
    for name, value in values.items():
        writer.put("posterior", name, value, block.draws, writer.rows_of(name, block.place))
    for name in [name for name in writer.pair.observed if name in log_p]:  # some are there only with their data
        writer.put("log_likelihood", name, log_p[name], block.draws, writer.rows_of(name, block.place))
    _write_predictive(writer, "posterior_predictive", block, values)


def _resampled(pair: Pair, block: _Block, noise: int) -> tuple[dict[str, Tensor], LogProb]:
    """Plain draws of the posterior, of four times as many weighted ones, and their densities under the model."""
    drawn = weighted_draws(pair, block.rows, max(FEWEST, 4 * block.count), seed=noise)
    if drawn.warning:
        warnings.warn(f"{WHO}(resample='psis'): {drawn.warning}", stacklevel=4)
    values = drawn.resample(block.count, seed=noise)
    return values, pair.log_joint(block.rows, values)


def _write_prior(writer: _Writer, block: _Block) -> None:
    if not writer.wants("prior", "prior_predictive"):
        return
    values = writer.pair.draw_prior_values(block.rows, block.count, seed=fold(block.noise, "prior"))
    for name, value in values.items():
        writer.put("prior", name, value, block.draws, writer.rows_of(name, block.place))
    _write_predictive(writer, "prior_predictive", block, values)


def _write_predictive(writer: _Writer, group: str, block: _Block, drawn: Mapping[str, Tensor]) -> None:
    """Data drawn anew at those of the draws that come before the cap."""
    count = min(block.draws.stop, writer.draws[group]) - block.draws.start
    if count < 1 or not writer.wants(group):
        return
    values = writer.pair.as_values({name: value[:count] for name, value in drawn.items()})
    draws = slice(block.draws.start, block.draws.start + count)
    noise = fold(block.noise, group)
    seen = group == "posterior_predictive" and not writer.unseen  # else summed latents are the model's too
    for name, value in predicted(writer.pair, block.rows, values, count, False, noise, given_data=seen).items():
        writer.put(group, name, value, draws, writer.rows_of(name, block.place))


def _write_observed(writer: _Writer, rows: Rows, place: slice) -> None:
    """What the pair itself observes, by site: read off a run, since a model may transform its arguments."""
    if not writer.wants("observed_data"):
        return
    pair = writer.pair
    with pair.evaluating(0):
        trace = pair.run(rows.batch()).model_trace
    for name, site in pair.observed.items():
        if name not in trace.nodes or not trace.nodes[name]["is_observed"]:
            continue
        value = outward(torch.as_tensor(trace.nodes[name]["value"]), site, pair.layout, False)[0]
        value = shown(pair, {name: value.detach().cpu()})[name]
        writer.put_observed(name, value, writer.rows_of(name, place))


def _known(groups: Iterable[str] | None) -> list[str]:
    wanted = list(GROUPS if groups is None else groups)
    for name in wanted:
        if name not in GROUPS:
            near = get_close_matches(name, GROUPS) or GROUPS
            raise ValueError(f"to_inference_data: {name!r} is not a group; did you mean {', '.join(near)}?")
    return wanted


def _of_proper(pair: Pair, wanted: list[str], *, by_name: bool) -> list[str]:
    """Without the groups of the prior, where the prior has no draws; an error where they were asked for."""
    prior = [name for name in wanted if name.startswith("prior")]
    if prior and by_name:
        pair.sites.require_proper(f"to_inference_data: {', '.join(prior)}")
    return [name for name in wanted if name not in prior] if pair.sites.improper else wanted


def _without_weights(wanted: list[str], unseen: list[str], *, by_name: bool) -> list[str]:
    """The groups of resampled draws, which have no densities of a proposal."""
    if unseen:
        raise ValueError(
            f"{WHO}: resample requires data that the model observes, got rows without {', '.join(map(repr, unseen))}: "
            "they weigh nothing"
        )
    if by_name and "sample_stats" in wanted:
        raise ValueError(f"{WHO}: resampled draws have no sample_stats: weighing them by log p - log q corrects twice")
    return [name for name in wanted if name != "sample_stats"]


def _without_data(wanted: list[str], unseen: list[str], *, by_name: bool) -> list[str]:
    """The groups that can be made of rows without the data of some observed sites."""
    need = [name for name in ("log_likelihood", "sample_stats") if unseen and name in wanted]
    if need and by_name:
        raise ValueError(
            f"{WHO}: {', '.join(need)} require data that the model observes, got rows without "
            f"{', '.join(map(repr, unseen))}; give them, or leave the groups out"
        )
    return [name for name in wanted if name not in need]
